//! What one socket may ask for: its rate, its nonsense, its rooms; and the end of a node.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{create, fill, follow, join, message};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    commands_above_the_rate_are_refused_and_say_when_to_come_back,
    whoever_sends_only_nonsense_is_closed_with_1008,
    nonsense_now_and_then_closes_nothing,
    one_socket_follows_up_to_so_many_rooms,
    rooms_asked_for_at_once_count_too,
    a_node_that_stops_says_goodbye_and_closes_with_1012,
    what_a_stopping_node_has_read_it_has_answered,
);

async fn commands_above_the_rate_are_refused_and_say_when_to_come_back(world: World) {
    let node = world
        .node_with(|config| {
            config.session.commands_per_second = 10;
            config.session.commands_burst = 5;
            // They count as refused frames, which is another test.
            config.session.refused_per_second_max = 1000;
        })
        .await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    let begun = Instant::now();
    for n in 0..30 {
        let mut command = message("1", "r", "x");
        command["id"] = n.to_string().into();
        client.send(command).await;
    }
    let (mut done, mut wait) = (0, 0);
    for n in 0..30 {
        let answer = client.next().await;
        assert_eq!(answer["id"], n.to_string());
        if answer["type"] == "ack" {
            done += 1;
            continue;
        }
        let Value::Number(ms) = &answer["retry_after_ms"] else { panic!("{answer}") };
        wait = ms.as_u64().unwrap();
        assert!((1..=110).contains(&wait), "{answer}");
        let sentence = format!("too many commands; wait {wait} ms");
        let wanted = json!({"type": "error", "code": "rate_limited", "status": 429,
            "error": sentence, "retry_after_ms": wait, "re": "message", "room": "r",
            "id": n.to_string()});
        assert_eq!(answer, wanted);
    }
    // Five at once, of which the create was one, and ten for each second since.
    let more = begun.elapsed().as_millis() / 100 + 1;
    assert!((4..=5 + more).contains(&done), "{done} of 30, in {:?}", begun.elapsed());
    // What was refused was not carried out; whoever waits as long as told is let in.
    sleep(Duration::from_millis(wait)).await;
    client.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "history", "last": 1 + u64::try_from(done).unwrap()})).await;
}

async fn whoever_sends_only_nonsense_is_closed_with_1008(world: World) {
    let node = world
        .node_with(|config| {
            config.session.refused_per_second_max = 20;
            config.session.refused_seconds_max = 2;
            // Beyond the rate it would be told that instead.
            config.session.commands_per_second = 1_000_000;
        })
        .await;
    let mut client = node.client().await;
    let garbage = ["garbage", "{}", r#"{"type":"x"}"#, r#"{"type":"join"}"#, "\u{1}"];
    let codes = ["bad_json", "bad_request", "unknown_type", "bad_request", "bad_json"];
    let begun = Instant::now();
    // One bad second is forgiven; the next one is the last.
    let mut sent = 0;
    let closed = 'closed: loop {
        for text in garbage {
            client.send_text(text).await;
        }
        for code in codes {
            sent += 1;
            match client.next_or_close().await {
                Ok(frame) => assert_eq!(frame["code"], code),
                Err(code) => break 'closed code,
            }
        }
    };
    assert_eq!(closed, 1008);
    assert!(sent > 21 && begun.elapsed() > Duration::from_millis(900), "after {sent}");
}

async fn nonsense_now_and_then_closes_nothing(world: World) {
    let node = world
        .node_with(|config| {
            config.session.refused_per_second_max = 20;
            config.session.refused_seconds_max = 2;
        })
        .await;
    let mut client = node.client().await;
    // Much of it at once, within one bad second at most, and refusals by the rules of the chat.
    for _ in 0..40 {
        client.send_text("garbage").await;
        client.expect(json!({"code": "bad_json"})).await;
    }
    for _ in 0..500 {
        client.send(message("1", "none", "x")).await;
        client.expect(json!({"code": "room_not_found"})).await;
    }
    client.expect_nothing().await;
}

