//! A Redis that answers, but late: what other nodes left reaches it all the same.

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::Signal;

use super::cluster::{Cluster, behind, gather, mirror_is, until};
use crate::harness::node::by_default;
use crate::harness::process::Process;
use crate::harness::proxy::{Fate, Pieces, Proxy, Way};
use crate::harness::redis::Redis;

/// Each way. An answer takes longer than a transaction may be idle (1.5 s), and not as long as
/// Redis is waited for (2 s).
const DELAY: Duration = Duration::from_millis(850);

/// Batches of one event each, as a node that died left them, behind the first event of the room.
const LEFT: &str = "
    insert into events (room_id, seq, type, user_id, body, at)
        select r.id, n, 'message', '0', 'left', now() from rooms r, generate_series(2, LAST) n;
    update rooms set last_seq = LAST, message_count = LAST - 1;
    insert into outbox (room_id, first_seq, last_seq, at)
        select r.id, n, n, now() - interval '1 hour' from rooms r, generate_series(2, LAST) n;";

async fn leave(cluster: &Cluster, last_seq: u64) {
    let left = LEFT.replace("LAST", &last_seq.to_string());
    cluster.sql().await.batch_execute(&left).await.unwrap();
}

/// A cluster whose nodes wait for their log no longer than the program does, with the room `r`.
async fn cluster(server: &Redis) -> Cluster {
    let mut cluster = Cluster::with_redis(&server.url()).await;
    by_default(&mut cluster.world.config);
    // So that three of them are longer than an answer takes.
    cluster.world.config.mirror.heartbeat_ms = 2000;
    let node = cluster.node("first").await;
    gather("r", &[node.addr]).await;
    cluster.outbox_is_empty().await;
    node.stop().await;
    cluster
}

/// How often the stream has each event of the room, at the most.
async fn most_often(cluster: &Cluster) -> usize {
    let mut times: HashMap<(String, u64), usize> = HashMap::new();
    for event in cluster.stream().await {
        *times.entry(event).or_default() += 1;
    }
    times.into_values().max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_waits_for_a_redis_that_answers_later_than_a_transaction_may_be_idle() {
    let server = Redis::start(&[]).await;
    let cluster = cluster(&server).await;
    let proxy = Proxy::to(server.port(), Pieces::Chunks).await;
    let node = cluster.node_with("one", behind(&proxy)).await;
    mirror_is(node.addr, "ok").await;
    proxy.delay(Way::ToServer, DELAY);
    proxy.delay(Way::ToClient, DELAY);
    leave(&cluster, 1500).await;
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 1500).await;
    assert!(most_often(&cluster).await <= 2, "some are there again and again");
    proxy.delay(Way::ToServer, Duration::ZERO);
    proxy.delay(Way::ToClient, Duration::ZERO);
    node.stop().await;
}

/// It holds the turn, and the rows, and does not live.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_that_is_frozen_loses_its_turn() {
    let server = Redis::start(&[]).await;
    let cluster = cluster(&server).await;
    let proxy = Proxy::to(server.port(), Pieces::Values).await;
    let mut environment = cluster.environment("frozen");
    let url = format!("redis://127.0.0.1:{}/0", proxy.port());
    environment.push(("REDIS_URL".to_owned(), url));
    let frozen = Process::start(environment).await;
    // Its sweep waits in the proxy.
    let is_sweep = |piece: &[u8]| piece.windows(4).any(|part| part == b"left");
    proxy.rule(move |way, piece| match way == Way::ToServer && is_sweep(piece) {
        true => Fate::Swallow,
        false => Fate::Pass,
    });
    leave(&cluster, 3).await;
    proxy.swallowed().await;
    frozen.signal(Signal::STOP);
    let other = cluster.node("other").await;
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 3).await;
    frozen.signal(Signal::CONT);
    other.stop().await;
}

/// Nothing of that is answered, although Redis seems well. It is said once.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_does_not_take_what_is_swept_is_told() {
    let server = Redis::start(&[]).await;
    let mut cluster = cluster(&server).await;
    cluster.world.config.mirror.timeout_ms = 300;
    let proxy = Proxy::to(server.port(), Pieces::Values).await;
    let mut environment = cluster.environment("one");
    let url = format!("redis://127.0.0.1:{}/0", proxy.port());
    environment.push(("REDIS_URL".to_owned(), url));
    let process = Process::start(environment).await;
    let is_sweep = |piece: &[u8]| piece.windows(4).any(|part| part == b"left");
    proxy.rule(move |way, piece| match way == Way::ToServer && is_sweep(piece) {
        true => Fate::Drop,
        false => Fate::Pass,
    });
    leave(&cluster, 9).await;
    let lines = async |text: &str| {
        let output = process.output();
        output.lines().filter(|line| line.contains(text)).count()
    };
    let refused = "does not accept events from the outbox";
    until("the warning", async || lines(refused).await, |len| *len == 1).await;
    proxy.no_rule();
    let taken = "accepts events from the outbox again";
    until("the end of it", async || lines(taken).await, |len| *len == 1).await;
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 9).await;
    assert_eq!(lines(refused).await, 1);
}
