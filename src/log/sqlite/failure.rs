//! What SQLite's errors mean: what is at fault, and what is known about the transaction.

use std::error::Error as StdError;
use std::sync::Arc;

use rusqlite::{Error, ErrorCode, ffi};

use crate::log::LogError;

/// Errors that one part of a disk or file system may give while another works.
const UNREADABLE: [i32; 4] = [
    ffi::SQLITE_IOERR_READ,
    ffi::SQLITE_IOERR_SHORT_READ,
    ffi::SQLITE_IOERR_DATA,
    ffi::SQLITE_IOERR_CORRUPTFS,
];

/// Why a transaction failed. Shared, because every batch in it is told.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    means: fn(Box<dyn StdError + Send + Sync>) -> LogError,
    pub source: Arc<Error>,
    /// Rows that the transaction touched are at fault, so it may succeed without them. All other
    /// errors (no space, busy, no memory, a file that is not writable) affect every batch.
    pub is_of_rows: bool,
}

impl Failure {
    /// For errors before the commit: nothing was written.
    pub fn of_statement(source: Error) -> Self {
        let means = match source.sqlite_error_code() {
            _ if is_damage(&source) => LogError::Damaged,
            // A bug: rusqlite was asked for something that the statement does not have.
            None => LogError::Refused,
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
                LogError::Refused
            }
            Some(_) => return Self::of_store(LogError::Unavailable, source),
        };
        Self { means, source: Arc::new(source), is_of_rows: true }
    }

    /// For errors while committing. A full disk is definite, because the frame that makes a
    /// transaction count is written last; so is a lock that was not granted. Nothing else is: that
    /// frame may be on the disk although the sync failed, or although there was no memory to note
    /// it, and a crash at this point would find it there. (The next commit overwrites it and syncs
    /// again, so no other event can get the same seq.)
    pub fn of_commit(source: Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => {
                Self::of_store(LogError::Unavailable, source)
            }
            _ => Self::of_store(LogError::Unknown, source),
        }
    }

    fn of_store(means: fn(Box<dyn StdError + Send + Sync>) -> LogError, source: Error) -> Self {
        Self { means, source: Arc::new(source), is_of_rows: false }
    }
}

impl From<Failure> for LogError {
    fn from(failure: Failure) -> Self {
        (failure.means)(Box::new(failure.source))
    }
}

/// For a failed read. Unless something is damaged, it may succeed later.
pub(super) fn of_read(error: Error) -> LogError {
    if is_damage(&error) || error.sqlite_error_code() == Some(ErrorCode::NotADatabase) {
        LogError::Damaged(error.into())
    } else {
        LogError::Unavailable(error.into())
    }
}

/// A page that does not fit the tree, a page that the disk cannot read, or a row that does not hold
/// what this version wrote.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => true,
        error => error.sqlite_error().is_some_and(|error| {
            error.code == ErrorCode::DatabaseCorrupt || UNREADABLE.contains(&error.extended_code)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> Error {
        Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn damage_and_constraints_are_the_rows_fault_and_all_else_the_files() {
        for code in [
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_CORRUPT_INDEX,
            ffi::SQLITE_IOERR_READ,
            ffi::SQLITE_IOERR_CORRUPTFS,
        ] {
            let failure = Failure::of_statement(error(code));
            assert!(failure.is_of_rows, "{code}");
            assert!(matches!(failure.into(), LogError::Damaged(_)), "{code}");
            assert!(matches!(of_read(error(code)), LogError::Damaged(_)), "{code}");
        }
        for code in [ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_MISMATCH, ffi::SQLITE_TOOBIG] {
            let failure = Failure::of_statement(error(code));
            assert!(failure.is_of_rows, "{code}");
            assert!(matches!(failure.into(), LogError::Refused(_)), "{code}");
        }
        for code in [
            ffi::SQLITE_FULL,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_NOTADB,
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_FSYNC,
        ] {
            let failure = Failure::of_statement(error(code));
            assert!(!failure.is_of_rows, "{code}");
            assert!(matches!(failure.into(), LogError::Unavailable(_)), "{code}");
        }
    }

    #[test]
    fn a_failed_commit_is_only_definite_if_nothing_can_be_written() {
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_BUSY] {
            let failure = Failure::of_commit(error(code));
            assert!(matches!(failure.into(), LogError::Unavailable(_)), "{code}");
        }
        for code in [
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_CORRUPT,
        ] {
            let failure = Failure::of_commit(error(code));
            assert!(!failure.is_of_rows, "{code}");
            assert!(matches!(failure.into(), LogError::Unknown(_)), "{code}");
        }
    }
}
