//! The one thread that writes: everything that waits, from all lanes, becomes one transaction and
//! one disk sync.
//!
//! A batch whose caller gave up before it was begun is dropped. Its caller was told that nobody
//! knows, and now it is certain that nothing was written.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::failure::{Failure, is_damage};
use super::rows;
use crate::log::health::Health;
use crate::log::{LogError, Mark};
use crate::model::{RoomName, Seq, Timestamp};
use crate::rules::{Outcome, Write};

/// Jobs taken at once: more than there are lanes, so one commit serves all that wait.
const JOBS_TAKEN_MAX: usize = 64;

/// Above this size the write-ahead log is emptied by force. SQLite empties it at about 4 MB
/// whenever no reader is active. Readers that overlap without a gap could prevent that
/// indefinitely; then the writer makes the next ones wait for a moment.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// A request to the writer.
pub(super) enum Job {
    Append(Append),
    LastSeqs(LastSeqs),
    Mark(MarkAll),
    Ping(oneshot::Sender<Result<(), LogError>>),
}

pub(super) struct Append {
    pub writes: Vec<Write>,
    pub answer: oneshot::Sender<Result<Vec<Outcome>, LogError>>,
}

pub(super) struct LastSeqs {
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
    /// The size at which the write-ahead log is emptied next. It grows while a person's shell keeps
    /// the log from being emptied, so that not every commit tries in vain.
    wal_bytes_max: u64,
    /// Told about damage that no caller hears of.
    health: Arc<Health>,
}

impl Writer {
    pub fn new(connection: Connection, wal_path: PathBuf, health: Arc<Health>) -> Self {
        Self { connection, wal_path, wal_bytes_max: WAL_BYTES_MAX, health }
    }

