//! The same key again, one after the other, at once, by either way in: once in the log.

use serde_json::{Value, json};

use super::{Caller, assert_refused};
use crate::harness::node::TestNode;
use crate::harness::{World, on_both_logs};

on_both_logs!(
    the_same_key_writes_once_and_is_answered_with_the_stored_event,
    a_key_that_names_another_command_is_refused,
    the_same_key_at_once_writes_once,
    a_key_is_the_id_of_the_websocket,
    a_key_belongs_to_a_user_and_a_room,
    a_key_lives_through_a_restart,
);

const EVENTS: &str = "/api/rooms/r/events";

fn hi() -> Value {
    json!({"user_id": "1", "message": "hi"})
}

async fn all(node: &TestNode) -> Vec<Value> {
    let mut caller = Caller::new(node.addr).await;
    let read = caller.get(&format!("{EVENTS}?user_id=1&limit=200")).await.json();
    read["events"].as_array().unwrap().clone()
}

async fn the_same_key_writes_once_and_is_answered_with_the_stored_event(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let room = json!({"user_id": "1", "room": "r"});
    let made = caller.post_once("/api/rooms", "k", room.clone()).await;
    let again = caller.post_once("/api/rooms", "k", room).await;
    assert_eq!((made.status, again.status, &made.body), (201, 200, &again.body));
    let said = caller.post_once(EVENTS, "m", hi()).await;
    // Bare or as a string of structured fields; and what else it says does not matter any more.
    let other = json!({"user_id": "1", "message": "something else"});
    let again = caller.post_once(EVENTS, "\"m\"", other).await;
    assert_eq!((said.status, again.status, &said.body), (201, 200, &again.body));
    assert_eq!(all(&node).await.len(), 2);
}

/// Were it answered with the first outcome, it would read as if this had been done: a 200 to a
/// DELETE of a member, say. By the WebSocket it is refused with the same words.
async fn a_key_that_names_another_command_is_refused(world: World) {
    let node = world.node().await;
    let (mut caller, mut client) = (Caller::new(node.addr).await, node.client().await);
    let room = json!({"user_id": "1", "room": "r"});
    assert_eq!(caller.post_once("/api/rooms", "c", room.clone()).await.status, 201);
    assert_eq!(caller.post_once(EVENTS, "m", hi()).await.status, 201);
    let member = "/api/rooms/r/members/1";
    for key in ["c", "m"] {
        let headers = [("Idempotency-Key", key)];
        let refused = caller.ask(&format!("DELETE {member}"), &headers, None).await;
        assert_refused(&refused, 409, "id_reused", None);
        client.send(json!({"type": "leave", "user_id": "1", "room": "r", "id": key})).await;
        client.expect_exactly(&refused.body).await;
    }
    let headers = [("Idempotency-Key", "l")];
    assert_eq!(caller.ask(&format!("DELETE {member}"), &headers, None).await.status, 200);
    assert_eq!(caller.put(member).await.status, 201);
    for (path, key, body) in [
        (EVENTS, "c", hi()),
        (EVENTS, "l", hi()),
        ("/api/rooms", "m", room.clone()),
        ("/api/rooms", "l", room),
    ] {
        let refused = caller.post_once(path, key, body).await;
        assert_refused(&refused, 409, "id_reused", None);
    }
    // To join has no key of its own.
    let headers = [("Idempotency-Key", "c")];
    assert_eq!(caller.ask(&format!("PUT {member}"), &headers, None).await.status, 200);
    assert_eq!(all(&node).await.len(), 4);
}

async fn the_same_key_at_once_writes_once(world: World) {
    let node = world.node().await;
    Caller::new(node.addr).await.create().await;
    for key in ["a", "b", "c"] {
        let addr = node.addr;
        let senders = (0..20).map(|_| async move {
            let mut caller = Caller::new(addr).await;
            caller.post_once(EVENTS, key, hi()).await
        });
        let replies = futures_util::future::join_all(senders).await;
        let new = replies.iter().filter(|reply| reply.status == 201).count();
        assert_eq!(new, 1, "{replies:?}");
        assert!(replies.iter().all(|reply| reply.body == replies[0].body), "{replies:?}");
    }
    assert_eq!(all(&node).await.len(), 4);
}

async fn a_key_is_the_id_of_the_websocket(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let mut client = node.client().await;
    let message =
        json!({"type": "message", "user_id": "1", "room": "r", "message": "hi", "id": "k"});
    client.send(message.clone()).await;
    client.expect(json!({"type": "ack", "seq": 2})).await;
    let again = caller.post_once(EVENTS, "k", hi()).await;
    assert_eq!((again.status, &again.json()["seq"]), (200, &json!(2)));
    assert_eq!(caller.post_once(EVENTS, "l", hi()).await.status, 201);
    let mut by_socket = message.clone();
    by_socket["id"] = json!("l");
    client.send(by_socket).await;
    client.expect(json!({"type": "ack", "seq": 3, "duplicate": true})).await;

    // Both at once, many times.
    for n in 0..20 {
        let id = format!("n{n}");
        let mut frame = message.clone();
        frame["id"] = json!(id);
        let (said, ack) = tokio::join!(caller.post_once(EVENTS, &id, hi()), async {
            client.send(frame).await;
            client.expect(json!({"type": "ack"})).await
        });
        assert_eq!(said.json()["seq"], ack["seq"]);
        assert_eq!(said.status == 200, ack.get("duplicate").is_none(), "one of them was first");
    }
    assert_eq!(all(&node).await.len(), 23);
}

async fn a_key_belongs_to_a_user_and_a_room(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    caller.post("/api/rooms", json!({"user_id": "1", "room": "s"})).await;
    caller.put("/api/rooms/r/members/2").await;
    for (room, user, status) in
        [("r", "1", 201), ("r", "2", 201), ("s", "1", 201), ("r", "1", 200), ("s", "1", 200)]
    {
        let body = json!({"user_id": user, "message": "hi"});
        let said = caller.post_once(&format!("/api/rooms/{room}/events"), "k", body).await;
        assert_eq!(said.status, status, "{room} {user}");
    }
}

async fn a_key_lives_through_a_restart(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let said = caller.post_once(EVENTS, "k", hi()).await;
    drop(caller);
    let node = node.restart().await;
    let again = Caller::new(node.addr).await.post_once(EVENTS, "k", hi()).await;
    assert_eq!((again.status, again.body), (200, said.body));
}
