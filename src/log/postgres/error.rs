//! What PostgreSQL's errors mean: to the operator at the start, and to an append afterwards.
//!
//! No error here quotes the URL: it may hold a password.

use tokio_postgres::error::{Severity, SqlState};

use super::connect::ConnectError;
use crate::log::LogError;
use crate::log::health::chain;

/// Why the log cannot be used. The `Display` form tells the operator what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "log.url (DATABASE_URL) is not a PostgreSQL URL; write \
         postgres://user:password@host:5432/database"
    )]
    Url,
    #[error(
        "log.url has an sslmode that is not one of disable, prefer, require (or no-verify), \
         verify-full; correct it"
    )]
    SslMode,
    #[error("log.url has {word}, which {advice}")]
    Word { word: String, advice: &'static str },
    #[error(
        "log.url has a parameter that verbatim does not know; remove it, or, if it is a part of \
         the password, write @ : / ? & in that as %40 %3A %2F %3F %26"
    )]
    UnnamedWord,
    #[error("no certificate of an authority can be read from {file}; correct sslrootcert")]
    RootCertificates { file: String },
    #[error("PostgreSQL at {at} cannot be reached ({why}); start it, or correct log.url")]
    Unreachable { at: String, why: String },
    #[error("PostgreSQL at {at} refused the user or the password of log.url ({why}); correct it")]
    Password { at: String, why: String },
    #[error("PostgreSQL at {at} has no such database ({why}); create it with: createdb -E UTF8")]
    NoDatabase { at: String, why: String },
    #[error(
        "log.url leads to a pooler such as PgBouncer, which keeps no session ({why}); set log.url \
         to PostgreSQL itself"
    )]
    Pooler { why: String },
    #[error("PostgreSQL {found} is too old; verbatim needs 13 or later")]
    TooOld { found: i32 },
    #[error(
        "the database of log.url is encoded in {found}, which cannot hold every message; make one \
         with: createdb -E UTF8 -T template0"
    )]
    Encoding { found: String },
    #[error("PostgreSQL at {at} only reads (a standby?); point log.url at the primary")]
    ReadOnly { at: String },
    #[error(
        "the database was prepared by a newer verbatim (schema {found}, this one knows {known}); \
         start that version, or set log.url to another database"
    )]
    Newer { found: i32, known: i32 },
    #[error(
        "the database holds a table {table} that is not verbatim's, and was not touched; set \
         log.url to an empty database"
    )]
    Foreign { table: String },
    #[error(
        "the user of log.url may not create tables, or owns not those that are to be changed ({}); \
         grant it that, or make it their owner",
        chain(.0)
    )]
    Privilege(#[source] tokio_postgres::Error),
    #[error("the schema cannot be prepared ({}); see PostgreSQL's log", chain(.0))]
    Setup(#[source] tokio_postgres::Error),
    #[error(
        "the schema cannot be brought to this version while something (pg_dump?) holds a table of \
         the log; see pg_stat_activity, and start again when it has ended"
    )]
    Busy,
    #[error("the schema was not ready within a minute; see who locks it in pg_stat_activity")]
    TooSlow,
}

impl OpenError {
    /// For an error of the start's own statements.
    pub(super) fn setup(error: tokio_postgres::Error) -> Self {
        match of_pooler(&error) {
            Some(why) => Self::Pooler { why },
            None => Self::Setup(error),
        }
    }

    pub(super) fn of_connect(error: ConnectError, at: String) -> Self {
        let why = chain(&error);
        let code = match &error {
            ConnectError::Failed(error) => match of_pooler(error) {
                Some(why) => return Self::Pooler { why },
                None => error.code(),
            },
            ConnectError::TooSlow(_) | ConnectError::Name(_) => None,
        };
        match code {
            Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
                Self::Password { at, why }
            }
            Some(&SqlState::INVALID_CATALOG_NAME) => Self::NoDatabase { at, why },
            None if only_reads(&error) => Self::ReadOnly { at },
            _ => Self::Unreachable { at, why },
        }
    }
}

/// What only a pooler says. PgBouncer: "unsupported startup parameter: options", or, in later
/// versions, "… in options: lock_timeout", and "… not allowed in statement pooling mode"; Amazon's
/// RDS Proxy: "… doesn't support command-line options". And a statement that is not there, or is
/// there already, was prepared in another session.
fn of_pooler(error: &tokio_postgres::Error) -> Option<String> {
    let error = error.as_db_error()?;
    let said = error.message();
    let is_said = ["unsupported startup parameter", "unsupported options startup parameter"]
        .iter()
        .any(|begin| said.starts_with(begin))
        || ["pooling mode", "command-line options"].iter().any(|part| said.contains(part));
    let lost = [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT];
    (is_said || lost.contains(error.code())).then(|| format!("it says: {said}"))
}

/// The driver asked the server whether it writes, and says so as an error of the input that no
/// system call has made.
fn only_reads(error: &ConnectError) -> bool {
    let source = std::error::Error::source(error).and_then(|error| error.source());
    let io = source.and_then(|error| error.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| {
        io.kind() == std::io::ErrorKind::PermissionDenied && io.raw_os_error().is_none()
    })
}

/// True for what may be gone in a moment: nobody listens, or the server is starting, stopping or
/// full, or a standby that is about to be the primary.
pub(super) fn is_passing(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => [
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::TOO_MANY_CONNECTIONS,
        ]
        .contains(code),
        None => {
            let source = std::error::Error::source(error);
            error.is_closed() || source.is_some_and(|source| source.is::<std::io::Error>())
        }
    }
}

/// Two held what the other waited for, and this one was ended.
pub(super) fn is_deadlock(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED)
}

/// Somebody held a lock for longer than it is waited for.
pub(super) fn is_lock_timeout(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// PostgreSQL says that a page of a table or of an index is damaged.
pub(super) fn is_damage(error: &tokio_postgres::Error) -> bool {
    error
        .code()
        .is_some_and(|code| [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code))
}

/// Before COMMIT was sent: nothing was written.
pub(super) fn before_commit(error: tokio_postgres::Error) -> LogError {
    if is_damage(&error) {
        return LogError::Damaged(error.into());
    }
    // 22: the data is not what the column takes. 23: a constraint. The same batch meets them again.
    let poison = |code: &SqlState| code.code().starts_with("22") || code.code().starts_with("23");
    if error.code().is_some_and(poison) {
        LogError::Refused(error.into())
    } else {
        LogError::Unavailable(error.into())
    }
}

/// The data statement failed, and COMMIT was sent behind it. If the server itself says so, the
/// transaction is lost, whatever became of the connection since; else nobody knows.
pub(super) fn of_data(error: tokio_postgres::Error) -> LogError {
    if error.as_db_error().is_some() {
        before_commit(error)
    } else {
        LogError::Unknown(error.into())
    }
}

/// COMMIT failed. An ERROR is PostgreSQL's word that the transaction is rolled back. FATAL only
/// says that the session ends: it may do so between the commit and its answer (an administrator's
/// shutdown while waiting for a standby), and then the transaction stands.
pub(super) fn of_commit(error: tokio_postgres::Error) -> LogError {
    match error.as_db_error().and_then(|error| error.parsed_severity()) {
        Some(Severity::Error) => before_commit(error),
        _ => LogError::Unknown(error.into()),
    }
}
