//! What is special to the embedded log: its file, its lock, and what survives.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use verbatim::config::LogConfig;
use verbatim::log::Log;
use verbatim::log::sqlite::{OpenError, Sqlite};
use verbatim::model::Seq;

use super::appending::Appending;
use super::private_postgres::settings;
use super::reading::check_every_mark;
use super::suite::{committed, create, join, leave, room, say, suite};

pub fn settings_of(path: &Path) -> LogConfig {
    LogConfig { path: path.display().to_string(), ..settings("") }
}

fn open(path: &Path) -> Result<Log, OpenError> {
    Sqlite::open(&settings_of(path)).map(Log::Sqlite)
}

fn refusal(path: &Path) -> String {
    open(path).err().expect("it must not be opened").to_string()
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    suite(&open(&folder.path().join("made/on/the/way/log.db")).unwrap()).await;
}

/// Closing and opening again is the mildest restart; the file is free at once for the next one.
#[tokio::test]
async fn every_word_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let mut last = 0;
    for restart in 0..5 {
        let log = open(&path).unwrap();
        let mut appender = log.appender();
        let batch = [create("r", "1"), say("r", "1", &format!("m{restart}"), "x")];
        let outcomes = appender.append_all(&batch).await.unwrap();
        last += if restart == 0 { 2 } else { 1 };
        assert_eq!(committed(&outcomes[1]).seq, Seq(last));
        assert_eq!(log.read(&room("r"), Seq(0), 100).await.unwrap().len() as u64, last);
    }
}

/// Whoever has the file may be about to end, so the next one waits a moment.
#[tokio::test]
async fn a_file_in_use_is_refused_until_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let impatient = LogConfig { lock_timeout_ms: 10, ..settings_of(&path) };
    let refused = || Sqlite::open(&impatient).err().expect("it must not be opened").to_string();
    let first = open(&path).unwrap();
    let appender = first.appender();
    assert!(refused().contains("in use by another verbatim"));
    let closed = first.closed();
    drop(first);
    assert!(refused().contains("in use by another verbatim"), "an appender holds it, too");
    drop(appender);
    open(&path).unwrap();
    closed.wait().await;
}

#[tokio::test]
async fn a_file_from_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    drop(open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 4).unwrap();
    let sentence = refusal(&path);
    assert!(sentence.contains("was written by a newer verbatim (schema 4"), "{sentence}");
}

#[tokio::test]
async fn a_foreign_file_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("other.db");
    Connection::open(&database).unwrap().execute_batch("create table rooms (x)").unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(
        &text,
        "These are my notes, and they are longer than a header of 100 bytes. ".repeat(9),
    )
    .unwrap();
    for path in [database, text] {
        let before = fs::read(&path).unwrap();
        let sentence = refusal(&path);
        assert!(sentence.contains("is not a log of verbatim"), "{sentence}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let sentence = refusal(&folder.path().join("file/log.db"));
    assert!(sentence.contains("cannot be created or written"), "{sentence}");
    let sentence = refusal(folder.path());
    assert!(sentence.contains("cannot be opened or written"), "{sentence}");
}

#[tokio::test]
async fn people_read_the_view() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = open(&path).unwrap();
    log.appender().append_all(&[create("r", "1"), say("r", "1", "", "hello")]).await.unwrap();
    let shell = Connection::open(&path).unwrap();
    let row = shell
        .query_row(
            "select room || '|' || seq || '|' || type || '|' || user_id || '|' || text, at
             from event_log where seq = 2",
            [],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)),
        )
        .unwrap();
    assert_eq!(row.0, "r|2|message|1|hello");
    let event = log.read(&room("r"), Seq(1), 1).await.unwrap().remove(0);
    assert_eq!(row.1, event.at.to_string());
}

#[tokio::test]
async fn a_file_of_version_1_is_brought_to_this_one_and_unread_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let talk = async |log: &Log| {
        let mut appender = log.appender();
        for n in 0..10 {
            let id = (n % 3).to_string();
            let mut batch = vec![join("r", &id), say("r", &id, "", "x")];
            batch.push(if n % 2 == 0 { leave("r", &id) } else { join("r", "more") });
            appender.append_all(&batch).await.unwrap();
        }
    };
    let log = open(&path).unwrap();
    log.appender().append_all(&[create("r", "owner")]).await.unwrap();
    talk(&log).await;
    drop(log);
    let shell = Connection::open(&path).unwrap();
    shell
        .execute_batch(
            "drop view event_log;
             drop table verbatim_schema;
             drop index events_by_turn;
             alter table events drop column messages;
             alter table events drop column data;
             create view event_log as select 1;
             pragma user_version = 1;",
        )
        .unwrap();
    drop(shell);

    let log = open(&path).unwrap();
    check_every_mark(&log, "r").await;
    talk(&log).await;
    check_every_mark(&log, "r").await;
    drop(log);
    let version = Connection::open(&path)
        .unwrap()
        .query_row("pragma user_version", [], |row| row.get::<_, i32>(0));
    assert_eq!(version, Ok(3));
}
