//! The embedded log: one SQLite file for one node, with nothing to install.
//!
//! One thread writes and a few read, each with its own connection. Async code only waits for their
//! answers, within a time limit. Reads see a commit as soon as its append is answered, and continue
//! while the disk is full.
//!
//! ```text
//!  lanes ──▶ queue ──▶ log-writer ──▶ data/verbatim.db + -wal (one sync per transaction)
//!  reads ──▶ queue ──▶ log-reader × n ──▶ a snapshot each
//! ```

mod extent;
mod failure;
mod file;
mod location;
mod reader;
mod rows;
mod threads;
mod writer;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::file::LogFile;
pub use self::file::OpenError;
pub use self::threads::ThreadEnded;
use self::threads::Threads;
use super::health::Health;
use super::{LogError, Mark, Marked, Member, RoomSummary};
use crate::config::LogConfig;
use crate::model::{Event, RoomName, Seq, UserId};
use crate::rules::{Outcome, Standing, Write};

/// Batches waiting for the writer. Each lane has one at a time, so the queue never fills up; a lane
/// that found it full would wait within its time limit.
const WRITER_QUEUE_LEN: usize = 64;
/// Reads waiting for a reader. When the queue is full, a read waits within its time limit, and is
/// then `Unavailable`.
const READER_QUEUE_LEN: usize = 1024;

const WRITER: &str = "log-writer";
const READER: &str = "log-reader";

/// The file and its threads. When the last clone and the last appender are gone, the threads end
/// and close the file, and another process may open it. That takes a moment: see `closed`.
#[derive(Clone)]
pub struct Sqlite {
    shared: Arc<Shared>,
}

/// One lane's access to the writer's queue.
pub struct Appender {
    shared: Arc<Shared>,
}

/// Dropping it ends both queues, and so the threads. It does not wait for them: any task may drop
/// it, on a thread of the runtime, and a disk may hang.
struct Shared {
    reads: mpsc::Sender<reader::Job>,
    writes: mpsc::Sender<writer::Job>,
    /// Cancelled when a reader or the writer has ended.
    reader_ended: CancellationToken,
    writer_ended: CancellationToken,
    /// Cancelled when the file is closed.
    closed: CancellationToken,
    append_timeout: Duration,
    read_timeout: Duration,
    health: Arc<Health>,
}

/// What the writer's thread owns, dropped in this order after it has served its queue.
struct Writing {
    /// Its connection closes after the readers' connections; then SQLite moves the write-ahead log
    /// into the file.
    writer: writer::Writer,
    readers: Threads,
    /// Holds the lock on the file until everything above is gone.
    _file: LogFile,
    _closed: DropGuard,
}

