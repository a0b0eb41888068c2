//! The checks at the start: is this a PostgreSQL that can keep the promise, and is its schema ours?
//!
//! Nodes that start at the same time wait for each other on an advisory lock. The first one creates
//! the tables, or upgrades older ones step by step. Where the schema is up to date nothing runs:
//! even `create index if not exists` would wait for every running append, and make the next ones
//! wait behind it.
//!
//! A log with a newer schema is accepted if it is marked as one that this version can use.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::connect::{ConnectError, Connection, Connector};
use super::error::{OpenError, is_deadlock, is_lock_timeout, is_passing};
use super::session;
use crate::model::LogIdentity;

const SCHEMA: &str = include_str!("../../../schema.sql");

/// The version that `schema.sql` inserts into `verbatim_schema`.
const SCHEMA_VERSION: i32 = 4;

/// Upgrades: from version 1 to 2, from 2 to 3, and so on. Each file inserts its version.
const STEPS: [&str; SCHEMA_VERSION as usize - 1] =
    [include_str!("steps/2.sql"), include_str!("steps/3.sql"), include_str!("steps/4.sql")];

/// How long a step waits for a lock before it rolls back and tries again. A step locks whole
/// tables. If it waited behind a long transaction (pg_dump), everybody who came later would wait
/// behind the step, on every node.
const STEP_LOCK_TIMEOUT: &str = "set local lock_timeout = '100ms'";
/// The pause before the next try (with jitter), in which the others proceed.
const STEP_PAUSE: Duration = Duration::from_secs(2);
/// How long steps are tried: shorter than `SETUP_TIMEOUT`, whose message says less.
const STEP_PATIENCE: Duration = Duration::from_secs(45);

/// The advisory lock: "verbatim" in ASCII, so that no other program uses the same number.
const SCHEMA_LOCK: i64 = 0x7665_7262_6174_696D;

/// The oldest version with every feature that `schema.sql` uses.
const SERVER_VERSION_MIN: i32 = 13;

/// How long a start waits for a PostgreSQL that cannot be reached before it gives up: long enough
/// for a restart. A supervisor starts the process again.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_PAUSE: Duration = Duration::from_millis(250);

/// How long applying the schema may take, including the wait for another node that applies it.
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Connects, checks the server and applies the schema if it is missing. Returns the log's identity.
/// `lanes` and `reads` are the connectors that the node will use.
pub(super) async fn prepare(
    connector: &Connector,
    (lanes, reads): (&Connector, &Connector),
    connections: usize,
) -> Result<LogIdentity, OpenError> {
    let connection = connect(&connector.for_setup(SETUP_TIMEOUT)).await?;
    let work = async {
        check_server(&connection, connections).await?;
        session::check(lanes, reads).await?;
        apply(&connection).await?;
        identity(&connection).await
    };
    tokio::time::timeout(SETUP_TIMEOUT, work).await.map_err(|_| OpenError::TooSlow)?
}

/// Connects, waiting for a PostgreSQL that is still starting.
pub(super) async fn connect(connector: &Connector) -> Result<Connection, OpenError> {
    let deadline = Instant::now() + CONNECT_PATIENCE;
    loop {
        let error = match connector.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let passing = match &error {
            ConnectError::TooSlow(_) | ConnectError::Name(_) => true,
            ConnectError::Failed(error) => is_passing(error),
        };
        // Jitter, so that nodes started together do not connect together.
        let pause = CONNECT_PAUSE.mul_f64(rand::rng().random_range(0.5..1.5));
        if !passing || Instant::now() + pause > deadline {
            return Err(OpenError::of_connect(error, connector.hosts()));
        }
        tokio::time::sleep(pause).await;
    }
}

async fn check_server(connection: &Connection, connections: usize) -> Result<(), OpenError> {
    // Nothing is prepared here: this must also work on an unknown version, and behind a pooler.
    let row = connection
        .client
        .query_typed_one(
            "select current_setting('server_version_num')::int / 10000,
                    current_setting('server_encoding'),
                    current_setting('max_connections')::int,
                    current_setting('fsync')::bool,
                    current_setting('synchronous_commit') <> 'off'",
            &[],
        )
        .await
        .map_err(OpenError::setup)?;
    let version: i32 = row.get(0);
    if version < SERVER_VERSION_MIN {
        return Err(OpenError::TooOld { found: version });
    }
    let encoding: &str = row.get(1);
    if encoding != "UTF8" {
        return Err(OpenError::Encoding { found: encoding.to_owned() });
    }
    warn_of_doubtful_settings(&row, connections);
    Ok(())
}

