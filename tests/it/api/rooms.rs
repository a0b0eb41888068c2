//! Making rooms and listing them.

use serde_json::json;

use super::{Caller, assert_refused};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    a_room_is_made_once_and_its_event_is_the_answer,
    rooms_are_listed_in_pages_by_name,
    a_room_may_have_any_name_that_the_protocol_allows,
    what_is_no_room_is_told_by_its_field,
);

async fn a_room_is_made_once_and_its_event_is_the_answer(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let room = json!({"user_id": 1, "room": "general"});
    let made = caller.post("/api/rooms", room.clone()).await;
    assert_eq!(made.status, 201);
    let at = made.json()["at"].as_str().unwrap().to_owned();
    let wanted =
        format!(r#"{{"type":"create","room":"general","user_id":"1","seq":1,"at":"{at}"}}"#);
    assert_eq!(made.body, wanted);
    assert_eq!(made.header("content-type"), Some("application/json"));
    assert_eq!(made.header("cache-control"), Some("no-store"));

    let again = caller.post("/api/rooms", room).await;
    let body = assert_refused(&again, 409, "room_exists", None);
    assert_eq!((&body["re"], &body["room"]), (&json!("create"), &json!("general")));
}

async fn rooms_are_listed_in_pages_by_name(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let none = caller.get("/api/rooms").await;
    assert_eq!(none.body, r#"{"type":"rooms","rooms":[],"more":false}"#);
    for room in ["b", "Z", "a b", "é", "a+b"] {
        caller.post("/api/rooms", json!({"user_id": "1", "room": room})).await;
    }
    let all = caller.get("/api/rooms").await.json();
    let names = |list: &serde_json::Value| -> Vec<String> {
        let rooms = list["rooms"].as_array().unwrap().iter();
        rooms.map(|room| room["room"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&all), ["Z", "a b", "a+b", "b", "é"]);
    assert_eq!(all["rooms"][0], json!({"room": "Z", "last_seq": 1, "members": 1}));
    let of_user = caller.get("/api/rooms?user_id=1").await.json();
    let read = json!({"room": "Z", "last_seq": 1, "members": 1, "read": 1, "unread": 0});
    assert_eq!(of_user["rooms"][0], read);
    let page = caller.get("/api/rooms?limit=2").await.json();
    assert_eq!((names(&page), &page["more"]), (vec!["Z".into(), "a b".into()], &json!(true)));
    let page = caller.get("/api/rooms?limit=2&after=a+b").await.json();
    assert_eq!((names(&page), &page["more"]), (vec!["a+b".into(), "b".into()], &json!(true)));
    let page = caller.get("/api/rooms?after=a%2Bb&limit=2&unknown=1").await.json();
    assert_eq!((names(&page), &page["more"]), (vec!["b".into(), "é".into()], &json!(false)));
}

async fn a_room_may_have_any_name_that_the_protocol_allows(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let mut client = node.client().await;
    for (name, encoded) in [
        ("a/b", "a%2Fb"),
        ("a/b", "a%2fb"),
        ("..", ".."),
        ("..", "%2E%2e"),
        ("a b?c#d", "a%20b%3Fc%23d"),
        ("100%", "100%25"),
        ("a+b", "a+b"),
        ("雑談", "%E9%9B%91%E8%AB%87"),
        ("🦀", "%F0%9F%A6%80"),
    ] {
        // Made over the WebSocket the first time, used over HTTP.
        client.send(json!({"type": "create", "user_id": "u/1", "room": name, "id": "x"})).await;
        client.expect(json!({"type": "ack"})).await;
        let joined = caller.put(&format!("/api/rooms/{encoded}/members/u%2F2")).await;
        assert_eq!(joined.json()["room"], name, "{joined:?}");
        assert_eq!(joined.json()["user_id"], "u/2");
        let history = caller.get(&format!("/api/rooms/{encoded}/events?user_id=u/2")).await;
        assert_eq!((history.status, &history.json()["room"]), (200, &json!(name)));
    }
}

async fn what_is_no_room_is_told_by_its_field(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    for (body, field) in [
        (json!({"user_id": "1"}), "room"),
        (json!({"room": "r"}), "user_id"),
        (json!({"user_id": "1", "room": 7}), "room"),
        (json!({"user_id": "1", "room": ""}), "room"),
        (json!({"user_id": "1", "room": "a\u{202e}b"}), "room"),
        (json!({"user_id": true, "room": "r"}), "user_id"),
        (json!({"user_id": "1", "room": "r", "id": "é"}), "id"),
        (json!({"user_id": "1", "room": "r", "type": "leave"}), "type"),
    ] {
        let refused = caller.post("/api/rooms", body).await;
        let body = assert_refused(&refused, 400, "bad_request", Some(field));
        assert_eq!(body["re"], "create");
    }
    for (query, field) in [("limit=0", "limit"), ("limit=1001", "limit"), ("after=%00", "after")] {
        let refused = caller.get(&format!("/api/rooms?{query}")).await;
        let body = assert_refused(&refused, 400, "bad_request", Some(field));
        assert_eq!(body["re"], "rooms");
    }
    assert_eq!(caller.get("/api/rooms").await.json()["rooms"], json!([]));
}
