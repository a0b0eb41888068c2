//! How answers belong to commands: their order, the `id` they repeat, what each is made of.

use serde_json::{Value, json};

use super::{create, exact, fill, follow, join, message, say};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    every_answer_repeats_the_id_of_its_command,
    every_error_repeats_the_id_of_its_command,
    pipelined_commands_are_answered_in_order,
    an_event_that_is_an_answer_comes_in_its_place,
    a_read_sees_every_write_that_was_sent_before_it,
    more_commands_than_may_be_unanswered_are_answered_all_the_same,
    help_answers_with_types_and_an_example_of_each_that_works,
    ping_answers_pong,
);

async fn every_answer_repeats_the_id_of_its_command(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    let user_room = |kind: &str| json!({"type": kind, "user_id": "1", "room": "r"});
    let mut text = user_room("message");
    text["message"] = "x".into();
    let resume = json!({"type": "resume", "user_id": "1", "rooms": {}});
    let read = json!({"type": "read", "user_id": "1", "room": "r", "seq": 1});
    for (answer, command) in [
        ("ack", user_room("create")),
        ("ack", text),
        ("joined", user_room("join")),
        ("history", user_room("history")),
        ("members", user_room("members")),
        ("who", user_room("who")),
        ("ack", user_room("typing")),
        ("ack", read),
        ("resumed", resume),
        ("rooms", json!({"type": "rooms"})),
        ("pong", json!({"type": "ping"})),
        ("help", json!({"type": "help"})),
        ("ack", user_room("leave")),
    ] {
        let id = format!("id of {}", command["type"].as_str().unwrap());
        let mut command = command;
        command["id"] = id.clone().into();
        client.send(command).await;
        let frames = client.read_until(json!({"id": id})).await;
        assert_eq!(frames.last().unwrap()["type"], answer);
    }
}

async fn every_error_repeats_the_id_of_its_command(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for command in [
        json!({"type": "nonsense"}),
        json!({}),
        json!({"type": "create"}),
        json!({"type": "join", "user_id": "1", "room": "none"}),
        json!({"type": "leave", "user_id": "1", "room": "none"}),
        message("1", "none", "x"),
        json!({"type": "history", "user_id": "1", "room": "none"}),
        json!({"type": "members", "user_id": "1", "room": "none"}),
        json!({"type": "who", "user_id": "1", "room": "none"}),
        json!({"type": "typing", "user_id": "1", "room": "none"}),
        json!({"type": "read", "user_id": "1", "room": "none", "seq": 1}),
        json!({"type": "resume", "user_id": "1", "rooms": 7}),
        json!({"type": "rooms", "limit": 0}),
    ] {
        let mut command = command;
        command["id"] = "the id".into();
        client.send(command).await;
        client.expect(json!({"type": "error", "id": "the id"})).await;
    }
}

async fn pipelined_commands_are_answered_in_order(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    // Fast and slow ones, good and bad ones, in several rooms (hence lanes).
    let kinds = |n: usize| -> Value {
        match n % 8 {
            0 => message("1", "r", "x"),
            1 => json!({"type": "ping"}),
            2 => json!({"type": "history", "user_id": "1", "room": "r"}),
            3 => json!({"type": "create", "user_id": "1", "room": format!("room {n}")}),
            4 => json!({"type": "nonsense"}),
            5 => json!({"type": "rooms"}),
            6 => message("2", "r", "not a member"),
            _ => json!({"type": "members", "user_id": "1", "room": "r"}),
        }
    };
    for n in 0..200 {
        let mut command = kinds(n);
        command["id"] = n.to_string().into();
        client.send(command).await;
    }
    let answers = ["ack", "pong", "history", "ack", "error", "rooms", "error", "members"];
    for n in 0..200 {
        client.expect(json!({"type": answers[n % 8], "id": n.to_string()})).await;
    }
    client.expect_nothing().await;
}

