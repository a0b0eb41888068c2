//! Checks at the start that a connection is one PostgreSQL session, with no pooler in between.
//!
//! A pooler such as PgBouncer gives a connection another session for each transaction, or drops the
//! settings that it asks for. Then prepared statements fail now and then, server-side timeouts do
//! not exist, and plans read whole tables, while the node looks ready.

use tokio_postgres::{Error, SimpleQueryMessage};

use super::connect::{Connection, Connector, Setting};
use super::error::OpenError;
use super::schema::connect;

/// Statements on one connection that must all run in one session. PgBouncer gives out the session
/// used last or, if configured so, each in turn.
const STATEMENTS: usize = 4;

/// Refuses a pooler.
pub(super) async fn check(lanes: &Connector, reads: &Connector) -> Result<(), OpenError> {
    let reader = connect(reads).await?;
    check_settings(&reader, reads).await?;
    drop(reader);
    let (one, two) = (connect(lanes).await?, connect(lanes).await?);
    check_settings(&one, lanes).await?;
    match shared(&one, &two).await.map_err(OpenError::setup)? {
        Some(why) => Err(OpenError::Pooler { why: why.to_owned() }),
        None => Ok(()),
    }
}

/// Checks that a connection has the settings that it asked for.
async fn check_settings(connection: &Connection, connector: &Connector) -> Result<(), OpenError> {
    let asked = connector.asked();
    let found = settings(connection, asked).await.map_err(OpenError::setup)?;
    for (name, wanted) in asked {
        let found = found.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        if found != Some(wanted) {
            let found = found.unwrap_or("unknown");
            let why = format!("it dropped {name}={wanted}; the session has {found}");
            return Err(OpenError::Pooler { why });
        }
    }
    Ok(())
}

/// Uses the simple protocol: behind a pooler, a statement may be prepared in one session and run in
/// another.
async fn settings(
    connection: &Connection,
    asked: &[Setting],
) -> Result<Vec<(String, String)>, Error> {
    let names: Vec<_> = asked.iter().map(|(name, _)| format!("'{name}'")).collect();
    let query =
        format!("select name, setting from pg_settings where name in ({})", names.join(","));
    let answer = connection.client.simple_query(&query).await?;
    let setting = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.to_owned())),
        _ => None,
    };
    Ok(answer.iter().filter_map(setting).collect())
}

/// Whether two connections share sessions, and how that was seen.
///
/// While the second connection is in a transaction it keeps its session. If that is the first one's
/// session, or the first one gets another meanwhile, sessions are shared. This finds a pool of one
/// session, one that gives out the session used last, and one that takes turns.
async fn shared(one: &Connection, two: &Connection) -> Result<Option<&'static str>, Error> {
    const BOTH: &str = "two connections had one session";
    const MOVED: &str = "one connection had two sessions";
    let first = session(one).await?;
    two.client.batch_execute("begin").await?;
    if session(two).await? == first {
        return Ok(Some(BOTH));
    }
    if session(one).await? != first {
        return Ok(Some(MOVED));
    }
    two.client.batch_execute("commit").await?;
    for _ in 0..STATEMENTS {
        if session(one).await? != first {
            return Ok(Some(MOVED));
        }
    }
    Ok(None)
}

async fn session(connection: &Connection) -> Result<Option<String>, Error> {
    let answer = connection.client.simple_query("select pg_backend_pid()").await?;
    Ok(answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
