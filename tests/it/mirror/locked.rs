//! Somebody has locked the outbox. It serves Redis alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::cluster::{Cluster, gather, metric, mirror_is, say, until};
use crate::harness::PATIENCE;
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

/// However much is said just then: a lock of a moment must not turn every event over to the sweep.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_an_outbox_that_is_free_again_is_used_again() {
    let cluster = Cluster::shared().await;
    let node = cluster.node_with("near", |config| config.log.lock_timeout_ms = 300).await;
    let mut clients = Vec::new();
    for number in 0..24 {
        let mut client = node.client().await;
        let create =
            json!({"type": "create", "user_id": "0", "room": format!("r{number}"), "id": "a"});
        client.send(create).await;
        client.expect(json!({"type": "ack"})).await;
        clients.push(client);
    }
    let someone = cluster.sql().await;
    someone.batch_execute("begin; lock table outbox in access exclusive mode").await.unwrap();
    say(&mut clients[0], "r0", "meets the lock").await;
    someone.batch_execute("rollback").await.unwrap();
    let over = AtomicBool::new(false);
    let talk = clients.iter_mut().enumerate().map(|(number, client)| {
        let over = &over;
        async move {
            while !over.load(Ordering::Relaxed) {
                say(client, &format!("r{number}"), "x").await;
            }
        }
    });
    // An event that is put into Redis by its own lane is never swept.
    let settles = async {
        let swept = async || metric(node.addr, "verbatim_outbox_swept_total").await;
        let appended = async || metric(node.addr, "verbatim_mirror_appended_total").await;
        let deadline = Instant::now() + PATIENCE;
        let (mut before, mut since) = (swept().await, Instant::now());
        while since.elapsed() < Duration::from_secs(4) {
            assert!(Instant::now() < deadline, "what is said now is swept, too");
            let now = swept().await;
            if now != before {
                (before, since) = (now, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        over.store(true, Ordering::Relaxed);
        assert!(appended().await > 0);
    };
    tokio::join!(futures_util::future::join_all(talk), settles);
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
