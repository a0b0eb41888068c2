//! The same `id` again writes nothing and is answered with the first outcome, for ever.

use serde_json::{Value, json};

use super::{create, event_and_ack, exact, follow, join};
use crate::harness::{Client, World, on_both_logs};

on_both_logs!(
    the_same_message_again_is_answered_with_the_first_outcome,
    the_same_create_again_is_no_room_exists,
    the_same_leave_again_does_not_leave_again,
    an_id_counts_on_every_socket_after_a_restart_and_after_leaving,
    an_id_names_one_command,
    an_id_counts_within_its_room_and_user,
    a_refused_command_does_not_use_up_its_id,
    the_id_of_a_join_is_no_key,
    of_many_at_once_with_one_id_exactly_one_writes,
);

fn message(text: &str, id: &str) -> Value {
    json!({"type": "message", "user_id": "1", "room": "r", "message": text, "id": id})
}

async fn the_same_message_again_is_answered_with_the_first_outcome(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    ann.send(message("hello", "c1")).await;
    let first =
        exact(&mut ann, r#"{"type":"ack","re":"message","room":"r","seq":3,"id":"c1","at":"AT"}"#)
            .await;
    bob.expect(json!({"type": "message", "seq": 3})).await;
    // Also with another text: the first one stands.
    for text in ["hello", "something else"] {
        ann.send(message(text, "c1")).await;
        let again = exact(
            &mut ann,
            r#"{"type":"ack","re":"message","room":"r","seq":3,"id":"c1","at":"AT","duplicate":true}"#,
        )
        .await;
        assert_eq!(again["at"], first["at"]);
    }
    // To a follower it is only an ack, too.
    follow(&mut ann, "1", "r").await;
    ann.send(message("hello", "c1")).await;
    ann.expect(json!({"type": "ack", "seq": 3, "duplicate": true})).await;
    ann.expect_nothing().await;
    bob.expect_nothing().await;
    ann.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
    let history = ann.expect(json!({"type": "history", "last": 3})).await;
    assert_eq!(history["events"][2]["message"], "hello");
}

async fn the_same_create_again_is_no_room_exists(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    let create = json!({"type": "create", "user_id": "1", "room": "r", "id": "c1"});
    ann.send(create.clone()).await;
    let first = ann.expect(json!({"type": "ack", "re": "create", "seq": 1, "id": "c1"})).await;
    assert_eq!(first.get("duplicate"), None);
    ann.send(create).await;
    let again = json!({"type": "ack", "re": "create", "seq": 1, "id": "c1", "duplicate": true,
        "at": first["at"]});
    ann.expect(again).await;
    // Another id, another user, or none: the room is there.
    for (user, id) in [("1", json!("c2")), ("2", json!("c1")), ("1", Value::Null)] {
        ann.send(json!({"type": "create", "user_id": user, "room": "r", "id": id})).await;
        ann.expect(json!({"code": "room_exists", "status": 409})).await;
    }
}

async fn the_same_leave_again_does_not_leave_again(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    let leave = json!({"type": "leave", "user_id": "1", "room": "r", "id": "c1"});
    ann.send(leave.clone()).await;
    ann.expect(json!({"type": "ack", "re": "leave", "seq": 2, "id": "c1"})).await;
    ann.send(leave.clone()).await;
    ann.expect(json!({"type": "ack", "re": "leave", "seq": 2, "duplicate": true})).await;
    // Joined again, the old leave does not end the new membership.
    assert_eq!(join(&mut ann, "1", "r").await, 3);
    ann.send(leave).await;
    ann.expect(json!({"type": "ack", "re": "leave", "seq": 2, "duplicate": true})).await;
    ann.send(message("still here", "c2")).await;
    let (event, ack) = event_and_ack(&mut ann).await;
    assert_eq!((&event["seq"], &ack["seq"]), (&json!(4), &json!(4)));
}

async fn an_id_counts_on_every_socket_after_a_restart_and_after_leaving(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    ann.send(message("x", "c1")).await;
    let first = ann.expect(json!({"type": "ack", "seq": 2, "id": "c1"})).await;
    let again = json!({"type": "ack", "re": "message", "seq": 2, "id": "c1", "duplicate": true,
        "at": first["at"]});
    let mut other = node.client().await;
    other.send(message("x", "c1")).await;
    other.expect(again.clone()).await;

    ann.send(json!({"type": "leave", "user_id": "1", "room": "r"})).await;
    ann.expect(json!({"type": "ack", "re": "leave"})).await;
    // Not `not_member`: it was sent, and that is what the sender wants to know.
    ann.send(message("x", "c1")).await;
    ann.expect(again.clone()).await;

    drop((ann, other));
    let node = node.restart().await;
    let mut ann = node.client().await;
    ann.send(message("x", "c1")).await;
    ann.expect(again).await;
}

/// An `ack` for another command would say that it was done: a message, say, whose text is nowhere.
async fn an_id_names_one_command(world: World) {
    let node = world.node().await;
    let (mut ann, mut other) = (node.client().await, node.client().await);
    let with = |kind: &str, id: &str| json!({"type": kind, "user_id": "1", "room": "r", "message": "x", "id": id});
    // In one breath, so that within a batch it is the same.
    for (kind, id) in [("create", "c"), ("message", "m"), ("leave", "m"), ("leave", "l")] {
        ann.send(with(kind, id)).await;
    }
    ann.expect(json!({"type": "ack", "re": "create", "seq": 1, "id": "c"})).await;
    ann.expect(json!({"type": "ack", "re": "message", "seq": 2, "id": "m"})).await;
    ann.expect(json!({"code": "id_reused", "re": "leave", "id": "m"})).await;
    ann.expect(json!({"type": "ack", "re": "leave", "seq": 3, "id": "l"})).await;
    let check = async |client: &mut Client| {
        for (kind, id, first) in [
            ("message", "c", "create"),
            ("leave", "c", "create"),
            ("message", "l", "leave"),
            // Not `room_exists`: what the id says goes before it.
            ("create", "l", "leave"),
            ("create", "m", "message"),
            ("leave", "m", "message"),
        ] {
            client.send(with(kind, id)).await;
            let error = format!(
                "this \"id\" is taken by your {first} in \"r\"; give the {kind} another \"id\""
            );
            let wanted = json!({"type": "error", "code": "id_reused", "status": 409,
                "error": error, "re": kind, "room": "r", "id": id});
            assert_eq!(client.next().await, wanted);
        }
    };
    // Not `not_member` either.
    check(&mut ann).await;
    assert_eq!(join(&mut other, "1", "r").await, 4);
    check(&mut ann).await;
    // The ids are still those of the first, and nothing was written: no leave, above all.
    ann.send(with("message", "m")).await;
    ann.expect(json!({"type": "ack", "seq": 2, "duplicate": true})).await;
    ann.send(message("x", "own")).await;
    ann.expect(json!({"type": "ack", "re": "message", "seq": 5})).await;
    other.expect(json!({"type": "message", "seq": 5})).await;
}

async fn an_id_counts_within_its_room_and_user(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    for room in ["r", "s"] {
        ann.send(json!({"type": "create", "user_id": "1", "room": room, "id": "same"})).await;
        let ack = ann.expect(json!({"type": "ack", "room": room, "seq": 1, "id": "same"})).await;
        assert_eq!(ack.get("duplicate"), None);
    }
    join(&mut ann, "2", "r").await;
    ann.send(json!({"type": "message", "user_id": "2", "room": "r", "message": "x", "id": "same"}))
        .await;
    let (event, ack) = event_and_ack(&mut ann).await;
    assert_eq!((&event["seq"], ack.get("duplicate")), (&json!(3), None));
}

async fn a_refused_command_does_not_use_up_its_id(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    ann.send(message("x", "c1")).await;
    ann.expect(json!({"code": "room_not_found", "id": "c1"})).await;
    create(&mut ann, "2", "r").await;
    ann.send(message("x", "c1")).await;
    ann.expect(json!({"code": "not_member", "id": "c1"})).await;
    join(&mut ann, "1", "r").await;
    ann.send(message("", "c1")).await;
    ann.expect(json!({"code": "bad_request", "id": "c1"})).await;
    ann.send(message("x", "c1")).await;
    let (event, ack) = event_and_ack(&mut ann).await;
    assert_eq!((&event["client_id"], ack.get("duplicate")), (&json!("c1"), None));
}

async fn the_id_of_a_join_is_no_key(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "2", "r").await;
    ann.send(json!({"type": "join", "user_id": "1", "room": "r", "id": "c1"})).await;
    ann.expect(json!({"type": "joined", "id": "c1"})).await;
    exact(&mut ann, r#"{"type":"join","room":"r","user_id":"1","seq":2,"at":"AT"}"#).await;
    ann.send(message("x", "c1")).await;
    let (event, ack) = event_and_ack(&mut ann).await;
    assert_eq!((&event["seq"], ack.get("duplicate")), (&json!(3), None));
    // The other way round: a join with a used id joins.
    ann.send(json!({"type": "leave", "user_id": "1", "room": "r"})).await;
    ann.expect(json!({"type": "leave", "seq": 4})).await;
    ann.send(json!({"type": "join", "user_id": "1", "room": "r", "id": "c1"})).await;
    ann.expect(json!({"type": "joined", "id": "c1", "last_seq": 5})).await;
    ann.expect(json!({"type": "join", "seq": 5})).await;
}

async fn of_many_at_once_with_one_id_exactly_one_writes(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(node.client().await);
    }
    // Pipelined on each socket as well, so that they meet within one batch and across batches.
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                for round in 0..50 {
                    client.send(message("x", &(round / 2).to_string())).await;
                }
                let mut acks = Vec::new();
                for _ in 0..50 {
                    acks.push(client.expect(json!({"type": "ack", "re": "message"})).await);
                }
                acks
            })
        })
        .collect();
    let mut first = vec![0; 25];
    let mut seq_of = vec![None; 25];
    for task in tasks {
        for ack in task.await.unwrap() {
            let id: usize = ack["id"].as_str().unwrap().parse().unwrap();
            first[id] += usize::from(ack.get("duplicate").is_none());
            let (seq, at) = (ack["seq"].clone(), ack["at"].clone());
            assert_eq!(seq_of[id].get_or_insert((seq.clone(), at.clone())), &(seq, at));
        }
    }
    assert_eq!(first, [1; 25]);
    ann.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
    ann.expect(json!({"type": "history", "last": 26})).await;
}
