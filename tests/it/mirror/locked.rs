//! Somebody has locked the outbox. It serves Redis alone.

use std::time::{Duration, Instant};

use serde_json::json;

use super::cluster::{Cluster, gather, mirror_is, say, until};
use crate::harness::redis::Redis;

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_outbox_stops_no_message_and_the_stream_gets_them_all() {
    let cluster = Cluster::shared().await;
    // The first to meet the lock waits for it that long.
    let near = cluster.node_with("near", |config| config.log.lock_timeout_ms = 500);
    let (near, far) = tokio::join!(near, cluster.node("far"));
    let (mut writer, mut reader) = (near.client().await, far.client().await);
    writer.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    writer.expect(json!({"type": "ack", "seq": 1})).await;
    reader.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    reader.read_until(json!({"type": "join", "seq": 2})).await;
    let someone = cluster.sql().await;
    someone.batch_execute("begin; lock table outbox in access exclusive mode").await.unwrap();
    for seq in 3..23 {
        let message = json!({"type": "message", "user_id": "1", "room": "r", "message": "x", "id": seq.to_string()});
        writer.send(message).await;
        writer.expect(json!({"type": "ack", "seq": seq})).await;
        reader.expect(json!({"type": "message", "seq": seq})).await;
    }
    someone.batch_execute("rollback").await.unwrap();
    // It is used again: what comes behind waits in it, or has been mirrored.
    cluster.outbox_is_empty().await;
    let len = async || cluster.stream().await.iter().filter(|(room, _)| room == "r").count();
    until("a whole stream", len, |len| *len >= 22).await;
    cluster.assert_streamed("r", 22).await;
}

/// What waits for that lock is not what hears the other nodes: Redis is away.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_locked_outbox_the_nodes_hear_each_other_within_a_second() {
    let mut server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    let near = cluster.node_with("near", |config| config.log.lock_timeout_ms = 100);
    // It waits for the lock for as long as it waits for anything: 5 s.
    let (near, far) = tokio::join!(near, cluster.node("far"));
    let mut clients = gather("r", &[near.addr, far.addr]).await;
    server.kill();
    mirror_is(near.addr, "away").await;
    mirror_is(far.addr, "away").await;
    let someone = cluster.sql().await;
    someone.batch_execute("begin; lock table outbox in access exclusive mode").await.unwrap();
    let [from, to] = &mut clients[..] else { unreachable!() };
    say(from, "r", "the first waits for the lock").await;
    to.read_until(json!({"message": "the first waits for the lock"})).await;
    let mut delays = Vec::new();
    for number in 0..10 {
        let text = format!("{number}");
        say(from, "r", &text).await;
        let begun = Instant::now();
        to.read_until(json!({"type": "message", "message": text})).await;
        delays.push(begun.elapsed());
    }
    delays.sort();
    // The promise, but for when the machine stood still.
    assert!(delays[7] < Duration::from_secs(2), "{delays:?}");
    someone.batch_execute("rollback").await.unwrap();
}
