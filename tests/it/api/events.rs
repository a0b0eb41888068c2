//! Sending and reading messages: the same events, to the byte, as over the WebSocket.

use serde_json::json;

use super::{Caller, assert_refused};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    a_message_is_answered_with_its_event_as_followers_get_it,
    a_frame_of_the_websocket_does_as_a_body,
    every_command_that_writes_may_be_named_by_its_type,
    history_is_the_frame_of_that_name,
    only_members_send_and_read,
    a_message_over_the_limit_is_413,
    what_is_no_message_is_told_by_its_field,
    what_is_no_json_object_is_bad_json,
);

const EVENTS: &str = "/api/rooms/r/events";

async fn a_message_is_answered_with_its_event_as_followers_get_it(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let mut follower = node.client().await;
    follower.send(json!({"type": "join", "user_id": "1", "room": "r"})).await;
    follower.expect(json!({"type": "joined"})).await;
    for (number, text) in (2..).zip(["hi", "a\nb\t\"\\ \u{7f}é🦀\u{2028}", "<script>"]) {
        let said = caller.post(EVENTS, json!({"user_id": 1, "message": text})).await;
        assert_eq!((said.status, &said.json()["seq"]), (201, &json!(number)));
        assert_eq!(said.json()["message"], text);
        assert_eq!(follower.next_text().await, said.body);
    }
    let said = caller.post_once(EVENTS, "k 1", json!({"user_id": "1", "message": "x"})).await;
    assert_eq!(said.json()["client_id"], "k 1");
    assert_eq!(follower.next_text().await, said.body);
    follower.expect_nothing().await;
}

/// Who has a frame at hand sends it as it is.
async fn a_frame_of_the_websocket_does_as_a_body(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let create = json!({"user_id": "1", "type": "create", "room": "r"});
    assert_eq!(caller.post("/api/rooms", create).await.status, 201);
    let message = json!({"user_id":"1","type":"message","room":"r","message":"hi","id":"c1"});
    let said = caller.post(EVENTS, message.clone()).await;
    assert_eq!((said.status, &said.json()["client_id"]), (201, &json!("c1")));
    assert_eq!(caller.post_once(EVENTS, "c1", message.clone()).await.status, 200);
    // What it says twice must be the same.
    let other = caller.post("/api/rooms/s/events", message.clone()).await;
    assert_refused(&other, 400, "bad_request", Some("room"));
    let other = caller.post_once(EVENTS, "c2", message).await;
    assert_refused(&other, 400, "bad_request", Some("id"));
}

async fn every_command_that_writes_may_be_named_by_its_type(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let told = |user: &str, kind: &str| json!({"user_id": user, "type": kind});
    let created = caller.post(EVENTS, told("1", "create")).await;
    assert_eq!((created.status, &created.json()["type"]), (201, &json!("create")));
    let joined = caller.post(EVENTS, told("2", "join")).await;
    assert_eq!((joined.status, &joined.json()["type"]), (201, &json!("joined")));
    let left = caller.post_once(EVENTS, "k", told("2", "leave")).await;
    assert_eq!((left.status, &left.json()["client_id"]), (200, &json!("k")));
    let again = caller.post_once(EVENTS, "k", told("2", "leave")).await;
    assert_eq!((again.status, &again.body), (200, &left.body));
    for other in ["history", "ping", "stream", "wave"] {
        let refused = caller.post(EVENTS, told("1", other)).await;
        assert_refused(&refused, 400, "bad_request", Some("type"));
    }
}

async fn history_is_the_frame_of_that_name(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    for n in 2..=60 {
        caller.say(&n.to_string()).await;
    }
    let mut client = node.client().await;
    for (query, page) in [
        ("", json!({})),
        ("&limit=200", json!({"limit": 200})),
        ("&before=10&limit=3", json!({"before": 10, "limit": 3})),
        ("&after=10&limit=3", json!({"after": 10, "limit": 3})),
        ("&after=60", json!({"after": 60})),
        ("&after=0", json!({"after": 0})),
        ("&before=1", json!({"before": 1})),
    ] {
        let read = caller.get(&format!("{EVENTS}?user_id=1{query}")).await;
        let mut ask = json!({"type": "history", "user_id": "1", "room": "r"});
        ask.as_object_mut().unwrap().extend(page.as_object().unwrap().clone());
        client.send(ask).await;
        assert_eq!((read.status, read.body), (200, client.next_text().await), "{query}");
    }
}

