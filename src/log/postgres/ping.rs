//! Checks whether PostgreSQL accepts commits, without changing anything.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::Shared;
use super::connect::Connection;
use super::error::before_commit;
use crate::log::LogError;

/// Takes the locks that an append takes on its tables, and commits, so it waits for the disk and
/// for standbys as any commit does. The `delete` deletes nothing. It is there because it fails on a
/// read-only database, unlike the other statements. `pg_logical_emit_message` writes a record to
/// the write-ahead log that nobody reads.
const PING: &str = "
    begin;
    set local lock_timeout = '500ms';
    lock table rooms, members, events in row exclusive mode;
    delete from rooms where false;
    select pg_logical_emit_message(true, 'verbatim', '');
    commit";

/// One per node. `None` before the first use and after a failure.
///
/// A commit that hangs keeps hanging in PostgreSQL whether or not anybody waits for it, and each
/// one occupies a connection. So a task asks, which ends with the answer, and there is one at a
/// time.
#[derive(Default)]
pub(super) struct Ping(Arc<Mutex<Option<Connection>>>);

#[derive(Debug, thiserror::Error)]
#[error("a test commit was not confirmed")]
struct TooSlow;

impl Ping {
    pub async fn ask(&self, shared: &Arc<Shared>) -> Result<(), LogError> {
        let too_slow = || LogError::Unavailable(TooSlow.into());
        let mut kept = self.0.clone().try_lock_owned().map_err(|_| too_slow())?;
        let shared = shared.clone();
        let ask = tokio::spawn(async move {
            // A connection that ended quietly since then proves nothing.
            if let Some(connection) = kept.take().filter(|kept| !kept.client.is_closed())
                && connection.client.batch_execute(PING).await.is_ok()
            {
                *kept = Some(connection);
                return Ok(());
            }
            let connected = shared.lane_connector.connect().await;
            let connection = connected.map_err(|error| LogError::Unavailable(error.into()))?;
            connection.client.batch_execute(PING).await.map_err(before_commit)?;
            *kept = Some(connection);
            Ok(())
        });
        ask.await.unwrap_or_else(|_| Err(too_slow()))
    }
}