/// A call took longer than its time limit.
#[derive(Debug, thiserror::Error)]
#[error("{0} did not answer within {1:?}")]
struct TooSlow(&'static str, Duration);

impl Sqlite {
    /// Opens or creates the file. Blocks for as long as the disk takes, so it is for the start
    /// only.
    pub fn open(config: &LogConfig) -> Result<Self, OpenError> {
        // SQLite calls waiting for a lock "busy".
        let busy_timeout = Duration::from_millis(config.lock_timeout_ms);
        let (file, connection) = LogFile::open(Path::new(&config.path), busy_timeout)?;
        let path = file.shown();
        let cannot_start = |source: io::Error| OpenError::Thread { path: path.clone(), source };

        let (reads, jobs) = mpsc::channel(READER_QUEUE_LEN);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut readers = Threads::new();
        for _ in 0..config.readers.max(1) {
            let (connection, jobs) = (file.reader()?, Arc::clone(&jobs));
            let work = move || reader::run(&connection, &jobs);
            readers.spawn(READER, work).map_err(cannot_start)?;
        }
        let reader_ended = readers.ended();

        let (writes, jobs) = mpsc::channel(WRITER_QUEUE_LEN);
        let closed = CancellationToken::new();
        let health = Arc::new(Health::new("SQLite"));
        let writer = writer::Writer::new(connection, file.wal_path(), Arc::clone(&health));
        let guard = closed.clone().drop_guard();
        let writing = Writing { writer, readers, _file: file, _closed: guard };
        let mut writer = Threads::new();
        writer.spawn(WRITER, move || writing.run(jobs)).map_err(cannot_start)?;
        let writer_ended = writer.ended();
        let append_timeout = Duration::from_millis(config.append_timeout_ms);
        let read_timeout = Duration::from_millis(config.read_timeout_ms);
        let shared = Shared {
            reads,
            writes,
            reader_ended,
            writer_ended,
            closed,
            append_timeout,
            read_timeout,
            health,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Resolves when a thread of the log has ended, which only happens by a panic while this
    /// exists. The node cannot work without it, and should stop.
    pub async fn thread_ended(&self) -> ThreadEnded {
        tokio::select! {
            () = self.shared.writer_ended.cancelled() => ThreadEnded(WRITER),
            () = self.shared.reader_ended.cancelled() => ThreadEnded(READER),
        }
    }

    /// Cancelled when the file is closed. It keeps nothing open.
    pub fn closed(&self) -> CancellationToken {
        self.shared.closed.clone()
    }

    pub(super) fn health(&self) -> &Health {
        &self.shared.health
    }

    pub fn appender(&self) -> Appender {
        Appender { shared: Arc::clone(&self.shared) }
    }

    pub async fn read_page(
        &self,
        room: &RoomName,
        after: Seq,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        let room = room.clone();
        self.ask(move |connection| reader::read(connection, &room, after, limit, bytes_max)).await
    }

    pub async fn read_before(
        &self,
        room: &RoomName,
        before: Option<Seq>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        let room = room.clone();
        self.ask(move |connection| reader::read_before(connection, &room, before, limit, bytes_max))
            .await
    }

    pub async fn standing(
        &self,
        room: &RoomName,
        user: &UserId,
    ) -> Result<Option<Standing>, LogError> {
        let (room, user) = (room.clone(), user.clone());
        self.ask(move |connection| reader::standing(connection, &room, &user)).await
    }

    pub async fn standings(
        &self,
        rooms: &[RoomName],
        user: &UserId,
    ) -> Result<Vec<Option<Standing>>, LogError> {
        let (rooms, user) = (rooms.to_vec(), user.clone());
        self.ask(move |connection| {
            rooms.iter().map(|room| reader::standing(connection, room, &user)).collect()
        })
        .await
    }

    pub async fn last_seq(&self, room: &RoomName) -> Result<Option<Seq>, LogError> {
        let room = room.clone();
        self.ask(move |connection| reader::last_seq(connection, &room)).await
    }

    pub async fn last_seqs(&self, rooms: &[RoomName]) -> Result<Vec<Option<Seq>>, LogError> {
        let rooms = rooms.to_vec();
        self.ask(move |connection| {
            rooms.iter().map(|room| reader::last_seq(connection, room)).collect()
        })
        .await
    }

    pub async fn rooms(
        &self,
        user: Option<&UserId>,
        after: Option<&RoomName>,
        limit: usize,
    ) -> Result<Vec<RoomSummary>, LogError> {
        let (user, after) = (user.cloned(), after.cloned());
        self.ask(move |connection| reader::rooms(connection, user.as_ref(), after.as_ref(), limit))
            .await
    }

    /// Moves marks forward. With one writer, none is ever busy.
    pub async fn mark(&self, marks: &[Mark]) -> Result<Marked, LogError> {
        let (answer, answered) = oneshot::channel();
        let job = writer::Job::Mark(writer::MarkAll { marks: marks.to_vec(), answer });
        let deadline = Instant::now() + self.shared.append_timeout;
        self.shared.write(job, deadline).await?;
        let moved = match timeout_at(deadline, answered).await {
            Ok(Ok(moved)) => moved?,
            Ok(Err(_)) => return Err(LogError::Unavailable(ThreadEnded(WRITER).into())),
            Err(_) => return Err(LogError::Unavailable(self.shared.too_slow().into())),
        };
        Ok(Marked { moved, busy: Vec::new() })
    }

    pub async fn members(
        &self,
        room: &RoomName,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>, LogError> {
        let (room, after) = (room.clone(), after.cloned());
        self.ask(move |connection| reader::members(connection, &room, after.as_ref(), limit)).await
    }

    /// Implements `Log::examine`. It has no time limit: a large file takes minutes.
    pub async fn examine(&self) -> Result<Vec<String>, LogError> {
        let query = |connection: &Connection| file::examine(connection).map_err(failure::of_read);
        self.ask_within(Duration::MAX, query).await
    }

    pub async fn ping_writes(&self) -> Result<(), LogError> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.shared.append_timeout;
        self.shared.write(writer::Job::Ping(answer), deadline).await?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(LogError::Unavailable(ThreadEnded(WRITER).into())),
            Err(_) => Err(LogError::Unavailable(self.shared.too_slow().into())),
        }
    }

    pub async fn ping(&self) -> Result<(), LogError> {
        self.ask(reader::ping).await
    }

    /// Sends the query to a reader, and waits for the answer within the time limit.
    async fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        self.ask_within(self.shared.read_timeout, query).await
    }

    async fn ask_within<T: Send + 'static>(
        &self,
        budget: Duration,
        query: impl FnOnce(&Connection) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let (answer, answered) = oneshot::channel();
        let job: reader::Job = Box::new(move |connection| {
            // Nobody waits any more: leave the reader to others.
            if !answer.is_closed() {
                // An error: the caller has just given up.
                let _ = answer.send(query(connection));
            }
        });
        let work = async {
            let ended = || LogError::Unavailable(ThreadEnded(READER).into());
            self.shared.reads.send(job).await.map_err(|_| ended())?;
            answered.await.map_err(|_| ended())?
        };
        timeout(budget, work)
            .await
            .unwrap_or_else(|_| Err(LogError::Unavailable(TooSlow(READER, budget).into())))
    }
}

