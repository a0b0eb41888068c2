//! Another log's Redis, and what strangers write into one's own: nothing of it is shown to anybody.

use redis::AsyncTypedCommands;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use verbatim::mirror::Seal;

use super::cluster::{Cluster, gather, hears, metric, mirror, mirror_is, say, until};
use crate::harness::Client;
use crate::harness::process::{Exit, Process, run};
use crate::harness::raw;
use crate::harness::redis::Redis;

/// Another cluster, on a database of its own, whose operator forgot to give it its own prefix.
async fn same_prefix(red: &Cluster) -> Cluster {
    let mut blue = Cluster::with_redis(&red.world.config.mirror.url.0).await;
    blue.world.config.mirror.prefix = red.world.config.mirror.prefix.clone();
    blue.events = red.events.clone();
    blue
}

async fn log_id(cluster: &Cluster) -> String {
    let sql = cluster.sql().await;
    sql.query_one("select id::text from verbatim_log", &[]).await.unwrap().get(0)
}

async fn owner(cluster: &Cluster) -> Option<String> {
    let key = cluster.events.replace(":events", ":cluster");
    cluster.redis().await.get(key).await.unwrap()
}

/// An event as it would be if the next seq were that one.
fn event(seq: u64, text: &str) -> String {
    // In the order in which nodes write it.
    format!(
        r#"{{"type":"message","room":"r","user_id":"0","message":"{text}","seq":{seq},"at":1}}"#
    )
}

