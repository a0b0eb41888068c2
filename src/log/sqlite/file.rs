//! The log's file: what makes it ours, and how connections to it are opened.
//!
//! It knows nothing about rooms beyond `schema.sql`, and never changes a file that is not ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::extent::{self, Extent};
use super::failure::is_damage;
use super::location::Location;

const SCHEMA: &str = include_str!("schema.sql");
/// Upgrades: from version 1 to 2, from 2 to 3, and so on.
const STEPS: [&str; SCHEMA_VERSION as usize - 1] =
    [include_str!("steps/2.sql"), include_str!("steps/3.sql")];

/// `application_id`, "Vrbt": distinguishes our file from other programs' files.
const APPLICATION_ID: i32 = 0x5672_6274;
/// `user_version`: the version of `schema.sql`.
const SCHEMA_VERSION: i32 = 3;

/// Prepared statements kept per connection: more than this folder has, so that each is parsed once.
const STATEMENTS_KEPT: usize = 32;

/// Why the file cannot be used as the log. The `Display` form tells the operator what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the log {path} is in use by another verbatim; stop that one, or give this one its own \
         log.path"
    )]
    InUse { path: String },
    #[error(
        "the log {path} was written by a newer verbatim (schema {found}, this one knows \
         {SCHEMA_VERSION}); start that version, or set log.path to another file"
    )]
    Newer { path: String, found: i32 },
    #[error(
        "{path} is not a log of verbatim and was not changed; set log.path to another file or, if \
         it once was a log, restore a backup"
    )]
    Foreign { path: String },
    #[error(
        "the log {path} is empty: its content is lost, or was never written; restore a backup, or \
         remove the file to begin a new log"
    )]
    Empty { path: String },
    #[error(
        "the log {path} is missing, but its write-ahead log {path}-wal is there; put the file back \
         or restore a backup, or move {path}-wal away to begin a new log"
    )]
    Gone { path: String },
    #[error(
        "the log {path} is cut short: it has {is} bytes and should have {should_be}; restore a \
         backup, or move it and {path}-wal away to begin a new log"
    )]
    Cut { path: String, is: u64, should_be: u64 },
    #[error(
        "the log {path} is damaged ({why}); restore a backup, or move it and {path}-wal away to \
         begin a new log"
    )]
    Damaged { path: String, why: String },
    #[error("the log {path} cannot be read or created ({source}); check the file and its disk")]
    Read { path: String, source: io::Error },
    #[error("the log {path} cannot be opened or written: it is not a file; set log.path to a file")]
    NotAFile { path: String },
    #[error(
        "the log {path} is a file with {names} names (hard links), but one write-ahead log; \
         find the others with `find / -samefile {path}` and remove them, or set log.path"
    )]
    Linked { path: String, names: u64 },
    #[error(
        "the disk refused to sync the log {path} ({source}), so a power failure could lose acked \
         messages; check the disk, then start again"
    )]
    Sync { path: String, source: io::Error },
    #[error("the folder of the log {path} cannot be created or written ({source}); set log.path")]
    Folder { path: String, source: io::Error },
    #[error("the log {path} cannot be opened or written ({source}); check the file and its disk")]
    File { path: String, source: rusqlite::Error },
    #[error(
        "the log {path} is on a file system without shared memory, which its write-ahead log \
         needs; set log.path to a local disk"
    )]
    NoWal { path: String },
    #[error("a thread for the log {path} cannot be started ({source}); raise the process limit")]
    Thread { path: String, source: io::Error },
}

/// Our file, locked against other processes while this exists.
pub(super) struct LogFile {
    location: Location,
    /// How long a statement waits for a person who has opened the file in a shell.
    busy_timeout: Duration,
}

impl LogFile {
    /// Creates the folder and the file if they are missing, and checks them if not. Returns the
    /// connection that writes.
    pub fn open(path: &Path, busy_timeout: Duration) -> Result<(Self, Connection), OpenError> {
        let location = Location::take(path, busy_timeout)?;
        let file = Self { location, busy_timeout };
        file.look_or_make()?;
        let synced = file.location.sync();
        synced.map_err(|source| OpenError::Sync { path: file.shown(), source })?;
        let writer = file.connect(OpenFlags::SQLITE_OPEN_READ_WRITE);
        let writer = writer.map_err(|source| file.file_error(source))?;
        file.check(&writer)?;
        file.check_end(&writer)?;
        file.prepare(&writer)?;
        file.location.warn_if_exposed();
        Ok((file, writer))
    }

