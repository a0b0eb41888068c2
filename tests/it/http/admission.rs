//! Who is let in, how many, and what slow or greedy clients cannot do to the others.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpStream;
use verbatim::config::Config;

use super::{ask, assert_refusal, header, upgrade};
use crate::harness::process::Process;
use crate::harness::raw::{Raw, get, ready, upgrade_request};
use crate::harness::{Client, PATIENCE, World, on_both_logs};

on_both_logs!(
    a_full_node_answers_503_and_its_health,
    an_address_with_too_many_connections_gets_429,
    a_place_is_free_again_when_its_socket_has_closed,
    a_head_that_does_not_come_to_its_end_is_cut,
    a_connection_that_asks_for_nothing_is_cut,
    a_head_that_is_too_long_is_431,
    what_is_not_http_is_400,
);

async fn a_full_node_answers_503_and_its_health(world: World) {
    let node = world.node_with(|config| config.server.connections_max = 3).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(node.client().await);
    }
    let refused = upgrade(node.addr, "").await;
    assert_refusal(&refused, 503, "full");
    let retry_after = header(&refused.0, "retry-after").expect("no Retry-After");
    assert!((1..=60).contains(&retry_after.parse::<u32>().unwrap()), "{retry_after}");
    for path in ["/healthz", "/metrics"] {
        assert_eq!(get(node.addr, path).await.0.status, 200, "{path}");
    }
    ready(node.addr).await;
    // Those who are in notice nothing.
    for client in &mut clients {
        client.expect_nothing().await;
    }
}

async fn an_address_with_too_many_connections_gets_429(world: World) {
    let node = world.node_with(|config| config.server.connections_per_address_max = 2).await;
    let (_one, _two) = (node.client().await, node.client().await);
    let refused = upgrade(node.addr, "").await;
    assert_refusal(&refused, 429, "too_many_connections");
    assert!(header(&refused.0, "retry-after").is_some());
    assert_eq!(get(node.addr, "/healthz").await.0.status, 200);
    // Another address has a count of its own.
    #[cfg(target_os = "linux")]
    {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let stream = socket.connect(node.addr).await.unwrap();
        let mut raw = Raw::over(stream);
        raw.send(upgrade_request(node.addr, "")).await;
        assert_eq!(raw.read_head().await.status, 101);
    }
}

async fn a_place_is_free_again_when_its_socket_has_closed(world: World) {
    let node = world.node_with(|config| config.server.connections_max = 1).await;
    for round in 0..20 {
        // The place comes free a moment after the socket's end is seen here.
        let deadline = Instant::now() + PATIENCE;
        let mut client = loop {
            match Client::try_connect(node.addr, &[]).await {
                Ok(client) => break client,
                Err(err) => assert!(Instant::now() < deadline, "round {round}: {err}"),
            }
        };
        client.expect_hello().await;
        match round % 3 {
            0 => client.close().await,
            1 => drop(client),
            _ => {
                client.send_binary(vec![0]).await;
                client.expect_close(1003).await;
            }
        }
    }
}

/// Slowloris: a header line now and then keeps nobody's connection open.
async fn a_head_that_does_not_come_to_its_end_is_cut(world: World) {
    let node = world.node_with(|config| config.server.header_timeout_ms = 300).await;
    let mut raw = Raw::connect(node.addr).await;
    raw.send("GET /ws HTTP/1.1\r\nHost: localhost\r\n").await;
    let begun = Instant::now();
    // One more line every 30 ms, until the server has had enough.
    let mut ticks = tokio::time::interval(Duration::from_millis(30));
    while raw.try_send("X-Slow: 1\r\n").await.is_ok() {
        assert!(begun.elapsed() < PATIENCE, "it is still being listened to");
        ticks.tick().await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(250), "cut after {:?}", begun.elapsed());
}

