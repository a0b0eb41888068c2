//! The workload against real nodes, and what the checker says of it.

use std::net::SocketAddr;
use std::time::Duration;

use verbatim_checker::{Limits, Report};
use verbatim_tools::verify::plan::Shape;
use verbatim_tools::verify::{self, Settings, Target};

use crate::harness::World;
use crate::harness::process::{self, Exit};
use crate::mirror::cluster::Cluster;

/// Small runs on nodes at these addresses, that nobody disturbs, until there was something to see:
/// the machine may stand still for as long as one of them.
async fn run(addrs: &[SocketAddr], seconds: u64) {
    for round in 0..5 {
        let report = run_once(addrs, seconds, format!("run-{round}")).await;
        if report.counts.deliveries > 1000 {
            return;
        }
    }
    panic!("nothing is delivered");
}

async fn run_once(addrs: &[SocketAddr], seconds: u64, name: String) -> Report {
    let targets = addrs.iter().map(|addr| Target::parse(&format!("ws://{addr}")).unwrap());
    let shape = Shape { clients: 36, rooms: 4, rate: 200, message_bytes_max: 4096 };
    let settings = Settings {
        targets: targets.collect(),
        seed: 1,
        shape,
        name,
        limits: Limits { heal: 20_000_000_000, ..Limits::default() },
    };
    let verified = verify::run(settings, Duration::from_secs(seconds), |_| {}).await.unwrap();
    let report = &verified.report;
    let shown: Vec<_> = report.violations.iter().take(20).map(ToString::to_string).collect();
    assert!(verified.is_clean(), "{:?} {:#?}\n{shown:#?}", verified.troubles, report.totals);
    verified.report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_nobody_disturbs_keeps_its_promise() {
    let cluster = Cluster::shared().await;
    let nodes = cluster.three_nodes().await;
    run(&nodes.each_ref().map(|node| node.addr), 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_keeps_its_promise() {
    let world = World::sqlite().await;
    let node = world.node().await;
    run(&[node.addr], 2).await;
}

fn urls(addrs: &[SocketAddr]) -> Vec<String> {
    addrs.iter().flat_map(|addr| ["--url".to_owned(), format!("ws://{addr}/ws")]).collect()
}

async fn program(addrs: &[SocketAddr], more: &[&str]) -> process::Run {
    let urls = urls(addrs);
    let arguments = ["verify"].into_iter().chain(urls.iter().map(String::as_str));
    let arguments: Vec<_> = arguments.chain(more.iter().copied()).collect();
    process::run(&arguments, &[], &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_judges_a_running_cluster() {
    let cluster = Cluster::shared().await;
    let nodes = cluster.three_nodes().await;
    let addrs = nodes.each_ref().map(|node| node.addr);
    let run = program(&addrs, &["--seconds", "1", "--clients", "24", "--prefix", "test"]).await;
    assert_eq!(run.exit, Exit::Code(0), "{run:?}");
    assert!(run.stdout.contains("violations                                  0\n"), "{run:?}");
    // Once more in the same cluster: its rooms are others.
    let run = program(&addrs, &["--seconds", "1", "--clients", "24", "--prefix", "test"]).await;
    assert_eq!(run.exit, Exit::Code(0), "{run:?}");
}

/// What is written to the one is never on the other.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_are_no_cluster_are_found_out() {
    let (one, two) = (World::sqlite().await, World::sqlite().await);
    let (one, two) = (one.node().await, two.node().await);
    let arguments = ["--seconds", "1", "--clients", "24"];
    let run = program(&[one.addr, two.addr], &arguments).await;
    assert_eq!(run.exit, Exit::Code(1), "{run:?}");
    assert!(run.stderr.contains("these nodes are not one cluster"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_make_no_sense_are_refused_in_one_line() {
    let check = async |arguments: &[&str], wanted: &str| {
        let run = process::run(arguments, &[], &[]).await;
        assert_eq!(run.exit, Exit::Code(64), "{run:?}");
        assert!(run.stderr.contains(wanted) && run.stderr.lines().count() == 1, "{run:?}");
    };
    check(&["verify"], "--url").await;
    check(&["verify", "--url", "http://chat"], "\"http://chat\" is not a URL").await;
    check(&["verify", "--url", "ws://chat", "--clients", "3"], "24").await;
    check(&["verify", "--url", "ws://chat", "--prefix", "a b"], "letters").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_there_is_said_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let run = program(&[addr], &["--seconds", "1"]).await;
    assert_eq!(run.exit, Exit::Code(1), "{run:?}");
    assert!(run.stderr.contains(&addr.to_string()), "{run:?}");
}