    /// Opens a connection that only reads.
    pub fn reader(&self) -> Result<Connection, OpenError> {
        self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|source| self.file_error(source))
    }

    pub fn wal_path(&self) -> PathBuf {
        self.location.wal_path()
    }

    pub fn shown(&self) -> String {
        self.location.shown.clone()
    }

    /// Refuses an existing file that is not a log: nothing else is ever turned into one.
    fn look_or_make(&self) -> Result<(), OpenError> {
        let path = self.shown();
        let read_error = |source| OpenError::Read { path: self.shown(), source };
        let has_wal = extent::has_frames(&self.wal_path()).map_err(read_error)?;
        if !self.location.is_taken().map_err(read_error)? {
            return if has_wal { Err(OpenError::Gone { path }) } else { self.make() };
        }
        let damaged = |why: &str| OpenError::Damaged { path: self.shown(), why: why.to_owned() };
        match extent::of_file(&self.location.path, has_wal).map_err(read_error)? {
            Extent::Whole => Ok(()),
            Extent::Empty => Err(OpenError::Empty { path }),
            Extent::Foreign => Err(OpenError::Foreign { path }),
            Extent::Headless => Err(damaged("it is shorter than its header")),
            Extent::PageSize(size) => Err(damaged(&format!("its page size is {size}"))),
            Extent::Cut { is, should_be } => Err(OpenError::Cut { path, is, should_be }),
        }
    }

    fn make(&self) -> Result<(), OpenError> {
        /// Either kind of failure.
        enum Unmade {
            Io(io::Error),
            Sqlite(rusqlite::Error),
        }
        impl From<io::Error> for Unmade {
            fn from(err: io::Error) -> Self {
                Self::Io(err)
            }
        }
        let made = self.location.make(|draft| {
            let write = || -> rusqlite::Result<()> {
                // The file is thrown away if this fails, so no journal is needed.
                Connection::open_with_flags(draft, OpenFlags::SQLITE_OPEN_READ_WRITE)?
                    .execute_batch(&format!(
                        "pragma journal_mode = off;
                         begin;
                         {SCHEMA}
                         pragma application_id = {APPLICATION_ID};
                         pragma user_version = {SCHEMA_VERSION};
                         commit;"
                    ))
            };
            write().map_err(Unmade::Sqlite)
        });
        made.map_err(|unmade| match unmade {
            Unmade::Io(source) => OpenError::Read { path: self.shown(), source },
            Unmade::Sqlite(source) => self.file_error(source),
        })
    }

    fn connect(&self, access: OpenFlags) -> rusqlite::Result<Connection> {
        // Each connection is used by one thread, so SQLite need not lock it.
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.location.path, flags)?;
        connection.busy_timeout(self.busy_timeout)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        // Plans depend on the schema alone. Without this guarantee SQLite replans a prepared
        // statement for each bound value, in case the value matters.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(connection)
    }

    /// Checks before anything is written: another program's database must stay unchanged.
    fn check(&self, writer: &Connection) -> Result<(), OpenError> {
        let number = |sql: &str| writer.query_row(sql, [], |row| row.get::<_, i32>(0));
        let facts = || -> rusqlite::Result<(i32, i32, i32)> {
            let application_id = number("pragma application_id")?;
            let version = number("pragma user_version")?;
            Ok((application_id, version, number("select count(*) from sqlite_schema")?))
        };
        match facts().map_err(|source| self.file_error(source))? {
            (APPLICATION_ID, found, _) if found > SCHEMA_VERSION => {
                if carried_by(writer, found) > SCHEMA_VERSION {
                    return Err(OpenError::Newer { path: self.shown(), found });
                }
                tracing::info!(found, known = SCHEMA_VERSION, "the log has a newer schema");
                Ok(())
            }
            (APPLICATION_ID, 1..=SCHEMA_VERSION, _) => Ok(()),
            (0, 0, 0) => Err(OpenError::Empty { path: self.shown() }),
            _ => Err(OpenError::Foreign { path: self.shown() }),
        }
    }

    /// With a write-ahead log the file may be shorter than SQLite's page count, if the log has the
    /// rest.
    fn check_end(&self, writer: &Connection) -> Result<(), OpenError> {
        let facts = || -> rusqlite::Result<(u32, u32)> {
            let number = |sql: &str| writer.query_row(sql, [], |row| row.get(0));
            Ok((number("pragma page_size")?, number("pragma page_count")?))
        };
        let (page_size, pages) = facts().map_err(|source| self.file_error(source))?;
        let read_error = |source| OpenError::Read { path: self.shown(), source };
        let is = fs::metadata(&self.location.path).map_err(read_error)?.len();
        let have = u32::try_from(is / u64::from(page_size)).unwrap_or(u32::MAX);
        if have >= pages || !extent::lacks(&self.wal_path(), have + 1, pages).map_err(read_error)? {
            return Ok(());
        }
        // Unused pages need not be anywhere. This is rare, so it may take its time.
        let problems = examine(writer).map_err(|source| self.file_error(source))?;
        if problems.is_empty() {
            return Ok(());
        }
        let should_be = u64::from(pages) * u64::from(page_size);
        Err(OpenError::Cut { path: self.shown(), is, should_be })
    }

    /// Sets what makes the file durable, and upgrades its schema.
    fn prepare(&self, writer: &Connection) -> Result<(), OpenError> {
        let set = || -> rusqlite::Result<String> {
            let mode =
                writer.query_row("pragma journal_mode = wal", [], |row| row.get::<_, String>(0))?;
            // FULL: each commit is on the disk before it is acked. With NORMAL a power failure
            // would lose the last commits.
            writer.pragma_update(None, "synchronous", "full")?;
            let version: i32 = writer.query_row("pragma user_version", [], |row| row.get(0))?;
            if version < SCHEMA_VERSION {
                let done = usize::try_from(version - 1).unwrap_or(0);
                // One transaction: after a crash in the middle the file is as before, and the next
                // start tries again. The schema is never half upgraded.
                writer.execute_batch(&format!(
                    "begin immediate;
                     {}
                     pragma user_version = {SCHEMA_VERSION};
                     commit;",
                    STEPS[done..].concat()
                ))?;
            }
            Ok(mode)
        };
        let mode = set().map_err(|source| self.file_error(source))?;
        if mode != "wal" {
            return Err(OpenError::NoWal { path: self.shown() });
        }
        self.fold(writer).map_err(|source| self.file_error(source))
    }

    /// Moves the write-ahead log into the file, and syncs both. `Location::sync` has synced them
    /// before. This also rewrites pages that the system believes written although the disk once
    /// refused them.
    fn fold(&self, writer: &Connection) -> rusqlite::Result<()> {
        let fold = "pragma wal_checkpoint(truncate)";
        match writer.query_row(fold, [], |row| row.get::<_, i64>(0)) {
            Ok(0) => {}
            // A person has the file open in a shell. The data is on the disk all the same.
            Ok(_) => {
                tracing::warn!("cannot empty the write-ahead log; is the file open in a shell?");
            }
            // As above.
            Err(err) if is_full(&err) => {
                tracing::warn!(%err, "the disk of the log is full; reads work, writes do not");
            }
            Err(err) => return Err(err),
        }
        Ok(())
    }

    fn file_error(&self, source: rusqlite::Error) -> OpenError {
        match source.sqlite_error_code() {
            // It begins like a database: see `look_or_make`.
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                OpenError::Damaged { path: self.shown(), why: source.to_string() }
            }
            _ => OpenError::File { path: self.shown(), source },
        }
    }
}

