//! The listener for those who watch a node, and what is not told to others then.

use verbatim::config::Config;

use super::{ask, assert_refusal, upgrade};
use crate::harness::process::{Exit, Process, run};
use crate::harness::raw::{Raw, get, ready};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    what_is_for_watchers_is_told_at_their_listener_only,
    watchers_are_answered_whatever_goes_on_elsewhere,
);

fn internal(config: &mut Config) {
    config.server.internal_listen = "127.0.0.1:0".to_owned();
}

async fn what_is_for_watchers_is_told_at_their_listener_only(world: World) {
    let node = world.node_with(internal).await;
    let _client = node.client().await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let (head, body) = match path {
            "/readyz" => ready(node.internal_addr()).await,
            path => get(node.internal_addr(), path).await,
        };
        assert_eq!(head.status, 200, "{path}");
        // The clients' numbers, not those of who asks.
        let is_metrics = path != "/metrics" || body.contains("\nverbatim_connections_admitted 1\n");
        assert!(is_metrics, "{body}");
    }
    for path in ["/readyz", "/metrics"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_refusal(&ask(node.addr, &request).await, 404, "not_found");
    }
    assert_eq!(get(node.addr, "/healthz").await.0.status, 200);
    // And there is no chat there.
    assert_refusal(&upgrade(node.internal_addr(), "").await, 404, "not_found");
    for path in ["/", "/verbatim.js", "/api/rooms", "/ws"] {
        assert_eq!(get(node.internal_addr(), path).await.0.status, 404, "{path}");
    }
    // A web page is kept out as everywhere.
    let rebound = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_refusal(&ask(node.internal_addr(), rebound).await, 421, "host");
}

async fn watchers_are_answered_whatever_goes_on_elsewhere(world: World) {
    let full = |config: &mut Config| {
        internal(config);
        (config.server.connections_max, config.server.connects_burst) = (1, 1);
    };
    let node = world.node_with(full).await;
    let _client = node.client().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Raw::connect(node.addr).await);
    }
    for _ in 0..20 {
        ready(node.internal_addr()).await;
    }
}

#[tokio::test]
async fn health_is_asked_where_it_is_always_answered() {
    let process = Process::start(vec![(
        "VERBATIM_SERVER__INTERNAL_LISTEN".to_owned(),
        "127.0.0.1:0".to_owned(),
    )])
    .await;
    assert_eq!(get(process.addr, "/readyz").await.0.status, 404);
    // It asks the internal listener, and says which that is.
    let settings = [("VERBATIM_SERVER__INTERNAL_LISTEN", "127.0.0.1:1")];
    let asked = run(&["health"], &settings, &[]).await;
    assert_eq!(asked.exit, Exit::Code(1));
    assert!(asked.stdout.starts_with("nothing answers at 127.0.0.1:1: "), "{asked:?}");
    // At another it introduces itself, if that is wanted.
    let process = Process::start(vec![
        ("VERBATIM_SERVER__TRUSTED_PROXIES".to_owned(), "127.0.0.0/8".to_owned()),
        ("VERBATIM_SERVER__PROXY_HEADER".to_owned(), "proxy-protocol".to_owned()),
    ])
    .await;
    let listen = process.addr.to_string();
    let mut settings = vec![("VERBATIM_SERVER__LISTEN", &*listen)];
    assert_eq!(run(&["health"], &settings, &[]).await.exit, Exit::Code(1));
    settings.push(("VERBATIM_SERVER__TRUSTED_PROXIES", "127.0.0.0/8"));
    settings.push(("VERBATIM_SERVER__PROXY_HEADER", "proxy-protocol"));
    assert_eq!(run(&["health"], &settings, &[]).await.exit, Exit::Code(0));
}