/// As nodes publish it: behind a seal and its place in the stream.
async fn publish(redis: &mut MultiplexedConnection, events: &str, seal: &str, event: &str) {
    let head = format!(r#"{{"seal":"{seal}","stream_id":"99999999999999-0","#);
    redis.publish(events, format!("{head}{}", &event[1..])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cluster_under_the_same_prefix_says_so_and_touches_nothing() {
    let red = Cluster::shared().await;
    let blue = same_prefix(&red).await;
    let reds = (red.node("one").await, red.node("two").await);
    let mut red_clients = gather("r", &[reds.0.addr, reds.1.addr]).await;
    let process: Process = blue.process("one").await;
    let other = blue.node("two").await;
    for node in [process.addr, other.addr] {
        mirror_is(node, "foreign").await;
        let (head, body) = raw::get(node, "/readyz").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((head.status, &body["status"]), (503, &json!("unready")));
    }
    // Whoever is sent there all the same is served, by the log alone.
    let mut blue_clients = gather("r", &[process.addr, other.addr]).await;
    for round in 0..5 {
        say(&mut red_clients[0], "r", &format!("red {round}")).await;
        say(&mut blue_clients[0], "r", &format!("blue {round}")).await;
        hears(&mut red_clients[1], &format!("red {round}")).await;
        hears(&mut blue_clients[1], &format!("blue {round}")).await;
    }
    red_clients[1].expect_nothing().await;
    blue_clients[1].expect_nothing().await;
    red.outbox_is_empty().await;
    red.assert_streamed("r", 7).await;
    assert_eq!(red.stream().await.len(), 7);
    for node in [reds.0.addr, reds.1.addr] {
        assert_eq!(mirror(node).await, "ok");
    }
    let said = process.output();
    let line = said.lines().find(|line| line.contains("belongs to another log"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    for id in [log_id(&red).await, log_id(&blue).await] {
        assert!(line.contains(&id), "{line}");
    }
    assert_eq!(said.matches("belongs to another log").count(), 1, "{said}");

    for (cluster, sound) in [(&red, true), (&blue, false)] {
        let environment = cluster.environment("one");
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        let check = run(&["check"], &environment, &[]).await;
        assert_eq!(check.exit, Exit::Code(i32::from(!sound)), "{check:?}");
        assert_eq!(check.stdout.contains(&log_id(&red).await), !sound, "{check:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_turned_away_comes_in_when_the_other_log_has_gone() {
    let red = Cluster::shared().await;
    let blue = same_prefix(&red).await;
    let gone = red.node("one").await;
    let node = blue.node("one").await;
    mirror_is(node.addr, "foreign").await;
    gone.stop().await;
    let mut redis = red.redis().await;
    redis.del(red.events.replace(":events", ":cluster")).await.unwrap();
    mirror_is(node.addr, "ok").await;
    assert_eq!(owner(&blue).await, Some(log_id(&blue).await));
    let other = blue.node("two").await;
    let mut clients = gather("r", &[node.addr, other.addr]).await;
    say(&mut clients[0], "r", "at home").await;
    hears(&mut clients[1], "at home").await;
}

/// However often it is emptied, and whoever is waiting for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_emptied_stays_with_the_log_that_had_it() {
    let redis = Redis::start(&[]).await;
    let red = Cluster::with_redis(&redis.url()).await;
    let blue = same_prefix(&red).await;
    let (node, other) = (red.node("one").await, red.node("two").await);
    let mut clients = gather("r", &[node.addr, other.addr]).await;
    let foreign = blue.node("one").await;
    let mut blues = gather("r", &[foreign.addr]).await;
    mirror_is(foreign.addr, "foreign").await;
    for round in 0..5 {
        redis::cmd("FLUSHALL").query_async::<()>(&mut red.redis().await).await.unwrap();
        // Its lane would put something there.
        say(&mut blues[0], "r", "blue").await;
        say(&mut clients[0], "r", &format!("{round}")).await;
        hears(&mut clients[1], &format!("{round}")).await;
        until("an owner", async || owner(&red).await, Option::is_some).await;
        assert_eq!(owner(&red).await, Some(log_id(&red).await));
    }
    assert_eq!(mirror(foreign.addr).await, "foreign");
    // Nor does one take it that has just been started, and was never turned away.
    for name in ["two", "three"] {
        redis::cmd("FLUSHALL").query_async::<()>(&mut red.redis().await).await.unwrap();
        let new = blue.node(name).await;
        assert_eq!(mirror(new.addr).await, "foreign");
        assert_eq!(owner(&red).await, Some(log_id(&red).await));
    }
    assert!(red.stream().await.iter().all(|(_, seq)| *seq > 1));
}

/// A forged event of the next seq would be shown, and hide the one that is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_event_is_not_shown_and_hides_nothing() {
    let cluster = Cluster::shared().await;
    let (one, two) = (cluster.node("one").await, cluster.node("two").await);
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    let mut redis = cluster.redis().await;
    let of_another_log = Seal::new(b"another").of(event(3, "forged").as_bytes());
    let sql = cluster.sql().await;
    let secret = sql.query_one("select secret from verbatim_log", &[]).await.unwrap();
    let ours = Seal::new(secret.get(0));
    let of_another_event = ours.of(event(4, "forged").as_bytes());
    for seal in [&of_another_log, &of_another_event, "", &"A".repeat(43)] {
        publish(&mut redis, &cluster.events, seal, &event(3, "forged")).await;
        let mut add = redis::cmd("XADD");
        add.arg(&cluster.events).arg("*").arg("room").arg("r").arg("seq").arg(3);
        add.arg("event").arg(event(3, "forged")).arg("seal").arg(seal);
        add.query_async::<()>(&mut redis).await.unwrap();
    }
    // As before there were seals.
    let bare = format!(r#"{{"stream_id":"99999999999999-0",{}"#, &event(3, "forged")[1..]);
    redis.publish(&cluster.events, bare).await.unwrap();
    say(&mut clients[0], "r", "the third").await;
    hears(&mut clients[1], "the third").await;
    clients[1].expect_nothing().await;
    let unsealed = async || metric(two.addr, "verbatim_mirror_unsealed_total").await;
    until("nine of them", unsealed, |unsealed| *unsealed >= 9).await;
    mirror_is(two.addr, "ok").await;
}

/// A node of the version before sealed nothing: what it commits is shown all the same, because the
/// log is asked.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_knows_no_seals_commits_is_shown() {
    let cluster = Cluster::shared().await;
    let node = cluster.node_with("one", super::cluster::by_redis_alone).await;
    let mut clients: Vec<Client> = gather("r", &[node.addr]).await;
    let mut redis = cluster.redis().await;
    let mut add = redis::cmd("XADD");
    add.arg(&cluster.events).arg("*").arg("room").arg("r").arg("seq").arg(2);
    add.arg("event").arg(event(2, "from an older node"));
    cluster
        .sql()
        .await
        .batch_execute(
            "update rooms set last_seq = 2, message_count = 1;
             insert into events (room_id, seq, at, type, user_id, body)
             select id, 2, now(), 'message', '0', 'from an older node' from rooms",
        )
        .await
        .unwrap();
    let id: String = add.query_async(&mut redis).await.unwrap();
    let bare = format!(r#"{{"stream_id":"{id}",{}"#, &event(2, "from an older node")[1..]);
    redis.publish(&cluster.events, bare).await.unwrap();
    hears(&mut clients[0], "from an older node").await;
}
