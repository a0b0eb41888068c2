//! A node whose clock is not the log's.

use crate::harness::World;
use crate::harness::process::Process;
use crate::harness::raw::get;
use crate::mirror::cluster::until;

/// No clock of a test can be set. But a database can have a function of its own in the place of
/// the one that tells the time, for those whose `search_path` says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_differs_from_the_logs_says_so_once() {
    for (by, told) in [("- interval '5 s'", " s ahead of"), ("+ interval '5 s'", " s behind")] {
        let mut world = World::postgres().await;
        let url = &mut world.config.log.url.0;
        let (sql, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let function = "create function public.clock_timestamp() returns timestamptz
             language sql as $$ select pg_catalog.clock_timestamp() BY $$";
        sql.batch_execute(&function.replace("BY", by)).await.unwrap();
        *url += "?options=-c%20search_path%3Dpublic%2Cpg_catalog";
        let process = Process::start(world.environment()).await;
        let is_off = |line: &&str| line.contains("WARN") && line.contains("the clock of this node");
        let lines = async || {
            let output = process.output();
            output.lines().filter(is_off).map(str::to_owned).collect::<Vec<_>>()
        };
        let lines = until("a warning", lines, |lines| !lines.is_empty()).await;
        assert!(lines.len() == 1 && lines[0].contains(told), "{lines:?}, not{told}");
        let (_, metrics) = get(process.addr, "/metrics").await;
        let name = "verbatim_log_clock_difference_seconds ";
        let seconds = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let seconds: f64 = seconds.parse().unwrap();
        let sign = if by.starts_with('-') { 1.0 } else { -1.0 };
        assert!((seconds * sign - 5.0).abs() < 0.5, "{seconds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_right_says_nothing() {
    let world = World::postgres().await;
    let process = Process::start(world.environment()).await;
    let name = "verbatim_log_clock_difference_seconds ";
    let is_asked = async || {
        let (_, metrics) = get(process.addr, "/metrics").await;
        metrics.lines().find_map(|line| line.strip_prefix(name)).is_some_and(|it| it != "0.0")
    };
    until("a comparison", is_asked, |is| *is).await;
    assert!(!process.output().contains("the clock of this node"), "{}", process.output());
}
