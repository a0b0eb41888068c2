//! `resume`: follow several rooms again, each from its place, without joining any.

use serde_json::{Value, json};

use super::{create, exact, expect_seqs, fill, follow, join, message, say};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    resume_is_joined_then_replay_then_resumed,
    resume_follows_several_rooms_each_from_its_place,
    resume_does_not_join,
    a_position_above_the_end_is_reset,
    resume_of_a_room_that_is_followed_already_moves_nothing,
    resume_of_nothing_is_resumed,
    a_replay_longer_than_the_ring_is_whole_before_resumed,
    resume_after_a_restart_goes_on_where_it_was,
    events_are_live_after_resumed,
);

async fn resume_is_joined_then_replay_then_resumed(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "general").await;
    fill(&mut ann, "1", "general", 2).await;
    let mut client = node.client().await;
    client.send_text(r#"{"type":"resume","user_id":"1","rooms":{"general":1},"id":"c6"}"#).await;
    let joined = r#"{"type":"joined","room":"general","user_id":"1","last_seq":3,"members":1,"read":1,"unread":2}"#;
    exact(&mut client, joined).await;
    for seq in [2, 3] {
        let event = format!(
            r#"{{"type":"message","room":"general","user_id":"1","message":"message {}","seq":{seq},"at":"AT"}}"#,
            seq - 2
        );
        exact(&mut client, &event).await;
    }
    exact(&mut client, r#"{"type":"resumed","rooms":{"general":3},"id":"c6"}"#).await;
    client.expect_nothing().await;
}

async fn resume_follows_several_rooms_each_from_its_place(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    let places = [("a", 0), ("b", 3), ("c", 6), ("d", 5)];
    for (room, _) in places {
        create(&mut ann, "1", room).await;
        fill(&mut ann, "1", room, 5).await;
    }
    let mut client = node.client().await;
    let rooms: serde_json::Map<_, _> =
        places.iter().map(|(room, since)| ((*room).to_owned(), json!(since))).collect();
    client.send(json!({"type": "resume", "user_id": "1", "rooms": rooms})).await;
    // A joined for each first, in the order they were asked for; then the replays, mixed as the
    // server likes, each in its order.
    for (room, _) in places {
        client.expect(json!({"type": "joined", "room": room, "user_id": "1", "last_seq": 6})).await;
    }
    let mut frames = client.read_until(json!({"type": "resumed"})).await;
    let resumed = frames.pop().unwrap();
    assert_eq!(resumed["rooms"], json!({"a": 6, "b": 6, "c": 6, "d": 6}));
    for (room, since) in places {
        let of_room = frames.iter().filter(|frame| frame["room"] == room);
        let seqs: Vec<_> = of_room.map(|frame| frame["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (since + 1..=6).collect::<Vec<_>>(), "{room}");
    }
    for (room, _) in places {
        assert_eq!(say(&mut client, "1", room, "live").await, 7);
    }
}

async fn resume_does_not_join(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "mine").await;
    create(&mut ann, "1", "left").await;
    join(&mut bob, "2", "left").await;
    bob.send(json!({"type": "leave", "user_id": "2", "room": "left"})).await;
    bob.expect(json!({"type": "leave"})).await;
    join(&mut bob, "2", "mine").await;
    let mut client = node.client().await;
    client
        .send_text(r#"{"type":"resume","user_id":2,"rooms":{"left":0,"mine":1,"none":5},"id":"i"}"#)
        .await;
    let problem = json!({"type": "error", "re": "resume", "id": "i"});
    let left = client.expect(problem.clone()).await;
    assert_eq!((&left["code"], &left["room"]), (&json!("not_member"), &json!("left")));
    client.expect(json!({"type": "joined", "room": "mine", "members": 2, "last_seq": 2})).await;
    let none = client.expect(problem).await;
    assert_eq!((&none["code"], &none["room"]), (&json!("room_not_found"), &json!("none")));
    expect_seqs(&mut client, "mine", [2]).await;
    exact(&mut client, r#"{"type":"resumed","rooms":{"mine":2},"id":"i"}"#).await;
    // Nobody joined anything.
    client.send(json!({"type": "rooms"})).await;
    let rooms = client.expect(json!({"type": "rooms"})).await;
    assert_eq!(rooms["rooms"][0], json!({"room": "left", "last_seq": 3, "members": 1}));
    ann.send(message("1", "left", "to nobody")).await;
    ann.expect(json!({"type": "ack"})).await;
    client.expect_nothing().await;
}

async fn a_position_above_the_end_is_reset(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    for room in ["a", "b"] {
        create(&mut ann, "1", room).await;
        fill(&mut ann, "1", room, 3).await;
    }
    let mut client = node.client().await;
    client.send(json!({"type": "resume", "user_id": "1", "rooms": {"a": 100, "b": 2}})).await;
    client.expect(json!({"type": "joined", "room": "a", "last_seq": 4})).await;
    client.expect_exactly(r#"{"type":"reset","room":"a","last_seq":4}"#).await;
    client.expect(json!({"type": "joined", "room": "b", "last_seq": 4})).await;
    expect_seqs(&mut client, "b", [3, 4]).await;
    client.expect(json!({"type": "resumed", "rooms": {"a": 4, "b": 4}})).await;
    assert_eq!(say(&mut client, "1", "a", "live").await, 5);
}

async fn resume_of_a_room_that_is_followed_already_moves_nothing(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    fill(&mut client, "1", "r", 3).await;
    follow(&mut client, "1", "r").await;
    for since in [0, 3, 50] {
        client.send(json!({"type": "resume", "user_id": "1", "rooms": {"r": since}})).await;
        client.expect(json!({"type": "joined", "room": "r", "last_seq": 4})).await;
        client.expect(json!({"type": "resumed", "rooms": {"r": 4}})).await;
    }
    assert_eq!(say(&mut client, "1", "r", "one copy").await, 5);
    client.expect_nothing().await;
}

async fn resume_of_nothing_is_resumed(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    client.send_text(r#"{"type":"resume","user_id":"1","rooms":{}}"#).await;
    client.expect_exactly(r#"{"type":"resumed","rooms":{}}"#).await;
    client.send_text(r#"{"type":"resume","user_id":"1","rooms":{"x":0}}"#).await;
    client.expect(json!({"code": "room_not_found", "room": "x", "re": "resume"})).await;
    client.expect_exactly(r#"{"type":"resumed","rooms":{}}"#).await;
}

async fn a_replay_longer_than_the_ring_is_whole_before_resumed(world: World) {
    let node = world
        .node_with(|config| {
            config.hub.ring_len_max = 3;
            config.hub.page_len = 7;
        })
        .await;
    let mut ann = node.client().await;
    for room in ["a", "b"] {
        create(&mut ann, "1", room).await;
        follow(&mut ann, "1", room).await;
        for _ in 0..50 {
            say(&mut ann, "1", room, "x").await;
        }
    }
    let mut client = node.client().await;
    client.send(json!({"type": "resume", "user_id": "1", "rooms": {"a": 0, "b": 1}})).await;
    let frames = client.read_until(json!({"type": "resumed"})).await;
    for (room, since) in [("a", 0), ("b", 1)] {
        let of_room = frames.iter().filter(|frame| frame["room"] == room);
        let seqs: Vec<_> = of_room.filter_map(|frame| frame["seq"].as_u64()).collect();
        assert_eq!(seqs, (since + 1..=51).collect::<Vec<_>>(), "{room}");
    }
    assert_eq!(frames.last().unwrap()["rooms"], json!({"a": 51, "b": 51}));
}

async fn resume_after_a_restart_goes_on_where_it_was(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    follow(&mut client, "1", "r").await;
    let seen = say(&mut client, "1", "r", "the last I saw").await;
    let mut other = node.client().await;
    fill(&mut other, "1", "r", 5).await;
    drop((client, other));
    let node = node.restart().await;
    let mut client = node.client().await;
    client.send(json!({"type": "resume", "user_id": "1", "rooms": {"r": seen}})).await;
    client.expect(json!({"type": "joined", "room": "r", "last_seq": 7})).await;
    expect_seqs(&mut client, "r", 3..=7).await;
    client.expect(json!({"type": "resumed", "rooms": {"r": 7}})).await;
}

/// `resumed` says up to where each room was replayed; what comes behind it is above that.
async fn events_are_live_after_resumed(world: World) {
    let node = world.node_with(|config| config.hub.page_len = 3).await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", 40).await;
    let writer = tokio::spawn(async move { fill(&mut ann, "1", "r", 200).await });
    let mut client = node.client().await;
    client.send(json!({"type": "resume", "user_id": "1", "rooms": {"r": 0}})).await;
    client.expect(json!({"type": "joined", "room": "r"})).await;
    let (mut next, mut resumed_at) = (1, None);
    while next <= 241 || resumed_at.is_none() {
        let frame: Value = client.next().await;
        if frame["type"] == "resumed" {
            resumed_at = frame["rooms"]["r"].as_u64();
            // The frame itself may come behind events that are live already.
            assert!(resumed_at.is_some_and(|at| at < next), "{frame} before {next}");
            continue;
        }
        assert_eq!(frame["seq"], next);
        next += 1;
    }
    writer.await.unwrap();
    client.expect_nothing().await;
}
