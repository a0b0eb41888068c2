//! `read`: marks that only move forward, are stored, are told, and what is unread.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{next_of, read};
use crate::harness::node::TestNode;
use crate::harness::{Client, World, on_both_logs};
use crate::protocol::{create, exact, fill, follow, join, message, say};

on_both_logs!(
    a_mark_is_stored_told_and_shown,
    read_is_for_members_and_needs_a_seq,
    a_mark_moves_forward_only_and_not_beyond_the_end,
    a_mark_survives_a_stop_that_comes_right_behind_it,
    unread_counts_messages_only_and_what_is_live_is_not_counted_twice,
    many_marks_are_one_and_none_names_an_event_that_the_socket_does_not_have,
    more_marks_than_are_told_are_stored_all_the_same,
    reading_and_asking_in_turns_is_not_a_write_for_each,
);

/// Stores marks sooner than people need it.
async fn quick(world: &World) -> TestNode {
    world.node_with(|config| config.signals.read_flush_ms = 50).await
}

/// `read` and `unread` of each of the user's rooms.
async fn listed(client: &mut Client, user: &str) -> BTreeMap<String, (u64, u64)> {
    client.send(json!({"type": "rooms", "user_id": user})).await;
    let frame = next_of(client, "rooms").await;
    let rooms = frame["rooms"].as_array().unwrap().iter();
    let listed = |room: &Value| {
        let number = |key: &str| room[key].as_u64();
        Some((room["room"].as_str()?.to_owned(), (number("read")?, number("unread")?)))
    };
    rooms.filter_map(listed).collect()
}