/// The oldest version that can use this file, whose version `found` is newer than ours.
fn carried_by(connection: &Connection, found: i32) -> i32 {
    let carried_by = "
        select max(coalesce(carried_by, version))
        from verbatim_schema
        where version > ?1";
    let carried_by = connection.query_row(carried_by, [SCHEMA_VERSION], |row| row.get(0));
    // Without a value it is for its own version only.
    carried_by.ok().flatten().unwrap_or(found)
}

/// Reads the whole file and returns what is wrong with it; empty if it is sound.
pub(super) fn examine(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    /// A few, because one damaged page may cause thousands.
    const PROBLEMS_MAX: usize = 3;
    let mut check = connection.prepare(&format!("pragma quick_check({PROBLEMS_MAX})"))?;
    let mut problems = Vec::new();
    for problem in check.query_map([], |row| row.get::<_, String>(0))? {
        match problem {
            // One problem per line, below a line that names the database.
            Ok(problem) => problems.extend(
                problem
                    .lines()
                    .filter(|line| *line != "ok" && !line.starts_with("***"))
                    .map(str::to_owned),
            ),
            // Too damaged to examine to the end.
            Err(error) if is_damage(&error) => problems.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    problems.truncate(PROBLEMS_MAX);
    Ok(problems)
}

/// Whether there was no space for a write: on the disk, or within a quota or limit, which SQLite
/// does not distinguish from other write errors.
fn is_full(err: &rusqlite::Error) -> bool {
    let is_write = |err: &ffi::Error| err.extended_code == ffi::SQLITE_IOERR_WRITE;
    err.sqlite_error_code() == Some(ErrorCode::DiskFull) || err.sqlite_error().is_some_and(is_write)
}
