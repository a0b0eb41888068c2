//! Who asks, if a proxy stands between: limits are of its clients, and nobody else is believed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use verbatim::config::Config;

use super::{assert_refusal, header};
use crate::harness::raw::{Head, Raw, get, upgrade_request};
use crate::harness::{PATIENCE, World, on_both_logs};

on_both_logs!(
    a_limit_of_one_address_is_of_the_client_behind_a_proxy,
    requests_are_counted_for_the_client_behind_a_proxy,
    forwarded_is_believed_where_it_is_asked_for,
    a_connection_may_begin_with_the_proxy_protocol,
    what_does_not_begin_with_it_is_closed,
);

/// Two addresses of this machine: the proxy's, and another's.
const PROXY: &str = "127.0.0.1";
const OTHER: &str = "127.0.0.2";

/// One socket of one client, by way of the proxy.
fn proxied(config: &mut Config) {
    config.server.trusted_proxies = vec![PROXY.to_owned()];
    config.server.connections_per_address_max = 1;
}

fn introduced(config: &mut Config) {
    proxied(config);
    config.server.proxy_header = "proxy-protocol".to_owned();
}

async fn connect(from: &str, addr: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    Raw::over(socket.connect(addr).await.unwrap())
}

/// An upgrade that begins with that, and has these headers more; the connection with the answer.
async fn upgrade(from: &str, addr: SocketAddr, first: &[u8], headers: &str) -> (Raw, Head) {
    let mut raw = connect(from, addr).await;
    raw.send([first, upgrade_request(addr, headers).as_bytes()].concat()).await;
    let head = raw.read_head().await;
    (raw, head)
}

async fn a_limit_of_one_address_is_of_the_client_behind_a_proxy(world: World) {
    let node = world.node_with(proxied).await;
    let by_proxy = async |client: &str| {
        let header = format!("X-Forwarded-For: {client}\r\n");
        upgrade(PROXY, node.addr, b"", &header).await
    };
    let (_one, head) = by_proxy("192.0.2.1").await;
    assert_eq!(head.status, 101);
    let (_two, head) = by_proxy("192.0.2.2").await;
    assert_eq!(head.status, 101);
    // What stands before the proxy's word is the client's own, and not believed.
    let (mut raw, head) = by_proxy("192.0.2.3, 192.0.2.1").await;
    let len = header(&head, "content-length").unwrap().parse().unwrap();
    let body = String::from_utf8(raw.read_exactly(len).await).unwrap();
    assert_refusal(&(head, body), 429, "too_many_connections");
    // The proxy has room for more than one connection itself.
    let (_three, head) = by_proxy("192.0.2.3").await;
    assert_eq!(head.status, 101);
    // Nobody but the proxy can speak for others.
    #[cfg(target_os = "linux")]
    {
        let header = "X-Forwarded-For: 192.0.2.4\r\n";
        let (_first, head) = upgrade(OTHER, node.addr, b"", header).await;
        assert_eq!(head.status, 101);
        let header = "X-Forwarded-For: 192.0.2.5\r\n";
        let (_second, head) = upgrade(OTHER, node.addr, b"", header).await;
        assert_eq!(head.status, 429);
    }
}

async fn requests_are_counted_for_the_client_behind_a_proxy(world: World) {
    let node = world
        .node_with(|config| {
            proxied(config);
            (config.api.requests_per_second, config.api.requests_burst) = (1, 2);
        })
        .await;
    // All of them by one connection, as a proxy has it.
    let mut raw = connect(PROXY, node.addr).await;
    let mut ask = async |client: &str| {
        let request = format!(
            "GET /api/rooms HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {client}\r\n\r\n"
        );
        raw.send(request).await;
        let head = raw.read_head().await;
        raw.read_exactly(header(&head, "content-length").unwrap().parse().unwrap()).await;
        head.status
    };
    let mut flood = Vec::new();
    for _ in 0..5 {
        flood.push(ask("192.0.2.1").await);
    }
    assert_eq!(flood[..2], [200, 200]);
    assert!(flood.contains(&429), "{flood:?}");
    assert_eq!(ask("192.0.2.2").await, 200);
}

