//! What each path answers, and which upgrades are proper.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ask, assert_refusal, header, upgrade};
use crate::harness::postgres::Postgres;
use crate::harness::raw::{Raw, get, masked_frame, ready, upgrade_request};
use crate::harness::{Client, World, on_both_logs};

on_both_logs!(
    healthz_and_readyz_answer_json,
    everything_else_is_404_with_a_json_body,
    every_path_tells_its_methods_and_answers_head,
    a_subprotocol_is_answered_if_it_is_ours,
    an_improper_upgrade_is_told_what_would_do,
    an_upgrade_answers_as_the_rfc_has_it,
    frames_sent_along_with_the_upgrade_are_read,
    an_origin_must_be_absent_or_the_same_host_or_listed,
    a_star_lets_every_origin_in,
    several_requests_may_use_one_connection,
    a_node_that_stops_takes_no_more_connections,
);

async fn healthz_and_readyz_answer_json(world: World) {
    let node = world.node().await;
    // Only who shares a log with others may lack a Redis.
    let mirror = if world.config.log.url.0.is_empty() { "none" } else { "missing" };
    let is_ready = format!(r#"{{"status":"ready","node":"test","log":"ok","mirror":"{mirror}"}}"#);
    for (path, wanted) in [
        ("/healthz", r#"{"status":"ok"}"#),
        ("/readyz", &*is_ready),
        ("/healthz?verbose=1", r#"{"status":"ok"}"#),
    ] {
        let (head, body) = match path {
            "/readyz" => ready(node.addr).await,
            path => get(node.addr, path).await,
        };
        assert_eq!((head.status, &*body), (200, wanted), "{path}");
        assert_eq!(header(&head, "content-type"), Some("application/json"));
        assert_eq!(header(&head, "cache-control"), Some("no-store"));
    }
    let mut raw = Raw::connect(node.addr).await;
    raw.send("HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(raw.read_head().await.status, 200);
    raw.expect_end().await;
}

/// The process is healthy without its log, and says that it is not ready; it comes back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn readyz_is_503_while_the_log_is_away() {
    let mut postgres = Postgres::start(&[]).await;
    let node = World::on(&postgres.database().await).node().await;
    ready(node.addr).await;
    postgres.kill();
    let (head, body) = get(node.addr, "/readyz").await;
    let wanted = r#"{"status":"unready","node":"test","log":"away","mirror":"missing"}"#;
    assert_eq!((head.status, &*body), (503, wanted));
    assert_eq!(get(node.addr, "/healthz").await.0.status, 200);
    assert_eq!(get(node.addr, "/metrics").await.0.status, 200);
    postgres.restart().await;
    ready(node.addr).await;
}

/// A log that takes connections and does not answer is away, too, and does not hold the answer up.
#[tokio::test(flavor = "multi_thread")]
async fn readyz_is_503_while_the_log_hangs() {
    let postgres = Postgres::start(&[]).await;
    let node = World::on(&postgres.database().await).node().await;
    postgres.pause();
    // Long before anything else would give up.
    let begun = Instant::now();
    let (head, _) = get(node.addr, "/readyz").await;
    assert_eq!(head.status, 503);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    postgres.resume();
    ready(node.addr).await;
}

async fn everything_else_is_404_with_a_json_body(world: World) {
    let node = world.node().await;
    for path in
        ["/index.html", "/ws/", "/WS", "/healthz/x", "/metrics.json", "/%2e%2e/etc/passwd", "//ws"]
    {
        assert_refusal(&get(node.addr, path).await, 404, "not_found");
    }
    for method in ["POST", "HEAD", "OPTIONS", "BREW"] {
        let request = format!("{method} /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut raw = Raw::connect(node.addr).await;
        raw.send(&request).await;
        assert_eq!(raw.read_head().await.status, 404, "{method}");
    }
}

/// What balancers ask unless they are told better: `OPTIONS /` and `HEAD`. Another method is told
/// which there are.
async fn every_path_tells_its_methods_and_answers_head(world: World) {
    const READS: &str = "GET, HEAD, OPTIONS";
    let node = world.node().await;
    let ask = async |method: &str, path: &str| {
        let mut raw = Raw::connect(node.addr).await;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        raw.send(format!("{head}\r\n")).await;
        let head = raw.read_head().await;
        let body = raw.read_to_end().await;
        (head, String::from_utf8(body).unwrap())
    };
    for path in ["/", "/app.js", "/verbatim.js", "/healthz", "/readyz", "/metrics"] {
        let (head, body) = ask("OPTIONS", path).await;
        assert_eq!((head.status, &*body), (204, ""), "{path}");
        assert_eq!(header(&head, "allow"), Some(READS), "{path}");
        let (head, body) = ask("HEAD", path).await;
        assert_eq!((head.status, &*body), (200, ""), "{path}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
            let refused = ask(method, path).await;
            assert_refusal(&refused, 405, "method_not_allowed");
            assert_eq!(header(&refused.0, "allow"), Some(READS), "{path}");
        }
    }
    for (path, allow) in [("*", "GET, HEAD, POST, PUT, DELETE, OPTIONS"), ("/ws", "GET, OPTIONS")] {
        let (head, body) = ask("OPTIONS", path).await;
        assert_eq!((head.status, &*body), (204, ""), "{path}");
        assert_eq!(header(&head, "allow"), Some(allow), "{path}");
    }
    node.stop().await;
    let without = world.node_with(|config| config.server.page = false).await;
    let mut raw = Raw::connect(without.addr).await;
    raw.send("OPTIONS / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.read_head().await.status, 204);
}

async fn an_improper_upgrade_is_told_what_would_do(world: World) {
    let node = world.node().await;
    let plain = get(node.addr, "/ws").await;
    assert_refusal(&plain, 426, "bad_upgrade");
    assert_eq!(header(&plain.0, "upgrade"), Some("websocket"));
    let proper = upgrade_request(node.addr, "");
    for (from, to, status) in [
        ("GET /ws", "POST /ws", 405),
        ("Version: 13", "Version: 8", 426),
        ("Key: dGhl", "Key: dGh", 400),
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("HTTP/1.1", "HTTP/1.0", 426),
    ] {
        let answer = ask(node.addr, &proper.replace(from, to)).await;
        assert_refusal(&answer, status, "bad_upgrade");
    }
    let old = ask(node.addr, &proper.replace("Version: 13", "Version: 8")).await;
    assert_eq!(header(&old.0, "sec-websocket-version"), Some("13"));
}

async fn an_upgrade_answers_as_the_rfc_has_it(world: World) {
    let node = world.node().await;
    let (head, _) = upgrade(node.addr, "Sec-WebSocket-Extensions: permessage-deflate\r\n").await;
    assert_eq!(head.status, 101, "{}", head.text);
    // The key and its answer of RFC 6455, section 1.3.
    assert_eq!(header(&head, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(header(&head, "connection").map(str::to_lowercase), Some("upgrade".to_owned()));
    // There is no extension, whatever was offered.
    assert_eq!(header(&head, "sec-websocket-extensions"), None);
}

/// Nothing else is echoed, and nobody is refused for what they offer besides.
async fn a_subprotocol_is_answered_if_it_is_ours(world: World) {
    let node = world.node().await;
    const OURS: Option<&str> = Some("verbatim.v1");
    for (offered, answered) in [
        (&["verbatim.v1"][..], OURS),
        (&["a, verbatim.v1, verbatim.token.x.y"], OURS),
        (&["a", "verbatim.v1"], OURS),
        (&["a, verbatim.v2"], None),
        (&[], None),
    ] {
        let lines: Vec<_> =
            offered.iter().map(|it| format!("Sec-WebSocket-Protocol: {it}\r\n")).collect();
        let (head, _) = upgrade(node.addr, &lines.concat()).await;
        assert_eq!(head.status, 101, "{offered:?}");
        assert_eq!(header(&head, "sec-websocket-protocol"), answered, "{offered:?}");
    }
}

async fn frames_sent_along_with_the_upgrade_are_read(world: World) {
    let node = world.node().await;
    let mut raw = Raw::connect(node.addr).await;
    let mut bytes = upgrade_request(node.addr, "").into_bytes();
    for _ in 0..3 {
        bytes.extend(masked_frame(0x81, br#"{"type":"ping"}"#));
    }
    raw.send(bytes).await;
    assert_eq!(raw.read_head().await.status, 101);
    assert!(raw.read_frame().await.payload.starts_with(br#"{"type":"hello""#));
    for _ in 0..3 {
        assert_eq!(raw.read_frame().await.payload, br#"{"type":"pong"}"#);
    }
}

async fn an_origin_must_be_absent_or_the_same_host_or_listed(world: World) {
    let node = world
        .node_with(|config| {
            config.server.allowed_origins = vec!["https://chat.example".to_owned()];
        })
        .await;
    let own = format!("http://{}", node.addr);
    let own_port = format!("http://127.0.0.1:{}", node.addr.port() ^ 1);
    for (origin, status) in [
        (&*own, 101),
        (&own.replace("http", "https"), 101),
        ("https://chat.example", 101),
        ("HTTPS://Chat.Example", 101),
        ("https://chat.example:443", 101),
        ("null", 403),
        ("http://chat.example", 403),
        ("https://chat.example:8443", 403),
        ("https://evil.chat.example", 403),
        ("https://chat.example.evil", 403),
        ("https://other.example", 403),
        (&*own_port, 403),
        ("127.0.0.1", 403),
        ("", 403),
    ] {
        let answer = upgrade(node.addr, &format!("Origin: {origin}\r\n")).await;
        assert_eq!(answer.0.status, status, "{origin}");
        if status == 403 {
            assert_refusal(&answer, 403, "origin");
        }
    }
    assert_eq!(upgrade(node.addr, "").await.0.status, 101);
}

async fn a_star_lets_every_origin_in(world: World) {
    let node = world.node_with(|config| config.server.allowed_origins = vec!["*".to_owned()]).await;
    let answer = upgrade(node.addr, "Origin: https://anything.example\r\n").await;
    assert_eq!(answer.0.status, 101);
}

async fn several_requests_may_use_one_connection(world: World) {
    let node = world.node().await;
    let mut raw = Raw::connect(node.addr).await;
    // Pipelined, and an upgrade last.
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3);
    raw.send(request + &upgrade_request(node.addr, "")).await;
    for _ in 0..3 {
        assert_eq!(raw.read_head().await.status, 200);
        assert_eq!(raw.read_exactly(r#"{"status":"ok"}"#.len()).await, br#"{"status":"ok"}"#);
    }
    assert_eq!(raw.read_head().await.status, 101);
    assert!(raw.read_frame().await.payload.starts_with(br#"{"type":"hello""#));
}

/// A connection that was open before learns that it is over, and a socket that has a command under
/// way gets its answer first.
async fn a_node_that_stops_takes_no_more_connections(world: World) {
    let node = world.node().await;
    let mut idle = Raw::connect(node.addr).await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.read_head().await.status, 200);
    idle.read_exactly(r#"{"status":"ok"}"#.len()).await;
    let mut client = Client::greeted(node.addr).await;
    client.send(json!({"type": "ping"})).await;
    client.expect(json!({"type": "pong"})).await;
    let addr = node.addr;
    let stopped = tokio::spawn(node.stop());
    idle.expect_end().await;
    client.expect(json!({"type": "goodbye"})).await;
    client.expect_close(1012).await;
    drop(client);
    stopped.await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
