//! Messages of the channel that vanish without a trace. Silence is not health: it is noticed, after
//! three heartbeats, whether or not anything else comes.

use super::cluster::{
    Cluster, HEARTBEAT, behind, by_redis_alone, gather, hears, metric, mirror, mirror_is, say,
    until,
};
use crate::harness::node::TestNode;
use crate::harness::proxy::{Fate, Pieces, Proxy, is_message};
use crate::harness::{Client, services};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A writer by one node; a reader by another, which is behind a proxy and hears by Redis alone.
struct Pair {
    cluster: Cluster,
    proxy: Proxy,
    _near: TestNode,
    far: TestNode,
    writer: Client,
    reader: Client,
}

async fn pair() -> Pair {
    let redis = services::redis_url().await;
    let port = redis.trim_end_matches("/0").rsplit(':').next().unwrap().parse().unwrap();
    let cluster = Cluster::shared().await;
    let proxy = Proxy::to(port, Pieces::Values).await;
    let near = cluster.node("near").await;
    let far = cluster.node_with("far", |config| {
        behind(&proxy)(config);
        by_redis_alone(config);
    });
    let far = far.await;
    let [writer, reader] = gather("quiet", &[near.addr, far.addr]).await.try_into().ok().unwrap();
    Pair { cluster, proxy, _near: near, far, writer, reader }
}

impl Pair {
    /// Drops the next message of the channel that holds that text.
    fn drop_once(&self, text: &'static str) -> Arc<AtomicUsize> {
        let (dropped, count) = (Arc::new(AtomicUsize::new(0)), self.cluster.events.clone());
        let told = dropped.clone();
        self.proxy.rule(move |_, piece| {
            let is_it = is_message(piece, &count, text) && dropped.load(Ordering::SeqCst) == 0;
            dropped.fetch_add(usize::from(is_it), Ordering::SeqCst);
            if is_it { Fate::Drop } else { Fate::Pass }
        });
        told
    }

    async fn doubts(&self) -> u64 {
        metric(self.far.addr, "verbatim_mirror_doubts_total").await
    }

    /// For some heartbeats, of which only a machine that stands still keeps one away.
    async fn talks_without_doubt(&mut self) {
        for number in 0..10 {
            let (before, begun) = (self.doubts().await, Instant::now());
            while begun.elapsed() < 5 * HEARTBEAT {
                let text = format!("is this on? {number}");
                say(&mut self.writer, "quiet", &text).await;
                hears(&mut self.reader, &text).await;
            }
            if self.doubts().await == before {
                return;
            }
        }
        panic!("it doubts for ever");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_message_is_noticed_when_nothing_else_comes() {
    let mut pair = pair().await;
    let dropped = pair.drop_once("lost words");
    say(&mut pair.writer, "quiet", "lost words").await;
    hears(&mut pair.reader, "lost words").await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert!(pair.doubts().await > 0);
    assert_eq!(metric(pair.far.addr, "verbatim_repairs_total").await, 0, "it was the log");

    // One doubt is enough: from here on all is as before.
    pair.talks_without_doubt().await;
    assert_eq!(mirror(pair.far.addr).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_message_is_noticed_when_only_other_rooms_talk_on() {
    let mut pair = pair().await;
    let mut loud = gather("loud", &[pair._near.addr, pair.far.addr]).await;
    let dropped = pair.drop_once("lost words");
    say(&mut pair.writer, "quiet", "lost words").await;
    let noise = tokio::spawn(async move {
        for number in 0..100 {
            say(&mut loud[0], "loud", &format!("noise {number}")).await;
        }
        for number in 0..100 {
            hears(&mut loud[1], &format!("noise {number}")).await;
        }
    });
    hears(&mut pair.reader, "lost words").await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    noise.await.unwrap();
}

/// The next event of the room shows the hole at once; nobody waits for a heartbeat.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_message_is_repaired_by_the_next_one_of_its_room() {
    let mut pair = pair().await;
    for round in 0..20 {
        let dropped = pair.drop_once("lost words");
        say(&mut pair.writer, "quiet", "lost words").await;
        say(&mut pair.writer, "quiet", "more words").await;
        hears(&mut pair.reader, "lost words").await;
        hears(&mut pair.reader, "more words").await;
        // It may have come by the stream before that.
        let dropped = async || dropped.load(Ordering::SeqCst);
        until(&format!("a loss in round {round}"), dropped, |dropped| *dropped == 1).await;
    }
    pair.reader.expect_nothing().await;
}

/// All that is published vanishes, and every command is answered: the node lives by its doubts.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_silently_dead_is_noticed() {
    let mut pair = pair().await;
    pair.proxy.rule(|_, piece| {
        let is_message = piece.starts_with(b">") && piece.windows(9).any(|it| it == b"message\r\n");
        if is_message { Fate::Drop } else { Fate::Pass }
    });
    // More words than heartbeats without hearing the own one.
    for number in 0..6 {
        let text = format!("into the void {number}");
        say(&mut pair.writer, "quiet", &text).await;
        hears(&mut pair.reader, &text).await;
    }
    // In silence, too.
    mirror_is(pair.far.addr, "away").await;
    pair.proxy.no_rule();
    mirror_is(pair.far.addr, "ok").await;
    pair.talks_without_doubt().await;
}

/// Not even a confirmation comes through: the node cannot subscribe, and says that it is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_takes_no_subscription_counts_as_away() {
    let pair = pair().await;
    pair.proxy.rule(|_, piece| if piece.starts_with(b">") { Fate::Drop } else { Fate::Pass });
    mirror_is(pair.far.addr, "away").await;
    pair.proxy.no_rule();
    mirror_is(pair.far.addr, "ok").await;
}

/// A black hole: nothing is answered, and nothing says that the connection is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_swallows_everything_loses_nothing() {
    let mut pair = pair().await;
    pair.proxy.swallow();
    say(&mut pair.writer, "quiet", "said into the hole").await;
    mirror_is(pair.far.addr, "away").await;
    say(&mut pair.writer, "quiet", "said behind it").await;
    pair.proxy.heal();
    hears(&mut pair.reader, "said into the hole").await;
    hears(&mut pair.reader, "said behind it").await;
    mirror_is(pair.far.addr, "ok").await;
    until("no doubt", async || pair.doubts().await, |doubts| *doubts < 2).await;
    pair.reader.expect_nothing().await;
}