async fn forwarded_is_believed_where_it_is_asked_for(world: World) {
    let node = world
        .node_with(|config| {
            proxied(config);
            config.server.proxy_header = "forwarded".to_owned();
        })
        .await;
    let by_proxy = async |header: &str| upgrade(PROXY, node.addr, b"", header).await;
    let (_one, head) = by_proxy("Forwarded: for=\"[2001:db8::1]:4711\";proto=https\r\n").await;
    assert_eq!(head.status, 101);
    // The same site, whatever it says of itself in the other header.
    let same = "Forwarded: for=\"[2001:db8::2]\"\r\nX-Forwarded-For: 192.0.2.1\r\n";
    assert_eq!(by_proxy(same).await.1.status, 429);
    let (_two, head) = by_proxy("Forwarded: for=192.0.2.1\r\n").await;
    assert_eq!(head.status, 101);
}

/// Version 2 of the protocol: a TCP connection over IPv4 from there.
fn binary(client: [u8; 4]) -> Vec<u8> {
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&head[..], &client, &[10, 0, 0, 1, 0x12, 0x34, 0x01, 0xbb]].concat()
}

async fn a_connection_may_begin_with_the_proxy_protocol(world: World) {
    let node = world.node_with(introduced).await;
    // What it says of itself in a header is nothing here.
    let spoofed = "X-Forwarded-For: 198.51.100.9\r\n";
    let by_proxy = async |first: &[u8]| upgrade(PROXY, node.addr, first, spoofed).await;
    let line = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n";
    let (mut one, head) = by_proxy(line).await;
    assert_eq!(head.status, 101);
    assert_eq!(one.read_frame().await.first, 0x81);
    assert_eq!(by_proxy(line).await.1.status, 429);
    assert_eq!(by_proxy(&binary([192, 0, 2, 1])).await.1.status, 429);
    let (_two, head) = by_proxy(&binary([192, 0, 2, 2])).await;
    assert_eq!(head.status, 101);
    // A balancer's own checks.
    let asked = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for own in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let mut raw = connect(PROXY, node.addr).await;
        // In pieces, one byte each.
        for byte in [own, asked].concat() {
            raw.send([byte]).await;
        }
        assert_eq!(raw.read_head().await.status, 200);
    }
}

async fn what_does_not_begin_with_it_is_closed(world: World) {
    let node = world
        .node_with(|config| {
            introduced(config);
            config.server.header_timeout_ms = 300;
        })
        .await;
    let mut plain = connect(PROXY, node.addr).await;
    plain.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let told = plain.read_to_end().await;
    assert!(told.is_empty(), "{}", told.escape_ascii());
    // One that begins and does not end, and one that says no more than that.
    for part in
        [&b"PROXY TCP4 192"[..], b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n", b"\r\n\r\n\0"]
    {
        let begun = Instant::now();
        let mut raw = connect(PROXY, node.addr).await;
        raw.send(part).await;
        raw.expect_end().await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(250) && took < PATIENCE, "cut after {took:?}");
    }
    // Of others nobody takes it.
    #[cfg(target_os = "linux")]
    {
        node.stop().await;
        let node = world.node_with(introduced).await;
        let mut raw = connect(OTHER, node.addr).await;
        raw.send("PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\nGET / HTTP/1.1\r\n\r\n").await;
        assert_eq!(raw.read_head().await.status, 400);
        let mut raw = connect(OTHER, node.addr).await;
        raw.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(raw.read_head().await.status, 200);
    }
}

/// Whoever is no proxy may send what headers they like.
#[tokio::test]
async fn a_node_without_proxies_believes_nobody() {
    let world = World::sqlite().await;
    let node = world.node_with(|config| config.server.connections_per_address_max = 1).await;
    let (_one, head) = upgrade(
        PROXY,
        node.addr,
        b"",
        "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n",
    )
    .await;
    assert_eq!(head.status, 101);
    let (_two, head) = upgrade(PROXY, node.addr, b"", "X-Forwarded-For: 192.0.2.2\r\n").await;
    assert_eq!(head.status, 429);
    assert_eq!(get(node.addr, "/healthz").await.0.status, 200);
}
