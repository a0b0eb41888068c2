//! The load generator against a server of ours: what it prints, and that it says what is wrong.
//! Times are not looked at; they are for a quiet machine.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::harness::World;
use crate::harness::process::{Exit, Run, run};

async fn bench(shape: &str, addr: SocketAddr, more: &str) -> Run {
    let url = format!("ws://{addr}/ws");
    let mut arguments = vec!["bench", shape, "--url", &url, "--patience", "15s"];
    arguments.extend(more.split_whitespace());
    run(&arguments, &[], &[]).await
}

/// A run that ended well, and its report.
async fn report(shape: &str, addr: SocketAddr, more: &str) -> Value {
    let run = bench(shape, addr, &format!("{more} --warm-up 200ms --json -")).await;
    assert_eq!(run.exit, Exit::Code(0), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).expect("the report is not JSON");
    assert_eq!(report["shape"], shape);
    for nothing in ["missing", "duplicates", "lost", "refused", "unanswered"] {
        assert_eq!(report[nothing], 0, "{report}");
    }
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fanout_reaches_every_follower() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let more = "--clients 30 --rooms 3 --rate 100 --duration 2s --threads 2";
    let report = report("fanout", node.addr, more).await;
    let sent = report["sent"].as_u64().unwrap();
    assert!(sent > 0 && report["acked"] == sent, "{report}");
    assert_eq!(report["delivered"], sent * 10, "each room has ten followers");
    assert!(report["delivery"]["count"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["server"], Value::Null, "no process was named");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_acked_as_fast_as_they_come() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let pid = std::process::id();
    let more = format!("--clients 8 --rooms 2 --in-flight 4 --duration 2s --pid {pid}");
    let report = report("write", node.addr, &more).await;
    assert!(report["sent"].as_u64().unwrap() > 32, "more than the first of each: {report}");
    assert_eq!(report["acked"], report["sent"]);
    assert_eq!(report["ack"]["count"].as_u64().map(|count| count > 0), Some(true));
    assert!(report["server"]["resident_kib"].as_u64().unwrap() > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_in_a_chatter_is_heard_by_the_room() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let more = "--clients 12 --rooms 4 --rate 60 --duration 1s";
    let report = report("chatter", node.addr, more).await;
    let sent = report["sent"].as_u64().unwrap();
    assert!(sent > 0);
    assert_eq!(report["delivered"], sent * 3, "the speaker hears it, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_ends_when_everybody_is_back_and_whole() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let report = report("storm", node.addr, "--clients 40 --rooms 4 --missed 25").await;
    assert_eq!(report["sent"], 100);
    assert_eq!(report["delivered"], 1000);
    assert_eq!(report["replayed"], 1000, "all of it was missed");
    assert_eq!(report["returns"]["count"], 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_and_goes_misses_nothing() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let more = "--clients 20 --rooms 2 --rate 100 --stay 500ms --away 200ms --duration 2s";
    let report = report("jitter", node.addr, more).await;
    assert!(report["replayed"].as_u64().unwrap() > 0, "{report}");
    assert!(report["returns"]["count"].as_u64().unwrap() >= 20, "{report}");
    let sent = report["sent"].as_u64().unwrap();
    assert_eq!(report["delivered"], sent * 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_meanwhile_gets_it_later() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let more = "--clients 10 --slow 10 --rate 200 --size 10000 --duration 1s";
    let report = report("fanout", node.addr, more).await;
    assert_eq!(report["delivered"], report["sent"].as_u64().unwrap() * 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_come_about_and_stay() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let report = report("idle", node.addr, "--clients 50 --duration 300ms").await;
    assert_eq!((&report["clients"], &report["sent"]), (&50.into(), &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_share_the_clients_and_are_told_apart() {
    let world = World::sqlite().await;
    let node = world.node().await;
    // The same node by two addresses is as good here as two: the clients do not know.
    let also = format!("--url ws://localhost:{}/ws", node.addr.port());
    let arrivals = tempfile::NamedTempFile::new().unwrap();
    let path = arrivals.path().display();
    let more = format!("{also} --clients 10 --rate 50 --duration 1s --arrivals {path}");
    let report = report("fanout", node.addr, &more).await;
    for half in ["near", "far"] {
        assert!(report[half]["count"].as_u64().unwrap() > 0, "{report}");
    }
    let arrivals = std::fs::read_to_string(arrivals.path()).unwrap();
    assert_eq!(arrivals.lines().count() as u64, report["delivery"]["count"].as_u64().unwrap());
    let is_arrival =
        |line: &str| line.split(',').filter_map(|n| n.parse::<u64>().ok()).count() == 6;
    assert!(arrivals.lines().all(is_arrival), "{arrivals}");
}

/// A command that a server refuses is told, and is not a success.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_refuses_is_a_failure() {
    let limited = |config: &mut verbatim::config::Config| {
        (config.session.commands_per_second, config.session.commands_burst) = (1, 20);
    };
    let world = World::sqlite().await;
    let node = world.node_with(limited).await;
    let more = "--clients 1 --rooms 1 --in-flight 64 --duration 1s";
    let run = bench("write", node.addr, more).await;
    assert_eq!(run.exit, Exit::Code(1), "{run:?}");
    assert!(run.stdout.contains("rate_limited"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_a_failure() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let addr = node.addr;
    let running = tokio::spawn(async move {
        bench("fanout", addr, "--clients 5 --rate 100 --duration 60s").await
    });
    // The sender's messages are there when the followers are.
    let mut client = node.client().await;
    let mut rooms = serde_json::json!(null);
    while rooms["rooms"][0]["last_seq"].as_u64().is_none_or(|last_seq| last_seq < 10) {
        assert!(!running.is_finished(), "{:?}", running.await);
        client.send(serde_json::json!({"type": "rooms"})).await;
        rooms = client.next().await;
        // Between two looks at what does not tell us when it changes.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.stop().await;
    let run = running.await.unwrap();
    assert_eq!(run.exit, Exit::Code(1), "{run:?}");
    assert!(run.stdout.contains(" lost\n") && !run.stdout.contains(" 0 lost"), "{run:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_one_line_and_1() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = bench("fanout", nobody, "").await;
    assert_eq!(run.exit, Exit::Code(1), "{run:?}");
    assert!(run.stderr.starts_with("verbatim: cannot connect to ws://127.0.0.1:"), "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
}

#[tokio::test]
async fn wrong_arguments_are_one_line_and_64() {
    let cases: [(&[&str], &str); 4] = [
        (&["bench"], "verbatim: "),
        (&["bench", "fan-out"], "verbatim: invalid value 'fan-out' for '<SHAPE>'"),
        (&["bench", "fanout", "--clients", "0"], "verbatim: --clients: must be from 1"),
        (&["bench", "fanout", "--pid", "0x1"], "verbatim: invalid value '0x1' for '--pid <PID>'"),
    ];
    for (arguments, wanted) in cases {
        let run = run(arguments, &[], &[]).await;
        assert_eq!(run.exit, Exit::Code(64), "{run:?}");
        assert!(run.stderr.starts_with(wanted), "{run:?}");
        assert_eq!((run.stderr.lines().count(), run.stdout.as_str()), (1, ""), "{run:?}");
    }
}
