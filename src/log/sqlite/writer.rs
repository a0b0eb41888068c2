//! The one thread that writes: everything that waits becomes one transaction and one sync of the
//! disk, whichever lane it came from.
//!
//! A batch whose caller has given up before it was begun is dropped unwritten: its caller was told
//! that nobody knows, and now "not written" is so.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::rows;
use crate::decide::{Outcome, Write};
use crate::log::{LogError, Mark};
use crate::model::{RoomName, Seq, Timestamp};

/// Jobs taken at once: more than there are lanes, so one commit serves all that wait.
const JOBS_TAKEN_MAX: usize = 64;

/// Above this many bytes the write-ahead log is emptied by force. SQLite empties it by itself at
/// about 4 MB whenever no reader is looking; readers that overlap without end could prevent that
/// for ever, so then the writer makes the next ones wait for the moment it takes.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// What a lane asks of the writer.
pub(super) enum Job {
    Append(Append),
    Settle(Settle),
    Mark(MarkAll),
}

pub(super) struct Append {
    pub writes: Vec<Write>,
    pub answer: oneshot::Sender<Result<Vec<Outcome>, LogError>>,
}

pub(super) struct Settle {
    pub rooms: Vec<RoomName>,
    pub answer: oneshot::Sender<Result<Vec<(RoomName, Seq)>, LogError>>,
}

pub(super) struct MarkAll {
    pub marks: Vec<Mark>,
    pub answer: oneshot::Sender<Result<Vec<Mark>, LogError>>,
}

pub(super) struct Writer {
    connection: Connection,
    wal_path: PathBuf,
    /// The next size of the write-ahead log at which to empty it: grows when a person's shell
    /// keeps it from being emptied, so that not every commit tries in vain.
    wal_bytes_max: u64,
}

/// Why a transaction failed. Shared, because every batch in it is told.
#[derive(Clone, Debug)]
struct Failure {
    means: fn(Box<dyn std::error::Error + Send + Sync>) -> LogError,
    source: Arc<rusqlite::Error>,
}

impl Writer {
    pub fn new(connection: Connection, wal_path: PathBuf) -> Self {
        Self { connection, wal_path, wal_bytes_max: WAL_BYTES_MAX }
    }

