//! What the embedded log makes of a file: a new one only where there is none, and a damaged one is
//! named.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;
use verbatim::log::Log;
use verbatim::log::sqlite::{OpenError, Sqlite};
use verbatim::model::Seq;

use super::appending::Appending;
use super::sqlite::settings_of;
use super::suite::{create, room, say};
#[cfg(target_os = "linux")]
use crate::harness::disk::Disk;
use crate::harness::process::{Exit, Process, Run, run_with};
use crate::harness::{Client, World};

fn open(path: &Path) -> Result<Log, OpenError> {
    Sqlite::open(&settings_of(path)).map(Log::Sqlite)
}

async fn close(log: Log) {
    let closed = log.closed();
    drop(log);
    closed.wait().await;
}

fn refusal(path: &Path) -> String {
    open(path).err().expect("it must not be opened").to_string()
}

/// A log of some pages, closed.
async fn filled(path: &Path) {
    let log = open(path).unwrap();
    let text = "x".repeat(1000);
    let mut batch = vec![create("r", "1")];
    batch.extend((0..100).map(|n| say("r", "1", &format!("m{n}"), &text)));
    log.appender().append_all(&batch).await.unwrap();
    close(log).await;
}

fn cut(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    format!("{}{suffix}", path.display()).into()
}

async fn check(world: &World) -> Run {
    let os = |(name, value): (String, String)| (OsString::from(name), OsString::from(value));
    run_with(&["check"], world.environment().into_iter().map(os).collect()).await
}

#[tokio::test]
async fn a_file_that_lacks_something_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    filled(&path).await;
    let whole = fs::read(&path).unwrap();
    let pages = whole.len() as u64 / 4096;
    for (is, told) in [
        (0, "is empty: its content is lost, or was never written"),
        (10, "is not a log of verbatim and was not changed"),
        (16, "is damaged (it is shorter than its header)"),
        (99, "is damaged (it is shorter than its header)"),
        (100, "is cut short: it has 100 bytes and should have"),
        (4096, "is cut short: it has 4096 bytes and should have"),
        (whole.len() as u64 / 2, "is cut short"),
        ((pages - 1) * 4096, "is cut short"),
        (whole.len() as u64 - 1, "is cut short"),
    ] {
        fs::write(&path, &whole).unwrap();
        cut(&path, is);
        let refused = refusal(&path);
        assert!(refused.contains(told), "{is}: {refused}");
        assert!(refused.contains("restore a backup"), "{is}: {refused}");
        assert_eq!(fs::read(&path).unwrap(), whole[..is as usize], "it was changed");
    }
    fs::write(&path, &whole).unwrap();
    let log = open(&path).unwrap();
    assert_eq!(log.last_seq(&room("r")).await.unwrap(), Some(Seq(101)));
}

#[tokio::test]
async fn a_file_whose_header_is_damaged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    filled(&path).await;
    let whole = fs::read(&path).unwrap();
    for (place, bytes, told) in [
        (0, &b"x"[..], "is not a log of verbatim"),
        (16, &[0, 0], "is damaged (its page size is 0)"),
        (16, &[0x0f, 0xff], "is damaged (its page size is 4095)"),
        (21, &[1, 2, 3], "is damaged (file is not a database)"),
        (100, &[0xff; 8], "is damaged (database disk image is malformed)"),
    ] {
        fs::write(&path, &whole).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(bytes, place).unwrap();
        let refused = refusal(&path);
        assert!(refused.contains(told), "{place}: {refused}");
    }
}

/// Someone's empty database, or one whose first words were lost with its write-ahead log.
#[tokio::test]
async fn a_database_of_nothing_is_not_a_new_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("vacuum").unwrap();
    assert!(len(&path) > 0);
    assert!(refusal(&path).contains("is empty"));
}

