//! What HTTP asks of a server besides: methods, types, sizes, times, connections.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Caller, JSON, assert_refused, spec::spec};
use crate::harness::http::{Http, request};
use crate::harness::raw::{Raw, get};
use crate::harness::{PATIENCE, World, on_both_logs};

on_both_logs!(
    another_method_is_405_and_another_path_404,
    options_and_head_are_answered,
    a_body_must_be_json_by_its_type_and_not_compressed,
    a_body_over_the_limit_is_413_and_can_be_read_by_who_sent_it,
    a_body_that_does_not_come_is_408,
    a_body_in_chunks_does_as_well,
    a_client_that_asks_before_it_sends_its_body_is_answered,
    several_requests_are_answered_in_their_order,
    a_client_that_sends_no_more_is_answered,
    a_node_that_stops_answers_what_it_took_and_refuses_the_rest,
    a_node_that_stops_does_not_wait_for_a_body,
    requests_are_counted_by_route_method_and_status,
);

async fn another_method_is_405_and_another_path_404(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    for (line, allow) in [
        ("PUT /api/rooms", "GET, HEAD, POST, OPTIONS"),
        ("BREW /api/rooms", "GET, HEAD, POST, OPTIONS"),
        ("DELETE /api/rooms/r/events", "GET, HEAD, POST, OPTIONS"),
        ("POST /api/rooms/r/stream", "GET, HEAD, OPTIONS"),
        ("POST /api/rooms/r/members", "GET, HEAD, OPTIONS"),
        ("GET /api/rooms/r/members/1", "PUT, DELETE, OPTIONS"),
        ("HEAD /api/rooms/r/members/1", "PUT, DELETE, OPTIONS"),
        ("PATCH /api/rooms/r/members/1", "PUT, DELETE, OPTIONS"),
    ] {
        let refused = caller.ask(line, &[], None).await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)), "{line}");
        if !line.starts_with("HEAD") {
            assert_refused(&refused, 405, "method_not_allowed", None);
        }
    }
    for path in [
        "/api",
        "/api/",
        "/api/rooms/",
        "/api//rooms",
        "/api/rooms/r",
        "/api/rooms/r/event",
        "/api/rooms/r/events/1",
        "/api/Rooms",
        "/api/rooms/r/members/1/2",
        "/api/../healthz",
        "/api%2Frooms",
    ] {
        assert_refused(&caller.get(path).await, 404, "not_found", None);
        let refused = caller.post(path, json!({})).await;
        assert_refused(&refused, 404, "not_found", None);
    }
}

async fn options_and_head_are_answered(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    for path in ["/api/rooms", "/api/rooms/r/events?user_id=1", "/api/rooms/r/members?user_id=1"] {
        let got = caller.get(path).await;
        let head = caller.ask(&format!("HEAD {path}"), &[], None).await;
        assert_eq!((got.status, head.status), (200, 200), "{path}");
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(got.header(name), head.header(name), "{path}");
        }
    }
    let head = caller.ask("HEAD /api/rooms/r/stream?user_id=1", &[], None).await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let head = caller.ask("HEAD /api/rooms/r/stream?user_id=2", &[], None).await;
    assert_eq!(head.status, 403);
    // What is allowed is what is described, and the other way round.
    for (path, methods) in spec().routes() {
        if !path.starts_with("/api") {
            continue;
        }
        let told = caller.ask(&format!("OPTIONS {path}"), &[], None).await;
        assert_eq!(told.status, 204, "{path}");
        let allow = told.header("allow").unwrap().split(", ").map(str::to_owned);
        let allowed: std::collections::BTreeSet<_> =
            allow.filter(|method| method != "HEAD" && method != "OPTIONS").collect();
        assert_eq!(allowed, methods, "{path}");
    }
}

