//! Joining, leaving, and who is there.

use serde_json::json;

use super::{Caller, JSON, assert_refused};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    joining_is_201_the_first_time_and_200_after,
    leaving_is_answered_with_its_event,
    nobody_joins_or_leaves_for_another,
    a_body_may_say_once_more_who_joins_or_leaves,
    members_are_listed_in_pages_by_id,
    a_member_by_http_is_a_member_on_the_websocket,
    a_name_that_looks_like_another_is_refused_in_the_words_of_the_websocket,
);

async fn joining_is_201_the_first_time_and_200_after(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let joined = caller.put("/api/rooms/r/members/2").await;
    let frame = r#"{"type":"joined","room":"r","user_id":"2","last_seq":2,"members":2,"read":2,"unread":0}"#;
    assert_eq!((joined.status, &*joined.body), (201, frame));
    let again = caller.put("/api/rooms/r/members/2").await;
    assert_eq!((again.status, &*again.body), (200, frame));
    let headers = [("Idempotency-Key", "c1")];
    let with_key = caller.ask("PUT /api/rooms/r/members/1", &headers, None).await;
    assert_eq!((with_key.status, &with_key.json()["id"]), (200, &json!("c1")));
    let history = caller.get("/api/rooms/r/events?user_id=1").await.json();
    assert_eq!(history["last"], 2, "{history}");
}

async fn leaving_is_answered_with_its_event(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    caller.put("/api/rooms/r/members/2").await;
    let left = caller.delete("/api/rooms/r/members/2").await;
    assert_eq!(
        (left.status, &left.json()["type"], &left.json()["seq"]),
        (200, &json!("leave"), &json!(3))
    );
    let again = caller.delete("/api/rooms/r/members/2").await;
    assert_refused(&again, 403, "not_member", None);
    // With a key the first outcome stands.
    caller.put("/api/rooms/r/members/2").await;
    let key = [("Idempotency-Key", "bye")];
    let left = caller.ask("DELETE /api/rooms/r/members/2", &key, None).await;
    let again = caller.ask("DELETE /api/rooms/r/members/2", &key, None).await;
    assert_eq!((left.status, again.status), (200, 200));
    assert_eq!((&left.json()["seq"], &left.body), (&json!(5), &again.body));
    // Also for who has joined again since: it is the answer to that leave, and no new one.
    caller.put("/api/rooms/r/members/2").await;
    let again = caller.ask("DELETE /api/rooms/r/members/2", &key, None).await;
    assert_eq!((again.status, &again.body), (200, &left.body));
    assert_eq!(caller.put("/api/rooms/r/members/2").await.status, 200, "a member still");
}

async fn nobody_joins_or_leaves_for_another(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    assert_eq!(caller.put("/api/rooms/r/members/2?user_id=2").await.status, 201);
    for line in ["PUT /api/rooms/r/members/3?user_id=2", "DELETE /api/rooms/r/members/1?user_id=2"]
    {
        let refused = caller.ask(line, &[], None).await;
        assert_refused(&refused, 400, "bad_request", Some("user_id"));
    }
    for (method, body, field) in [
        ("PUT", json!({"user_id": "2"}), "user_id"),
        ("DELETE", json!({"user_id": 2}), "user_id"),
        ("DELETE", json!({"room": "s"}), "room"),
        ("DELETE", json!({"type": "join"}), "type"),
        ("PUT", json!({"type": "leave"}), "type"),
    ] {
        let line = format!("{method} /api/rooms/r/members/1");
        let refused = caller.ask(&line, &[JSON], Some(&body.to_string())).await;
        assert_refused(&refused, 400, "bad_request", Some(field));
    }
    let refused = caller.put("/api/rooms/r/members/%20").await;
    assert_refused(&refused, 400, "bad_request", Some("user_id"));
    let refused = caller.put("/api/rooms/r/members/").await;
    assert_refused(&refused, 400, "bad_request", Some("user_id"));
}

