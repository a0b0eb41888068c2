//! The outbox: what is committed and not yet known to be in Redis.

use std::time::Duration;

use tokio::time::timeout;
use verbatim::config::LogConfig;
use verbatim::log::postgres::Postgres;
use verbatim::log::{Log, Outbox};
use verbatim::model::Seq;

use super::appending::Appending;
use super::private_postgres::{PrivatePostgres, client};
use super::suite::{create, say};
use crate::mirror::cluster::until;

async fn open(settings: &LogConfig) -> Log {
    Log::Postgres(Postgres::open(settings, 1, "n1", true).await.unwrap())
}

/// The rows that it sees.
async fn seqs(outbox: &mut Outbox) -> Vec<u64> {
    let news = outbox.news(0, Duration::ZERO).await.unwrap();
    news.iter().map(|row| row.last_seq.0).collect()
}

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

/// While somebody holds an old snapshot (`pg_dump`), each row that was removed stays in the index.
#[tokio::test(flavor = "multi_thread")]
async fn dead_rows_are_walked_over_once_and_not_with_every_look() {
    const DEAD: i64 = 5000;
    const LOOKS: usize = 20;
    let server = PrivatePostgres::start();
    let settings = server.database("dead").await;
    let log = open(&settings).await;
    let mut appender = log.appender();
    appender.append_all(&[create("r", "1")]).await.unwrap();
    let dump = client(&settings.url.0).await;
    dump.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
    let admin = client(&settings.url.0).await;
    let rows = "insert into outbox (room_id, first_seq, last_seq, at)
         select 1, n, n, now() - interval '1 hour' from generate_series(1, DEAD) n;";
    admin.batch_execute(&rows.replace("DEAD", &DEAD.to_string())).await.unwrap();
    admin.batch_execute("delete from outbox").await.unwrap();
    let (mut outbox, mut sweeper) = (log.outbox().unwrap(), log.outbox().unwrap());
    for _ in 0..LOOKS {
        assert_eq!(outbox.news(0, Duration::ZERO).await.unwrap(), []);
        assert!(sweeper.sweep(Duration::ZERO).await.unwrap().is_none());
    }
    appender.append_all(&[say("r", "1", "", "x")]).await.unwrap();
    assert_eq!(seqs(&mut outbox).await, [2]);
    let sweep = sweeper.sweep(Duration::ZERO).await.unwrap().expect("there is a row");
    sweeper.swept(sweep).await.unwrap();
    // A session's statistics are complete when it has ended.
    drop((outbox, sweeper, appender, log));
    let sessions = "select count(*) from pg_stat_activity where application_name like 'verbatim%'";
    let len = async || admin.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0);
    until("the end of the sessions", len, |len| *len == 0).await;
    let read = "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'outbox_pkey'";
    let read: i64 = admin.query_one(read, &[]).await.unwrap().get(0);
    // By each of the two once, and by none of their looks.
    assert!((2 * DEAD..4 * DEAD).contains(&read), "{read} entries of the index were read");
}

/// Its id was drawn before others that are gone already, and it comes up behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_committed_late_is_seen() {
    let server = PrivatePostgres::start();
    let settings = server.database("late").await;
    let log = open(&settings).await;
    let mut appender = log.appender();
    appender.append_all(&[create("r", "1")]).await.unwrap();
    let mut outbox = log.outbox().unwrap();
    outbox.forget(&appender.receipts()).await.unwrap();
    let slow = client(&settings.url.0).await;
    let row = "insert into outbox (room_id, first_seq, last_seq, at) values (1, 7, 7, now())";
    slow.batch_execute(&format!("begin; {row}")).await.unwrap();
    appender.append_all(&[say("r", "1", "", "x")]).await.unwrap();
    outbox.forget(&appender.receipts()).await.unwrap();
    let mut others = [log.outbox().unwrap(), log.outbox().unwrap()];
    for outbox in others.iter_mut().chain([&mut outbox]) {
        assert!(seqs(outbox).await.is_empty());
    }
    slow.batch_execute("commit").await.unwrap();
    for outbox in others.iter_mut().chain([&mut outbox]) {
        assert_eq!(seqs(outbox).await, [7]);
    }
    // One that is being swept is there as well, and may come back.
    let [sweeper, fresh] = &mut others;
    let sweep = sweeper.sweep(Duration::ZERO).await.unwrap().expect("there is a row");
    let mut newest = log.outbox().unwrap();
    for outbox in [&mut *fresh, &mut newest] {
        assert_eq!(seqs(outbox).await, [7]);
    }
    // It goes back when PostgreSQL has noticed.
    drop(sweep);
    let newest = tokio::sync::Mutex::new(newest);
    let look = async || newest.lock().await.sweep(Duration::ZERO).await.unwrap().is_some();
    until("what went back", look, |is_there| *is_there).await;
}

/// The table was emptied with its sequence, or is that of another server: ids begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_floor_does_not_outlive_what_it_was_of() {
    let server = PrivatePostgres::start();
    let settings = server.database("anew").await;
    let log = open(&settings).await;
    let (mut appender, mut outbox) = (log.appender(), log.outbox().unwrap());
    let admin = client(&settings.url.0).await;
    appender.append_all(&[create("r", "1")]).await.unwrap();
    for n in 0..9 {
        appender.append_all(&[say("r", "1", "", &n.to_string())]).await.unwrap();
    }
    admin.batch_execute("delete from outbox").await.unwrap();
    assert!(seqs(&mut outbox).await.is_empty());
    admin.batch_execute("truncate outbox restart identity").await.unwrap();
    appender.append_all(&[say("r", "1", "", "x")]).await.unwrap();
    let outbox = tokio::sync::Mutex::new(outbox);
    let look = async || seqs(&mut *outbox.lock().await).await;
    until("a row below the floor", look, |seqs| *seqs == [11]).await;
    admin.batch_execute("update outbox set id = default; delete from outbox").await.unwrap();
    // By hand, below the floor.
    let by_hand = "insert into outbox (id, room_id, first_seq, last_seq, at)
         overriding system value values (1, 1, 5, 5, now());
         select pg_terminate_backend(pid) from pg_stat_activity
         where application_name like 'verbatim%'";
    admin.batch_execute(by_hand).await.unwrap();
    let look =
        async || outbox.lock().await.news(0, Duration::ZERO).await.is_ok_and(|it| it.len() == 1);
    until("the same on a new connection", look, |seen| *seen).await;
}