async fn one_socket_follows_up_to_so_many_rooms(world: World) {
    let node = world.node_with(|config| config.session.follows_max = 2).await;
    let mut client = node.client().await;
    for room in ["a", "b", "c"] {
        create(&mut client, "1", room).await;
    }
    follow(&mut client, "1", "a").await;
    follow(&mut client, "1", "b").await;
    let full = json!({"type": "error", "code": "bad_request", "status": 400, "limit": 2});
    client.send(json!({"type": "join", "user_id": "2", "room": "c", "id": "i"})).await;
    let problem = client.expect(full.clone()).await;
    assert_eq!(
        (&problem["re"], &problem["room"], &problem["id"], &problem["field"]),
        (&json!("join"), &json!("c"), &json!("i"), &json!("room"))
    );
    client.send(json!({"type": "resume", "user_id": "1", "rooms": {"c": 0}, "id": "j"})).await;
    let problem = client.expect(full.clone()).await;
    assert_eq!(
        (&problem["re"], &problem["id"], &problem["field"]),
        (&json!("resume"), &json!("j"), &json!("rooms"))
    );
    // Refused, it did not join: the room has one member, and one event.
    client.send(json!({"type": "rooms", "after": "b"})).await;
    client.expect(json!({"rooms": [{"room": "c", "last_seq": 1, "members": 1}]})).await;
    // A room that it follows already is not one more.
    follow(&mut client, "1", "a").await;
    // A room that is left makes place.
    client.send(json!({"type": "leave", "user_id": "1", "room": "a"})).await;
    client.expect(json!({"type": "leave"})).await;
    join(&mut client, "2", "c").await;
    // Another socket has a count of its own.
    let mut other = node.client().await;
    follow(&mut other, "1", "b").await;
}

/// The limit holds as well for those who do not wait for answers.
async fn rooms_asked_for_at_once_count_too(world: World) {
    let node = world.node_with(|config| config.session.follows_max = 3).await;
    let mut client = node.client().await;
    for room in 0..8 {
        create(&mut client, "1", &room.to_string()).await;
    }
    for room in 0..8 {
        client.send(json!({"type": "join", "user_id": "1", "room": room.to_string()})).await;
    }
    for room in 0..8 {
        let wanted = if room < 3 {
            json!({"type": "joined", "room": room.to_string()})
        } else {
            json!({"code": "bad_request", "limit": 3, "room": room.to_string()})
        };
        client.expect(wanted).await;
    }
}

async fn a_node_that_stops_says_goodbye_and_closes_with_1012(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", 10).await;
    follow(&mut bob, "1", "r").await;
    let addr = node.addr;
    let stopped = tokio::spawn(node.stop());
    let goodbye = r#"{"type":"goodbye","reason":"restart","reconnect_ms":1500}"#;
    for mut client in [ann, bob] {
        client.expect_exactly(goodbye).await;
        client.expect_close(1012).await;
    }
    stopped.await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "nobody listens any more");
}

/// Commands without ids on a socket that follows: their answers are events, and those too are sent
/// before the close.
async fn what_a_stopping_node_has_read_it_has_answered(world: World) {
    let mut node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    client.close().await;
    let mut stored = 1;
    for round in 0..5 {
        let mut client = node.client().await;
        follow(&mut client, "1", "r").await;
        for _ in 0..100 {
            client.send(message("1", "r", "x")).await;
        }
        for _ in 0..round * 10 {
            stored += 1;
            client.expect(json!({"type": "message", "seq": stored})).await;
        }
        let restarted = tokio::spawn(node.restart());
        let code = loop {
            match client.next_or_close().await {
                Ok(frame) if frame["type"] == "goodbye" => {}
                Ok(frame) => {
                    stored += 1;
                    assert_eq!(frame["seq"], stored, "{frame}");
                }
                Err(code) => break code,
            }
        };
        assert_eq!(code, 1012);
        client.close().await;
        node = restarted.await.unwrap();
        let mut client = node.client().await;
        client.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
        client.expect(json!({"type": "history", "last": stored})).await;
    }
}
