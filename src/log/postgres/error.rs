//! What PostgreSQL's errors mean, for the operator at the start and for an append later.
//!
//! No error here quotes the URL, because it may hold a password.

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
    #[error("log.url has {name}, which {advice}")]
    Parameter { name: String, advice: &'static str },
    #[error(
        "log.url has an unknown parameter; remove it, or, if it is part of the password, write \
         @ : / ? & in it as %40 %3A %2F %3F %26"
    )]
    UnnamedParameter,
    #[error("no CA certificate can be read from {file}; correct sslrootcert")]
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
        "the database of log.url is encoded in {found}, which cannot store every message; create \
         one with: createdb -E UTF8 -T template0"
    )]
    Encoding { found: String },
    #[error("PostgreSQL at {at} is read-only (a standby?); point log.url at the primary")]
    ReadOnly { at: String },
    #[error(
        "the database was prepared by a newer verbatim (schema {found}, this one knows {known}); \
         start that version, or set log.url to another database"
    )]
    Newer { found: i32, known: i32 },
    #[error(
        "the database has a table {table} that is not verbatim's; nothing was changed; set log.url \
         to an empty database"
    )]
    Foreign { table: String },
    #[error(
        "the user of log.url may not create tables, or does not own the tables to change ({}); \
         grant it CREATE, or make it their owner",
        chain(.0)
    )]
    Privilege(#[source] tokio_postgres::Error),
    #[error("the schema cannot be applied ({}); see PostgreSQL's log", chain(.0))]
    Setup(#[source] tokio_postgres::Error),
    #[error(
        "the schema cannot be upgraded while something (pg_dump?) locks a table of the log; find \
         it in pg_stat_activity, and start again when it has ended"
    )]
    Busy,
    #[error("applying the schema took over a minute; see what locks it in pg_stat_activity")]
    TooSlow,
}

impl OpenError {
    /// From an error of the statements that run at the start.
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

/// How a pooler betrays itself; `None` if the error is PostgreSQL's own. PgBouncer says
/// "unsupported startup parameter: options", in later versions "… in options: lock_timeout", and "…
/// not allowed in statement pooling mode"; Amazon's RDS Proxy says "… doesn't support command-line
/// options". A prepared statement that is missing, or exists already, was prepared in another
/// session.
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

/// The driver asks the server whether it accepts writes. It reports "no" as a permission error of
/// its own, without the number of a system call's error.
fn only_reads(error: &ConnectError) -> bool {
    let source = std::error::Error::source(error).and_then(|error| error.source());
    let io = source.and_then(|error| error.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| {
        io.kind() == std::io::ErrorKind::PermissionDenied && io.raw_os_error().is_none()
    })
}

/// True if the cause may pass in a moment: nobody listens, the server is starting, stopping or
/// full, or a standby is about to be promoted.
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

/// Two transactions waited for each other, and PostgreSQL ended this one.
pub(super) fn is_deadlock(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED)
}

/// A lock was not free within `lock_timeout`.
pub(super) fn is_lock_timeout(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// PostgreSQL reports a damaged page of a table or an index.
pub(super) fn is_damage(error: &tokio_postgres::Error) -> bool {
    error
        .code()
        .is_some_and(|code| [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code))
}

/// For errors before COMMIT was sent: nothing was written.
pub(super) fn before_commit(error: tokio_postgres::Error) -> LogError {
    if is_damage(&error) {
        return LogError::Damaged(error.into());
    }
    // Class 22: the data does not fit the column. Class 23: a constraint. The same batch fails
    // again.
    let poison = |code: &SqlState| code.code().starts_with("22") || code.code().starts_with("23");
    if error.code().is_some_and(poison) {
        LogError::Refused(error.into())
    } else {
        LogError::Unavailable(error.into())
    }
}

/// For a failed data statement with COMMIT sent behind it. If the server reports the error, the
/// transaction is lost, whatever happened to the connection since. Otherwise nobody knows.
pub(super) fn of_data(error: tokio_postgres::Error) -> LogError {
    if error.as_db_error().is_some() {
        before_commit(error)
    } else {
        LogError::Unknown(error.into())
    }
}

/// For a failed COMMIT. After an ERROR the transaction is rolled back. FATAL only says that the
/// session ends. That may happen between the commit and its answer (an administrator's shutdown
/// while it waits for a standby), and then the transaction is committed.
pub(super) fn of_commit(error: tokio_postgres::Error) -> LogError {
    match error.as_db_error().and_then(|error| error.parsed_severity()) {
        Some(Severity::Error) => before_commit(error),
        _ => LogError::Unknown(error.into()),
    }
}
