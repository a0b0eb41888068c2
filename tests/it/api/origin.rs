//! Which web pages may ask, and what their browsers are told: the same rule as on the WebSocket.

use serde_json::json;

use super::{Caller, JSON, assert_refused};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    a_page_of_another_origin_is_refused_whatever_it_asks,
    a_page_of_an_allowed_origin_may_read_answers_and_refusals,
    a_page_that_no_setting_names_comes_without_credentials,
    a_browser_that_asks_first_is_told_what_may_be_sent,
    a_form_of_another_page_changes_nothing,
);

const ALLOWED: &str = "https://chat.example";

async fn a_page_of_another_origin_is_refused_whatever_it_asks(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let foreign = ("Origin", "https://evil.example");
    for line in [
        "GET /api/rooms",
        "HEAD /api/rooms",
        "OPTIONS /api/rooms",
        "PUT /api/rooms/r/members/2",
        "DELETE /api/rooms/r/members/1",
        "GET /api/rooms/r/stream?user_id=1",
        "GET /api/nothing",
    ] {
        let refused = caller.ask(line, &[foreign], None).await;
        assert_eq!(refused.status, 403, "{line}");
        assert_eq!(refused.header("access-control-allow-origin"), None);
        if !line.starts_with("HEAD") {
            assert_refused(&refused, 403, "origin", None);
        }
    }
    let body = json!({"user_id": "1", "room": "s"}).to_string();
    let refused = caller.ask("POST /api/rooms", &[foreign, JSON], Some(&body)).await;
    assert_refused(&refused, 403, "origin", None);
    assert_eq!(
        caller.get("/api/rooms/r/members?user_id=1").await.json()["members"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // Its own page is no stranger.
    let own = format!("http://{}", node.addr);
    let read = caller.ask("GET /api/rooms", &[("Origin", &own)], None).await;
    assert_eq!((read.status, read.json()["rooms"].as_array().unwrap().len()), (200, 1));
}

async fn a_page_of_an_allowed_origin_may_read_answers_and_refusals(world: World) {
    let allow = |config: &mut verbatim::config::Config| {
        config.server.allowed_origins = vec![ALLOWED.to_owned()];
    };
    let node = world.node_with(allow).await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    for (line, status) in [
        ("GET /api/rooms", 200),
        ("GET /api/rooms?limit=0", 400),
        ("PATCH /api/rooms", 405),
        ("GET /api/nothing", 404),
        ("PUT /api/rooms/r/members/2", 201),
    ] {
        let reply = caller.ask(line, &[("Origin", ALLOWED)], None).await;
        assert_eq!(reply.status, status, "{line}");
        assert_eq!(reply.header("access-control-allow-origin"), Some(ALLOWED), "{line}");
        assert_eq!(reply.header("vary"), Some("Origin"));
        assert_eq!(reply.header("access-control-allow-credentials"), Some("true"), "{line}");
    }
    let (stream, _) = super::follow(node.addr, "", &[("Origin", ALLOWED)]).await;
    assert_eq!(stream.head.header("access-control-allow-origin"), Some(ALLOWED));
    let plain = caller.get("/api/rooms").await;
    assert_eq!(plain.header("access-control-allow-origin"), None);
    assert_eq!(plain.header("vary"), Some("Origin"), "a cache may keep it for somebody else");
    // Its own pages need no leave, and get none for cookies either.
    let own = format!("http://{}", node.addr);
    let reply = caller.ask("GET /api/rooms", &[("Origin", &own)], None).await;
    assert_eq!(reply.header("access-control-allow-credentials"), None);
}

/// Whoever lets everybody in has not thought of each who comes with a user's cookies.
async fn a_page_that_no_setting_names_comes_without_credentials(world: World) {
    let any = |config: &mut verbatim::config::Config| {
        config.server.allowed_origins = vec!["*".to_owned(), ALLOWED.to_owned()];
    };
    let node = world.node_with(any).await;
    let mut caller = Caller::new(node.addr).await;
    for (origin, credentials) in
        [("https://other.example", None), ("null", None), (ALLOWED, Some("true"))]
    {
        for line in ["GET /api/rooms", "OPTIONS /api/rooms"] {
            let reply = caller.ask(line, &[("Origin", origin)], None).await;
            assert_eq!(reply.header("access-control-allow-origin"), Some(origin), "{line}");
            assert_eq!(reply.header("access-control-allow-credentials"), credentials, "{origin}");
        }
    }
}

async fn a_browser_that_asks_first_is_told_what_may_be_sent(world: World) {
    let allow = |config: &mut verbatim::config::Config| {
        config.server.allowed_origins = vec![ALLOWED.to_owned()];
    };
    let node = world.node_with(allow).await;
    let mut caller = Caller::new(node.addr).await;
    let asks = [
        ("Origin", ALLOWED),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,idempotency-key"),
    ];
    let told = caller.ask("OPTIONS /api/rooms/r/events", &asks, None).await;
    assert_eq!(told.status, 204);
    assert_eq!(told.header("access-control-allow-origin"), Some(ALLOWED));
    let methods = told.header("access-control-allow-methods").unwrap();
    assert!(methods.split(", ").any(|method| method == "POST"), "{methods}");
    let headers = told.header("access-control-allow-headers").unwrap().to_lowercase();
    for needed in [
        "authorization",
        "content-type",
        "idempotency-key",
        "last-event-id",
        "traceparent",
        "tracestate",
        "baggage",
    ] {
        assert!(headers.split(", ").any(|header| header == needed), "{headers}");
    }
    let remembered: u32 = told.header("access-control-max-age").unwrap().parse().unwrap();
    assert!((1..=7200).contains(&remembered), "{remembered}");
}

/// What a browser sends without asking first is not JSON by its type.
async fn a_form_of_another_page_changes_nothing(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let body = json!({"user_id": "1", "room": "r"}).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
        let headers = [("Content-Type", kind)];
        let refused = caller.ask("POST /api/rooms", &headers, Some(&body)).await;
        assert_refused(&refused, 415, "unsupported_media_type", None);
    }
    assert_eq!(caller.get("/api/rooms").await.json()["rooms"], json!([]));
}