/// None is needed; one that is there is a body as any other.
async fn a_body_may_say_once_more_who_joins_or_leaves(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let frame = |kind| json!({"type": kind, "user_id": 2, "room": "r", "id": "c"}).to_string();
    for (line, kind, status) in [
        ("PUT /api/rooms/r/members/2", "join", 201),
        ("DELETE /api/rooms/r/members/2", "leave", 200),
    ] {
        for (headers, body, status, code) in [
            (&[][..], Some("{}"), 415, "unsupported_media_type"),
            (&[JSON], Some("[]"), 400, "bad_json"),
            (&[JSON], Some(&*" ".repeat(70_000)), 413, "too_large"),
        ] {
            let refused = caller.ask(line, headers, body).await;
            assert_refused(&refused, status, code, None);
        }
        // The refusals have written nothing.
        let done = caller.ask(line, &[JSON], Some(&frame(kind))).await;
        assert_eq!((done.status, done.json()["user_id"].as_str()), (status, Some("2")), "{line}");
    }
    for body in ["", "{}"] {
        let joined = caller.ask("PUT /api/rooms/r/members/3", &[JSON], Some(body)).await;
        assert!([200, 201].contains(&joined.status), "{joined:?}");
    }
}

async fn members_are_listed_in_pages_by_id(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    client.send(json!({"type": "create", "user_id": "0000", "room": "r"})).await;
    client.expect(json!({"type": "ack"})).await;
    for n in 1..=1000 {
        client.send(json!({"type": "join", "user_id": format!("{n:04}"), "room": "r"})).await;
        client.read_until(json!({"type": "joined", "user_id": format!("{n:04}")})).await;
    }
    let mut caller = Caller::new(node.addr).await;
    let first = caller.get("/api/rooms/r/members?user_id=0000").await.json();
    let members = first["members"].as_array().unwrap();
    assert_eq!((members.len(), &first["more"]), (1000, &json!(true)));
    assert_eq!(members[0], json!({"user_id": "0000", "role": "owner"}));
    let rest = caller.get("/api/rooms/r/members?user_id=7&after=0999").await;
    assert_refused(&rest, 403, "not_member", None);
    let rest = caller.get("/api/rooms/r/members?user_id=0007&after=0999").await.json();
    let last = json!([{"user_id": "1000", "role": "member"}]);
    assert_eq!((&rest["members"], &rest["more"]), (&last, &json!(false)));
}

async fn a_member_by_http_is_a_member_on_the_websocket(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    caller.put("/api/rooms/r/members/2").await;
    let mut client = node.client().await;
    client.send(json!({"type": "resume", "user_id": "2", "rooms": {"r": 2}})).await;
    client.expect(json!({"type": "joined", "last_seq": 2})).await;
    client.expect(json!({"type": "resumed"})).await;
    caller.delete("/api/rooms/r/members/2").await;
    client.expect(json!({"type": "leave", "user_id": "2", "seq": 3})).await;
    client.send(json!({"type": "message", "user_id": "2", "room": "r", "message": "x"})).await;
    client.expect(json!({"type": "error", "code": "not_member"})).await;
}

async fn a_name_that_looks_like_another_is_refused_in_the_words_of_the_websocket(world: World) {
    let node = world.node().await;
    let (mut caller, mut client) = (Caller::new(node.addr).await, node.client().await);
    caller.create().await;
    for (encoded, name) in [("2%20", "2 "), ("2%EF%B8%8F", "2\u{FE0F}"), ("2%C2%A0", "2\u{A0}")] {
        let refused = caller.put(&format!("/api/rooms/r/members/{encoded}")).await;
        assert_refused(&refused, 400, "bad_request", Some("user_id"));
        client.send(json!({"type": "join", "user_id": name, "room": "r"})).await;
        client.expect_exactly(&refused.body).await;
        for body in [json!({"user_id": name, "room": "s"}), json!({"user_id": "1", "room": name})] {
            let refused = caller.post("/api/rooms", body.clone()).await;
            let field = if body["room"] == "s" { "user_id" } else { "room" };
            assert_refused(&refused, 400, "bad_request", Some(field));
            let mut command = body;
            command["type"] = json!("create");
            client.send(command).await;
            client.expect_exactly(&refused.body).await;
        }
    }
    let members = caller.get("/api/rooms/r/members?user_id=1").await.json();
    assert_eq!(members["members"], json!([{"user_id": "1", "role": "owner"}]));
}
