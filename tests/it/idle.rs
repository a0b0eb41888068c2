//! Sockets that say nothing: thousands of them cost little, and those that do not even answer pings
//! are closed after two heartbeats, with 4009.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::process::Process;
use crate::harness::raw::{Raw, get};
use crate::harness::{Client, PATIENCE, World, on_both_logs};

on_both_logs!(
    thousands_of_silent_sockets_are_closed_after_two_heartbeats,
    whoever_answers_pings_or_says_anything_stays,
);

/// HTTP's read buffer was once kept for as long as the socket lived: 8 KiB for nothing.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_socket_costs_a_few_kib() {
    rlimit::increase_nofile_limit(SILENT as u64 + 1000).unwrap();
    let process = serve(&World::sqlite().await, 25_000).await;
    // The first of them bring what is there once for all.
    let mut sockets = vec![greeted(process.addr).await, greeted(process.addr).await];
    let before = process.resident_bytes();
    for _ in 0..SILENT {
        sockets.push(greeted(process.addr).await);
    }
    let each = (process.resident_bytes() - before) / SILENT as u64;
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes for each idle socket");
}

const SILENT: usize = 3000;

/// What an idle socket may cost the node, in bytes of resident memory. The release build,
/// at 10,000 sockets, takes about 3.7 KiB.
#[cfg(target_os = "linux")]
const IDLE_BYTES_MAX: u64 = 6 * 1024;

/// The next bytes answer what is sent.
#[cfg(target_os = "linux")]
async fn greeted(addr: std::net::SocketAddr) -> Raw {
    let mut raw = Raw::upgrade(addr).await;
    raw.read_frame().await;
    raw
}

async fn serve(world: &World, heartbeat_ms: u64) -> Process {
    let mut environment = world.environment();
    environment.push(("VERBATIM_SOCKET__HEARTBEAT_MS".to_owned(), heartbeat_ms.to_string()));
    Process::start(environment).await
}

async fn thousands_of_silent_sockets_are_closed_after_two_heartbeats(world: World) {
    // This process holds the other ends.
    rlimit::increase_nofile_limit(SILENT as u64 + 1000).unwrap();
    let process = serve(&world, 4500).await;
    let mut reads = Client::greeted(process.addr).await;
    // It reads all the while, and so answers pings.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let alive = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        let mut stopped = stopped;
        while stopped.try_recv().is_err() {
            ticks.tick().await;
            reads.expect_nothing().await;
        }
        reads
    });
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(Raw::upgrade(process.addr).await);
    }
    let mut pings = 0;
    for raw in &mut silent {
        assert!(raw.read_frame().await.payload.starts_with(br#"{"type":"hello""#));
        let last = loop {
            let frame = raw.read_frame().await;
            if frame.first != 0x89 {
                break frame;
            }
            pings += 1;
        };
        assert_eq!((last.first, &last.payload[..2]), (0x88, &4009_u16.to_be_bytes()[..]));
    }
    assert!(begun.elapsed() >= Duration::from_millis(8900), "after {:?}", begun.elapsed());
    assert!(pings >= SILENT, "they were not asked: {pings} pings for {SILENT}");
    let (_, metrics) = get(process.addr, "/metrics").await;
    let closed = format!("verbatim_sockets_closed_total{{code=\"4009\"}} {SILENT}\n");
    assert!(metrics.contains(&closed), "{metrics}");
    drop(silent);
    stop.send(()).unwrap();
    let mut client = alive.await.unwrap();
    client.expect_nothing().await;
    let deadline = Instant::now() + PATIENCE;
    while !get(process.addr, "/metrics").await.1.contains("verbatim_connections 1\n") {
        assert!(Instant::now() < deadline, "their places are not free again");
    }
}

/// A pong is a sign of life, and so is anything else; none of these ever says a command.
async fn whoever_answers_pings_or_says_anything_stays(world: World) {
    // Longer than a machine stands still: else it would not ask before it gives somebody up.
    let process = serve(&world, 4500).await;
    let mut answers = Raw::upgrade(process.addr).await;
    let mut talks = Raw::upgrade(process.addr).await;
    let mut reads = Client::greeted(process.addr).await;
    answers.read_frame().await;
    talks.read_frame().await;
    for beat in 0..3 {
        let ping = answers.read_frame().await;
        assert_eq!(ping.first, 0x89, "beat {beat}: {}", ping.payload.escape_ascii());
        answers.send_frame(0x8A, &ping.payload).await;
        // This one never answers a ping, but sends one of its own.
        talks.send_frame(0x89, b"me too").await;
        let frame = talks.read_frame().await;
        assert!(frame.first == 0x89 || frame.first == 0x8A, "{}", frame.payload.escape_ascii());
        reads.send(json!({"type": "ping"})).await;
        reads.expect(json!({"type": "pong"})).await;
    }
}
