//! `who` and `presence` on one node.

use serde_json::json;

use super::{next_of, read, typing, until_online, watch, who};
use crate::harness::node::TestNode;
use crate::harness::{Client, World, on_both_logs};
use crate::protocol::{create, exact, follow, join, join_too, say};

on_both_logs!(
    who_is_these_bytes,
    who_is_for_members,
    who_leaves_is_no_member_to_what_they_send_behind_it,
    a_follower_that_asked_is_told_and_one_that_did_not_is_not,
    a_page_that_is_loaded_again_is_not_noticed,
    a_user_is_online_while_any_socket_follows_as_them,
    whoever_leaves_is_offline_in_that_room_only,
    where_there_are_too_many_there_is_a_count,
    rooms_beyond_the_limit_are_answered_and_not_followed,
);

/// Does not wait for as long as people do.
async fn quick(world: &World) -> TestNode {
    world.node_with(|config| config.signals.settle_ms = 100).await
}

async fn who_is_these_bytes(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "general").await;
    // A member who does not follow is not online, and may ask.
    ann.send_text(r#"{"type":"who","user_id":"1","room":"general"}"#).await;
    exact(&mut ann, r#"{"type":"who","room":"general","online":[],"count":0}"#).await;
    follow(&mut ann, "1", "general").await;
    join(&mut bob, "2", "general").await;
    bob.send_text(r#"{"type":"who","user_id":2,"room":"general","id":"c1"}"#).await;
    let frame = r#"{"type":"who","room":"general","online":["1","2"],"count":2,"id":"c1"}"#;
    exact(&mut bob, frame).await;
    // One that is sent behind a `join` sees it.
    let mut cid = node.client().await;
    cid.send(json!({"type": "join", "user_id": "3", "room": "general"})).await;
    cid.send(who("3", "general")).await;
    let answer = next_of(&mut cid, "who").await;
    assert_eq!((&answer["online"], &answer["count"]), (&json!(["1", "2", "3"]), &json!(3)));
}

async fn who_is_for_members(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    bob.send(who("2", "r")).await;
    bob.expect(json!({"type": "error", "code": "not_member", "re": "who", "room": "r"})).await;
    bob.send(who("2", "nowhere")).await;
    bob.expect(json!({"type": "error", "code": "room_not_found", "re": "who"})).await;
    join(&mut bob, "2", "r").await;
    bob.send(json!({"type": "leave", "user_id": "2", "room": "r"})).await;
    bob.expect(json!({"type": "leave"})).await;
    bob.send(who("2", "r")).await;
    bob.expect(json!({"code": "not_member"})).await;
}

async fn who_leaves_is_no_member_to_what_they_send_behind_it(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    let mut leave = json!({"type": "leave", "user_id": "2", "room": "r"});
    // The event is the answer; or an ack is, which may come before the event.
    for id in [None, Some("c")] {
        join(&mut bob, "2", "r").await;
        if let Some(id) = id {
            leave["id"] = id.into();
        }
        for command in [&leave, &who("2", "r"), &typing("2", "r"), &read("2", "r", 2)] {
            bob.send(command.clone()).await;
        }
        for re in ["who", "typing", "read"] {
            let answer = bob.read_until(json!({"re": re})).await.pop().unwrap();
            assert_eq!(answer["code"], "not_member", "{answer}");
        }
    }
    // And when they have come back in the same breath they are.
    let commands = [json!({"type": "join", "user_id": "2", "room": "r"}), who("2", "r")];
    join(&mut bob, "2", "r").await;
    leave["id"] = "d".into();
    for command in [leave].into_iter().chain(commands) {
        bob.send(command).await;
    }
    assert_eq!(next_of(&mut bob, "who").await["online"], json!(["1", "2"]));
    // Nobody heard of their typing: that of somebody else is told with it or behind it.
    let mut cid = node.client().await;
    join(&mut cid, "3", "r").await;
    cid.send(typing("3", "r")).await;
    assert_eq!(next_of(&mut ann, "typing").await["user_id"], "3");
}

async fn a_follower_that_asked_is_told_and_one_that_did_not_is_not(world: World) {
    let node = quick(&world).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    ann.expect(json!({"type": "join", "user_id": "2"})).await;
    watch(&mut ann, "1", "r", &["1", "2"]).await;
    let mut cid = node.client().await;
    join(&mut cid, "3", "r").await;
    ann.expect(json!({"type": "join", "user_id": "3"})).await;
    let frame = r#"{"type":"presence","room":"r","online":["3"],"offline":[],"count":3}"#;
    exact(&mut ann, frame).await;
    cid.close().await;
    let frame = r#"{"type":"presence","room":"r","online":[],"offline":["3"],"count":2}"#;
    exact(&mut ann, frame).await;
    // Bob, who did not ask, got the event and nothing else.
    bob.expect(json!({"type": "join", "user_id": "3"})).await;
    bob.expect_nothing().await;
    // Nor does who follows another room only, or follows this one no more.
    ann.send(json!({"type": "leave", "user_id": "1", "room": "r"})).await;
    ann.expect(json!({"type": "leave"})).await;
    bob.expect(json!({"type": "leave"})).await;
    // Ann is gone a moment after she left, whoever asks meanwhile.
    bob.send(who("2", "r")).await;
    let answer = next_of(&mut bob, "who").await;
    let online = answer["online"].as_array().unwrap().iter().map(|user| user.as_str().unwrap());
    until_online(&mut bob, &online.collect::<Vec<_>>(), &["2"]).await;
    let mut cid = node.client().await;
    follow(&mut cid, "3", "r").await;
    until_online(&mut bob, &["2"], &["2", "3"]).await;
    ann.expect_nothing().await;
}

async fn a_page_that_is_loaded_again_is_not_noticed(world: World) {
    // Longer than a page takes on a slow machine.
    let node = world.node_with(|config| config.signals.settle_ms = 5000).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    ann.expect(json!({"type": "join"})).await;
    watch(&mut ann, "1", "r", &["1", "2"]).await;
    bob.close().await;
    let mut bob = node.client().await;
    follow(&mut bob, "2", "r").await;
    let mut cid = node.client().await;
    join(&mut cid, "3", "r").await;
    let mut dan = node.client().await;
    join(&mut dan, "4", "r").await;
    dan.close().await;
    // The first that is told is neither that Bob went nor that Dan was there.
    let frame = next_of(&mut ann, "presence").await;
    assert_eq!((&frame["online"], &frame["offline"]), (&json!(["3"]), &json!([])));
}

async fn a_user_is_online_while_any_socket_follows_as_them(world: World) {
    let node = quick(&world).await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    watch(&mut ann, "1", "r", &["1"]).await;
    let (mut one, mut two) = (node.client().await, node.client().await);
    join(&mut one, "2", "r").await;
    follow(&mut two, "2", "r").await;
    until_online(&mut ann, &["1"], &["1", "2"]).await;
    // The other socket comes to follow as one more user.
    join_too(&mut two, "3", "r").await;
    until_online(&mut ann, &["1", "2"], &["1", "2", "3"]).await;
    one.close().await;
    // Were 2 told of as gone, it would be before 3, who goes later.
    two.send(json!({"type": "leave", "user_id": "3", "room": "r"})).await;
    let frame = next_of(&mut ann, "presence").await;
    assert_eq!((&frame["online"], &frame["offline"]), (&json!([]), &json!(["3"])));
    // A leave that ends no socket's following, and nothing else.
    two.expect(json!({"type": "leave", "user_id": "3"})).await;
    join_too(&mut two, "4", "r").await;
    until_online(&mut ann, &["1", "2"], &["1", "2", "4"]).await;
    two.send(json!({"type": "leave", "user_id": "4", "room": "r"})).await;
    until_online(&mut ann, &["1", "2", "4"], &["1", "2"]).await;
    two.close().await;
    until_online(&mut ann, &["1", "2"], &["1"]).await;
}

async fn whoever_leaves_is_offline_in_that_room_only(world: World) {
    let node = quick(&world).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    for room in ["a", "b"] {
        create(&mut ann, "1", room).await;
        follow(&mut ann, "1", room).await;
        join(&mut bob, "2", room).await;
        ann.expect(json!({"type": "join"})).await;
        watch(&mut ann, "1", room, &["1", "2"]).await;
    }
    // By a socket that follows nothing.
    let mut other = node.client().await;
    other.send(json!({"type": "leave", "user_id": "2", "room": "a"})).await;
    let frame = next_of(&mut ann, "presence").await;
    assert_eq!((&frame["room"], &frame["offline"]), (&json!("a"), &json!(["2"])));
    watch(&mut ann, "1", "b", &["1", "2"]).await;
}

async fn where_there_are_too_many_there_is_a_count(world: World) {
    let limit = |config: &mut verbatim::config::Config| {
        config.signals.settle_ms = 100;
        config.signals.listed_max = 10;
    };
    let node = world.node_with(limit).await;
    let mut ann = node.client().await;
    create(&mut ann, "00", "r").await;
    follow(&mut ann, "00", "r").await;
    watch(&mut ann, "00", "r", &["00"]).await;
    let names: Vec<String> = (0..12).map(|n| format!("{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut others: Vec<Client> = Vec::new();
    for name in &names[1..10] {
        let mut client = node.client().await;
        join(&mut client, name, "r").await;
        others.push(client);
    }
    until_online(&mut ann, &["00"], &names[..10]).await;
    for name in &names[10..] {
        let mut client = node.client().await;
        join(&mut client, name, "r").await;
        others.push(client);
    }
    // Both at once, or one after the other.
    loop {
        let text = ann.next_text().await;
        match text.as_str() {
            r#"{"type":"presence","room":"r","count":11}"# => {}
            r#"{"type":"presence","room":"r","count":12}"# => break,
            _ => assert!(text.contains(r#""type":"join""#), "{text}"),
        }
    }
    ann.send_text(r#"{"type":"who","user_id":"00","room":"r"}"#).await;
    exact(&mut ann, r#"{"type":"who","room":"r","count":12}"#).await;
    // Down to what is told by name, and a tenth below: the whole list again, unasked.
    for other in others.drain(8..) {
        other.close().await;
    }
    let mut last = 12;
    let whole = loop {
        let frame = ann.next().await;
        match frame["type"].as_str() {
            Some("presence") => {
                assert_eq!(frame.get("online"), None, "{frame}");
                let count = frame["count"].as_u64().unwrap();
                assert!(count < last, "{frame}");
                last = count;
            }
            Some("who") => break frame,
            _ => panic!("{frame}"),
        }
    };
    assert_eq!((&whole["online"], &whole["count"]), (&json!(names[..9]), &json!(9)));
    // And differences after it.
    others.pop().unwrap().close().await;
    until_online(&mut ann, &names[..9], &names[..8]).await;
}

async fn rooms_beyond_the_limit_are_answered_and_not_followed(world: World) {
    let limit = |config: &mut verbatim::config::Config| {
        (config.signals.settle_ms, config.signals.rooms_max) = (100, 1);
    };
    let node = world.node_with(limit).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    for room in ["a", "b"] {
        create(&mut ann, "1", room).await;
        follow(&mut ann, "1", room).await;
        watch(&mut ann, "1", room, &["1"]).await;
    }
    join(&mut bob, "2", "b").await;
    ann.expect(json!({"type": "join", "room": "b"})).await;
    watch(&mut ann, "1", "b", &["1", "2"]).await;
    join(&mut bob, "2", "a").await;
    ann.expect(json!({"type": "join", "room": "a"})).await;
    let frame = next_of(&mut ann, "presence").await;
    assert_eq!(frame["room"], "a");
    say(&mut bob, "2", "b", "x").await;
    ann.expect(json!({"type": "message", "room": "b"})).await;
    ann.expect_nothing().await;
}
