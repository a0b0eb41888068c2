//! Within a room, `at` never goes back: the clocks of two nodes differ, and one may be set back.
//!
//! The clock of a test cannot be set, so the last event of a room is: an hour from now, as a node
//! leaves it whose clock is ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use verbatim::log::Log;
use verbatim::log::sqlite::Sqlite;
use verbatim::model::{Event, Seq, Timestamp};
use verbatim::rules::{Outcome, Write};

use super::appending::Appending;
use super::postgres::open;
use super::private_postgres::{PrivatePostgres, client};
use super::sqlite::settings_of;
use super::suite::{committed, create, join, room, say};

const HOUR_MS: i64 = 3_600_000;

/// What both logs must do. `advance` moves the time of every event by an hour.
async fn time_goes_with_seq(log: &Log, advance: impl AsyncFnOnce()) {
    let mut appender = log.appender();
    let made = [create("r", "1"), say("r", "1", "m", "x")];
    appender.append_all(&made).await.unwrap();
    advance().await;
    let before = log.read(&room("r"), Seq(0), 9).await.unwrap();
    let ahead = before[1].at;
    assert!(ahead.0 > Timestamp::now().0 + HOUR_MS / 2, "it is not ahead");

    let batch = [
        say("r", "1", "", "a"),
        create("new", "1"),
        join("r", "2"),
        say("r", "2", "", "b"),
        say("r", "1", "m", "a duplicate"),
    ];
    let outcomes = appender.append_all(&batch).await.unwrap();
    for place in [0, 2, 3] {
        assert_eq!(committed(&outcomes[place]).at, ahead, "write {place}");
    }
    assert!(committed(&outcomes[1]).at < ahead, "a room has nothing to do with another's time");
    let Outcome::Duplicate(receipt) = &outcomes[4] else { panic!("{:?}", outcomes[4]) };
    assert_eq!(receipt.at, ahead);
    // What is told is what is there.
    let told: Vec<Event> = [0, 2, 3].map(|it| committed(&outcomes[it]).clone()).into();
    assert_eq!(log.read(&room("r"), Seq(2), 9).await.unwrap(), told);
}

#[tokio::test]
async fn time_never_goes_back_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = Log::Sqlite(Sqlite::open(&settings_of(&path)).unwrap());
    let advance = async || {
        let shell = Connection::open(&path).unwrap();
        shell.execute("update events set at = at + ?1", [HOUR_MS]).unwrap();
    };
    time_goes_with_seq(&log, advance).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_never_goes_back_in_postgres() {
    let server = PrivatePostgres::start();
    let settings = server.database("time").await;
    let log = open(&settings).await;
    let admin = client(&settings.url.0).await;
    let advance = async || {
        admin.batch_execute("update events set at = at + interval '1 hour'").await.unwrap();
    };
    time_goes_with_seq(&log, advance).await;
}

/// One node takes the locks of many rooms; meanwhile another writes to the last of them, again and
/// again, so that it is free and no longer what the first one's snapshot shows.
#[tokio::test(flavor = "multi_thread")]
async fn time_goes_with_seq_where_two_nodes_write_at_once() {
    const ROOMS: usize = 400;
    let server = PrivatePostgres::start();
    let settings = server.database("raced").await;
    let log = open(&settings).await;
    let name = |n: usize| format!("r{n}");
    let creates: Vec<Write> = (0..ROOMS).map(|n| create(&name(n), "1")).collect();
    log.appender().append_all(&creates).await.unwrap();
    let admin = client(&settings.url.0).await;
    admin.batch_execute("update events set at = at + interval '1 hour'").await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let (last, mut other, stop) = (name(ROOMS - 1), log.appender(), is_over.clone());
    let hammer = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            other.append(&[say(&last, "1", "", "x")], None).await.unwrap();
        }
    });
    let batch: Vec<Write> = (0..ROOMS).map(|n| say(&name(n), "1", "", "x")).collect();
    let mut appender = log.appender();
    for _ in 0..20 {
        appender.append(&batch, None).await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    hammer.await.unwrap();
    let events = log.read(&room(&name(ROOMS - 1)), Seq(0), 100_000).await.unwrap();
    assert!(events.len() > 40, "they hardly met: {}", events.len());
    let back = events.windows(2).find(|two| two[1].at < two[0].at);
    assert!(back.is_none(), "{back:?}");
}
