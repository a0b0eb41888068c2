//! Whether PostgreSQL takes commits, asked without changing anything.

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Shared;
use super::connect::Connection;
use super::error::before_commit;
use crate::log::LogError;

/// Takes the locks that an append takes on its tables, writes a record to the write-ahead log that
/// nobody reads, and commits: so it waits for the disk and for standbys as any commit does.
const PING: &str = "
    begin;
    set local lock_timeout = '500ms';
    lock table rooms, members, events in row exclusive mode;
    select pg_logical_emit_message(true, 'verbatim', '');
    commit";

/// One to a node. `None` before the first use and after any failure.
#[derive(Default)]
pub(super) struct Ping(Mutex<Option<Connection>>);

#[derive(Debug, thiserror::Error)]
#[error("a commit is not confirmed")]
struct TooSlow;

impl Ping {
    pub async fn ask(&self, shared: &Shared) -> Result<(), LogError> {
        let mut kept = self.0.lock().await;
        let work = async {
            let connection = match kept.take().filter(|kept| !kept.client.is_closed()) {
                Some(connection) => connection,
                None => {
                    let connect = shared.lane_connector.connect().await;
                    connect.map_err(|error| LogError::Unavailable(error.into()))?
                }
            };
            connection.client.batch_execute(PING).await.map_err(before_commit)?;
            Ok(connection)
        };
        let done = timeout(shared.append_timeout, work).await;
        *kept = Some(done.unwrap_or_else(|_| Err(LogError::Unavailable(TooSlow.into())))?);
        Ok(())
    }
}