impl Appender {
    pub(super) fn health(&self) -> &Health {
        &self.shared.health
    }

    pub async fn append(&mut self, writes: &[Write]) -> Result<Vec<Outcome>, LogError> {
        let result = self.try_append(writes).await;
        match &result {
            Err(error @ (LogError::Unavailable(_) | LogError::Unknown(_))) => {
                self.shared.health.failed(error);
            }
            _ => self.shared.health.answered(),
        }
        result
    }

    async fn try_append(&mut self, writes: &[Write]) -> Result<Vec<Outcome>, LogError> {
        let (answer, answered) = oneshot::channel();
        let job = writer::Job::Append(writer::Append { writes: writes.to_vec(), answer });
        let deadline = Instant::now() + self.shared.append_timeout;
        self.shared.write(job, deadline).await?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(outcomes)) => outcomes,
            // The writer may have committed before it ended.
            Ok(Err(_)) => Err(LogError::Unknown(ThreadEnded(WRITER).into())),
            // The writer drops the batch if it has not begun it; otherwise it may still commit.
            Err(_) => Err(LogError::Unknown(self.shared.too_slow().into())),
        }
    }

    pub async fn last_seqs(
        &mut self,
        rooms: &[RoomName],
    ) -> Result<Vec<(RoomName, Seq)>, LogError> {
        let (answer, answered) = oneshot::channel();
        let job = writer::Job::LastSeqs(writer::LastSeqs { rooms: rooms.to_vec(), answer });
        let deadline = Instant::now() + self.shared.append_timeout;
        self.shared.write(job, deadline).await?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(seqs)) => seqs,
            Ok(Err(_)) => Err(LogError::Unavailable(ThreadEnded(WRITER).into())),
            Err(_) => Err(LogError::Unavailable(self.shared.too_slow().into())),
        }
    }
}

impl Writing {
    fn run(mut self, jobs: mpsc::Receiver<writer::Job>) {
        self.writer.run(jobs);
        // Their queue has ended, too.
        self.readers.join();
    }
}

impl Shared {
    /// Sends the writer a job.
    async fn write(&self, job: writer::Job, deadline: Instant) -> Result<(), LogError> {
        match timeout_at(deadline, self.writes.send(job)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(LogError::Unavailable(ThreadEnded(WRITER).into())),
            Err(_) => Err(LogError::Unavailable(self.too_slow().into())),
        }
    }

    fn too_slow(&self) -> TooSlow {
        TooSlow(WRITER, self.append_timeout)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::config::Secret;

    /// Without this check a panicked thread would leave a log that answers less and less.
    #[tokio::test]
    async fn a_thread_that_panics_is_reported_to_the_caller_and_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let log = Sqlite::open(&LogConfig {
            path: folder.path().join("log.db").display().to_string(),
            readers: 1,
            url: Secret::default(),
            connect_timeout_ms: 1000,
            statement_timeout_ms: 1000,
            lock_timeout_ms: 1000,
            append_timeout_ms: 60_000,
            read_timeout_ms: 60_000,
        })
        .unwrap();
        let asked = log.ask(|_| -> Result<(), LogError> { panic!("on purpose") }).await;
        for result in [asked, log.ping().await] {
            let error = result.unwrap_err();
            assert!(matches!(error, LogError::Unavailable(_)));
            assert_eq!(error.source().unwrap().to_string(), "the thread log-reader has ended");
        }
        assert_eq!(log.thread_ended().await.0, READER);
    }
}
