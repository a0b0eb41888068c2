//! What the stream cannot tell. A node is cut off from Redis, one event happens, and when the node
//! is back that event is not in the stream, or was never to be seen in it: lost with all the rest,
//! trimmed, deleted. The node must know that it does not know, and ask the log.

use redis::AsyncTypedCommands;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::cluster::{
    Cluster, behind, by_redis_alone, gather, hears, metric, mirror_is, redis, say, until,
};
use crate::harness::Client;
use crate::harness::node::TestNode;
use crate::harness::proxy::{Fate, Pieces, Proxy, Way};
use crate::harness::redis::Redis;

/// As in `silence`, with a Redis that may be broken.
struct Stage {
    redis: Redis,
    proxy: Proxy,
    cluster: Cluster,
    near: TestNode,
    far: TestNode,
    writer: Client,
    reader: Client,
}

impl Stage {
    async fn set() -> Self {
        Self::on(Redis::start(&[]).await).await
    }

    async fn on(redis: Redis) -> Self {
        let cluster = Cluster::with_redis(&redis.url()).await;
        let proxy = Proxy::to(redis.port(), Pieces::Values).await;
        let near = cluster.node("near").await;
        let far = cluster.node_with("far", |config| {
            behind(&proxy)(config);
            by_redis_alone(config);
        });
        let far = far.await;
        let two = gather("quiet", &[near.addr, far.addr]).await;
        let [writer, reader] = two.try_into().ok().unwrap();
        Self { redis, proxy, cluster, near, far, writer, reader }
    }

    /// The far node is cut off, and this is said meanwhile, and it is in the stream.
    async fn cut_off(&mut self, text: &str) {
        self.proxy.cut();
        mirror_is(self.far.addr, "away").await;
        say(&mut self.writer, "quiet", text).await;
        self.is_in_stream().await;
    }

    /// What was said last is in the stream, and nobody will put it there again.
    async fn is_in_stream(&self) {
        self.cluster.outbox_is_empty().await;
    }

    async fn heal(&self) {
        self.proxy.heal();
        mirror_is(self.far.addr, "ok").await;
    }

    async fn raw(&self) -> MultiplexedConnection {
        self.cluster.redis().await
    }

    /// And then all is as it always was.
    async fn goes_on(mut self) {
        mirror_is(self.near.addr, "ok").await;
        mirror_is(self.far.addr, "ok").await;
        say(&mut self.writer, "quiet", "as before").await;
        hears(&mut self.reader, "as before").await;
        self.reader.expect_nothing().await;
        self.is_in_stream().await;
    }
}

/// The stream has it: the log is not asked.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_while_cut_off_comes_from_the_stream() {
    let mut stage = Stage::set().await;
    stage.cut_off("missed").await;
    stage.heal().await;
    hears(&mut stage.reader, "missed").await;
    assert_eq!(metric(stage.far.addr, "verbatim_repairs_total").await, 0);
    stage.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_trimmed_past_a_nodes_place_is_made_up_for_by_the_log() {
    let mut stage = Stage::set().await;
    let mut redis = stage.raw().await;
    for keep in [0, 1] {
        stage.cut_off("missed").await;
        let trim = redis::cmd("XTRIM").arg(&stage.cluster.events).arg("MAXLEN").arg(keep).clone();
        if keep == 1 {
            let mut other = gather("other", &[stage.near.addr]).await;
            say(&mut other[0], "other", "the last in the stream").await;
            stage.is_in_stream().await;
        }
        trim.query_async::<()>(&mut redis).await.unwrap();
        stage.heal().await;
        hears(&mut stage.reader, "missed").await;
    }
    stage.goes_on().await;
}

/// Somebody took one event out of the stream by hand.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_deleted_before_it_was_read_is_made_up_for_by_the_log() {
    let mut stage = Stage::set().await;
    let mut redis = stage.raw().await;
    stage.cut_off("missed").await;
    let mut other = gather("other", &[stage.near.addr]).await;
    stage.is_in_stream().await;
    let place = stage.cluster.stream().await.iter().position(|entry| *entry == ("quiet".into(), 3));
    let all: Vec<(String, Vec<String>)> = redis::cmd("XRANGE")
        .arg(&stage.cluster.events)
        .arg("-")
        .arg("+")
        .query_async(&mut redis)
        .await
        .unwrap();
    let id = &all[place.expect("it is there")].0;
    let deleted: usize = redis::cmd("XDEL")
        .arg(&stage.cluster.events)
        .arg(id)
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(deleted, 1);
    stage.heal().await;
    hears(&mut stage.reader, "missed").await;
    say(&mut other[0], "other", "and on").await;
    stage.goes_on().await;
}