    /// Serves the lanes until the last of them is gone.
    pub fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut taken = Vec::with_capacity(JOBS_TAKEN_MAX);
        while jobs.blocking_recv_many(&mut taken, JOBS_TAKEN_MAX) > 0 {
            let (mut appends, mut questions, mut marks) = (Vec::new(), Vec::new(), Vec::new());
            let mut pings = Vec::new();
            for job in taken.drain(..) {
                match job {
                    Job::Append(append) if append.answer.is_closed() => {}
                    Job::Append(append) => appends.push(append),
                    Job::LastSeqs(question) => questions.push(question),
                    Job::Mark(all) => marks.push(all),
                    Job::Ping(answer) if answer.is_closed() => {}
                    Job::Ping(answer) => pings.push(answer),
                }
            }
            self.append(appends);
            // A batch was in the queue before a question about it, so by now it is committed,
            // failed or dropped.
            for question in questions {
                // An error: the caller has given up.
                let _ = question.answer.send(self.last_seqs(&question.rooms));
            }
            for all in marks {
                // An error: the caller has given up; the marks have moved all the same.
                let _ = all.answer.send(self.mark(&all.marks));
            }
            if !pings.is_empty() {
                let done = self.ping();
                for answer in pings {
                    // As above.
                    let _ = answer.send(done.clone().map_err(LogError::from));
                }
            }
            self.limit_wal();
        }
    }

    /// Commits without a change: rewrites the version with the same value.
    fn ping(&mut self) -> Result<(), Failure> {
        let transaction = self.begin().map_err(Failure::of_statement)?;
        let version = transaction.query_row("pragma user_version", [], |row| row.get::<_, i32>(0));
        let write = version.and_then(|it| transaction.pragma_update(None, "user_version", it));
        write.map_err(Failure::of_statement)?;
        transaction.commit().map_err(Failure::of_commit)
    }

    fn append(&mut self, appends: Vec<Append>) {
        if appends.is_empty() {
            return;
        }
        let batches: Vec<&[Write]> = appends.iter().map(|append| &*append.writes).collect();
        match self.commit(&batches) {
            Ok(outcomes) => {
                for (append, outcomes) in appends.into_iter().zip(outcomes) {
                    // An error: the caller was told that nobody knows. It is committed all the
                    // same.
                    let _ = append.answer.send(Ok(outcomes));
                }
            }
            // Some of the commands are at fault; the others need not fail with them.
            Err(failure)
                if failure.is_of_rows
                    && batches.iter().map(|writes| writes.len()).sum::<usize>() > 1 =>
            {
                let found = self.culprits(&batches.concat());
                self.append_without(appends, found, &failure);
            }
            Err(failure) => tell(appends, &failure),
        }
    }

    /// Commits the batches without culprits, and returns theirs to the others.
    fn append_without(
        &mut self,
        appends: Vec<Append>,
        found: Result<Vec<(usize, Failure)>, Failure>,
        failure: &Failure,
    ) {
        let culprits = match found {
            Ok(culprits) => culprits,
            Err(failure) => return tell(appends, &failure),
        };
        let (mut culprits, mut well) = (culprits.into_iter().peekable(), Vec::new());
        let (mut begin, was_found) = (0, culprits.peek().is_some());
        for append in appends {
            let end = begin + append.writes.len();
            let mut own = Vec::new();
            while let Some((index, failure)) = culprits.next_if(|(index, _)| *index < end) {
                own.push((index - begin, LogError::from(failure)));
            }
            begin = end;
            if own.is_empty() {
                well.push(append);
                continue;
            }
            let error = match (append.writes.len(), own.pop()) {
                (1, Some((_, error))) => error,
                (_, last) => {
                    own.extend(last);
                    LogError::Culprits(own)
                }
            };
            // An error: the caller was told that nobody knows.
            let _ = append.answer.send(Err(error));
        }
        if was_found {
            self.append(well);
        } else if well.len() > 1 {
            // They only fail together: tries each batch alone.
            for append in well {
                self.append(vec![append]);
            }
        } else {
            tell(well, failure);
        }
    }

    /// Which commands are at fault (by index), and why.
    fn culprits(&mut self, writes: &[Write]) -> Result<Vec<(usize, Failure)>, Failure> {
        let now = Timestamp::now();
        self.try_each(writes, |transaction, write| {
            rows::write(transaction, std::slice::from_ref(write), now).map(drop)
        })
    }

    /// The items for which `write` fails because of rows that it touches. They are tried one after
    /// another and never committed, so this costs no sync. After a failure it continues in a new
    /// transaction: in the old one SQLite reports more damage than there is, even after a rollback.
    fn try_each<T>(
        &mut self,
        items: &[T],
        write: impl Fn(&Transaction<'_>, &T) -> rusqlite::Result<()>,
    ) -> Result<Vec<(usize, Failure)>, Failure> {
        let (mut found, mut next) = (Vec::new(), 0);
        while next < items.len() {
            let transaction = self.begin().map_err(Failure::of_statement)?;
            let tried = items[next..].iter().map(|item| write(&transaction, item));
            let failed = tried.enumerate().find_map(|(len, tried)| Some((len, tried.err()?)));
            let Some((len, error)) = failed else { break };
            let failure = Failure::of_statement(error);
            if !failure.is_of_rows {
                return Err(failure);
            }
            found.push((next + len, failure));
            next += len + 1;
        }
        Ok(found)
    }

    fn begin(&mut self) -> rusqlite::Result<Transaction<'_>> {
        // An error may have left a transaction open: a dropped one rolls back, and does not report
        // a failure.
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("rollback")?;
        }
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate)
    }

    /// One transaction for all batches. After an error it is rolled back when it is dropped.
    fn commit(&mut self, batches: &[&[Write]]) -> Result<Vec<Vec<Outcome>>, Failure> {
        let transaction = self.begin().map_err(Failure::of_statement)?;
        let now = Timestamp::now();
        let outcomes: rusqlite::Result<_> =
            batches.iter().map(|writes| rows::write(&transaction, writes, now)).collect();
        let outcomes = outcomes.map_err(Failure::of_statement)?;
        transaction.commit().map_err(Failure::of_commit)?;
        Ok(outcomes)
    }

    /// A mark that meets damage is dropped, because it would make the others fail each time.
    fn mark(&mut self, marks: &[Mark]) -> Result<Vec<Mark>, LogError> {
        let mut error = match self.try_mark(marks) {
            Err(error) if is_damage(&error) => error,
            // Whatever the error is: writing a mark twice changes nothing.
            other => return other.map_err(|error| LogError::Unavailable(error.into())),
        };
        let found = self.try_each(marks, |transaction, mark| {
            rows::mark(transaction, std::slice::from_ref(mark)).map(drop)
        })?;
        let is_known = !found.is_empty();
        let mut well = marks.to_vec();
        for (index, failure) in found.into_iter().rev() {
            let mark = well.remove(index);
            self.health.of_room(Some(&mark.room), &failure.into());
        }
        if is_known {
            match self.try_mark(&well) {
                Ok(moved) => return Ok(moved),
                Err(again) => error = again,
            }
        }
        Err(LogError::Unavailable(error.into()))
    }

    fn try_mark(&mut self, marks: &[Mark]) -> rusqlite::Result<Vec<Mark>> {
        let transaction = self.begin()?;
        let moved = rows::mark(&transaction, marks)?;
        transaction.commit()?;
        Ok(moved)
    }

    /// Rooms that cannot be read are left out; otherwise the caller would ask forever.
    fn last_seqs(&self, rooms: &[RoomName]) -> Result<Vec<(RoomName, Seq)>, LogError> {
        let seq = |room: &RoomName| -> rusqlite::Result<Option<i64>> {
            let mut select =
                self.connection.prepare_cached("select last_seq from rooms where name = ?1")?;
            select.query_row([room.as_str()], |row| row.get(0)).optional()
        };
        let mut seqs = Vec::with_capacity(rooms.len());
        for room in rooms {
            match seq(room) {
                Ok(seq) => seqs.extend(seq.map(|seq| (room.clone(), Seq::from_i64(seq)))),
                Err(error) if is_damage(&error) => {
                    self.health.of_room(Some(room), &LogError::Damaged(error.into()));
                }
                Err(error) => return Err(LogError::Unavailable(error.into())),
            }
        }
        Ok(seqs)
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
                    "cannot empty the write-ahead log; is the file open in a shell?"
                );
                bytes + WAL_BYTES_MAX
            }
        };
    }
}

