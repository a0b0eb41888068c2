//! `typing`.

use serde_json::json;

use super::typing;
use crate::harness::{Client, World, on_both_logs};
use crate::protocol::{create, exact, follow, join, join_too, message, say};

on_both_logs!(
    others_are_told_and_the_typist_has_an_ack,
    typing_is_for_members,
    a_flood_of_typing_is_one_sign_and_disturbs_no_message,
    whoever_has_sent_the_message_does_not_type_it_any_more,
    whoever_goes_on_to_the_next_message_is_told_of_at_once,
    in_a_crowd_nobody_hears_who_types,
);

async fn others_are_told_and_the_typist_has_an_ack(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    ann.expect(json!({"type": "join"})).await;
    // Ann's second device, and a socket that speaks for Ann and Cid.
    let (mut second, mut gateway) = (node.client().await, node.client().await);
    follow(&mut second, "1", "r").await;
    follow(&mut gateway, "1", "r").await;
    ann.send_text(r#"{"type":"typing","user_id":"1","room":"r","id":"t1"}"#).await;
    exact(&mut ann, r#"{"type":"ack","re":"typing","room":"r","id":"t1"}"#).await;
    let frame = r#"{"type":"typing","room":"r","user_id":"1","expires_ms":6000}"#;
    exact(&mut bob, frame).await;
    // Two at once, one of whom hears of the other.
    join_too(&mut gateway, "3", "r").await;
    for client in [&mut ann, &mut bob, &mut second] {
        client.expect(json!({"type": "join", "user_id": "3"})).await;
    }
    bob.send(typing("2", "r")).await;
    exact(&mut bob, r#"{"type":"ack","re":"typing","room":"r"}"#).await;
    gateway.send(typing("3", "r")).await;
    let mut heard = Vec::new();
    for _ in 0..2 {
        heard.push(ann.expect(json!({"type": "typing"})).await["user_id"].clone());
    }
    heard.sort_by_key(ToString::to_string);
    assert_eq!(heard, ["2", "3"]);
    bob.expect(json!({"type": "typing", "user_id": "3"})).await;
    gateway.read_until(json!({"type": "typing", "user_id": "2"})).await;
    for client in [&mut ann, &mut bob] {
        client.expect_nothing().await;
    }
}

async fn typing_is_for_members(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    bob.send(typing("2", "r")).await;
    bob.expect(json!({"type": "error", "code": "not_member", "re": "typing"})).await;
    bob.send(typing("2", "nowhere")).await;
    bob.expect(json!({"type": "error", "code": "room_not_found", "re": "typing"})).await;
    // A member need not follow, as with a message.
    let mut other = node.client().await;
    other.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    other.expect(json!({"type": "joined"})).await;
    ann.expect(json!({"type": "join"})).await;
    bob.send(typing("2", "r")).await;
    bob.expect(json!({"type": "ack", "re": "typing"})).await;
    ann.expect(json!({"type": "typing", "user_id": "2"})).await;
}

async fn a_flood_of_typing_is_one_sign_and_disturbs_no_message(world: World) {
    const ROUNDS: u64 = 300;
    // So that the flood is over before the next sign is due.
    let node = world.node_with(|config| config.signals.typing_interval_ms = 60_000).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    join_too(&mut bob, "3", "r").await;
    ann.read_until(json!({"type": "join", "user_id": "3"})).await;
    for round in 0..ROUNDS {
        bob.send(typing("2", "r")).await;
        let text = round.to_string();
        bob.send(message("3", "r", &text)).await;
        bob.send(typing("2", "r")).await;
        bob.expect(json!({"type": "ack", "re": "typing"})).await;
        // The event may be there before the answers of what was sent before it.
        let (one, two) = (bob.next().await, bob.next().await);
        assert!([one, two].iter().any(|frame| frame["message"] == *text));
    }
    let (mut seq, mut signs) = (3, 0);
    while seq < ROUNDS + 3 {
        let frame = ann.next().await;
        match frame["type"].as_str() {
            Some("message") => {
                seq += 1;
                assert_eq!(frame["seq"], seq);
            }
            Some("typing") => signs += 1,
            _ => panic!("{frame}"),
        }
    }
    assert_eq!(signs, 1);
    ann.expect_nothing().await;
}

/// Told behind the message, it would look as if they wrote another one, for seconds.
async fn whoever_has_sent_the_message_does_not_type_it_any_more(world: World) {
    let node = world.node_with(|config| config.signals.typing_interval_ms = 10).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    // One socket for both, which follows nothing.
    for user in ["2", "3"] {
        let mut comes = node.client().await;
        join(&mut comes, user, "r").await;
        ann.expect(json!({"type": "join", "user_id": user})).await;
    }
    let leave = json!({"type": "leave", "user_id": "2", "room": "r"});
    // Of what is told every 200 ms; ten times without luck is none.
    for round in 0..10 {
        bob.send(typing("2", "r")).await;
        if round % 2 == 0 {
            bob.expect(json!({"type": "ack", "re": "typing"})).await;
        }
        // Whoever leaves does not type either.
        let ends = if round < 9 { message("2", "r", "written") } else { leave.clone() };
        bob.send(ends.clone()).await;
        bob.read_until(json!({"type": "ack", "re": ends["type"]})).await;
        ann.read_until(json!({"type": ends["type"], "user_id": "2"})).await;
        // What waited longer would be told no later than this.
        bob.send(typing("3", "r")).await;
        bob.expect(json!({"type": "ack", "re": "typing"})).await;
        ann.expect(json!({"type": "typing", "user_id": "3"})).await;
    }
    ann.expect_nothing().await;
}

async fn whoever_goes_on_to_the_next_message_is_told_of_at_once(world: World) {
    // So that without a message nobody would be told a second time.
    let node = world.node_with(|config| config.signals.typing_interval_ms = 600_000).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    ann.expect(json!({"type": "join"})).await;
    for round in 0..5 {
        bob.send(typing("2", "r")).await;
        bob.expect(json!({"type": "ack", "re": "typing"})).await;
        ann.expect(json!({"type": "typing", "user_id": "2"})).await;
        say(&mut bob, "2", "r", &round.to_string()).await;
        ann.expect(json!({"type": "message"})).await;
    }
}

async fn in_a_crowd_nobody_hears_who_types(world: World) {
    let node = world.node_with(|config| config.signals.listed_max = 2).await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    ann.expect(json!({"type": "join"})).await;
    bob.send(typing("2", "r")).await;
    bob.expect(json!({"type": "ack"})).await;
    ann.expect(json!({"type": "typing"})).await;
    let mut cid: Client = node.client().await;
    join(&mut cid, "3", "r").await;
    for client in [&mut ann, &mut bob] {
        client.expect(json!({"type": "join"})).await;
    }
    cid.send(typing("3", "r")).await;
    cid.expect(json!({"type": "ack"})).await;
    // A sign of another room that comes later shows that this one is not coming.
    create(&mut ann, "1", "small").await;
    follow(&mut ann, "1", "small").await;
    join(&mut cid, "3", "small").await;
    ann.expect(json!({"type": "join", "room": "small"})).await;
    cid.send(typing("3", "small")).await;
    ann.expect(json!({"type": "typing", "room": "small"})).await;
    say(&mut bob, "2", "r", "x").await;
    ann.expect(json!({"type": "message"})).await;
}