async fn a_connection_that_asks_for_nothing_is_cut(world: World) {
    let brief = |config: &mut Config| {
        (config.server.header_timeout_ms, config.server.keep_alive_ms) = (300, 90_000);
    };
    let node = world.node_with(brief).await;
    let begun = Instant::now();
    let mut silent = Raw::connect(node.addr).await;
    silent.expect_end().await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "cut after {:?}", begun.elapsed());
    // A WebSocket is not an HTTP connection that asks for nothing. (On a machine that stands still
    // it takes more than one try to ask in so short a time.)
    let mut client = loop {
        match Client::try_connect(node.addr, &[]).await {
            Ok(client) => break client,
            Err(err) => assert!(begun.elapsed() < PATIENCE, "{err}"),
        }
    };
    client.expect_hello().await;
    let mut other = Raw::connect(node.addr).await;
    other.read_to_end().await;
    client.expect_nothing().await;
    node.stop().await;

    // Idle is not silent: it has a time of its own.
    let brief = |config: &mut Config| {
        (config.server.header_timeout_ms, config.server.keep_alive_ms) = (90_000, 600);
    };
    let node = world.node_with(brief).await;
    let begun = Instant::now();
    let mut kept_alive = Raw::connect(node.addr).await;
    kept_alive.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(kept_alive.read_head().await.status, 200);
    kept_alive.read_exactly(r#"{"status":"ok"}"#.len()).await;
    kept_alive.expect_end().await;
    assert!(begun.elapsed() >= Duration::from_millis(600), "cut after {:?}", begun.elapsed());
}

async fn a_head_that_is_too_long_is_431(world: World) {
    let node = world.node_with(|config| config.server.header_bytes_max = 8192).await;
    let long =
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(9000));
    let refused = ask(node.addr, &long).await;
    assert_refusal(&refused, 431, "head_too_large");
    assert_eq!(header(&refused.0, "connection"), Some("close"));
    for (fields, status) in [(99, 200), (100, 431)] {
        let many = "X: 1\r\n".repeat(fields);
        let request = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
        assert_eq!(ask(node.addr, &request).await.0.status, status, "{fields} and one");
    }
    // One that never ends is answered before it has filled our memory.
    let mut raw = Raw::connect(node.addr).await;
    raw.send("GET /healthz HTTP/1.1\r\nX: ").await;
    let mut sent = 0;
    while sent < 4 * 1024 * 1024 && raw.try_send([b'x'; 4096]).await.is_ok() {
        sent += 4096;
    }
    assert!(sent < 4 * 1024 * 1024, "it reads on");
    let (head, _) = get(node.addr, "/healthz").await;
    assert_eq!(head.status, 200);
}

async fn what_is_not_http_is_400(world: World) {
    let node = world.node().await;
    for garbage in ["\u{16}\u{3}\u{1}\u{2}", "hello\r\n\r\n", "GET /ws HTTP/9.9\r\n\r\n"] {
        let mut raw = Raw::connect(node.addr).await;
        raw.send(garbage).await;
        raw.send("\r\n\r\n").await;
        let answer = raw.read_to_end().await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(get(node.addr, "/healthz").await.0.status, 200);
}

/// No file left for one more connection is a bad minute, not the end: when there are some again,
/// the node accepts again. Where it meets the end of its files is for the test to say: those who
/// connect and say nothing give way, perhaps as fast as they come.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn a_node_that_has_run_out_of_files_accepts_again_later() {
    let world = World::sqlite().await;
    let process = Process::start(world.environment()).await;
    let mut client = Client::greeted(process.addr).await;
    // 0, 1 and 2 are in use, so nothing more can be opened.
    let before = process.limit_files(3);
    let mut later = Raw::connect(process.addr).await;
    let deadline = Instant::now() + PATIENCE;
    while !process.output().contains("cannot accept connections") {
        assert!(Instant::now() < deadline, "it never ran out:\n{}", process.output());
        // The one that is in is served all the while.
        client.expect_nothing().await;
    }
    process.limit_files(before);
    later.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(later.read_head().await.status, 200);
    let mut later = Client::greeted(process.addr).await;
    later.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    later.expect(json!({"type": "ack", "seq": 1})).await;
}

/// After a restart every client is back in the same second; one whose first packet is dropped comes
/// again only after a second, and then after three.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_crowd_is_let_in_at_once_though_nobody_accepts_yet() {
    const CROWD: usize = 1000;
    let process = Process::start(Vec::new()).await;
    // From here on only the kernel answers.
    process.signal(rustix::process::Signal::STOP);
    let mut streams = Vec::new();
    for place in 0..CROWD {
        let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(process.addr)).await;
        streams.push(connected.unwrap_or_else(|_| panic!("only {place} were let in")).unwrap());
    }
    process.signal(rustix::process::Signal::CONT);
    assert_eq!(get(process.addr, "/healthz").await.0.status, 200);
}
