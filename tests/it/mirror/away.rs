//! Redis' bad days under load: killed and empty again, hung, flushed, robbed of its subscribers and
//! of the nodes' places. Nobody is disconnected, and no follower of any node misses or doubles
//! anything.

use std::net::SocketAddr;

use redis::AsyncTypedCommands;

use super::cluster::{Cluster, addresses, assert_unnoticed, at, mirror_is};
use crate::crowd::{Crowd, ROOMS};
use crate::harness::node::TestNode;
use crate::harness::redis::Redis;

struct Stage {
    redis: Redis,
    cluster: Cluster,
    nodes: [TestNode; 3],
    crowd: Crowd,
}

impl Stage {
    async fn set(timeout_ms: u64) -> Self {
        let redis = Redis::start(&[]).await;
        let mut cluster = Cluster::with_redis(&redis.url()).await;
        cluster.world.config.mirror.timeout_ms = timeout_ms;
        let nodes = cluster.three_nodes().await;
        let crowd = Crowd::gather(&addresses(&nodes), 2, 1, 16).await;
        Self { redis, cluster, nodes, crowd }
    }

    fn places(&self) -> [SocketAddr; 3] {
        [&self.nodes[0], &self.nodes[1], &self.nodes[2]].map(|node| node.addr)
    }

    /// `/readyz` of all nodes; it is 200 with either word.
    async fn mirrors_are(&self, wanted: &str) {
        for place in self.places() {
            mirror_is(place, wanted).await;
        }
    }

    /// The last words come when the crowd is silent, so nothing behind them can show a hole.
    async fn end(mut self) {
        self.mirrors_are("ok").await;
        self.crowd.answered(300).await;
        self.crowd.hush().await;
        self.crowd.last_words(&self.places().map(at)).await;
        let log = &self.cluster.world.config.log;
        let ends = self.crowd.ends(log).await;
        let outcome = self.crowd.outcome(ends, log).await;
        assert_unnoticed(&outcome);
        assert_eq!(outcome.progress.unavailable, 0, "Redis is nobody's reason to wait");
        self.cluster.outbox_is_empty().await;
        for node in self.nodes {
            node.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_and_comes_back_empty_costs_no_word() {
    let mut stage = Stage::set(2000).await;
    for _ in 0..2 {
        stage.crowd.answered(300).await;
        stage.redis.kill();
        stage.mirrors_are("away").await;
        stage.crowd.answered(300).await;
        stage.redis.restart().await;
        stage.mirrors_are("ok").await;
    }
    stage.end().await;
}

/// Longer than a time-out and its second try, several times over.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_costs_no_word() {
    let stage = Stage::set(300).await;
    for _ in 0..2 {
        stage.crowd.answered(300).await;
        stage.redis.pause();
        stage.mirrors_are("away").await;
        stage.crowd.answered(600).await;
        stage.redis.resume();
        stage.mirrors_are("ok").await;
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_tampered_with_costs_no_word() {
    let stage = Stage::set(2000).await;
    let mut redis = stage.cluster.redis().await;
    let events = stage.cluster.events.clone();
    for round in 0..12 {
        stage.crowd.answered(100).await;
        match round % 4 {
            0 => redis.flushall().await.unwrap(),
            1 => {
                let kill = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").clone();
                let killed: usize = kill.query_async(&mut redis).await.unwrap();
                assert!(killed > 0, "nobody was subscribed");
            }
            2 => {
                for node in ["n1", "n2"] {
                    let destroy = redis::cmd("XGROUP")
                        .arg("DESTROY")
                        .arg(&events)
                        .arg(format!("node:{node}"))
                        .clone();
                    // An error: the stream itself is not there yet, after a flush.
                    let _ = destroy.query_async::<()>(&mut redis).await;
                }
            }
            _ => {
                let trim = redis::cmd("XTRIM").arg(&events).arg("MAXLEN").arg(0).clone();
                trim.query_async::<()>(&mut redis).await.unwrap();
            }
        }
    }
    stage.end().await;
}

/// All that was said while there was no Redis is in its stream soon after it is back, and in order.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_without_redis_is_put_there_in_order() {
    let mut stage = Stage::set(2000).await;
    stage.redis.kill();
    stage.mirrors_are("away").await;
    stage.crowd.answered(500).await;
    stage.crowd.hush().await;
    assert!(stage.cluster.outbox_len().await > 0);
    stage.redis.restart().await;
    stage.mirrors_are("ok").await;
    stage.cluster.outbox_is_empty().await;
    let ends = stage.crowd.ends(&stage.cluster.world.config.log).await;
    let streamed = stage.cluster.stream().await;
    for room in ROOMS {
        let seqs = streamed.iter().filter(|(name, _)| name == room).map(|(_, seq)| *seq);
        // What was said before Redis was killed is gone with it.
        let mut wanted = None;
        for seq in seqs {
            let next = wanted.unwrap_or(seq);
            assert!(seq <= next, "{room}: {seq} came before {next}");
            wanted = Some(next.max(seq + 1));
        }
        assert_eq!(wanted, Some(ends[room] + 1), "{room} is not whole");
    }
    assert_unnoticed(&stage.crowd.outcome(ends, &stage.cluster.world.config.log).await);
}
