//! Where a joiner begins: from here, from a seq, from the last n; and joining twice.

use serde_json::json;

use super::{create, exact, expect_seqs, fill, follow, join_too, message, say};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    a_joiner_sees_its_own_join_first_and_then_what_follows,
    a_member_that_joins_makes_no_event_and_goes_live,
    since_replays_everything_above_oldest_first,
    since_0_is_the_whole_room_however_long,
    last_replays_that_many_before_the_own_position,
    since_above_the_end_is_answered_with_reset,
    joining_again_moves_nothing,
    joining_as_a_second_user_gives_no_second_copy,
    a_joiner_gets_the_present_while_others_write,
);

async fn a_joiner_sees_its_own_join_first_and_then_what_follows(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", 10).await;
    bob.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    bob.expect(json!({"type": "joined", "last_seq": 12, "members": 2})).await;
    bob.expect(json!({"type": "join", "user_id": "2", "seq": 12})).await;
    ann.send(message("1", "r", "next")).await;
    bob.expect(json!({"type": "message", "message": "next", "seq": 13})).await;
    bob.expect_nothing().await;
}

async fn a_member_that_joins_makes_no_event_and_goes_live(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", 10).await;
    ann.send(json!({"type": "join", "user_id": "1", "room": "r"})).await;
    ann.expect(json!({"type": "joined", "last_seq": 11, "members": 1})).await;
    assert_eq!(say(&mut ann, "1", "r", "next").await, 12);
}

async fn since_replays_everything_above_oldest_first(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", 9).await;
    for since in [1, 5, 9, 10] {
        let mut client = node.client().await;
        let join = json!({"type": "join", "user_id": "1", "room": "r", "since": since});
        client.send(join).await;
        client.expect(json!({"type": "joined", "last_seq": 10})).await;
        expect_seqs(&mut client, "r", since + 1..=10).await;
        client.expect_nothing().await;
    }
    // With an event of its own, which stands at the end of the replay.
    let mut bob = node.client().await;
    bob.send(json!({"type": "join", "user_id": "2", "room": "r", "since": 8})).await;
    bob.expect(json!({"type": "joined", "last_seq": 11})).await;
    expect_seqs(&mut bob, "r", 9..=10).await;
    bob.expect(json!({"type": "join", "user_id": "2", "seq": 11})).await;
    assert_eq!(say(&mut bob, "2", "r", "live").await, 12);
}

async fn since_0_is_the_whole_room_however_long(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    // Several pages, and more than the ring holds.
    fill(&mut ann, "1", "r", 1500).await;
    bob.send(json!({"type": "join", "user_id": "2", "room": "r", "since": 0})).await;
    bob.expect(json!({"type": "joined", "last_seq": 1502})).await;
    bob.expect(json!({"type": "create", "seq": 1})).await;
    expect_seqs(&mut bob, "r", 2..=1501).await;
    bob.expect(json!({"type": "join", "seq": 1502})).await;
    ann.send(message("1", "r", "live")).await;
    bob.expect(json!({"message": "live", "seq": 1503})).await;
    bob.expect_nothing().await;
}

async fn last_replays_that_many_before_the_own_position(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", 9).await;
    for last in [0, 1, 4, 10, 11, 1000] {
        let mut client = node.client().await;
        client.send(json!({"type": "join", "user_id": "1", "room": "r", "last": last})).await;
        client.expect(json!({"type": "joined", "last_seq": 10})).await;
        expect_seqs(&mut client, "r", 10 - last.min(10) + 1..=10).await;
        client.expect_nothing().await;
    }
    // One that makes an event gets so many before it, and then it.
    let mut bob = node.client().await;
    bob.send(json!({"type": "join", "user_id": "2", "room": "r", "last": 2})).await;
    bob.expect(json!({"type": "joined", "last_seq": 11})).await;
    expect_seqs(&mut bob, "r", 9..=10).await;
    bob.expect(json!({"type": "join", "user_id": "2", "seq": 11})).await;
    bob.expect_nothing().await;
}

async fn since_above_the_end_is_answered_with_reset(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "general").await;
    fill(&mut ann, "1", "general", 39).await;
    let mut client = node.client().await;
    client.send(json!({"type": "join", "user_id": "1", "room": "general", "since": 41})).await;
    let joined = r#"{"type":"joined","room":"general","user_id":"1","last_seq":40,"members":1,"read":1,"unread":39}"#;
    exact(&mut client, joined).await;
    client.expect_exactly(r#"{"type":"reset","room":"general","last_seq":40}"#).await;
    client.expect_nothing().await;
    assert_eq!(say(&mut client, "1", "general", "live").await, 41);
    // Far above is no different, and just at the end is not above.
    for (since, is_reset) in [(i64::MAX, true), (42, true), (41, false)] {
        let mut client = node.client().await;
        client.send(json!({"type": "join", "user_id": 1, "room": "general", "since": since})).await;
        client.expect(json!({"type": "joined", "last_seq": 41})).await;
        if is_reset {
            client.expect(json!({"type": "reset", "last_seq": 41})).await;
        }
        client.expect_nothing().await;
    }
}

async fn joining_again_moves_nothing(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    fill(&mut ann, "1", "r", 5).await;
    follow(&mut ann, "1", "r").await;
    for place in [json!({}), json!({"since": 0}), json!({"last": 5}), json!({"since": 99})] {
        let mut command = place;
        command["type"] = "join".into();
        command["user_id"] = "1".into();
        command["room"] = "r".into();
        ann.send(command).await;
        ann.expect(json!({"type": "joined", "last_seq": 6, "members": 1})).await;
        ann.expect_nothing().await;
    }
    assert_eq!(say(&mut ann, "1", "r", "one copy").await, 7);
    ann.expect_nothing().await;
}

async fn joining_as_a_second_user_gives_no_second_copy(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    follow(&mut client, "1", "r").await;
    assert_eq!(join_too(&mut client, "2", "r").await, 2);
    client.send(json!({"type": "join", "user_id": "2", "room": "r", "since": 0})).await;
    client.expect(json!({"type": "joined", "last_seq": 2, "members": 2})).await;
    assert_eq!(say(&mut client, "2", "r", "one copy").await, 3);
    client.expect_nothing().await;
}

async fn a_joiner_gets_the_present_while_others_write(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    let writer = tokio::spawn(async move {
        fill(&mut ann, "1", "r", 300).await;
        ann
    });
    let mut bob = node.client().await;
    bob.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    let mut next = bob.expect(json!({"type": "joined"})).await["last_seq"].as_u64().unwrap();
    bob.expect(json!({"type": "join", "user_id": "2", "seq": next})).await;
    while next < 302 {
        next += 1;
        bob.expect(json!({"type": "message", "seq": next})).await;
    }
    writer.await.unwrap().expect_nothing().await;
    bob.expect_nothing().await;
}
