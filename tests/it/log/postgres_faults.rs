//! PostgreSQL on its bad days: it is killed, restarted, slow, or cut off in the middle of a commit.
//! Nothing may ever be acked that is not there, and nothing may be there twice.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use verbatim::config::LogConfig;
use verbatim::log::LogError;
use verbatim::model::{Event, Seq};
use verbatim::rules::{Outcome, Write};

use super::appending::Appending;
use super::postgres::open;
use super::private_postgres::{PrivatePostgres, client, settings, url_of};
use super::suite::{committed, create, room, say};
use crate::harness::PATIENCE;

/// Sends a batch until it is answered, as a client does that has ids. Returns the seqs and how
/// often it had to try.
async fn insist(appender: &mut verbatim::log::Appender, batch: &[Write]) -> (Vec<Seq>, u32) {
    for tries in 1.. {
        match appender.append_all(batch).await {
            Ok(outcomes) => {
                let seq = |outcome: &Outcome| match outcome {
                    Outcome::Duplicate(receipt) => receipt.seq,
                    other => committed(other).seq,
                };
                return (outcomes.iter().map(seq).collect(), tries);
            }
            Err(LogError::Unavailable(_) | LogError::Unknown(_)) => {}
            Err(error) => panic!("refused: {error}"),
        }
    }
    unreachable!("the loop has no end")
}

/// Asks until the log answers: on a machine that stands still the first answer may come too late.
pub async fn at_last<T>(mut ask: impl AsyncFnMut() -> Result<T, LogError>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(err) => assert!(Instant::now() < deadline, "{err}"),
        }
    }
}

fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().filter_map(|event| event.client_id.as_ref().map(|id| id.as_str())).collect()
}