/// The event is the answer to a message without an id, so it keeps the order as any answer: a
/// client that sends a `ping` behind its messages has them all when the `pong` comes.
async fn an_event_that_is_an_answer_comes_in_its_place(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    follow(&mut client, "1", "r").await;
    let mut seq = 1;
    for round in 0..50 {
        for _ in 0..=round % 4 {
            client.send(message("1", "r", "x")).await;
        }
        client.send(json!({"type": "ping"})).await;
        for _ in 0..=round % 4 {
            seq += 1;
            client.expect(json!({"type": "message", "seq": seq})).await;
        }
        client.expect(json!({"type": "pong"})).await;
    }
}

async fn a_read_sees_every_write_that_was_sent_before_it(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for n in 0..20 {
        let room = format!("r{n}");
        let read = |kind: &str| json!({"type": kind, "user_id": "1", "room": room});
        client.send(json!({"type": "create", "user_id": "1", "room": room})).await;
        client.send(message("1", &room, "x")).await;
        client.send(read("history")).await;
        client.send(read("members")).await;
        client.send(json!({"type": "rooms", "limit": 1000})).await;
        client.send(json!({"type": "resume", "user_id": "1", "rooms": {room.clone(): 2}})).await;
        client.expect(json!({"type": "ack", "re": "create"})).await;
        client.expect(json!({"type": "ack", "re": "message"})).await;
        client.expect(json!({"type": "history", "first": 1, "last": 2, "more": false})).await;
        client.expect(json!({"type": "members", "room": room})).await;
        let rooms = client.expect(json!({"type": "rooms"})).await;
        let listed = json!({"room": room, "last_seq": 2, "members": 1});
        assert!(rooms["rooms"].as_array().unwrap().contains(&listed), "{rooms}");
        client.expect(json!({"type": "joined", "room": room, "last_seq": 2})).await;
        client.expect(json!({"type": "resumed"})).await;
    }
}

async fn more_commands_than_may_be_unanswered_are_answered_all_the_same(world: World) {
    let node = world
        .node_with(|config| {
            config.session.in_flight_max = 2;
            config.lane.inbox_len_max = 1;
            config.lane.batch_len_max = 1;
        })
        .await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    fill(&mut client, "1", "r", 300).await;
    client.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "history", "last": 301})).await;
}

async fn help_answers_with_types_and_an_example_of_each_that_works(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    client.send(json!({"type": "help"})).await;
    let text = client.next_text().await;
    let start = r#"{"type":"help","types":["create","join","message","leave","history","resume","rooms","members","who","typing","read","ping","help"],"examples":["{\"user_id\":\"1\",\"type\":\"create\",\"room\":\"general\"}","#;
    assert!(text.starts_with(start), "{text}");
    let help: Value = serde_json::from_str(&text).unwrap();
    let types = help["types"].as_array().unwrap();
    let examples = help["examples"].as_array().unwrap();
    assert_eq!(types.len(), examples.len());
    for (kind, example) in types.iter().zip(examples) {
        let example = example.as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(example).unwrap()["type"], *kind);
        client.send_text(example).await;
        // Left the room, which is in the fourth, it cannot read it any more; it is no error of
        // form.
        let answer = client.read_until(json!({})).await.pop().unwrap();
        let code = answer.get("code").and_then(Value::as_str);
        assert!(matches!(code, None | Some("not_member")), "{example} got {answer}");
        client.send(json!({"type": "ping", "id": "end"})).await;
        client.read_until(json!({"type": "pong", "id": "end"})).await;
    }
}

async fn ping_answers_pong(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    client.send_text(r#"{"type":"ping"}"#).await;
    client.expect_exactly(r#"{"type":"pong"}"#).await;
    client.send_text(r#"{"type":"ping","id":"p1"}"#).await;
    client.expect_exactly(r#"{"type":"pong","id":"p1"}"#).await;
    create(&mut client, "1", "r").await;
    join(&mut client, "2", "r").await;
    say(&mut client, "2", "r", "and the rest goes on").await;
    client.send_text(r#"{"type":"rooms"}"#).await;
    let rooms = r#"{"type":"rooms","rooms":[{"room":"r","last_seq":3,"members":2}],"more":false}"#;
    exact(&mut client, rooms).await;
}
