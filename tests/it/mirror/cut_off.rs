//! Nodes that reach one store and not the other, or not the one that their peers reach.

use verbatim::config::{Config, Secret};

use super::cluster::{Cluster, by_redis_alone, gather, hears, metric, mirror, say, until};
use crate::harness::proxy::{Pieces, Proxy};
use crate::harness::redis::Redis;
use crate::harness::services;

/// What Redis brings is shown, whatever became of the log that was to be asked what it did not
/// bring. And the task that reads from Redis never waits, so the node stays among the living.
#[tokio::test(flavor = "multi_thread")]
async fn live_events_do_not_wait_for_a_log_that_is_asked_in_doubt() {
    let cluster = Cluster::shared().await;
    let port = services::postgres().await.port();
    let proxy = Proxy::to(port, Pieces::Chunks).await;
    let near = cluster.node("near").await;
    let far = cluster.node_with("far", |config| {
        by_redis_alone(config);
        let (direct, behind) = (format!(":{port}/"), format!(":{}/", proxy.port()));
        config.log.url = Secret(config.log.url.0.replace(&direct, &behind));
    });
    let far = far.await;
    let mut clients = gather("r", &[near.addr, far.addr]).await;
    cluster.outbox_is_empty().await;
    proxy.swallow();
    // Its place is gone, and with that its trust.
    let mut redis = cluster.redis().await;
    let mut destroy = redis::cmd("XGROUP");
    destroy.arg("DESTROY").arg(&cluster.events).arg("node:far");
    destroy.query_async::<()>(&mut redis).await.unwrap();
    let doubts = async || metric(far.addr, "verbatim_mirror_doubts_total").await;
    until("a doubt", doubts, |doubts| *doubts > 0).await;
    // More than may wait between Redis and the relay.
    for number in 0..200 {
        let text = format!("meanwhile {number}");
        say(&mut clients[0], "r", &text).await;
        hears(&mut clients[1], &text).await;
    }
    assert!(proxy.held() > 0, "the log was not asked");
    let live = async || metric(far.addr, "verbatim_mirror_live").await;
    until("a node among the living", live, |live| *live == 1).await;
}

/// As after a failover that one side did not notice: each node hears itself, and finds the stream
/// that it knows whole.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_believe_in_another_redis_each_hear_each_other_through_the_log() {
    let (ours, theirs) = tokio::join!(Redis::start(&[]), Redis::start(&[]));
    let cluster = Cluster::with_redis(&ours.url()).await;
    let apart = |config: &mut Config| config.mirror.url = Secret(theirs.url());
    let (near, far) = tokio::join!(cluster.node("near"), cluster.node_with("far", apart));
    let mut clients = gather("r", &[near.addr, far.addr]).await;
    cluster.outbox_is_empty().await;
    say(&mut clients[0], "r", "from our side").await;
    hears(&mut clients[1], "from our side").await;
    assert_eq!(mirror(near.addr).await, "ok");
    assert_eq!(mirror(far.addr).await, "ok");
}
