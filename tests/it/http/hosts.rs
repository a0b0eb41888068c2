//! By which names a node goes, and what a web page of another name cannot do: DNS rebinding.

use serde_json::json;

use super::{ask, assert_refusal, header, upgrade};
use crate::harness::raw::{Raw, get, upgrade_request};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    a_page_whose_name_resolves_to_this_node_cannot_ask_it,
    a_node_goes_by_addresses_localhost_and_its_listed_names,
    a_request_names_its_host_once,
    several_origins_are_none,
);

/// Everything that there is, and something that there is not.
const PATHS: [&str; 8] =
    ["/", "/verbatim.js", "/healthz", "/readyz", "/metrics", "/api/rooms", "/api/x", "/nothing"];

/// A browser believes that page and node have one origin, and sends what the page wants.
async fn a_page_whose_name_resolves_to_this_node_cannot_ask_it(world: World) {
    let node = world.node().await;
    let evil = format!("evil.example:{}", node.addr.port());
    let page = format!("Host: {evil}\r\nOrigin: http://{evil}\r\n");
    for path in PATHS {
        let answer = ask(node.addr, &format!("GET {path} HTTP/1.1\r\n{page}\r\n")).await;
        assert_refusal(&answer, 421, "host");
        assert!(answer.1.contains("server.hosts"), "{}", answer.1);
    }
    let own = format!("Host: {}\r\n", node.addr);
    let proper = upgrade_request(node.addr, "").replace(&own, &page);
    assert_refusal(&ask(node.addr, &proper).await, 421, "host");
    let body = json!({"user_id": "1", "room": "r"}).to_string();
    let kind = "Content-Type: application/json\r\n";
    let post = format!(
        "POST /api/rooms HTTP/1.1\r\n{page}{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut raw = Raw::connect(node.addr).await;
    raw.send(&post).await;
    assert_eq!(raw.read_head().await.status, 421);
    let rooms = get(node.addr, "/api/rooms").await.1;
    assert!(rooms.starts_with(r#"{"type":"rooms","rooms":[]"#), "{rooms}");
    let metrics = get(node.addr, "/metrics").await.1;
    let refused = r#"verbatim_connections_refused_total{reason="host"} 10"#;
    assert!(metrics.lines().any(|line| line == refused), "{metrics}");
}

async fn a_node_goes_by_addresses_localhost_and_its_listed_names(world: World) {
    let listed = vec!["chat.example".to_owned()];
    let node = world.node_with(|config| config.server.hosts = listed).await;
    for (host, status) in [
        ("localhost", 200),
        ("LocalHost.:1", 200),
        ("192.0.2.7:80", 200),
        ("[::1]:8080", 200),
        ("Chat.Example:8443", 200),
        ("evil.chat.example", 421),
        ("foo.localhost", 421),
        ("", 421),
        ("localhost:port", 400),
        ("user@localhost", 400),
        ("::1", 400),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = ask(node.addr, &request).await;
        assert_eq!(answer.0.status, status, "{host}");
        if status != 200 {
            assert_refusal(&answer, status, "host");
        }
    }
    // A page of a listed name is the node's own.
    let own = "Host: chat.example\r\nOrigin: https://chat.example\r\n";
    let usual = format!("Host: {}\r\n", node.addr);
    let proper = upgrade_request(node.addr, "").replace(&usual, own);
    assert_eq!(ask(node.addr, &proper).await.0.status, 101);
}

async fn a_request_names_its_host_once(world: World) {
    let node = world.node().await;
    for (request, status) in [
        ("GET /healthz HTTP/1.1\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /healthz HTTP/1.0\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
        ("GET /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n", 421),
        ("GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200),
        ("GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
        ("GET http://localhost/healthz HTTP/1.1\r\n\r\n", 400),
        ("GET //evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
    ] {
        let mut raw = Raw::connect(node.addr).await;
        raw.send(request).await;
        assert_eq!(raw.read_head().await.status, status, "{request}");
    }
}

async fn several_origins_are_none(world: World) {
    let node = world.node_with(|config| config.server.allowed_origins = vec!["*".to_owned()]).await;
    let origins = format!("Origin: http://{}\r\nOrigin: https://b.example\r\n", node.addr);
    assert_refusal(&upgrade(node.addr, &origins).await, 400, "origin");
    for path in PATHS {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{origins}\r\n");
        let answer = ask(node.addr, &request).await;
        assert_refusal(&answer, 400, "origin");
        assert_eq!(header(&answer.0, "access-control-allow-origin"), None);
    }
}
