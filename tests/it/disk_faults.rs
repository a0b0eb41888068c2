//! The embedded log on a disk that hangs or fails: a node can always be stopped, and never serves
//! what its disk may not hold.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::disk::Disk;
use crate::harness::process::{Exit, Process, run_until, run_with};
use crate::harness::raw::get;
use crate::harness::{Client, PATIENCE, World};
use crate::stored::assert_sound;

/// `log.append_timeout_ms` here, after which a lane gives up.
const APPEND_WITHIN: Duration = Duration::from_secs(1);
/// `server.shutdown_timeout_ms` here: so much above it that a machine that stands still does not
/// have both end at once.
const STOP_WITHIN: Duration = Duration::from_secs(6);

const WAL: &str = "verbatim.db-wal";

fn environment(world: &World, disk: &Disk) -> Vec<(String, String)> {
    let mut environment = world.environment();
    // A machine of one core: a thread of the runtime that waits for the disk is all there are.
    environment.push(("TOKIO_WORKER_THREADS".to_owned(), "1".to_owned()));
    let within = STOP_WITHIN.as_millis().to_string();
    environment.push(("VERBATIM_SERVER__SHUTDOWN_TIMEOUT_MS".to_owned(), within));
    environment.extend(disk.environment());
    environment
}

fn message(id: &str) -> Value {
    json!({"type": "message", "user_id": "1", "room": "r", "message": "hi", "id": id})
}

/// A room with one event, acked.
async fn room(process: &Process) -> Client {
    let mut client = Client::greeted(process.addr).await;
    client.send(json!({"type": "create", "user_id": "1", "room": "r", "id": "c"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
    client
}

/// The last task to end used to wait for the log's threads on a thread of the runtime, and no
/// deadline could end that.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_hangs_stops_in_time() {
    let (world, disk) = (World::sqlite().await, Disk::new());
    let mut process = Process::start(environment(&world, &disk)).await;
    drop(room(&process).await);
    process.sigterm();
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());

    let mut hasty = environment(&world, &disk);
    for name in ["VERBATIM_LOG__APPEND_TIMEOUT_MS", "VERBATIM_LANE__ANSWER_TIMEOUT_MS"] {
        hasty.push((name.to_owned(), APPEND_WITHIN.as_millis().to_string()));
    }
    let mut process = Process::start(hasty).await;
    let mut client = Client::greeted(process.addr).await;
    disk.hang(WAL);
    client.send(message("m")).await;
    disk.hung().await;
    let begun = Instant::now();
    process.sigterm();
    let frames = client.read_to_close(1012).await;
    drop(client);
    let types: Vec<_> = frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["goodbye", "error"], "{frames:?}");
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
    assert!(begun.elapsed() < STOP_WITHIN + PATIENCE, "it took {:?}", begun.elapsed());
    assert!(process.output().contains("stopped at server.shutdown_timeout_ms"));

    disk.heal();
    let process = Process::start(environment(&world, &disk)).await;
    let mut client = Client::greeted(process.addr).await;
    client.send(message("m")).await;
    client.expect(json!({"type": "ack", "seq": 2})).await;
    client.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "history", "last": 2})).await;
}

/// The word to stop was heard only when the log was open.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_for_its_disk_to_start_can_be_stopped() {
    let (world, disk) = (World::sqlite().await, Disk::new());
    disk.hang("verbatim.db");
    let run = run_until(environment(&world, &disk), disk.hung()).await;
    assert_eq!(run.exit, Exit::Code(0), "{run:?}");
    assert!(run.stderr.contains("stopped before the node was ready"), "{run:?}");
    assert_eq!(run.stdout, "");
}

/// Killed between writing a commit and syncing it: the next process reads that commit, and would
/// say `duplicate`, which is an ack, of what only the system's memory holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_node_did_not_sync_is_on_the_disk_before_it_is_acked() {
    let (world, disk) = (World::sqlite().await, Disk::new());
    let mut process = Process::start(environment(&world, &disk)).await;
    let mut client = room(&process).await;
    disk.hang(WAL);
    client.send(message("m")).await;
    disk.hung().await;
    process.kill9();
    assert_eq!(process.wait_exit().await, Exit::Signal(9));

    // A disk that does not take it now is a reason not to serve.
    disk.fail(WAL);
    let environment = environment(&world, &disk);
    let os = |(name, value): (String, String)| (name.into(), value.into());
    let refused = run_with(&[], environment.iter().cloned().map(os).collect()).await;
    assert_eq!(refused.exit, Exit::Code(1), "{refused:?}");
    let told = refused.stderr.lines().last().unwrap_or_default();
    assert!(told.starts_with("verbatim: the disk refused to sync the log "), "{told}");

    disk.heal();
    disk.take_syncs();
    let process = Process::start(environment).await;
    let syncs = disk.take_syncs();
    let path = std::fs::canonicalize(&world.config.log.path).unwrap();
    let folder = path.parent().unwrap();
    for synced in [path.with_extension("db-wal").as_path(), &path, folder] {
        let line = format!("synced {}", synced.display());
        assert!(syncs.contains(&line), "no {line:?} in {syncs:?}");
    }
    let mut client = Client::greeted(process.addr).await;
    client.send(message("m")).await;
    client.expect(json!({"type": "ack", "seq": 2, "duplicate": true})).await;
    assert_sound(&world.config.log);
}

/// The write-ahead log cannot be emptied while a person reads it; it is synced all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_reads_the_log_keeps_no_node_from_starting() {
    let (world, disk) = (World::sqlite().await, Disk::new());
    let mut process = Process::start(environment(&world, &disk)).await;
    drop(room(&process).await);
    let shell = rusqlite::Connection::open(&world.config.log.path).unwrap();
    shell.execute_batch("begin; select count(*) from events;").unwrap();
    process.kill9();
    process.wait_exit().await;
    disk.take_syncs();
    let process = Process::start(environment(&world, &disk)).await;
    let syncs = disk.take_syncs();
    assert!(syncs.iter().any(|line| line.ends_with(WAL)), "{syncs:?}");
    let mut client = Client::greeted(process.addr).await;
    client.send(message("m")).await;
    client.expect(json!({"type": "ack", "seq": 2})).await;
}

/// Nobody knows whether a commit that was not synced will be there after a crash. It is not shown,
/// and the same id makes it one.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_disk_refuses_is_unknown_and_comes_once() {
    let (world, disk) = (World::sqlite().await, Disk::new());
    let mut process = Process::start(environment(&world, &disk)).await;
    let mut client = room(&process).await;
    disk.fail(WAL);
    for _ in 0..2 {
        client.send(message("m")).await;
        client.expect(json!({"type": "error", "code": "unavailable", "id": "m"})).await;
    }
    let metrics = get(process.addr, "/metrics").await.1;
    assert!(metrics.contains("\nverbatim_log_errors_total{kind=\"unknown\"} 2\n"), "{metrics}");
    let history = json!({"type": "history", "user_id": "1", "room": "r"});
    client.send(history.clone()).await;
    client.expect(json!({"type": "history", "last": 1})).await;

    disk.heal();
    client.send(message("m")).await;
    let ack = client.read_until(json!({"type": "ack"})).await.pop().unwrap();
    assert_eq!((&ack["seq"], &ack["duplicate"]), (&json!(2), &Value::Null), "{ack}");
    process.kill9();
    process.wait_exit().await;
    let process = Process::start(environment(&world, &disk)).await;
    let mut client = Client::greeted(process.addr).await;
    client.send(history).await;
    client.expect(json!({"type": "history", "last": 2})).await;
    assert_sound(&world.config.log);
}