async fn only_members_send_and_read(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let hi = || json!({"user_id": "2", "message": "hi"});
    for reply in [
        caller.post(EVENTS, hi()).await,
        caller.get(&format!("{EVENTS}?user_id=2")).await,
        caller.get("/api/rooms/r/members?user_id=2").await,
        caller.get("/api/rooms/r/stream?user_id=2").await,
        caller.put("/api/rooms/r/members/2").await,
        caller.delete("/api/rooms/r/members/2").await,
    ] {
        let body = assert_refused(&reply, 404, "room_not_found", None);
        assert_eq!(body["room"], "r");
    }
    caller.create().await;
    for (reply, re) in [
        (caller.post_once(EVENTS, "k", hi()).await, "message"),
        (caller.get(&format!("{EVENTS}?user_id=2")).await, "history"),
        (caller.get("/api/rooms/r/members?user_id=2").await, "members"),
        (caller.get("/api/rooms/r/stream?user_id=2").await, "stream"),
        (caller.delete("/api/rooms/r/members/2").await, "leave"),
    ] {
        let body = assert_refused(&reply, 403, "not_member", None);
        assert_eq!((&body["re"], &body["room"]), (&json!(re), &json!("r")));
    }
    // The refusal did not use the key up.
    assert_eq!(caller.put("/api/rooms/r/members/2").await.status, 201);
    assert_eq!(caller.post_once(EVENTS, "k", hi()).await.status, 201);
}

async fn a_message_over_the_limit_is_413(world: World) {
    let node = world.node_with(|config| config.session.message_bytes_max = 100).await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    caller.say(&"x".repeat(100)).await;
    let long = json!({"user_id": "1", "message": "é".repeat(51)});
    let refused = caller.post(EVENTS, long).await;
    let body = assert_refused(&refused, 413, "too_large", None);
    assert_eq!((&body["limit"], &body["re"]), (&json!(100), &json!("message")));
}

async fn what_is_no_message_is_told_by_its_field(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    for (body, field) in [
        (json!({"user_id": "1"}), "message"),
        (json!({"message": "hi"}), "user_id"),
        (json!({"user_id": "1", "message": ""}), "message"),
        (json!({"user_id": "1", "message": 7}), "message"),
        (json!({"user_id": "1", "message": "a\0b"}), "message"),
        (json!({"user_id": "", "message": "hi"}), "user_id"),
        (json!({"user_id": 1.5, "message": "hi"}), "user_id"),
    ] {
        let refused = caller.post(EVENTS, body).await;
        let body = assert_refused(&refused, 400, "bad_request", Some(field));
        assert_eq!((&body["re"], &body["room"]), (&json!("message"), &json!("r")));
    }
    let hi = json!({"user_id": "1", "message": "hi"});
    for key in ["", "\"", "\"a\\b\"", &"x".repeat(65), "é"] {
        let refused = caller.post_once(EVENTS, key, hi.clone()).await;
        assert_refused(&refused, 400, "bad_request", Some("id"));
    }
    for query in ["after=x", "before=-1", "after=1&before=2", "limit=201", "after=1&after=2"] {
        let refused = caller.get(&format!("{EVENTS}?user_id=1&{query}")).await.json();
        assert_eq!((&refused["code"], &refused["room"]), (&json!("bad_request"), &json!("r")));
    }
    let refused = caller.get(EVENTS).await;
    assert_refused(&refused, 400, "bad_request", Some("user_id"));
}

async fn what_is_no_json_object_is_bad_json(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    for body in ["", "hi", "{", "[]", "null", "{\"user_id\":1,}", "{} {}", "user_id=1&message=hi"] {
        let refused = caller.ask(&format!("POST {EVENTS}"), &[super::JSON], Some(body)).await;
        let body = assert_refused(&refused, 400, "bad_json", None);
        assert_eq!((&body["re"], &body["room"]), (&json!("message"), &json!("r")));
    }
    let deep = "[".repeat(60_000);
    let refused = caller.ask(&format!("POST {EVENTS}"), &[super::JSON], Some(&deep)).await;
    assert_refused(&refused, 400, "bad_json", None);
    let mut http = crate::harness::http::Http::connect(node.addr).await;
    let head =
        format!("POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    let mut bytes = format!("{head}Content-Length: 3\r\n\r\n").into_bytes();
    bytes.extend([b'"', 0xff, b'"']);
    http.send(bytes).await;
    assert_refused(&http.read(false).await, 400, "bad_json", None);
}