/// Tells the callers of a transaction why it failed.
fn tell(appends: Vec<Append>, failure: &Failure) {
    for append in appends {
        // An error: the caller was told that nobody knows.
        let _ = append.answer.send(Err(failure.clone().into()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::ErrorCode;

    use super::super::file::LogFile;
    use super::*;
    use crate::model::{Text, UserId};
    use crate::protocol::command::Verb;

    /// A writer on a file in its own folder, and a connection that reads it.
    fn writer() -> (tempfile::TempDir, LogFile, Writer, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        let (file, connection) = LogFile::open(&path, Duration::from_millis(50)).unwrap();
        let reader = file.reader().unwrap();
        let writer = Writer::new(connection, file.wal_path(), Arc::new(Health::new("SQLite")));
        (folder, file, writer, reader)
    }

    fn write(verb: Verb) -> Write {
        let (room, caller) = (RoomName::parse("r").unwrap(), UserId::parse("1").unwrap());
        Write { room, caller, id: None, verb }
    }

    fn long() -> Write {
        write(Verb::Message(Text::parse(&"x".repeat(16_384), 16_384).unwrap()))
    }

    fn count(reader: &Connection) -> i64 {
        reader.query_row("select count(*) from events", [], |row| row.get(0)).unwrap()
    }

    /// This page limit gives the same SQLITE_FULL at the same point as a full disk.
    #[test]
    fn a_full_disk_is_unavailable_loses_nothing_and_passes() {
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
        let seq = outcomes[0][0].events().next().unwrap().seq;
        assert_eq!(seq.to_i64(), committed + 1, "the batch that failed took no seq");
    }

    #[test]
    fn a_poisoned_batch_fails_alone() {
        let (_folder, _file, mut writer, reader) = writer();
        writer.commit(&[&[write(Verb::Create)]]).unwrap();
        // Somebody's hand has taken the seq that the next event of this room needs.
        let poison = "insert into events (room_id, seq, type, user_id, at)
                      values (1, 2, 'message', '1', 0)";
        writer.connection.execute(poison, []).unwrap();
        let elsewhere = Write { room: RoomName::parse("s").unwrap(), ..write(Verb::Create) };
        let (mut appends, mut answers) = (Vec::new(), Vec::new());
        for batch in [vec![long()], vec![elsewhere.clone()], vec![elsewhere, long(), long()]] {
            let (answer, answered) = oneshot::channel();
            appends.push(Append { writes: batch, answer });
            answers.push(answered);
        }
        writer.append(appends);
        let poisoned = answers.remove(0).blocking_recv().unwrap();
        assert!(matches!(poisoned, Err(LogError::Refused(_))), "{poisoned:?}");
        assert!(answers.remove(0).blocking_recv().unwrap().is_ok());
        let poisoned = answers.remove(0).blocking_recv().unwrap();
        let Err(LogError::Culprits(culprits)) = poisoned else { panic!("{poisoned:?}") };
        assert!(matches!(culprits[..], [(1, LogError::Refused(_)), (2, LogError::Refused(_))]));
        assert_eq!(count(&reader), 3);
    }

    #[test]
    fn the_write_ahead_log_is_emptied_unless_somebody_reads_it() {
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