/// Warns once, at the start, about settings that are legal but break a promise or will cause
/// trouble.
fn warn_of_doubtful_settings(row: &Row, connections: usize) {
    let connections_max: i32 = row.get(2);
    if usize::try_from(connections_max).is_ok_and(|max| connections > max) {
        tracing::warn!(
            connections,
            connections_max,
            "this node alone may open more connections than PostgreSQL allows \
             (max_connections)"
        );
    }
    let (fsync, synchronous_commit): (bool, bool) = (row.get(3), row.get(4));
    if !fsync || !synchronous_commit {
        tracing::warn!(
            fsync,
            synchronous_commit,
            "PostgreSQL does not wait for its disk: a crash loses acknowledged messages"
        );
    }
}

async fn apply(connection: &Connection) -> Result<(), OpenError> {
    let deadline = Instant::now() + STEP_PATIENCE;
    loop {
        let applied = apply_once(connection).await;
        let Err(OpenError::Setup(error)) = &applied else { return applied };
        if !is_lock_timeout(error) && !is_deadlock(error) {
            return applied;
        }
        // Jitter, so that nodes started together do not alternate without a pause.
        let pause = STEP_PAUSE.mul_f64(rand::rng().random_range(0.5..1.5));
        if Instant::now() + pause > deadline {
            return Err(OpenError::Busy);
        }
        tracing::info!("waiting for a lock on a table of the log, to upgrade the schema");
        connection.client.batch_execute("rollback").await.map_err(OpenError::setup)?;
        tokio::time::sleep(pause).await;
    }
}

async fn apply_once(connection: &Connection) -> Result<(), OpenError> {
    let client = &connection.client;
    // A statement of its own: the next one must see what the previous lock holder committed.
    let lock = format!("begin; select pg_advisory_xact_lock({SCHEMA_LOCK})");
    client.batch_execute(&lock).await.map_err(OpenError::setup)?;
    let row = client
        .query_one(
            "select to_regclass('verbatim_schema') is not null,
                    coalesce(to_regclass('rooms'), to_regclass('members'), to_regclass('events'),
                             to_regclass('outbox'), to_regclass('event_log'))::text",
            &[],
        )
        .await
        .map_err(OpenError::setup)?;
    let (ours, occupied): (bool, Option<String>) = (row.get(0), row.get(1));
    let version = match (ours, occupied) {
        (false, Some(table)) => return Err(OpenError::Foreign { table }),
        (false, None) => 0,
        (true, _) => version(client).await?,
    };
    if version > SCHEMA_VERSION {
        let carried_by = carried_by(client).await?;
        if carried_by > SCHEMA_VERSION {
            return Err(OpenError::Newer { found: version, known: SCHEMA_VERSION });
        }
        tracing::info!(version, known = SCHEMA_VERSION, "the log has a newer schema");
    }
    if version < SCHEMA_VERSION {
        client.batch_execute(STEP_LOCK_TIMEOUT).await.map_err(OpenError::setup)?;
        let lacking = match usize::try_from(version) {
            Ok(version @ 1..) => &STEPS[version - 1..],
            _ => &[SCHEMA],
        };
        for step in lacking {
            client.batch_execute(step).await.map_err(|error| match error.code() {
                Some(&SqlState::INSUFFICIENT_PRIVILEGE) => OpenError::Privilege(error),
                _ => OpenError::setup(error),
            })?;
        }
        tracing::info!(version = SCHEMA_VERSION, "schema applied");
    }
    client.batch_execute("commit").await.map_err(OpenError::setup)
}

async fn version(client: &Client) -> Result<i32, OpenError> {
    let version = "select coalesce(max(version), 0) from verbatim_schema";
    Ok(client.query_one(version, &[]).await.map_err(OpenError::setup)?.get(0))
}

/// The oldest version that can use this log, whose schema is newer than ours.
async fn carried_by(client: &Client) -> Result<i32, OpenError> {
    let carried_by = "
        select max(coalesce(carried_by, version))
        from verbatim_schema
        where version > $1::int4";
    let row = client.query_one(carried_by, &[&SCHEMA_VERSION]).await.map_err(OpenError::setup)?;
    Ok(row.get(0))
}

async fn identity(connection: &Connection) -> Result<LogIdentity, OpenError> {
    let row = connection.client.query_one("select id::text, secret from verbatim_log", &[]).await;
    let row = row.map_err(OpenError::setup)?;
    Ok(LogIdentity { id: row.get(0), secret: row.get(1) })
}
