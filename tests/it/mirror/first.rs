//! A node's first connection to Redis, which may come long after its first client.

use super::cluster::{
    Cluster, behind, by_redis_alone, gather, hears, mirror, mirror_is, redis, say,
};
use crate::harness::proxy::{Pieces, Proxy};
use crate::harness::redis::Redis;

/// Redis is not there at all. Both nodes serve and hear each other by the log; they are live once
/// it comes.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_without_redis_serve_and_are_live_once_it_comes() {
    let mut server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    server.kill();
    let (one, two) = tokio::join!(cluster.node("one"), cluster.node("two"));
    assert_eq!((&*mirror(one.addr).await, &*mirror(two.addr).await), ("away", "away"));
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    say(&mut clients[0], "r", "without").await;
    hears(&mut clients[1], "without").await;
    server.restart().await;
    mirror_is(one.addr, "ok").await;
    mirror_is(two.addr, "ok").await;
    say(&mut clients[0], "r", "with").await;
    hears(&mut clients[1], "with").await;
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 4).await;
}

/// What is said between a follower's arrival and its node's first connection was in the stream
/// before the node had a place there. `older`: the node has a place, of an earlier life.
async fn said_before_the_first_connection(older: bool, trimmed: bool) {
    let server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    let near = cluster.node("near").await;
    if older {
        cluster.node("far").await.stop().await;
    }
    let proxy = Proxy::to(server.port(), Pieces::Values).await;
    proxy.cut();
    let far = cluster.node_with("far", |config| {
        behind(&proxy)(config);
        by_redis_alone(config);
    });
    let far = far.await;
    let mut clients = gather("r", &[near.addr]).await;
    // The second comes by a node that hears nothing yet.
    clients.extend(late_comer(far.addr).await);
    say(&mut clients[0], "r", "unheard of").await;
    cluster.outbox_is_empty().await;
    if trimmed {
        let mut redis = redis(&server.url()).await;
        let trim = redis::cmd("XTRIM").arg(&cluster.events).arg("MAXLEN").arg(0).clone();
        trim.query_async::<()>(&mut redis).await.unwrap();
    }
    assert_eq!(mirror(far.addr).await, "away");
    proxy.heal();
    mirror_is(far.addr, "ok").await;
    hears(&mut clients[1], "unheard of").await;
    say(&mut clients[0], "r", "as before").await;
    hears(&mut clients[1], "as before").await;
    clients[1].expect_nothing().await;
}

async fn late_comer(node: std::net::SocketAddr) -> [crate::harness::Client; 1] {
    let mut client = crate::harness::Client::greeted(node).await;
    client.send(serde_json::json!({"type": "join", "user_id": "1", "room": "r"})).await;
    client.read_until(serde_json::json!({"type": "join", "seq": 2})).await;
    [client]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_hears_what_was_said_before_its_first_connection() {
    said_before_the_first_connection(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_a_new_life_hears_what_was_said_before_its_first_connection() {
    said_before_the_first_connection(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_place_was_trimmed_hears_what_was_said_before_its_first_connection() {
    said_before_the_first_connection(true, true).await;
}
