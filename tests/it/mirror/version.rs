//! A Redis that is too old, or does not say how old it is: at the start, and when it comes later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cluster::{Cluster, by_redis_alone, gather, hears, mirror_is, say, until};
use crate::harness::process::{Exit, Process, run};
use crate::harness::proxy::{Pieces, Proxy, Way};
use crate::harness::redis::Redis;
use crate::harness::services;

/// What a node and `check` say of it.
const TOO_OLD: &str = "Redis 6.2.14 is too old; verbatim needs Redis 7.0 or later, whose streams \
                       count their entries (entries-added in XINFO STREAM): without that it would \
                       not notice a lost message";

/// Makes Redis say that it is that old; counts how often it did.
fn ages(proxy: &Proxy) -> Arc<AtomicUsize> {
    let said = Arc::new(AtomicUsize::new(0));
    let count = said.clone();
    proxy.rewrite(move |way, piece| {
        let text = String::from_utf8_lossy(&piece);
        let Some((before, rest)) = text.split_once("redis_version:") else { return piece };
        assert_eq!(way, Way::ToClient);
        count.fetch_add(1, Ordering::SeqCst);
        let (_, after) = rest.split_once("\r\n").unwrap();
        let (head, start) = before.split_once("\r\n").unwrap();
        let body = format!("{start}redis_version:6.2.14\r\n{after}");
        format!("{}{}\r\n{body}", &head[..1], body.len() - 2).into_bytes()
    });
    said
}

/// A cluster whose nodes meet Redis behind that proxy.
async fn behind(proxy: &Proxy) -> Cluster {
    Cluster::with_redis(&format!("redis://127.0.0.1:{}/0", proxy.port())).await
}

async fn proxy() -> Proxy {
    let url = services::redis_url().await;
    let port = url.trim_end_matches("/0").rsplit(':').next().unwrap().parse().unwrap();
    Proxy::to(port, Pieces::Values).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_before_seven_is_refused_at_the_start() {
    let proxy = proxy().await;
    ages(&proxy);
    let cluster = behind(&proxy).await;
    let environment = cluster.environment("n1");
    let environment: Vec<_> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let node = run(&[], &environment, &[]).await;
    assert_eq!(node.exit, Exit::Code(1), "{node:?}");
    assert_eq!(node.stderr.lines().last(), Some(&*format!("verbatim: {TOO_OLD}")), "{node:?}");
    let check = run(&["check"], &environment, &[]).await;
    assert_eq!(check.exit, Exit::Code(1), "{check:?}");
    assert!(check.stdout.contains(&format!("mirror: FAILED: {TOO_OLD}\n")), "{check:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_before_seven_that_comes_later_is_away_and_said_once() {
    let proxy = proxy().await;
    let cluster = behind(&proxy).await;
    let mut node = cluster.process("n1").await;
    mirror_is(node.addr, "ok").await;
    let said = ages(&proxy);
    proxy.cut();
    mirror_is(node.addr, "away").await;
    proxy.heal();
    // All its connections meet it, again and again.
    until("many attempts", async || said.load(Ordering::SeqCst), |said| *said > 12).await;
    mirror_is(node.addr, "away").await;
    proxy.no_rewrite();
    mirror_is(node.addr, "ok").await;
    node.sigterm();
    assert_eq!(node.wait_exit().await, Exit::Code(0));
    assert_eq!(node.output().matches(TOO_OLD).count(), 1, "{}", node.output());
}

/// Also after it was gone: nobody can tell then whether it is still the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_does_not_let_us_ask_is_taken_with_one_warning() {
    const WARNING: &str = "Redis does not say its version";
    let server = Redis::start(&["--user", "ann", "on", ">s3cret", "~*", "&*", "+@all", "-info"]);
    let server = server.await;
    let proxy = Proxy::to(server.port(), Pieces::Values).await;
    let url = format!("redis://ann:s3cret@127.0.0.1:{}/0", proxy.port());
    let cluster = Cluster::with_redis(&url).await;
    let far = cluster.node_with("far", by_redis_alone).await;
    let near: Process = cluster.process("near").await;
    let mut clients = gather("r", &[near.addr, far.addr]).await;
    for text in ["before", "after"] {
        mirror_is(near.addr, "ok").await;
        mirror_is(far.addr, "ok").await;
        say(&mut clients[0], "r", text).await;
        hears(&mut clients[1], text).await;
        proxy.cut();
        mirror_is(near.addr, "away").await;
        mirror_is(far.addr, "away").await;
        proxy.heal();
    }
    assert_eq!(near.output().matches(WARNING).count(), 1, "{}", near.output());
}