/// The stream is trimmed while the node reads it, past the page it reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_trimmed_while_it_is_read_is_made_up_for_by_the_log() {
    let mut stage = Stage::set().await;
    let mut redis = stage.raw().await;
    let mut other = gather("other", &[stage.near.addr]).await;
    stage.proxy.cut();
    mirror_is(stage.far.addr, "away").await;
    // More than a page of another room; then what is missed; then the end of the stream.
    for number in 0..600 {
        let text = format!("filler {number}");
        other[0]
            .send(json!({"type": "message", "user_id": "0", "room": "other", "message": text}))
            .await;
    }
    other[0].read_until(json!({"message": "filler 599"})).await;
    say(&mut stage.writer, "quiet", "missed").await;
    stage.is_in_stream().await;
    say(&mut other[0], "other", "the last in the stream").await;
    stage.is_in_stream().await;

    let mut pages = 0;
    stage.proxy.rule(move |way, piece| {
        let is_page = way == Way::ToServer && piece.windows(10).any(|it| it == b"XREADGROUP");
        pages += usize::from(is_page);
        if is_page && pages == 2 { Fate::Swallow } else { Fate::Pass }
    });
    stage.proxy.heal();
    stage.proxy.swallowed().await;
    let key = &stage.cluster.events;
    redis::cmd("XTRIM").arg(key).arg("MAXLEN").arg(1).query_async::<()>(&mut redis).await.unwrap();
    stage.heal().await;
    hears(&mut stage.reader, "missed").await;
    stage.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_flushed_is_made_up_for_by_the_log() {
    let mut stage = Stage::set().await;
    let mut redis = stage.raw().await;
    // In the node's absence.
    stage.cut_off("missed").await;
    redis.flushall().await.unwrap();
    stage.heal().await;
    hears(&mut stage.reader, "missed").await;
    // The same, and others have begun a new stream, whose IDs go on where the old one's ended.
    stage.cut_off("missed again").await;
    redis.flushall().await.unwrap();
    let mut other = gather("other", &[stage.near.addr]).await;
    say(&mut other[0], "other", "a new stream").await;
    stage.is_in_stream().await;
    stage.heal().await;
    hears(&mut stage.reader, "missed again").await;
    // In its presence, many times: at each moment of a heartbeat.
    for number in 0..20 {
        let text = format!("flushed {number}");
        say(&mut stage.writer, "quiet", &text).await;
        redis.flushall().await.unwrap();
        hears(&mut stage.reader, &text).await;
    }
    // And its place is there again.
    let groups = async || groups(&stage.cluster).await;
    until("both groups", groups, |groups| groups == &["node:far", "node:near"]).await;
    stage.goes_on().await;
}

/// The message of the channel is lost, and then the stream that could have told is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_lost_just_before_a_flush_is_made_up_for_by_the_log() {
    let mut stage = Stage::set().await;
    let mut redis = stage.raw().await;
    let events = stage.cluster.events.clone();
    stage.proxy.rule(move |_, piece| {
        match crate::harness::proxy::is_message(piece, &events, "missed") {
            true => Fate::Drop,
            false => Fate::Pass,
        }
    });
    say(&mut stage.writer, "quiet", "missed").await;
    stage.is_in_stream().await;
    redis.flushall().await.unwrap();
    hears(&mut stage.reader, "missed").await;
    stage.goes_on().await;
}