/// Sessions are killed at every moment of an append; every acked event is there once, in its place.
#[tokio::test(flavor = "multi_thread")]
async fn killed_sessions_never_ack_what_is_not_there_nor_write_twice() {
    const BATCHES: usize = 100;
    let server = PrivatePostgres::start();
    let settings = server.database("killed").await;
    let log = open(&settings).await;
    let mut appender = log.appender();
    appender.append_all(&[create("r", "1")]).await.unwrap();
    let admin = client(&settings.url.0).await;
    let (progress, mut progressed) = watch::channel(0);
    let killer = tokio::spawn(async move {
        let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                    where application_name like 'verbatim%' and state <> 'idle'";
        let mut killed = 0;
        // One session, as soon as one is seen at work; then a batch must get through.
        while progressed.changed().await.is_ok() {
            while matches!(progressed.has_changed(), Ok(false))
                && admin.query(kill, &[]).await.unwrap().is_empty()
            {}
            killed += 1;
        }
        killed
    });
    let (mut acked, mut tries) = (Vec::new(), 0);
    for n in 0..BATCHES {
        let batch: Vec<Write> =
            (0..5).map(|k| say("r", "1", &format!("{}", n * 5 + k), "x")).collect();
        let (seqs, tried) = insist(&mut appender, &batch).await;
        acked.extend(seqs);
        tries += tried;
        progress.send_replace(n);
    }
    drop(progress);
    let killed: usize = killer.await.unwrap();
    println!("{killed} kills, {tries} calls for {BATCHES} batches");
    let events = log.read(&room("r"), Seq(1), 10_000).await.unwrap();
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), acked);
    assert_eq!(ids(&events), (0..BATCHES * 5).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_under_load_loses_nothing_acked() {
    let server = PrivatePostgres::start();
    let settings = server.database("crashed").await;
    let log = open(&settings).await;
    let mut lanes = Vec::new();
    for lane in 0..3 {
        let mut appender = log.appender();
        lanes.push(tokio::spawn(async move {
            let name = format!("r{lane}");
            let made = verbatim::protocol::command::Verb::Create;
            insist(&mut appender, &[super::suite::write(&name, "1", "c", made)]).await;
            for n in 0..400 {
                insist(&mut appender, &[say(&name, "1", &n.to_string(), "x")]).await;
            }
        }));
    }
    for _ in 0..3 {
        // Restarting takes as long as it takes; the lanes go on all the while.
        tokio::task::block_in_place(|| server.restart());
    }
    for lane in lanes {
        lane.await.unwrap();
    }
    for lane in 0..3 {
        let events = log.read(&room(&format!("r{lane}")), Seq(1), 1000).await.unwrap();
        assert_eq!(ids(&events), (0..400).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(events.last().unwrap().seq, Seq(401));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_unavailable_within_the_budget_and_then_works_again() {
    let server = PrivatePostgres::start();
    let mut settings = server.database("stopped").await;
    open(&settings).await.appender().append_all(&[create("r", "1")]).await.unwrap();
    settings.append_timeout_ms = 1500;
    settings.read_timeout_ms = 400;
    let log = open(&settings).await;
    let mut appender = log.appender();
    at_last(async || log.read(&room("r"), Seq(0), 1).await).await;
    server.stop();
    for _ in 0..2 {
        let begun = Instant::now();
        let appended = appender.append_all(&[say("r", "1", "m", "x")]).await;
        assert!(matches!(appended, Err(LogError::Unavailable(_))), "{appended:?}");
        let read = log.read(&room("r"), Seq(0), 1).await;
        assert!(matches!(read, Err(LogError::Unavailable(_))), "{read:?}");
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }
    server.start_again();
    let (seqs, _) = insist(&mut appender, &[say("r", "1", "m", "x")]).await;
    assert_eq!(seqs, [Seq(2)]);
    let last_seq = at_last(async || log.last_seq(&room("r")).await).await;
    assert_eq!(last_seq, Some(Seq(2)));
}

/// Somebody else holds the room for longer than the budget: nothing is written, not even later.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_stays_locked_is_unavailable_and_the_batch_never_appears() {
    let server = PrivatePostgres::start();
    let mut settings = server.database("locked").await;
    let mut patient = open(&settings).await.appender();
    patient.append_all(&[create("r", "1")]).await.unwrap();
    settings.append_timeout_ms = 1500;
    let log = open(&settings).await;
    let mut appender = log.appender();
    let holder = client(&settings.url.0).await;
    holder.batch_execute("begin; select from rooms for update").await.unwrap();
    let result = appender.append_all(&[say("r", "1", "", "never")]).await;
    assert!(matches!(result, Err(LogError::Unavailable(_))), "{result:?}");
    holder.batch_execute("rollback").await.unwrap();
    let settled = at_last(async || appender.settled(&[room("r")]).await).await;
    assert_eq!(settled, [(room("r"), Seq(1))]);
    let outcomes = patient.append_all(&[say("r", "1", "", "now")]).await.unwrap();
    assert_eq!(committed(&outcomes[0]).seq, Seq(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_unknown_and_settles() {
    let server = PrivatePostgres::start();
    let direct = server.database("cut").await;
    let proxy = Proxy::start(server.socket_file());
    let through = LogConfig { append_timeout_ms: 5000, ..settings(&proxy.url("cut")) };
    let log = open(&through).await;
    let mut appender = log.appender();
    appender.append_all(&[create("r", "1")]).await.unwrap();

    // The answer is lost, the commit is not.
    proxy.set(LOSE_ANSWER);
    let batch = [say("r", "1", "a", "x")];
    let result = appender.append_all(&batch).await;
    assert!(matches!(result, Err(LogError::Unknown(_))), "{result:?}");
    proxy.set(PASS);
    assert_eq!(appender.settled(&[room("r")]).await.unwrap(), [(room("r"), Seq(2))]);
    let again = appender.append_all(&batch).await.unwrap();
    assert!(matches!(&again[..], [Outcome::Duplicate(it)] if it.seq == Seq(2)), "{again:?}");

    // The connection breaks and the commit never arrives. For the node that is the same.
    proxy.set(CUT_BEFORE_COMMIT);
    let batch = [say("r", "1", "b", "x")];
    let result = appender.append_all(&batch).await;
    assert!(matches!(result, Err(LogError::Unknown(_))), "{result:?}");
    proxy.set(PASS);
    assert_eq!(appender.settled(&[room("r")]).await.unwrap(), [(room("r"), Seq(2))]);
    let again = appender.append_all(&batch).await.unwrap();
    assert_eq!(committed(&again[0]).seq, Seq(3));

    let events = open(&direct).await.read(&room("r"), Seq(0), 10).await.unwrap();
    assert_eq!(ids(&events), ["a", "b"]);
}

/// Dropped after any number of steps, an append is written or not, but never in the way of the
/// next.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_was_dropped_leaves_nothing_behind() {
    const DROPPED: usize = 60;
    let server = PrivatePostgres::start();
    let log = open(&server.database("halfway").await).await;
    let mut appender = log.appender();
    appender.append_all(&[create("r", "1")]).await.unwrap();
    for n in 0..DROPPED {
        let batch = [say("r", "1", &n.to_string(), "x")];
        let mut append = Box::pin(appender.append_all(&batch));
        for _ in 0..n {
            if futures_util::poll!(&mut append).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(append);
        insist(&mut appender, &batch).await;
    }
    let events = log.read(&room("r"), Seq(1), 1000).await.unwrap();
    assert_eq!(ids(&events), (0..DROPPED).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// A reader whose caller went away owes an answer; the next read must not get that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_was_dropped_does_not_disturb_the_next() {
    let server = PrivatePostgres::start();
    let mut settings = server.database("dropped").await;
    settings.readers = 1;
    let log = open(&settings).await;
    log.appender().append_all(&[create("r", "1")]).await.unwrap();
    let (holder, name) = (client(&settings.url.0).await, room("r"));
    for _ in 0..5 {
        holder.batch_execute("begin; lock table events in access exclusive mode").await.unwrap();
        let mut read = Box::pin(log.read(&name, Seq(0), 10));
        assert!(futures_util::poll!(&mut read).is_pending());
        while !is_waiting(&holder).await {
            assert!(futures_util::poll!(&mut read).is_pending());
        }
        drop(read);
        holder.batch_execute("rollback").await.unwrap();
        assert_eq!(log.last_seq(&name).await.unwrap(), Some(Seq(1)));
    }
}

async fn is_waiting(admin: &tokio_postgres::Client) -> bool {
    let sql = "select count(*) from pg_locks where not granted";
    admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
}

const PASS: u8 = 0;
/// From the next COMMIT on, nothing comes back.
const LOSE_ANSWER: u8 = 1;
/// At the next COMMIT the connection breaks, and nothing of that round trip goes through.
const CUT_BEFORE_COMMIT: u8 = 2;

/// Stands between the log and the server, and cuts where it is told to.
struct Proxy {
    folder: TempDir,
    mode: Arc<AtomicU8>,
}

impl Proxy {
    fn start(server: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let mode = Arc::new(AtomicU8::new(PASS));
        let seen = Arc::clone(&mode);
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                tokio::spawn(forward(near, server.clone(), Arc::clone(&seen)));
            }
        });
        Self { folder, mode }
    }

    fn url(&self, database: &str) -> String {
        let folder: &Path = self.folder.path();
        url_of(folder, database)
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }
}

async fn forward(near: UnixStream, server: PathBuf, mode: Arc<AtomicU8>) {
    let far = UnixStream::connect(server).await.unwrap();
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let (deaf, mut deaf_seen) = tokio::sync::watch::channel(false);
    let back = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = far_read.read(&mut buffer).await {
            if !*deaf_seen.borrow_and_update() && near_write.write_all(&buffer[..n]).await.is_err()
            {
                break;
            }
        }
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = near_read.read(&mut buffer).await {
        // A whole round trip is written at once and is far smaller than the buffer.
        let commits = buffer[..n].windows(7).any(|bytes| bytes == b"commit\0");
        match mode.load(Ordering::SeqCst) {
            LOSE_ANSWER if commits => deaf.send(true).unwrap(),
            CUT_BEFORE_COMMIT if commits => break,
            _ => {}
        }
        if far_write.write_all(&buffer[..n]).await.is_err() {
            break;
        }
    }
    back.abort();
}
