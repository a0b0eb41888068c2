//! How following ends: with the leave of the last user a socket follows as, wherever it was sent.

use serde_json::json;

use super::{create, exact, expect_seqs, fill, follow, join, join_too, message, say};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    a_leave_of_one_of_two_users_keeps_the_socket_following,
    a_leave_stops_every_socket_that_follows_only_as_this_user,
    a_leave_from_a_socket_that_does_not_follow_is_acked,
    an_old_leave_in_a_replay_ends_nothing,
    who_left_joins_again_and_follows,
    leave_and_join_in_one_breath_go_on_following,
    nothing_is_heard_between_leave_and_join,
    a_message_that_crosses_a_leave_is_answered_one_way_or_the_other,
);

async fn a_leave_of_one_of_two_users_keeps_the_socket_following(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    follow(&mut client, "1", "r").await;
    join_too(&mut client, "2", "r").await;
    client.send(json!({"type": "leave", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "leave", "user_id": "1", "seq": 3})).await;
    assert_eq!(say(&mut client, "2", "r", "still here").await, 4);
    client.send(json!({"type": "leave", "user_id": "2", "room": "r"})).await;
    client.expect(json!({"type": "leave", "user_id": "2", "seq": 5})).await;
    // Now it follows as nobody.
    let mut other = node.client().await;
    join(&mut other, "3", "r").await;
    say(&mut other, "3", "r", "to nobody").await;
    client.expect_nothing().await;
}

async fn a_leave_stops_every_socket_that_follows_only_as_this_user(world: World) {
    let node = world.node().await;
    let mut sender = node.client().await;
    create(&mut sender, "1", "r").await;
    let (mut only, mut both, mut other) =
        (node.client().await, node.client().await, node.client().await);
    join(&mut only, "2", "r").await;
    follow(&mut both, "2", "r").await;
    follow(&mut both, "1", "r").await;
    follow(&mut other, "1", "r").await;
    // Sent by a socket that does not follow at all.
    sender.send(json!({"type": "leave", "user_id": "2", "room": "r"})).await;
    let ack = r#"{"type":"ack","re":"leave","room":"r","seq":3,"at":"AT"}"#;
    exact(&mut sender, ack).await;
    sender.send(message("1", "r", "after")).await;
    sender.expect(json!({"type": "ack", "seq": 4})).await;
    for client in [&mut both, &mut other] {
        client.expect(json!({"type": "leave", "user_id": "2", "seq": 3})).await;
        client.expect(json!({"type": "message", "seq": 4})).await;
    }
    // The event is the last it sees.
    only.expect(json!({"type": "leave", "user_id": "2", "seq": 3})).await;
    only.expect_nothing().await;
    // As one that follows no more, its own messages are acked.
    join_too(&mut other, "2", "r").await;
    only.send(message("2", "r", "I am a member again")).await;
    only.expect(json!({"type": "ack", "re": "message", "seq": 6})).await;
}

async fn a_leave_from_a_socket_that_does_not_follow_is_acked(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    ann.send(json!({"type": "leave", "user_id": "1", "room": "r"})).await;
    exact(&mut ann, r#"{"type":"ack","re":"leave","room":"r","seq":2,"at":"AT"}"#).await;
    ann.send(json!({"type": "leave", "user_id": "1", "room": "r"})).await;
    ann.expect(json!({"code": "not_member", "re": "leave"})).await;
    ann.send(message("1", "r", "x")).await;
    ann.expect(json!({"code": "not_member", "re": "message"})).await;
}

async fn an_old_leave_in_a_replay_ends_nothing(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    for _ in 0..3 {
        ann.send(json!({"type": "leave", "user_id": "1", "room": "r"})).await;
        ann.next().await;
        join(&mut ann, "1", "r").await;
    }
    let mut client = node.client().await;
    client.send(json!({"type": "join", "user_id": "1", "room": "r", "since": 0})).await;
    client.expect(json!({"type": "joined", "last_seq": 7})).await;
    expect_seqs(&mut client, "r", 1..=7).await;
    assert_eq!(say(&mut client, "1", "r", "still following").await, 8);
}

async fn who_left_joins_again_and_follows(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    follow(&mut client, "1", "r").await;
    let mut seq = 1;
    for _ in 0..20 {
        client.send(json!({"type": "leave", "user_id": "1", "room": "r"})).await;
        client.expect(json!({"type": "leave", "seq": seq + 1})).await;
        seq = join(&mut client, "1", "r").await;
        seq = say(&mut client, "1", "r", "x").await.max(seq);
    }
    assert_eq!(seq, 61);
    client.expect_nothing().await;
    // The owner is the owner again.
    client.send(json!({"type": "members", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"members": [{"user_id": "1", "role": "owner"}]})).await;
}

/// The commands of one breath may be in one batch: whichever of the leave's event and the join's
/// answer is handled first, the socket follows in the end, and sees every event once.
async fn leave_and_join_in_one_breath_go_on_following(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    follow(&mut client, "1", "r").await;
    for round in 0..50 {
        let (leave, join) = (round * 3 + 2, round * 3 + 3);
        client.send(json!({"type": "leave", "user_id": "1", "room": "r"})).await;
        client.send(json!({"type": "join", "user_id": "1", "room": "r"})).await;
        client.send(message("1", "r", "x")).await;
        let frames = client.read_until(json!({"type": "message", "seq": join + 1})).await;
        let seqs: Vec<_> = frames.iter().filter_map(|frame| frame["seq"].as_u64()).collect();
        assert_eq!(seqs, [leave, join, join + 1], "{frames:?}");
        client.expect_nothing().await;
    }
}

async fn nothing_is_heard_between_leave_and_join(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    bob.send(json!({"type": "leave", "user_id": "2", "room": "r"})).await;
    bob.expect(json!({"type": "leave", "seq": 3})).await;
    fill(&mut ann, "1", "r", 5).await;
    bob.expect_nothing().await;
    bob.send(json!({"type": "join", "user_id": "2", "room": "r", "since": 3})).await;
    bob.expect(json!({"type": "joined", "last_seq": 9})).await;
    expect_seqs(&mut bob, "r", 4..=9).await;
    bob.expect_nothing().await;
}

/// 1 leaves by another socket while this one, which follows as 1 only, sends for 2. If the leave is
/// first the event never comes here; then there is an ack instead, and never nothing.
async fn a_message_that_crosses_a_leave_is_answered_one_way_or_the_other(world: World) {
    let node = world.node().await;
    let (mut client, mut other) = (node.client().await, node.client().await);
    create(&mut other, "2", "r").await;
    let (mut events, mut acks) = (0, 0);
    for _ in 0..100 {
        join(&mut client, "1", "r").await;
        let leave = json!({"type": "leave", "user_id": "1", "room": "r"});
        tokio::join!(client.send(message("2", "r", "x")), other.send(leave));
        let leave = other.expect(json!({"type": "ack", "re": "leave"})).await;
        client.send(json!({"type": "ping"})).await;
        let frames = client.read_until(json!({"type": "pong"})).await;
        let sent = |kind: &str| frames.iter().filter(|frame| frame["type"] == kind).count();
        assert_eq!(sent("message") + sent("ack"), 1, "{frames:?}");
        events += sent("message");
        acks += sent("ack");
        if sent("leave") == 0 {
            // The message was first, and so the pong need not wait for the leave.
            client.expect(json!({"type": "leave", "seq": leave["seq"]})).await;
        }
    }
    assert_eq!(events + acks, 100);
}
