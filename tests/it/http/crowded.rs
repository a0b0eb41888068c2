//! A node that is full, or short of files: it answers health checks and those who are in.

use std::time::{Duration, Instant};

use serde_json::json;
use verbatim::config::Config;

use super::{assert_refusal, header, upgrade};
use crate::harness::process::{Exit, Process, run};
use crate::harness::raw::{Raw, get, ready};
use crate::harness::{Client, PATIENCE, World, on_both_logs};

on_both_logs!(
    silence_beyond_the_limit_keeps_no_health_check_out,
    an_address_that_connects_too_fast_gets_429,
    idle_connections_give_way_to_those_who_ask,
    who_is_told_that_a_request_is_none_gives_way_at_once,
);

fn environment(world: &World, settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    world.environment().into_iter().chain(settings).collect()
}

/// 256 places for refusals were taken by whoever came first, and kept for ten seconds.
async fn silence_beyond_the_limit_keeps_no_health_check_out(world: World) {
    // Who has to wait for that does so in vain.
    let patient = ("VERBATIM_SERVER__HEADER_TIMEOUT_MS", "90000");
    let settings = environment(&world, &[("VERBATIM_SERVER__CONNECTIONS_MAX", "8"), patient]);
    let process = Process::start(settings).await;
    let mut inside = Vec::new();
    for _ in 0..8 {
        inside.push(Client::greeted(process.addr).await);
    }
    let listen = process.addr.to_string();
    let mut silent = Vec::new();
    for _ in 0..10 {
        for _ in 0..60 {
            silent.push(Raw::connect(process.addr).await);
        }
        assert_eq!(get(process.addr, "/healthz").await.0.status, 200);
        let asked = run(&["health"], &[("VERBATIM_SERVER__LISTEN", &listen)], &[]).await;
        assert_eq!(asked.exit, Exit::Code(0), "{asked:?}");
    }
    for client in &mut inside {
        client.expect_nothing().await;
    }
}

