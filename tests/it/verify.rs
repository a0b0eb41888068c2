//! The workload against real nodes, and what the checker says of it.

use std::time::Duration;

use verbatim::verify::plan::Shape;
use verbatim::verify::{Run, Settings, Target};
use verbatim_checker::{Limits, Report, check};

use crate::harness::World;
use crate::mirror::cluster::Cluster;

/// A small run on nodes at these addresses, that nobody disturbs.
async fn run(addrs: &[std::net::SocketAddr], seconds: u64) -> Report {
    let targets = addrs.iter().map(|addr| Target::parse(&format!("ws://{addr}")).unwrap());
    let shape = Shape { clients: 36, rooms: 4, rate: 200, message_bytes_max: 4096 };
    let settings = Settings {
        targets: targets.collect(),
        seed: 1,
        shape,
        name: "run".to_owned(),
        limits: Limits::default(),
    };
    let mut run = Run::begin(settings).await.unwrap();
    // How long it talks is how much there is to check; nothing is waited for.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    run.healed();
    run.hush().await;
    run.end().await;
    let history = run.over().await;
    let report = check(&history);
    let shown: Vec<_> = report.violations.iter().take(20).map(ToString::to_string).collect();
    assert!(report.is_clean(), "{:#?}\n{shown:#?}", report.totals);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_nobody_disturbs_keeps_its_promise() {
    let cluster = Cluster::shared().await;
    let nodes = cluster.three_nodes().await;
    let report = run(&nodes.each_ref().map(|node| node.addr), 4).await;
    println!("{:?}", report.counts);
    assert!(report.counts.deliveries > 1000, "{:?}", report.counts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_keeps_its_promise() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let report = run(&[node.addr], 2).await;
    println!("{:?}", report.counts);
    assert!(report.counts.deliveries > 1000, "{:?}", report.counts);
}