async fn groups(cluster: &Cluster) -> Vec<String> {
    let mut redis = cluster.redis().await;
    let info = redis::cmd("XINFO").arg("GROUPS").arg(&cluster.events).clone();
    type Groups = Vec<std::collections::HashMap<String, redis::Value>>;
    let groups: Groups = info.query_async(&mut redis).await.unwrap_or_default();
    let name = |group: &std::collections::HashMap<String, redis::Value>| {
        redis::from_redis_value(group["name"].clone()).unwrap()
    };
    let mut names: Vec<String> = groups.iter().map(name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_destroyed_is_made_again_and_nothing_is_lost() {
    let mut stage = Stage::set().await;
    let mut redis = stage.raw().await;
    let destroy = async |redis: &mut MultiplexedConnection, events: &str| {
        let mut destroy = redis::cmd("XGROUP");
        destroy.arg("DESTROY").arg(events).arg("node:far");
        destroy.query_async::<()>(redis).await.unwrap();
    };
    let events = stage.cluster.events.clone();
    stage.cut_off("missed").await;
    destroy(&mut redis, &events).await;
    stage.heal().await;
    hears(&mut stage.reader, "missed").await;
    for number in 0..10 {
        destroy(&mut redis, &events).await;
        let text = format!("without a group {number}");
        say(&mut stage.writer, "quiet", &text).await;
        hears(&mut stage.reader, &text).await;
    }
    until("the group", async || groups(&stage.cluster).await, |groups| groups.len() == 2).await;
    stage.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_empty_is_made_up_for_by_the_log() {
    let mut stage = Stage::set().await;
    stage.cut_off("missed").await;
    stage.redis.kill();
    mirror_is(stage.near.addr, "away").await;
    stage.redis.restart().await;
    stage.heal().await;
    hears(&mut stage.reader, "missed").await;
    stage.goes_on().await;
}

/// A replica that lacked the last event was made the master; later the old one takes over again,
/// with the replica's data. Neither its process nor the node's place has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_there_and_back_that_lost_the_end_is_made_up_for_by_the_log() {
    failover(|_| {}).await;
}

/// The node has seen that it is another Redis, and loses it before it has read the stream: when it
/// is back, the Redis is the one it knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_outlives_the_connection_that_raised_it() {
    for command in ["SETID", "XREADGROUP"] {
        failover(|proxy| {
            let mut is_first = true;
            proxy.rule(move |way, piece| {
                let mut words = piece.windows(command.len());
                let is_it = way == Way::ToServer && words.any(|it| it == command.as_bytes());
                let is_cut = is_it && std::mem::take(&mut is_first);
                if is_cut { Fate::Cut } else { Fate::Pass }
            });
        })
        .await;
    }
}

async fn failover(before_it_heals: impl FnOnce(&Proxy)) {
    const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];
    let mut stage = Stage::on(Redis::start(&AT_ONCE).await).await;
    let replica = Redis::start(&AT_ONCE).await;
    let (mut one, mut two) = (stage.raw().await, redis(&replica.url()).await);
    // The node's place is written down, and the replica has it.
    let follow = async |it: &mut MultiplexedConnection, port: &str| {
        let mut follow = redis::cmd("REPLICAOF");
        match port {
            "" => follow.arg("NO").arg("ONE"),
            port => follow.arg("127.0.0.1").arg(port),
        };
        follow.query_async::<()>(it).await.unwrap();
    };
    let in_sync = async |it: &MultiplexedConnection| {
        let look = async || {
            let mut it = it.clone();
            let info = redis::cmd("INFO").arg("replication").clone();
            info.query_async::<String>(&mut it).await.unwrap()
        };
        until("a replica in sync", look, |info| info.contains("master_link_status:up")).await;
    };
    follow(&mut two, &stage.redis.port().to_string()).await;
    in_sync(&two).await;
    follow(&mut two, "").await;

    stage.cut_off("missed").await;
    follow(&mut one, &replica.port().to_string()).await;
    in_sync(&one).await;
    follow(&mut one, "").await;
    assert!(!stage.cluster.stream().await.contains(&("quiet".into(), 3)), "nothing was lost");
    before_it_heals(&stage.proxy);
    stage.heal().await;
    hears(&mut stage.reader, "missed").await;
    stage.goes_on().await;
}

/// Redis ends a connection that listens when it owes it 32 MB, which a page of the stream may be. A
/// node that reads it over such a connection would begin again for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_longer_than_redis_owes_a_listener_can_be_read() {
    let mut stage = Stage::set().await;
    let mut redis = stage.raw().await;
    stage.cut_off("missed").await;
    let long = vec![b'x'; 1024 * 1024];
    for _ in 0..40 {
        let mut add = redis::cmd("XADD");
        add.arg(&stage.cluster.events).arg("*").arg("long").arg(&long);
        add.query_async::<()>(&mut redis).await.unwrap();
    }
    stage.heal().await;
    hears(&mut stage.reader, "missed").await;
    stage.goes_on().await;
}

/// The way to Redis is slow: what is long does not arrive in time. A node that asks for as much
/// again, or from the beginning again, would never be back.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_too_long_for_the_way_is_read_in_shorter_ones() {
    const LEN: usize = 500;
    const BYTES_MAX: usize = 8 * 1024;
    let mut stage = Stage::set().await;
    stage.cut_off("missed 0").await;
    for number in 1..LEN {
        let text = format!("missed {number}");
        let message = json!({"type": "message", "user_id": "0", "room": "quiet", "message": text});
        stage.writer.send(message).await;
    }
    let last = format!("missed {}", LEN - 1);
    stage.writer.read_until(json!({"message": last})).await;
    stage.is_in_stream().await;
    let cuts = stage.proxy.cuts();
    stage.proxy.rule(|way, piece| {
        let is_long = way == Way::ToClient && piece.len() > BYTES_MAX;
        if is_long { Fate::Cut } else { Fate::Pass }
    });
    stage.heal().await;
    assert!(stage.proxy.cuts() > cuts, "every page was short enough");
    for number in 0..LEN {
        hears(&mut stage.reader, &format!("missed {number}")).await;
    }
    assert_eq!(metric(stage.far.addr, "verbatim_repairs_total").await, 0);
    stage.goes_on().await;
}
