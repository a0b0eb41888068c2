//! How fast one address may ask, and how many connections it may have.

use std::time::{Duration, Instant};

use serde_json::json;
use verbatim::config::Config;

use super::{Caller, JSON, assert_refused, spec::spec};
use crate::harness::http::{Http, Stream, request};
use crate::harness::{PATIENCE, World, on_both_logs};

on_both_logs!(
    an_address_that_asks_too_fast_is_told_how_long_to_wait,
    a_refusal_that_does_not_read_the_body_is_no_reset,
    a_connection_beyond_the_limit_is_refused,
    a_stream_takes_a_connection_and_gives_it_back,
    an_event_source_is_told_when_to_come_back,
    streams_have_a_limit_of_their_own,
);

fn slow(config: &mut Config) {
    (config.api.requests_per_second, config.api.requests_burst) = (20, 5);
}

async fn an_address_that_asks_too_fast_is_told_how_long_to_wait(world: World) {
    let node = world.node_with(slow).await;
    let mut refusals = 0;
    // Each on a connection of its own: they have only their address in common.
    for n in 0..30 {
        let mut caller = Caller::new(node.addr).await;
        let room = json!({"user_id": "1", "room": n.to_string()});
        let made = caller.post("/api/rooms", room.clone()).await;
        if made.status == 201 {
            continue;
        }
        refusals += 1;
        let body = assert_refused(&made, 429, "rate_limited", None);
        assert_eq!(body["re"], "create");
        let wait = body["retry_after_ms"].as_u64().unwrap();
        assert!((1..=51).contains(&wait), "{wait}");
        assert_eq!(made.header("retry-after"), Some("1"));
        tokio::time::sleep(Duration::from_millis(wait)).await;
        assert_eq!(caller.post("/api/rooms", room).await.status, 201, "{n}");
    }
    // It says of what, as far as the path does.
    let path = "GET /api/rooms/caf%C3%A9/events?user_id=1";
    let mut http = Http::connect(node.addr).await;
    http.send(request(node.addr, path, &[], None).repeat(30)).await;
    for _ in 0..30 {
        let reply = http.read(false).await;
        spec().check(path, &reply);
        if reply.status == 429 {
            refusals += 1;
            let body = assert_refused(&reply, 429, "rate_limited", None);
            assert_eq!((&body["re"], &body["room"]), (&json!("history"), &json!("café")));
        }
    }
    // A machine that is slower than the rate would never meet it: then there is nothing to see.
    assert!(refusals > 1, "nobody was refused");
    // The node's health is everybody's business at any time.
    for _ in 0..20 {
        assert_eq!(crate::harness::raw::get(node.addr, "/healthz").await.0.status, 200);
    }
}

/// A connection that is closed while the client sends is reset, and its answer may be lost.
async fn a_refusal_that_does_not_read_the_body_is_no_reset(world: World) {
    let rare = |config: &mut Config| {
        (config.api.requests_per_second, config.api.requests_burst) = (1, 1);
    };
    let node = world.node_with(rare).await;
    // More than is read at once, and less than a body may have.
    let body = json!({"user_id": "1", "message": "x".repeat(50_000)}).to_string();
    for (path, headers, statuses) in [
        ("POST /api/nowhere", &[JSON][..], &[404][..]),
        ("DELETE /api/rooms", &[JSON], &[405]),
        ("POST /api/rooms", &[JSON, ("Origin", "https://elsewhere.example")], &[403]),
        ("POST /api/rooms/r/events", &[JSON], &[404, 413]),
        ("POST /api/rooms/r/events", &[JSON], &[429]),
    ] {
        // One in a second is within the rate.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut http = Http::connect(node.addr).await;
            let reply = http.ask(path, headers, Some(&body)).await;
            // All of it is gone, so the connection is of use.
            assert_eq!(http.ask("GET /healthz", &[], None).await.status, 200, "{path}");
            if statuses.contains(&reply.status) {
                break;
            }
            let is_other = [404, 413, 429].contains(&reply.status);
            assert!(is_other && Instant::now() < deadline, "{path}: {reply:?}");
        }
    }
}