async fn a_body_must_be_json_by_its_type_and_not_compressed(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let ask = async |caller: &mut Caller, headers: &[(&str, &str)], room: &str| {
        let body = json!({"user_id": "1", "room": room}).to_string();
        caller.ask("POST /api/rooms", headers, Some(&body)).await
    };
    for (number, kind) in [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "Application/JSON",
    ]
    .into_iter()
    .enumerate()
    {
        let made = ask(&mut caller, &[("Content-Type", kind)], &number.to_string()).await;
        assert_eq!(made.status, 201, "{kind}");
    }
    let identity = [JSON, ("Content-Encoding", "identity")];
    assert_eq!(ask(&mut caller, &identity, "same").await.status, 201);
    for headers in [
        &[][..],
        &[("Content-Type", "text/json")],
        &[("Content-Type", "application/jsonp")],
        &[("Content-Type", "application/json-patch+json")],
        &[JSON, ("Content-Encoding", "gzip")],
        &[JSON, ("Content-Encoding", "identity, gzip")],
        &[JSON, ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")],
        &[JSON, ("Content-Type", "text/plain")],
    ] {
        let refused = ask(&mut caller, headers, "never").await;
        assert_refused(&refused, 415, "unsupported_media_type", None);
    }
    assert_eq!(caller.get("/api/rooms").await.json()["rooms"].as_array().unwrap().len(), 5);
}

async fn a_body_over_the_limit_is_413_and_can_be_read_by_who_sent_it(world: World) {
    let change = |config: &mut verbatim::config::Config| config.api.body_bytes_max = 51_200;
    let node = world.node_with(change).await;
    let mut caller = Caller::new(node.addr).await;
    let padded = |len: usize| {
        let body = json!({"user_id": "1", "room": len.to_string(), "x": ""}).to_string();
        let pad = "x".repeat(len - body.len());
        json!({"user_id": "1", "room": len.to_string(), "x": pad}).to_string()
    };
    let made = caller.ask("POST /api/rooms", &[JSON], Some(&padded(51_200))).await;
    assert_eq!(made.status, 201);
    for len in [51_201, 200_000, 900_000, 3_000_000] {
        let refused = caller.ask("POST /api/rooms", &[JSON], Some(&padded(len))).await;
        let body = assert_refused(&refused, 413, "too_large", None);
        assert_eq!(body["limit"], 51_200, "{len}");
        caller = Caller::new(node.addr).await;
    }
    // A length that nobody will ever send.
    let mut http = Http::connect(node.addr).await;
    let head = "POST /api/rooms HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    http.send(format!("{head}Content-Length: 1000000000000000000\r\n\r\n{{")).await;
    assert_refused(&http.read(false).await, 413, "too_large", None);
    // One that does not say how long it is.
    let mut http = Http::connect(node.addr).await;
    http.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
    for _ in 0..20 {
        http.send(format!("2000\r\n{}\r\n", "x".repeat(0x2000))).await;
    }
    http.send("0\r\n\r\n").await;
    assert_refused(&http.read(false).await, 413, "too_large", None);
}

async fn a_body_that_does_not_come_is_408(world: World) {
    let change = |config: &mut verbatim::config::Config| config.api.body_timeout_ms = 300;
    let node = world.node_with(change).await;
    let mut http = Http::connect(node.addr).await;
    let head = "POST /api/rooms HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    http.send(format!("{head}Content-Length: 40\r\n\r\n{{\"user_id\"")).await;
    let begun = Instant::now();
    let refused = http.read(false).await;
    spec().check("POST /api/rooms", &refused);
    assert_refused(&refused, 408, "request_timeout", None);
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    http.expect_end().await;
    // One that breaks off harms nobody.
    let mut http = Http::connect(node.addr).await;
    http.send(format!("{head}Content-Length: 40\r\n\r\n{{\"user_id\"")).await;
    drop(http);
    assert_eq!(get(node.addr, "/healthz").await.0.status, 200);
}

async fn a_body_in_chunks_does_as_well(world: World) {
    let node = world.node().await;
    let mut http = Http::connect(node.addr).await;
    let head = "POST /api/rooms HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let body =
        "10\r\n{\"user_id\":\"1\",\"\r\nb;ext=1\r\nroom\":\"rr\"}\r\n0\r\nX-Trailer: 1\r\n\r\n";
    http.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}")).await;
    let made = http.read(false).await;
    assert_eq!((made.status, &made.json()["room"]), (201, &json!("rr")), "{made:?}");
    for broken in ["zz\r\n{}", "5\r\n{}\r\n0\r\n\r\n"] {
        let mut http = Http::connect(node.addr).await;
        http.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{broken}\r\n")).await;
        assert_refused(&http.read(false).await, 400, "bad_json", None);
    }
}

async fn a_client_that_asks_before_it_sends_its_body_is_answered(world: World) {
    let node = world.node().await;
    let mut raw = Raw::connect(node.addr).await;
    let body = json!({"user_id": "1", "room": "r"}).to_string();
    let headers = [JSON, ("Expect", "100-continue"), ("Content-Length", &body.len().to_string())];
    raw.send(request(node.addr, "POST /api/rooms", &headers, None)).await;
    assert_eq!(raw.read_head().await.status, 100);
    raw.send(body).await;
    assert_eq!(raw.read_head().await.status, 201);
}

/// Pipelined on one connection; a write is there when the next request is read.
async fn several_requests_are_answered_in_their_order(world: World) {
    let node = world.node().await;
    let mut http = Http::connect(node.addr).await;
    let room = json!({"user_id": "1", "room": "r"}).to_string();
    let mut all = request(node.addr, "POST /api/rooms", &[JSON], Some(&room));
    for n in 0..50 {
        let body = json!({"user_id": "1", "message": n.to_string()}).to_string();
        all += &request(node.addr, "POST /api/rooms/r/events", &[JSON], Some(&body));
        let read = "GET /api/rooms/r/events?user_id=1&limit=1";
        all += &request(node.addr, read, &[], None);
    }
    all += &request(node.addr, "HEAD /api/rooms", &[], None);
    all += &request(node.addr, "GET /api/nothing", &[], None);
    all += &request(node.addr, "GET /healthz", &[("Connection", "close")], None);
    http.send(all).await;
    assert_eq!(http.read(false).await.status, 201);
    for n in 0..50 {
        let said = http.read(false).await;
        assert_eq!((said.status, &said.json()["seq"]), (201, &json!(n + 2)));
        let read = http.read(false).await.json();
        assert_eq!(read["events"], json!([said.json()]));
    }
    assert_eq!(http.read(true).await.status, 200);
    assert_eq!(http.read(false).await.status, 404);
    assert_eq!(http.read(false).await.status, 200);
    http.expect_end().await;
}

/// As `nc -N` does it: what it asked for is carried out, so it must hear of it.
async fn a_client_that_sends_no_more_is_answered(world: World) {
    let node = world.node().await;
    let room = json!({"user_id": "1", "room": "r"}).to_string();
    let text = "x".repeat(16_000);
    let body = json!({"user_id": "1", "message": text}).to_string();
    let mut all = request(node.addr, "POST /api/rooms", &[JSON], Some(&room));
    for _ in 0..60 {
        all += &request(node.addr, "POST /api/rooms/r/events", &[JSON], Some(&body));
    }
    let page = request(node.addr, "GET /api/rooms/r/events?user_id=1&limit=200", &[], None);
    let mut http = Http::connect(node.addr).await;
    http.send(all + &page).await;
    http.shut_down().await;
    for seq in 1..=61 {
        let said = http.read(false).await;
        assert_eq!((said.status, &said.json()["seq"]), (201, &json!(seq)));
    }
    let read = http.read(false).await;
    assert_eq!(read.json()["events"].as_array().unwrap().len(), 61);
    http.expect_end().await;
    // Also an answer that has to wait for its reader.
    let mut http = Http::narrow(node.addr, 4096).await;
    http.send(page).await;
    http.shut_down().await;
    assert_eq!(http.read(false).await.body, read.body);
    http.expect_end().await;
}

async fn a_node_that_stops_answers_what_it_took_and_refuses_the_rest(world: World) {
    let node = world.node().await;
    // This one keeps HTTP alive while the node stops: a session that is not done.
    let mut client = node.client().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    client.send(json!({"type": "join", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "joined"})).await;
    let addr = node.addr;
    let mut senders = Vec::new();
    for n in 0..20 {
        let mut caller = Caller::new(addr).await;
        senders.push(tokio::spawn(async move {
            let body = json!({"user_id": "1", "message": n.to_string()}).to_string();
            caller.http.try_ask("POST /api/rooms/r/events", &[JSON], Some(&body)).await
        }));
    }
    node.stop().await;
    // Each was answered with its event, or with a refusal that says so; or it met a connection that
    // was closed because nothing had been asked on it yet.
    let mut said = 0;
    for sender in senders {
        let Some(reply) = sender.await.unwrap() else { continue };
        said += usize::from(reply.status == 201);
        assert!([201, 503].contains(&reply.status), "{reply:?}");
        assert!(reply.status == 201 || reply.header("retry-after").is_some());
    }
    drop(client);
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let read = caller.get("/api/rooms/r/events?user_id=1").await.json();
    assert_eq!(read["events"].as_array().unwrap().len(), 1 + said, "{read}");
}

async fn a_node_that_stops_does_not_wait_for_a_body(world: World) {
    let node = world
        .node_with(|config| {
            config.api.body_timeout_ms = 60_000;
            config.server.shutdown_timeout_ms = 60_000;
        })
        .await;
    let mut http = Http::connect(node.addr).await;
    let line = "POST /api/rooms";
    let headers = [JSON, ("Content-Length", "50"), ("Expect", "100-continue")];
    http.send(request(node.addr, line, &headers, None)).await;
    // It waits for the body.
    assert_eq!(http.try_read_head().await.unwrap().status, 100);
    http.send("{").await;
    tokio::time::timeout(PATIENCE, node.stop()).await.expect("it waits for the body");
    let refused = http.read(false).await;
    spec().check(line, &refused);
    assert_refused(&refused, 503, "full", None);
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(refused.header("retry-after").is_some());
    http.expect_end().await;
}

async fn requests_are_counted_by_route_method_and_status(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    caller.say("hi").await;
    caller.say("hi").await;
    caller.get("/api/rooms/secret-room/members?user_id=secret-user").await;
    caller.get("/api/secret").await;
    caller.ask("BREW /api/rooms", &[], None).await;
    let (_stream, _) = super::follow(node.addr, "", &[]).await;
    let (_, text) = get(node.addr, "/metrics").await;
    for series in [
        r#"verbatim_requests_total{route="/api/rooms",method="POST",status="201"} 1"#,
        r#"verbatim_requests_total{route="/api/rooms/{room}/events",method="POST",status="201"} 2"#,
        r#"verbatim_requests_total{route="/api/rooms/{room}/members",method="GET",status="404"} 1"#,
        r#"verbatim_requests_total{route="other",method="GET",status="404"} 1"#,
        r#"verbatim_requests_total{route="/api/rooms",method="other",status="405"} 1"#,
        r#"verbatim_requests_total{route="/api/rooms/{room}/stream",method="GET",status="200"} 1"#,
        r#"verbatim_commands_total{type="message",result="ok"} 2"#,
        r#"verbatim_commands_total{type="members",result="room_not_found"} 1"#,
        "verbatim_streams 1",
    ] {
        assert!(text.lines().any(|line| line == series), "no {series} in\n{text}");
    }
    assert!(!text.contains("secret"), "{text}");
    drop(_stream);
    let deadline = Instant::now() + PATIENCE;
    while !get(node.addr, "/metrics").await.1.contains("\nverbatim_streams 0\n") {
        assert!(Instant::now() < deadline, "the stream is still counted");
    }
}
