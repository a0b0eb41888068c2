//! More than may wait between a node and Redis, in bytes: it comes another way, and all of it.

use serde_json::json;
use verbatim::config::Config;

use super::cluster::{Cluster, behind, by_redis_alone, gather, metric, until};
use crate::harness::Client;
use crate::harness::proxy::{Pieces, Proxy};
use crate::harness::redis::Redis;

/// Half of a default message.
const LEN: usize = 8 * 1024;

/// So much may wait, each way: two of those messages.
fn narrow(config: &mut Config) {
    config.mirror.queue_bytes_max = 20 * 1024;
}

/// Says so many long words at once.
async fn burst(client: &mut Client, first: usize, count: usize) {
    for number in first..first + count {
        let text = format!("{number} {}", "x".repeat(LEN));
        let id = format!("long {number}");
        client
            .send(
                json!({"type": "message", "user_id": "0", "room": "r", "message": text, "id": id}),
            )
            .await;
    }
    for _ in 0..count {
        client.read_until(json!({"type": "ack"})).await;
    }
}

/// The next `count` events are the messages from that one on.
async fn hears_burst(client: &mut Client, first: usize, count: usize) {
    for number in first..first + count {
        let frame = client.expect(json!({"type": "message", "room": "r"})).await;
        let text = frame["message"].as_str().unwrap();
        assert!(text.starts_with(&format!("{number} ")), "{number}: {}", &text[..16]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_on_its_way_to_redis_is_left_to_the_outbox() {
    let server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    let proxy = Proxy::to(server.port(), Pieces::Chunks).await;
    let near = cluster.node_with("near", |config| (behind(&proxy)(config), narrow(config)).1);
    let far = cluster.node_with("far", by_redis_alone);
    let (near, far) = tokio::join!(near, far);
    let mut clients = gather("r", &[near.addr, far.addr]).await;
    cluster.outbox_is_empty().await;

    proxy.swallow();
    burst(&mut clients[0], 0, 60).await;
    let dropped = async || metric(near.addr, "verbatim_mirror_dropped_total").await;
    until("events that found no room", dropped, |dropped| *dropped > 0).await;
    let waiting = metric(near.addr, "verbatim_budget_bytes{budget=\"to_mirror\"}").await;
    assert!(waiting <= 20 * 1024, "{waiting} bytes wait for Redis");
    proxy.heal();
    hears_burst(&mut clients[1], 0, 60).await;
    clients[1].expect_nothing().await;
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 2 + 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_redis_faster_than_it_may_wait_is_read_from_the_stream() {
    let cluster = Cluster::shared().await;
    let far = cluster.node_with("far", |config| (by_redis_alone(config), narrow(config)).1);
    let (near, far) = tokio::join!(cluster.node("near"), far);
    let mut clients = gather("r", &[near.addr, far.addr]).await;
    let doubts = async || metric(far.addr, "verbatim_mirror_doubts_total").await;
    let before = doubts().await;
    let mut said = 0;
    // It depends on who is faster, so until it has happened.
    while doubts().await == before {
        assert!(said < 10_000, "all of it found room");
        burst(&mut clients[0], said, 100).await;
        hears_burst(&mut clients[1], said, 100).await;
        said += 100;
    }
    burst(&mut clients[0], said, 1).await;
    hears_burst(&mut clients[1], said, 1).await;
    clients[1].expect_nothing().await;
}