#[tokio::test]
async fn a_write_ahead_log_without_its_file_is_no_new_log() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (folder.path().join("log.db"), folder.path().join("aside.db"));
    let log = open(&path).unwrap();
    log.appender().append_all(&[create("r", "1")]).await.unwrap();
    let wal = fs::read(beside(&path, "-wal")).unwrap();
    close(log).await;
    fs::rename(&path, &aside).unwrap();
    fs::write(beside(&path, "-wal"), &wal).unwrap();
    let refused = refusal(&path);
    assert!(refused.contains("is missing, but its write-ahead log"), "{refused}");
    assert_eq!(fs::read(beside(&path, "-wal")).unwrap(), wal);
    assert!(!path.exists());
    // As it is after the last one was emptied: nothing is lost with it.
    fs::write(beside(&path, "-wal"), "").unwrap();
    close(open(&path).unwrap()).await;
}

/// A crash leaves pages in the write-ahead log that the file has not grown to yet.
#[tokio::test]
async fn pages_in_the_write_ahead_log_are_not_missing_and_others_are() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("log.db"), folder.path().join("copy.db"));
    filled(&path).await;
    let log = open(&path).unwrap();
    let text = "y".repeat(100_000);
    log.appender().append_all(&[say("r", "1", "", &text)]).await.unwrap();
    let before = len(&path);
    let copy_all = || {
        for suffix in ["", "-wal"] {
            fs::copy(beside(&path, suffix), beside(&copy, suffix)).unwrap();
        }
    };
    copy_all();
    let crashed = open(&copy).unwrap();
    assert_eq!(crashed.last_seq(&room("r")).await.unwrap(), Some(Seq(102)));
    assert_eq!(crashed.examine().await.unwrap(), Some(Vec::new()));
    close(crashed).await;
    assert!(len(&copy) > before, "it did not grow");

    copy_all();
    cut(&copy, before / 2);
    let refused = refusal(&copy);
    assert!(refused.contains(&format!("is cut short: it has {} bytes", before / 2)), "{refused}");
    assert_eq!(len(&copy), before / 2, "it was made longer");
    close(log).await;
}

/// Killed while it makes its first file, a node leaves nothing that the next would refuse, or take
/// for a log.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_while_it_makes_the_log_makes_it_the_next_time() {
    let (world, disk) = (World::sqlite().await, Disk::new());
    let path = Path::new(&world.config.log.path);
    disk.hang("verbatim.db.unfinished");
    let mut environment = world.environment();
    environment.extend(disk.environment());
    let killed = async {
        disk.hung().await;
        assert!(!path.exists(), "it has its name before it is on the disk");
    };
    let killed = crate::harness::process::kill_when(environment.clone(), killed).await;
    assert_eq!(killed.exit, Exit::Signal(9), "{killed:?}");
    assert!(beside(path, ".unfinished").exists());
    disk.heal();
    let process = Process::start(environment).await;
    let mut client = Client::greeted(process.addr).await;
    client.send(json!({"type": "create", "user_id": "1", "room": "r", "id": "c"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
    assert!(!beside(path, ".unfinished").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reads_the_whole_log_and_names_what_is_damaged() {
    let world = World::sqlite().await;
    let path = Path::new(&world.config.log.path);
    filled(path).await;
    let sound = check(&world).await;
    assert_eq!(sound.exit, Exit::Code(0), "{sound:?}");
    assert!(sound.stdout.contains("\nlog: sqlite answers; no damage found\n"), "{sound:?}");

    // Zeros for all pages but those that a start reads.
    let pages = len(path) / 4096;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    for page in pages / 2..pages {
        file.write_all_at(&[0; 4096], page * 4096).unwrap();
    }
    let damaged = check(&world).await;
    assert_eq!(damaged.exit, Exit::Code(1), "{damaged:?}");
    let told = damaged.stdout.lines().find(|line| line.starts_with("log: FAILED: ")).unwrap();
    for wanted in ["is damaged (", "restore a backup"] {
        assert!(told.contains(wanted), "no {wanted:?} in {told}");
    }
    assert!(told.len() < 1000, "{told}");
}
