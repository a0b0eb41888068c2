//! Whatever becomes of stderr, a node serves, recovers and stops as if every log line were read.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

#[cfg(target_os = "linux")]
use crate::disk_full::limit_files;
use crate::harness::process::{Exit, Process, run_with_stderr};
use crate::harness::proxy::{Pieces, Proxy};
use crate::harness::raw::get;
use crate::harness::sandbox::sandbox;
use crate::harness::{Client, World, services};
use crate::mirror::cluster::{metric, mirror_is, until};

/// More than there are lanes, so that each has one of them.
const ROOMS: usize = 16;

/// A proxy in front of what that URL names, and the URL that leads through it.
async fn behind_proxy(url: &str) -> (Proxy, String) {
    let port = url.rsplit_once("127.0.0.1:").unwrap().1;
    let port = port.split('/').next().unwrap();
    let proxy = Proxy::to(port.parse().unwrap(), Pieces::Chunks).await;
    let url = url.replace(&format!(":{port}"), &format!(":{}", proxy.port()));
    (proxy, url)
}

/// Both stores go and come back, which makes every part of a node say something; then it is told to
/// stop. Returns how many lines it could not write.
async fn outlives_its_stores(stderr: impl Into<Stdio>, began: impl FnOnce()) -> u64 {
    let mut world = World::postgres().await.impatient();
    let (postgres, url) = behind_proxy(&world.config.log.url.0).await;
    world.config.log.url.0 = url;
    let (redis, url) = behind_proxy(&services::redis_url().await).await;
    let mut environment = world.environment();
    environment.push(("REDIS_URL".to_owned(), url));
    environment.push(("VERBATIM_TRACE__LEVEL".to_owned(), "trace".to_owned()));
    let mut process = Process::start_with_stderr(environment, stderr).await;
    began();
    let mut client = Client::greeted(process.addr).await;
    let create = |room: String| json!({"type": "create", "user_id": "1", "room": room, "id": room});
    for store in [&postgres, &redis] {
        store.cut();
    }
    for room in 0..ROOMS {
        client.send(create(format!("r{room}"))).await;
    }
    for _ in 0..ROOMS {
        client.expect(json!({"type": "error", "code": "unavailable"})).await;
    }
    for store in [&postgres, &redis] {
        store.heal();
    }
    let addr = process.addr;
    until("the log", async || get(addr, "/readyz").await.0.status, |status| *status == 200).await;
    mirror_is(addr, "ok").await;
    for room in 0..ROOMS {
        loop {
            client.send(create(format!("s{room}"))).await;
            let answer = client.next().await;
            if answer["type"] == "ack" {
                break assert_eq!(answer["seq"], 1, "{answer}");
            }
            // A machine that stands still.
            assert_eq!(answer["code"], "unavailable", "{answer}");
        }
    }
    let dropped = metric(addr, "verbatim_log_lines_dropped_total").await;
    process.sigterm();
    client.expect(json!({"type": "goodbye"})).await;
    client.expect_close(1012).await;
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
    dropped
}

/// `verbatim 2>&1 | tee log`, and `tee` is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_outlives_the_reader_of_its_log_lines() {
    let (reader, writer) = std::io::pipe().unwrap();
    assert!(outlives_its_stores(writer, || drop(reader)).await > 0);
}

/// `verbatim 2>log`, and the disk is full.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_outlives_a_full_disk_under_its_log_lines() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert!(outlives_its_stores(full, || {}).await > 0);
}

/// When there is room again, lines come again, and one of them says how many do not.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_how_many_log_lines_are_missing() {
    let folder = sandbox().folder("stderr");
    let path = folder.path().join("stderr");
    let file = File::options().create(true).append(true).open(&path).unwrap();
    let written = || fs::read_to_string(&path).unwrap();
    let environment = World::sqlite().await.environment();
    let process = Process::start_with_stderr(environment, file).await;
    until("the usual lines", async || written(), |text| text.contains("ready")).await;
    // The first half of a line fits.
    limit_files(&process, Some(written().len() as u64 + 10));
    for dropped in [1, 2, 3] {
        process.signal(Signal::USR1);
        let now = async || metric(process.addr, "verbatim_log_lines_dropped_total").await;
        until("a line that is lost", now, |now| *now == dropped).await;
    }
    let before = written();
    limit_files(&process, None);
    process.signal(Signal::USR2);
    until("lines again", async || written(), |text| text.contains("lines=3")).await;
    let (after, before) = (written(), before.lines().count());
    let lines: Vec<_> = after.lines().skip(before).collect();
    assert!(lines[0].ends_with(r#"signal ignored signal="SIGUSR2""#), "{after}");
    let told = "log lines are missing here: stderr did not accept them lines=3";
    assert!(lines[1].ends_with(told), "{after}");
    assert_eq!(lines.len(), 2, "{after}");
}

/// A terminal that was stopped with Ctrl-S, a pipe whose reader hangs: a write never returns.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_waits_for_nobody_who_does_not_read_its_log_lines() {
    let (mut reader, stderr) = full_pipe();
    // What waits for a reader is not lost yet.
    assert_eq!(outlives_its_stores(stderr, || {}).await, 0);
    let mut lines = String::new();
    reader.read_to_string(&mut lines).unwrap();
    assert!(!lines.contains("verbatim"), "it was not full: {lines}");
}

/// A start that fails is told, if it can be, and ends either way.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_start_ends_whether_or_not_anybody_reads_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let (_reader, stderr) = full_pipe();
    let exit = run_with_stderr(&[("VERBATIM_SERVER__LISTEN", &listen)], stderr).await;
    assert_eq!(exit, Exit::Code(1));
}

/// A pipe that takes nothing more, and its other end.
fn full_pipe() -> (UnixStream, OwnedFd) {
    let (reader, mut writer) = UnixStream::pair().unwrap();
    // Only for us: who is given it waits.
    writer.set_nonblocking(true).unwrap();
    for bytes in [1024, 1] {
        let full = loop {
            if let Err(err) = writer.write_all(&vec![b'.'; bytes]) {
                break err.kind();
            }
        };
        assert_eq!(full, ErrorKind::WouldBlock);
    }
    writer.set_nonblocking(false).unwrap();
    (reader, writer.into())
}