async fn a_mark_is_stored_told_and_shown(world: World) {
    let node = quick(&world).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    ann.expect(json!({"type": "join"})).await;
    for text in ["a", "b", "c"] {
        say(&mut ann, "1", "r", text).await;
        bob.expect(json!({"type": "message"})).await;
    }
    bob.send_text(r#"{"type":"read","user_id":"2","room":"r","seq":4,"id":"c1"}"#).await;
    exact(&mut bob, r#"{"type":"ack","re":"read","room":"r","id":"c1"}"#).await;
    for client in [&mut ann, &mut bob] {
        exact(client, r#"{"type":"read","room":"r","user_id":"2","seq":4}"#).await;
    }
    bob.send_text(r#"{"type":"rooms","user_id":2}"#).await;
    let rooms = r#"{"type":"rooms","rooms":[{"room":"r","last_seq":5,"members":2,"read":4,"unread":1}],"more":false}"#;
    exact(&mut bob, rooms).await;
    let mut other = node.client().await;
    other.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    let joined = r#"{"type":"joined","room":"r","user_id":"2","last_seq":5,"members":2,"read":4,"unread":1}"#;
    exact(&mut other, joined).await;
    // Somebody who is no member, or does not say who they are, has none.
    other.send_text(r#"{"type":"rooms","user_id":"3"}"#).await;
    let rooms = r#"{"type":"rooms","rooms":[{"room":"r","last_seq":5,"members":2}],"more":false}"#;
    exact(&mut other, rooms).await;
}

async fn read_is_for_members_and_needs_a_seq(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    bob.send(read("2", "r", 1)).await;
    bob.expect(json!({"type": "error", "code": "not_member", "re": "read"})).await;
    bob.send(read("2", "nowhere", 1)).await;
    bob.expect(json!({"type": "error", "code": "room_not_found", "re": "read"})).await;
    bob.send(json!({"type": "read", "user_id": "1", "room": "r", "id": "c"})).await;
    bob.expect(json!({"code": "bad_request", "field": "seq", "re": "read", "id": "c"})).await;
    // A member need not follow.
    bob.send(read("1", "r", 1)).await;
    bob.expect(json!({"type": "ack", "re": "read"})).await;
}

async fn a_mark_moves_forward_only_and_not_beyond_the_end(world: World) {
    let node = quick(&world).await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", 9).await;
    follow(&mut ann, "1", "r").await;
    let mut frames = Vec::new();
    for (said, stored) in [(5, 5), (3, 5), (5, 5), (1000, 10), (7, 10)] {
        ann.send(read("1", "r", said)).await;
        // A list sees what was written before it.
        ann.send(json!({"type": "rooms", "user_id": "1"})).await;
        frames.extend(ann.read_until(json!({"type": "rooms"})).await);
        let room = &frames.last().unwrap()["rooms"][0];
        assert_eq!((&room["read"], &room["unread"]), (&json!(stored), &json!(10 - stored)));
    }
    // They are told a moment after they are stored, and in their order.
    let mut bob = node.client().await;
    let seq = join(&mut bob, "2", "r").await;
    bob.send(message("2", "r", "x")).await;
    bob.send(read("2", "r", seq + 1)).await;
    frames.extend(ann.read_until(json!({"type": "read", "user_id": "2"})).await);
    let told = frames.iter().filter(|frame| frame["type"] == "read" && frame["user_id"] == "1");
    assert!(told.map(|frame| &frame["seq"]).eq([5, 10].iter()));
}

async fn a_mark_survives_a_stop_that_comes_right_behind_it(world: World) {
    // It would wait for longer than the test.
    let node = world.node_with(|config| config.signals.read_flush_ms = 600_000).await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", 5).await;
    ann.send(read("1", "r", 4)).await;
    ann.expect(json!({"type": "ack", "re": "read"})).await;
    let node = node.restart().await;
    let mut ann = node.client().await;
    assert_eq!(listed(&mut ann, "1").await["r"], (4, 2));
}

async fn unread_counts_messages_only_and_what_is_live_is_not_counted_twice(world: World) {
    let node = quick(&world).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    let mut guests = node.client().await;
    for round in 0..5 {
        fill(&mut ann, "1", "r", 3).await;
        for kind in ["join", "leave"] {
            guests.send(json!({"type": kind, "user_id": "3", "room": "r"})).await;
            guests.read_until(json!({"type": kind})).await;
        }
        let unread = 3 * (round + 1);
        assert_eq!(listed(&mut ann, "2").await["r"], (2, unread));
        let mut again = node.client().await;
        again.send(json!({"type": "resume", "user_id": "2", "rooms": {"r": 2}})).await;
        again.expect(json!({"type": "joined", "read": 2, "unread": unread})).await;
        let missed = again.read_until(json!({"type": "resumed"})).await;
        let messages = missed.iter().filter(|frame| frame["type"] == "message").count() as u64;
        assert_eq!(messages, unread, "what is unread is what it missed");
    }
    // Between them, a mark at every place.
    let last_seq = 2 + 5 * 5;
    for seq in 2..=last_seq {
        bob.send(read("2", "r", seq)).await;
        let unread = (seq..last_seq).filter(|n| (n + 1 - 3) % 5 < 3).count() as u64;
        assert_eq!(listed(&mut bob, "2").await["r"], (seq, unread), "{seq}");
    }
    // Own messages count, too: a client says what it has shown.
    bob.send(message("2", "r", "x")).await;
    // The last mark may be told behind it as well as before it.
    bob.read_until(json!({"type": "message"})).await;
    assert_eq!(listed(&mut ann, "2").await["r"].1, 1);
}

async fn many_marks_are_one_and_none_names_an_event_that_the_socket_does_not_have(world: World) {
    const MESSAGES: u64 = 500;
    let node = world.node_with(|config| config.signals.read_flush_ms = 10).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    // Each reads what the other says as soon as it is there.
    let talk = async |client: &mut Client, user: &str| {
        let (mut seen, mut told, mut acks) = (2, BTreeMap::new(), 0);
        let mut sent = 0;
        while seen < 2 + 2 * MESSAGES || acks < MESSAGES {
            if sent < MESSAGES {
                sent += 1;
                client.send(message(user, "r", "x")).await;
                client.send(read(user, "r", seen)).await;
            }
            let frame = client.next().await;
            let seq = frame["seq"].as_u64();
            match frame["type"].as_str().unwrap() {
                "message" => {
                    assert_eq!(seq, Some(seen + 1));
                    seen += 1;
                }
                "read" => {
                    assert!(seq <= Some(seen), "{frame} came before its event, {seen}");
                    let user = frame["user_id"].as_str().unwrap().to_owned();
                    let before = told.insert(user, seq);
                    assert!(before < Some(seq), "{frame} goes back");
                }
                "ack" => acks += 1,
                "join" => {}
                kind => panic!("{kind}"),
            }
        }
        client.send(read(user, "r", seen)).await;
        client.read_until(json!({"type": "read", "user_id": user, "seq": seen})).await;
    };
    tokio::join!(talk(&mut ann, "1"), talk(&mut bob, "2"));
    assert_eq!(listed(&mut ann, "1").await["r"].1, 0);
    assert_eq!(listed(&mut ann, "2").await["r"].1, 0);
}

async fn more_marks_than_are_told_are_stored_all_the_same(world: World) {
    let limit = |config: &mut verbatim::config::Config| {
        (config.signals.read_flush_ms, config.signals.read_told_max) = (60_000, 3);
    };
    let node = world.node_with(limit).await;
    let mut ann = node.client().await;
    create(&mut ann, "0", "r").await;
    follow(&mut ann, "0", "r").await;
    for user in 1..=9 {
        let mut client = node.client().await;
        join(&mut client, &user.to_string(), "r").await;
        ann.expect(json!({"type": "join"})).await;
    }
    for user in 0..=9 {
        ann.send(read(&user.to_string(), "r", 10)).await;
        ann.expect(json!({"type": "ack", "re": "read"})).await;
    }
    // Asking has them stored.
    for user in 0..=9 {
        let mut client = node.client().await;
        let mark = listed(&mut client, &user.to_string()).await["r"];
        assert_eq!(mark, (10, 0), "{user}");
    }
    for _ in 0..3 {
        ann.expect(json!({"type": "read", "seq": 10})).await;
    }
    say(&mut ann, "0", "r", "nothing else").await;
}

/// A write is a transaction that waits for a disk, and nobody may have one with each command.
async fn reading_and_asking_in_turns_is_not_a_write_for_each(world: World) {
    const TURNS: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(50);
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", TURNS as usize).await;
    let begun = Instant::now();
    for seq in 2..u64::from(TURNS) + 2 {
        ann.send(read("1", "r", seq)).await;
        assert_eq!(listed(&mut ann, "1").await["r"].0, seq);
    }
    // Each list has what was read before it, so there was a write for each.
    let after = begun.elapsed();
    assert!(after >= PAUSE * (TURNS - 1), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_of_many_rooms_waits_once_for_a_mark_that_cannot_be_stored() {
    const ROOMS: u32 = 20;
    // Half of it is longer than the machine stands still.
    const TIMEOUT: Duration = Duration::from_secs(10);
    let world = World::postgres().await;
    let node = world.node_with(|config| {
        config.signals.read_flush_ms = 50;
        config.log.read_timeout_ms = TIMEOUT.as_millis() as u64;
    });
    let node = node.await;
    let mut ann = node.client().await;
    let rooms: Vec<String> = (0..ROOMS).map(|n| format!("r{n}")).collect();
    for room in &rooms {
        create(&mut ann, "1", room).await;
        fill(&mut ann, "1", room, 1).await;
    }
    // Somebody holds the rows of all members: marks wait, and reads do not.
    let url = &world.config.log.url.0;
    let (sql, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    sql.batch_execute("begin; select from members for update").await.unwrap();
    ann.send(read("1", "r0", 2)).await;
    ann.expect(json!({"type": "ack", "re": "read"})).await;
    let since: BTreeMap<&String, u64> = rooms.iter().map(|room| (room, 2)).collect();
    let begun = Instant::now();
    ann.send(json!({"type": "resume", "user_id": "1", "rooms": since})).await;
    let frames = ann.read_until(json!({"type": "resumed"})).await;
    let after = begun.elapsed();
    let unread = |frame: &&Value| frame["type"] == "joined" && frame["unread"] == 1;
    assert_eq!(frames.iter().filter(unread).count(), rooms.len(), "{frames:?}");
    // Once is half of the time that there is for reads.
    assert!(after < TIMEOUT / 2 * ROOMS / 4, "{after:?}");
}
