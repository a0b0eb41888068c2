//! The four commands and what they answer, byte for byte; and the greeting before them.

use serde_json::json;

use super::{create, event_and_ack, exact, follow, join, join_too, message, say};
use crate::harness::{Client, World, on_both_logs};

on_both_logs!(
    hello_is_the_first_frame_of_every_socket,
    the_four_commands_answer_byte_for_byte,
    with_an_id_there_is_an_ack_and_the_event_carries_it,
    the_creator_is_a_member_with_the_role_owner_and_does_not_follow_yet,
    a_message_needs_membership_and_not_that_the_socket_follows,
    whoever_does_not_follow_hears_nothing,
    one_socket_may_speak_for_several_users,
    closing_a_socket_is_not_leaving,
);

async fn hello_is_the_first_frame_of_every_socket(world: World) {
    let node = world.node().await;
    let hello = concat!(
        r#"{"type":"hello","server":"verbatim "#,
        env!("CARGO_PKG_VERSION"),
        r#"","node":"test","heartbeat_ms":25000,"#,
        r#""limits":{"frame_bytes":65536,"message_bytes":16384},"features":[]}"#
    );
    Client::connect(node.addr).await.expect_exactly(hello).await;
    // The embedded log is one node's.
    node.stop().await;
    let node = world
        .node_with(|config| {
            config.node.id = "n1".to_owned();
            config.socket.heartbeat_ms = 10_000;
            config.socket.frame_bytes_max = 70_000;
            config.session.message_bytes_max = 9_000;
        })
        .await;
    let hello = Client::connect(node.addr).await.expect_hello().await;
    assert_eq!(hello["node"], "n1");
    assert_eq!(hello["heartbeat_ms"], 10_000);
    assert_eq!(hello["limits"], json!({"frame_bytes": 70_000, "message_bytes": 9_000}));
}

