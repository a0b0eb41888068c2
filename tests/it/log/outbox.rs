//! The outbox: what is committed and not yet known to be in Redis.

use std::time::Duration;

use tokio::time::timeout;
use verbatim::log::Log;
use verbatim::log::postgres::Postgres;
use verbatim::model::Seq;

use super::appending::Appending;
use super::private_postgres::PrivatePostgres;
use super::suite::{create, say};

/// A sweep takes as long as Redis, which may hang.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_forgotten_without_waiting_for_a_sweep_that_holds_some() {
    let server = PrivatePostgres::start();
    let settings = server.database("swept").await;
    let log = Log::Postgres(Postgres::open(&settings, 1, "n1", true).await.unwrap());
    let mut appender = log.appender();
    appender.append_all(&[create("r", "1")]).await.unwrap();
    let held = appender.receipts();
    let (mut sweeper, mut outbox) = (log.outbox().unwrap(), log.outbox().unwrap());
    let sweep = sweeper.sweep(Duration::ZERO).await.unwrap().expect("there is a row");
    appender.append_all(&[say("r", "1", "", "x")]).await.unwrap();
    let both = [held, appender.receipts()].concat();
    let forgotten = timeout(Duration::from_secs(10), outbox.forget(&both)).await;
    forgotten.expect("it waited for the sweep").unwrap();
    let left = outbox.news(0, Duration::ZERO).await.unwrap();
    assert_eq!(left.iter().map(|row| row.last_seq).collect::<Vec<_>>(), [Seq(1)]);
    // Redis has it; one who does not know that would put it there again.
    sweeper.swept(sweep).await.unwrap();
    assert_eq!(outbox.news(0, Duration::ZERO).await.unwrap(), []);
}

/// It is held in memory, and must reach Redis before the transaction may not be idle any longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_is_bounded_in_bytes_and_takes_the_oldest_first() {
    const MIB: usize = 1024 * 1024;
    let server = PrivatePostgres::start();
    let settings = server.database("long").await;
    let log = Log::Postgres(Postgres::open(&settings, 1, "n1", true).await.unwrap());
    let mut appender = log.appender();
    appender.append_all(&[create("r", "1")]).await.unwrap();
    for _ in 0..12 {
        appender.append_all(&[say("r", "1", "", &"x".repeat(MIB))]).await.unwrap();
    }
    let (mut outbox, mut sweeps) = (log.outbox().unwrap(), Vec::new());
    while let Some(sweep) = outbox.sweep(Duration::ZERO).await.unwrap() {
        sweeps.push(sweep.events.iter().map(|event| event.seq.0).collect::<Vec<_>>());
        outbox.swept(sweep).await.unwrap();
    }
    assert_eq!(sweeps, [(1..=9).collect::<Vec<_>>(), (10..=13).collect()]);
}