    /// Serves the lanes until the last of them is gone.
    pub fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut taken = Vec::with_capacity(JOBS_TAKEN_MAX);
        while jobs.blocking_recv_many(&mut taken, JOBS_TAKEN_MAX) > 0 {
            let (mut appends, mut settles, mut marks) = (Vec::new(), Vec::new(), Vec::new());
            for job in taken.drain(..) {
                match job {
                    Job::Append(append) if append.answer.is_closed() => {}
                    Job::Append(append) => appends.push(append),
                    Job::Settle(settle) => settles.push(settle),
                    Job::Mark(all) => marks.push(all),
                }
            }
            self.append(appends);
            // Whatever batch a caller asks about was in the queue before its question, so by now
            // it has been committed, or has failed, or was dropped.
            for settle in settles {
                // A caller who no longer waits has no use for the answer.
                let _ = settle.answer.send(self.settle(&settle.rooms));
            }
            for all in marks {
                // Moved all the same, and nobody is told: who asks is.
                let _ = all.answer.send(self.mark(&all.marks));
            }
            self.limit_wal();
        }
    }

    fn append(&mut self, appends: Vec<Append>) {
        if appends.is_empty() {
            return;
        }
        let batches: Vec<&[Write]> = appends.iter().map(|append| &*append.writes).collect();
        match self.commit(&batches) {
            Ok(outcomes) => {
                for (append, outcomes) in appends.into_iter().zip(outcomes) {
                    // Committed all the same: the caller was told that nobody knows.
                    let _ = append.answer.send(Ok(outcomes));
                }
            }
            // One of them is poison, and its neighbours need not suffer: each one alone.
            Err(failure) if failure.is_refusal() && appends.len() > 1 => {
                for append in appends {
                    self.append(vec![append]);
                }
            }
            Err(failure) => {
                for append in appends {
                    // A caller who no longer waits was told that nobody knows.
                    let _ = append.answer.send(Err(failure.clone().into()));
                }
            }
        }
    }

    /// One transaction for all batches. An error rolls it back, when the transaction is dropped.
    fn commit(&mut self, batches: &[&[Write]]) -> Result<Vec<Vec<Outcome>>, Failure> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Failure::of_statement)?;
        let now = Timestamp::now();
        let outcomes: rusqlite::Result<_> =
            batches.iter().map(|writes| rows::write(&transaction, writes, now)).collect();
        let outcomes = outcomes.map_err(Failure::of_statement)?;
        transaction.commit().map_err(Failure::of_commit)?;
        Ok(outcomes)
    }

    fn mark(&mut self, marks: &[Mark]) -> Result<Vec<Mark>, LogError> {
        let mut mark = || -> rusqlite::Result<Vec<Mark>> {
            let transaction =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let moved = rows::mark(&transaction, marks)?;
            transaction.commit()?;
            Ok(moved)
        };
        // Whatever it was: a mark that is written again is where it was.
        mark().map_err(|error| LogError::Unavailable(error.into()))
    }

    fn settle(&self, rooms: &[RoomName]) -> Result<Vec<(RoomName, Seq)>, LogError> {
        let seqs = || -> rusqlite::Result<Vec<(RoomName, Seq)>> {
            let mut select =
                self.connection.prepare_cached("select last_seq from rooms where name = ?1")?;
            let mut seqs = Vec::with_capacity(rooms.len());
            for room in rooms {
                let seq = select.query_row([room.as_str()], |row| row.get(0)).optional()?;
                seqs.extend(seq.map(|seq| (room.clone(), Seq::from_i64(seq))));
            }
            Ok(seqs)
        };
        seqs().map_err(|error| LogError::Unavailable(error.into()))
    }

    /// Empties the write-ahead log if it has grown too long.
    fn limit_wal(&mut self) {
        let bytes = fs::metadata(&self.wal_path).map_or(0, |file| file.len());
        if bytes <= self.wal_bytes_max {
            return;
        }
        let emptied = self
            .connection
            .query_row("pragma wal_checkpoint(truncate)", [], |row| Ok(row.get::<_, i64>(0)? == 0));
        self.wal_bytes_max = match emptied {
            Ok(true) => WAL_BYTES_MAX,
            other => {
                let err = other.err().map(|err| err.to_string());
                tracing::warn!(
                    bytes,
                    err,
                    "the write-ahead log cannot be emptied: is it open in a shell?"
                );
                bytes + WAL_BYTES_MAX
            }
        };
    }
}

impl Failure {
    /// Before the commit: nothing was written, whatever it was.
    fn of_statement(source: rusqlite::Error) -> Self {
        let means = match (&source, source.sqlite_error_code()) {
            // A row that does not hold what this version wrote.
            (_, None) => LogError::Refused,
            (
                _,
                Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig),
            ) => LogError::Refused,
            // Full, busy, an I/O error, out of memory: not the batch's fault.
            _ => LogError::Unavailable,
        };
        Self { means, source: Arc::new(source) }
    }

    /// While committing. A full disk is definite: the frame that makes a transaction count is the
    /// last one written. An I/O error is not: that frame may have reached the disk although the
    /// sync failed, and a crash right now would find it there. (The next commit overwrites it and
    /// syncs anew, so no other event can get the same seq.)
    fn of_commit(source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::SystemIoFailure) => {
                Self { means: LogError::Unknown, source: Arc::new(source) }
            }
            _ => Self::of_statement(source),
        }
    }

    fn is_refusal(&self) -> bool {
        matches!(LogError::from(self.clone()), LogError::Refused(_))
    }
}