async fn the_four_commands_answer_byte_for_byte(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    ann.send_text(r#"{"user_id":"1","type":"create","room":"general"}"#).await;
    exact(&mut ann, r#"{"type":"ack","re":"create","room":"general","seq":1,"at":"AT"}"#).await;
    ann.send_text(r#"{"user_id":"1","type":"join","room":"general"}"#).await;
    let joined = r#"{"type":"joined","room":"general","user_id":"1","last_seq":1,"members":1,"read":1,"unread":0}"#;
    exact(&mut ann, joined).await;

    bob.send_text(r#"{"user_id":"2","type":"join","room":"general"}"#).await;
    let joined = r#"{"type":"joined","room":"general","user_id":"2","last_seq":2,"members":2,"read":2,"unread":0}"#;
    exact(&mut bob, joined).await;
    let event = r#"{"type":"join","room":"general","user_id":"2","seq":2,"at":"AT"}"#;
    let (to_bob, to_ann) = (exact(&mut bob, event).await, exact(&mut ann, event).await);
    assert_eq!(to_bob, to_ann);

    ann.send_text(r#"{"user_id":"1","type":"message","room":"general","message":"Hello World!"}"#)
        .await;
    let event = r#"{"type":"message","room":"general","user_id":"1","message":"Hello World!","seq":3,"at":"AT"}"#;
    let (to_ann, to_bob) = (exact(&mut ann, event).await, exact(&mut bob, event).await);
    assert_eq!(to_ann, to_bob);

    bob.send_text(r#"{"user_id":"2","type":"leave","room":"general"}"#).await;
    let event = r#"{"type":"leave","room":"general","user_id":"2","seq":4,"at":"AT"}"#;
    let (to_bob, to_ann) = (exact(&mut bob, event).await, exact(&mut ann, event).await);
    assert_eq!(to_bob, to_ann);

    // He follows no more, and there was nothing else.
    say(&mut ann, "1", "general", "is he gone?").await;
    ann.expect_nothing().await;
    bob.expect_nothing().await;
}

async fn with_an_id_there_is_an_ack_and_the_event_carries_it(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    ann.send_text(r#"{"type":"create","user_id":"1","room":"r","id":"c1"}"#).await;
    exact(&mut ann, r#"{"type":"ack","re":"create","room":"r","seq":1,"id":"c1","at":"AT"}"#).await;
    ann.send_text(r#"{"type":"join","user_id":"1","room":"r","since":0,"id":"c2"}"#).await;
    let joined = r#"{"type":"joined","room":"r","user_id":"1","last_seq":1,"members":1,"read":1,"unread":0,"id":"c2"}"#;
    exact(&mut ann, joined).await;
    let event = r#"{"type":"create","room":"r","user_id":"1","seq":1,"at":"AT","client_id":"c1"}"#;
    exact(&mut ann, event).await;

    // A follower gets both: the event, as everyone, and the ack of its own command.
    ann.send(json!({"type": "message", "user_id": "1", "room": "r", "message": "x", "id": "c3"}))
        .await;
    let (event, ack) = event_and_ack(&mut ann).await;
    assert_eq!(
        event,
        json!({"type": "message", "room": "r", "user_id": "1", "message": "x", "seq": 2,
            "at": ack["at"], "client_id": "c3"})
    );
    assert_eq!(
        ack,
        json!({"type": "ack", "re": "message", "room": "r", "seq": 2, "id": "c3", "at": event["at"]})
    );

    ann.send(json!({"type": "leave", "user_id": "1", "room": "r", "id": "c4"})).await;
    let (event, ack) = event_and_ack(&mut ann).await;
    assert_eq!((&event["type"], &event["client_id"]), (&json!("leave"), &json!("c4")));
    assert_eq!((&ack["re"], &ack["id"], &ack["seq"]), (&json!("leave"), &json!("c4"), &json!(3)));
    ann.expect_nothing().await;
}

async fn the_creator_is_a_member_with_the_role_owner_and_does_not_follow_yet(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    say(&mut bob, "2", "r", "to whoever follows").await;
    ann.expect_nothing().await;
    ann.send(json!({"type": "members", "user_id": "1", "room": "r"})).await;
    ann.expect_exactly(
        r#"{"type":"members","room":"r","members":[{"user_id":"1","role":"owner"},{"user_id":"2","role":"member"}],"more":false}"#,
    )
    .await;
}

async fn a_message_needs_membership_and_not_that_the_socket_follows(world: World) {
    let node = world.node().await;
    let (mut ann, mut silent) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    // The same user on a socket that does not follow: an ack even without an id, and no event.
    silent.send(message("1", "r", "from the other device")).await;
    exact(&mut silent, r#"{"type":"ack","re":"message","room":"r","seq":2,"at":"AT"}"#).await;
    ann.expect(json!({"type": "message", "message": "from the other device", "seq": 2})).await;
    silent.expect_nothing().await;
    silent.send(message("3", "r", "from a stranger")).await;
    silent.expect(json!({"code": "not_member", "re": "message", "room": "r"})).await;
    ann.expect_nothing().await;
}

async fn whoever_does_not_follow_hears_nothing(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "one").await;
    create(&mut bob, "2", "two").await;
    follow(&mut ann, "1", "one").await;
    follow(&mut bob, "2", "two").await;
    say(&mut ann, "1", "one", "x").await;
    say(&mut bob, "2", "two", "y").await;
    ann.expect_nothing().await;
    bob.expect_nothing().await;
}

async fn one_socket_may_speak_for_several_users(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    join(&mut client, "2", "r").await;
    // 3 joins over the same socket: one copy of the event.
    assert_eq!(join_too(&mut client, "3", "r").await, 3);
    for user in ["1", "2", "3"] {
        say(&mut client, user, "r", "I am one of several").await;
    }
    client.expect_nothing().await;
}

async fn closing_a_socket_is_not_leaving(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    join(&mut ann, "2", "r").await;
    ann.close().await;
    let mut ann = node.client().await;
    ann.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    // Still a member: no event is made. And the old socket's following is gone with it.
    ann.expect(json!({"type": "joined", "last_seq": 2, "members": 2})).await;
    say(&mut ann, "2", "r", "I am back").await;
    ann.expect_nothing().await;
}