async fn a_connection_beyond_the_limit_is_refused(world: World) {
    for (change, status, code) in [
        ((|config: &mut Config| config.server.connections_max = 1) as fn(&mut Config), 503, "full"),
        (|config| config.server.connections_per_address_max = 1, 429, "too_many_connections"),
    ] {
        let node = world.node_with(change).await;
        let mut first = node.client().await;
        let mut second = Caller::new(node.addr).await;
        for path in ["/api/rooms", "/api/rooms/r/stream?user_id=1"] {
            let refused = second.get(path).await;
            assert_refused(&refused, status, code, None);
            assert!(refused.header("retry-after").is_some());
            assert_eq!(refused.header("connection"), Some("close"));
        }
        first.expect_nothing().await;
        first.close().await;
        node.stop().await;
    }
}

async fn a_stream_takes_a_connection_and_gives_it_back(world: World) {
    let node = world.node_with(|config| config.server.connections_max = 1).await;
    // Its connection is idle behind this, and gives way.
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let path = "/api/rooms/r/stream?user_id=1";
    for _ in 0..5 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stream = Stream::open(node.addr, path, &[]).await;
            if stream.head.status == 200 {
                assert_eq!(Stream::open(node.addr, path, &[]).await.head.status, 503);
                break;
            }
            // The place of the last one comes free a moment after it was dropped.
            assert!(Instant::now() < deadline, "{:?}", stream.head);
        }
    }
}

/// An `EventSource` gives up for ever on anything but a 200.
async fn an_event_source_is_told_when_to_come_back(world: World) {
    const PATH: &str = "GET /api/rooms/r/stream?user_id=1";
    let told = async |caller: &mut Caller, at_least_ms: u64, code: &str| {
        let deadline = Instant::now() + PATIENCE;
        let reply = loop {
            let reply = caller.ask(PATH, &[("Accept", "text/event-stream")], None).await;
            // One in a second is within the rate, and there is no such room.
            if reply.status != 404 {
                break reply;
            }
            assert!(Instant::now() < deadline, "{reply:?}");
        };
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
        assert_eq!(reply.header("retry-after"), None);
        let retry = reply.body.strip_prefix("retry: ").and_then(|it| it.split_once("\n: "));
        let (ms, why) = retry.unwrap_or_else(|| panic!("{reply:?}"));
        assert!(ms.parse::<u64>().unwrap() >= at_least_ms, "{reply:?}");
        // A comment says why, and there is nothing else.
        let why = why.strip_suffix("\n\n").unwrap();
        assert!(!why.contains('\n') && why.contains(code), "{reply:?}");
    };

    let node = world.node_with(|config| config.server.connections_max = 1).await;
    let client = node.client().await;
    let mut beyond = Caller::new(node.addr).await;
    told(&mut beyond, 5000, "full").await;
    // Whoever can read a status gets one.
    for accept in ["*/*", "application/json"] {
        assert_eq!(beyond.ask(PATH, &[("Accept", accept)], None).await.status, 503);
    }
    client.close().await;
    node.stop().await;

    let node =
        world.node_with(|c| (c.api.requests_per_second, c.api.requests_burst) = (1, 1)).await;
    let mut caller = Caller::new(node.addr).await;
    // What will not be otherwise in a moment is a refusal to everybody.
    let foreign = caller.ask(PATH, &[("Accept", "text/event-stream")], None).await;
    assert_eq!(foreign.status, 404);
    told(&mut caller, world.config.server.reconnect_ms, "rate_limited").await;
    let elsewhere = async |caller: &mut Caller| {
        caller.ask("GET /api/rooms", &[("Accept", "text/event-stream")], None).await.status
    };
    let deadline = Instant::now() + PATIENCE;
    while elsewhere(&mut caller).await != 429 {
        assert!(Instant::now() < deadline, "nobody is refused");
    }
}

async fn streams_have_a_limit_of_their_own(world: World) {
    const PATH: &str = "/api/rooms/r/stream?user_id=1";
    let few = |config: &mut Config| {
        (config.api.streams_max, config.server.http_connections_max) = (2, 1);
    };
    let node = world.node_with(few).await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let first = Stream::open(node.addr, PATH, &[]).await;
    assert_eq!(first.head.status, 200);
    // The other one is for somebody else.
    let mut caller = Caller::new(node.addr).await;
    assert_refused(&caller.get(PATH).await, 503, "full", None);
    // Streams are not of those that ask.
    let mut caller = Caller::new(node.addr).await;
    assert_eq!(caller.get("/api/rooms").await.status, 200);
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    while Stream::open(node.addr, PATH, &[]).await.head.status != 200 {
        assert!(Instant::now() < deadline, "its place does not come free");
    }
}