impl From<Failure> for LogError {
    fn from(failure: Failure) -> Self {
        (failure.means)(Box::new(failure.source))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::file::LogFile;
    use super::*;
    use crate::decide::Verb;
    use crate::model::{Text, UserId};

    /// A writer on a file in a folder of its own, and a connection that reads it.
    fn writer() -> (tempfile::TempDir, LogFile, Writer, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        let (file, connection) = LogFile::open(&path, Duration::from_millis(50)).unwrap();
        let reader = file.reader().unwrap();
        let writer = Writer::new(connection, file.wal_path());
        (folder, file, writer, reader)
    }

    fn write(verb: Verb) -> Write {
        let (room, user) = (RoomName::parse("r").unwrap(), UserId::parse("1").unwrap());
        Write { room, user, id: None, verb }
    }

    fn long() -> Write {
        write(Verb::Message(Text::parse(&"x".repeat(16_384), 16_384).unwrap()))
    }

    fn count(reader: &Connection) -> i64 {
        reader.query_row("select count(*) from events", [], |row| row.get(0)).unwrap()
    }

    /// The limit on pages gives the same SQLITE_FULL, at the same place, as a full disk.
    #[test]
    fn a_full_disk_is_unavailable_keeps_what_was_there_and_passes() {
        let (_folder, _file, mut writer, reader) = writer();
        writer.commit(&[&[write(Verb::Create), long()]]).unwrap();
        let pages: i64 =
            writer.connection.query_row("pragma page_count", [], |row| row.get(0)).unwrap();
        writer.connection.pragma_update(None, "max_page_count", pages + 20).unwrap();
        let mut committed = 2;
        let failure = loop {
            match writer.commit(&[&[long(), long()], &[long()]]) {
                Ok(_) => committed += 3,
                Err(failure) => break failure,
            }
        };
        assert_eq!(failure.source.sqlite_error_code(), Some(ErrorCode::DiskFull));
        assert!(matches!(failure.into(), LogError::Unavailable(_)));
        assert_eq!(count(&reader), committed, "reads go on, and see nothing of the batch");
        let check: String =
            reader.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        writer.connection.pragma_update(None, "max_page_count", 1 << 30).unwrap();
        let outcomes = writer.commit(&[&[long()]]).unwrap();
        let seq = outcomes[0][0].event().unwrap().seq;
        assert_eq!(seq.to_i64(), committed + 1, "the batch that failed took no seq");
    }

    #[test]
    fn a_poisoned_batch_fails_alone() {
        let (_folder, _file, mut writer, reader) = writer();
        writer.commit(&[&[write(Verb::Create)]]).unwrap();
        // By hand: the seq that the next event of this room needs is taken.
        let poison = "insert into events (room_id, seq, type, user_id, at)
                      values (1, 2, 'message', '1', 0)";
        writer.connection.execute(poison, []).unwrap();
        let elsewhere = Write { room: RoomName::parse("s").unwrap(), ..write(Verb::Create) };
        let (mut appends, mut answers) = (Vec::new(), Vec::new());
        for batch in [long(), elsewhere] {
            let (answer, answered) = oneshot::channel();
            appends.push(Append { writes: vec![batch], answer });
            answers.push(answered);
        }
        writer.append(appends);
        let poisoned = answers.remove(0).blocking_recv().unwrap();
        assert!(matches!(poisoned, Err(LogError::Refused(_))), "{poisoned:?}");
        assert!(answers.remove(0).blocking_recv().unwrap().is_ok());
        assert_eq!(count(&reader), 3);
    }

    #[test]
    fn the_write_ahead_log_is_emptied_unless_someone_looks() {
        let (_folder, file, mut writer, reader) = writer();
        let wal_bytes = || fs::metadata(file.wal_path()).unwrap().len();
        writer.commit(&[&[write(Verb::Create), long()]]).unwrap();
        writer.wal_bytes_max = 1;
        reader.execute_batch("begin; select count(*) from events").unwrap();
        writer.commit(&[&[long()]]).unwrap();
        writer.limit_wal();
        assert!(wal_bytes() > 0);
        assert!(writer.wal_bytes_max > WAL_BYTES_MAX, "it does not try again at once");
        reader.execute_batch("rollback").unwrap();
        writer.wal_bytes_max = 1;
        writer.limit_wal();
        assert_eq!((wal_bytes(), writer.wal_bytes_max), (0, WAL_BYTES_MAX));
        assert_eq!(count(&reader), 3);
    }
}