async fn an_address_that_connects_too_fast_gets_429(world: World) {
    let few = |config: &mut Config| {
        (config.server.connects_per_second, config.server.connects_burst) = (1, 3);
    };
    let node = world.node_with(few).await;
    let mut client = node.client().await;
    let begun = Instant::now();
    for round in 0_u64.. {
        // Three at once, of which the client was one, and one for each second since.
        assert!(round < 3 + begun.elapsed().as_secs(), "nobody was refused");
        let answer = upgrade(node.addr, "").await;
        if answer.0.status == 101 {
            continue;
        }
        assert_refusal(&answer, 429, "too_many_connections");
        assert!(header(&answer.0, "retry-after").is_some());
        break;
    }
    assert_eq!(get(node.addr, "/healthz").await.0.status, 200);
    let metrics = get(node.addr, "/metrics").await.1;
    assert!(metrics.contains(r#"reason="connects_per_second""#), "{metrics}");
    client.expect_nothing().await;
}

async fn idle_connections_give_way_to_those_who_ask(world: World) {
    const ASKED: &str = "GET /api/rooms HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let node = world.node_with(|config| config.server.http_connections_max = 2).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(node.addr).await;
        raw.send(ASKED).await;
        let head = raw.read_head().await;
        assert_eq!(head.status, 200);
        raw.read_exactly(header(&head, "content-length").unwrap().parse().unwrap()).await;
        idle.push(raw);
    }
    // The first has been idle longest; the others are still of use.
    idle.remove(0).expect_end().await;
    for raw in &mut idle {
        raw.send(ASKED).await;
        assert_eq!(raw.read_head().await.status, 200);
    }
    // Sockets and silent connections do not count.
    let mut client = node.client().await;
    let _silent = Raw::connect(node.addr).await;
    client.expect_nothing().await;
}

/// Each kept its place for a second, or for as long as it liked to be read from.
async fn who_is_told_that_a_request_is_none_gives_way_at_once(world: World) {
    const ROUNDS: u32 = 30;
    let node = world.node_with(|config| config.server.http_connections_max = 2).await;
    let begun = Instant::now();
    let mut refused = Vec::new();
    for _ in 0..ROUNDS {
        // Behind a request that is answered, so that it waits for nothing else.
        let mut raw = Raw::connect(node.addr).await;
        raw.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n: \r\n\r\n").await;
        assert_eq!(raw.read_head().await.status, 200);
        raw.read_exactly(r#"{"status":"ok"}"#.len()).await;
        assert_eq!(raw.read_head().await.status, 400);
        // Nobody is told that there is no place.
        assert_eq!(get(node.addr, "/api/rooms").await.0.status, 200);
        refused.push(raw);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// hyper keeps some 20 KB for a connection that has said nothing, or nothing more.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_costs_a_few_kib() {
    const COUNT: usize = 2000;
    const BYTES_MAX: u64 = 8 * 1024;
    rlimit::increase_nofile_limit(2 * COUNT as u64 + 1000).unwrap();
    let world = World::sqlite().await;
    let process = Process::start(world.environment()).await;
    let idle = async || {
        let mut raw = Raw::connect(process.addr).await;
        raw.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        raw.read_head().await;
        raw.read_exactly(r#"{"status":"ok"}"#.len()).await;
        raw
    };
    let mut all = vec![idle().await, Raw::connect(process.addr).await, idle().await];
    let before = process.resident_bytes();
    for _ in 0..COUNT {
        all.push(Raw::connect(process.addr).await);
    }
    // When this is answered, all before it have been let in.
    all.push(idle().await);
    let silent = process.resident_bytes().saturating_sub(before) / COUNT as u64;
    assert!(silent <= BYTES_MAX, "{silent} bytes for each that is silent");
    let before = process.resident_bytes();
    for _ in 0..COUNT {
        all.push(idle().await);
    }
    let each = process.resident_bytes().saturating_sub(before) / COUNT as u64;
    assert!(each <= BYTES_MAX, "{each} bytes for each that is idle");
}

/// It had fewer files than connections, and whoever connected last took those of the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_few_files_serves_those_who_are_in() {
    const PLAIN: &str = "open-file limit is 200";
    let world = World::sqlite().await;
    let process = Process::start_with_files_max(200, world.environment()).await;
    let mut member = Client::greeted(process.addr).await;
    member.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    member.expect(json!({"type": "ack", "seq": 1})).await;
    let mut inside = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    // Until it is full, and then some.
    let mut refused = 0;
    while refused < 100 {
        assert!(Instant::now() < deadline, "{} are in", inside.len());
        match Client::try_connect(process.addr, &[]).await {
            Ok(client) => inside.push(client),
            Err(_) => refused += 1,
        }
    }
    assert!((50..150).contains(&inside.len()), "{} are in", inside.len());
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Raw::connect(process.addr).await);
    }
    for user in 2..10 {
        let user = user.to_string();
        member.send(json!({"type": "join", "user_id": user, "room": "r"})).await;
        member.read_until(json!({"type": "joined", "user_id": user})).await;
        member.send(json!({"type": "history", "user_id": user, "room": "r"})).await;
        member.read_until(json!({"type": "history"})).await;
        assert_eq!(get(process.addr, "/healthz").await.0.status, 200);
        ready(process.addr).await;
    }
    let output = process.output();
    assert_eq!(output.matches(PLAIN).count(), 1, "{output}");
    assert!(!output.contains("cannot accept"), "{output}");
}

/// And nothing is said where there are enough of them.
#[tokio::test]
async fn files_are_not_spoken_of_where_they_suffice() {
    let world = World::sqlite().await;
    let settings = environment(&world, &[("VERBATIM_SERVER__CONNECTIONS_MAX", "100")]);
    // The soft limit is too low, and is raised.
    let process = Process::start_after("ulimit -S -n 200", settings).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::greeted(process.addr).await);
    }
    let output = process.output();
    assert!(!output.contains("open-file limit"), "{output}");
}
