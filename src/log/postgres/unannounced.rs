//! Batches that were committed without their outbox rows, because somebody had locked the outbox.
//!
//! The outbox serves Redis alone, so a lock on it must not stop messages. Batches are then
//! committed without their rows, which are remembered here and written when the table is free. If
//! the node dies before that, and did not get the events into Redis either, the stream lacks them;
//! the log and all followers have them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::error::is_lock_timeout;
use super::rows::Rows;
use crate::log::LogError;

/// Rows remembered. Beyond that the stream may lack events.
const ROWS_MAX: usize = 100_000;

/// Run when a batch met a lock, to find out whether the outbox is what is locked.
const TRY: &str = "begin; lock table outbox in row exclusive mode nowait; rollback";

const ANNOUNCE: &str = "
    insert into outbox (room_id, first_seq, last_seq, at)
    select u.room_id, u.first_seq, u.last_seq, clock_timestamp()
    from unnest($1::bigint[], $2::bigint[], $3::bigint[])
         with ordinality as u (room_id, first_seq, last_seq, place)
    order by u.place";

/// One per node.
#[derive(Default)]
pub(super) struct Unannounced {
    /// As far as is known, the table is locked.
    is_locked: AtomicBool,
    rows: Mutex<Vec<Row>>,
}

/// A room, and its first and last new seq.
type Row = (i64, i64, i64);

impl Unannounced {
    pub fn is_locked(&self) -> bool {
        self.is_locked.load(Ordering::Relaxed)
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are rows to write, or a lock to check.
    ///
    /// The race that the second half closes: a batch found the table locked; it became free, and
    /// everything remembered was written; only then was this batch remembered.
    pub fn is_owing(&self) -> bool {
        self.is_locked() || !self.rows().is_empty()
    }

    /// Remembers a batch that was committed without its rows. This does not mean that the table is
    /// locked: under load some batch always began while it was.
    pub fn remember(&self, written: &Rows<'_>) {
        let mut rows = self.rows();
        let left = ROWS_MAX.saturating_sub(rows.len());
        rows.extend(written.changed().take(left));
    }

    /// Called when a batch met a lock. True if it was the outbox's, so that the batch may do
    /// without.
    pub async fn met_lock(&self, error: &LogError, shared: &Shared, deadline: Instant) -> bool {
        let LogError::Unavailable(cause) = error else { return false };
        // The error may also come from a new connection, whose statements are being prepared.
        let cause: &(dyn std::error::Error + 'static) = &**cause;
        let causes = std::iter::successors(Some(cause), |cause| cause.source());
        let is_lock = causes
            .filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>())
            .any(is_lock_timeout);
        if !shared.mirrored || !is_lock || self.is_locked() {
            return false;
        }
        let asked = async {
            let connection = shared.lane_connector.connect().await.ok()?;
            connection.client.batch_execute(TRY).await.err()
        };
        let error = timeout_at(deadline, asked).await.ok().flatten();
        let is_locked = error.is_some_and(|error| is_lock_timeout(&error));
        if is_locked {
            self.is_locked.store(true, Ordering::Relaxed);
            tracing::warn!("the outbox in PostgreSQL is locked; messages are committed without it");
        }
        is_locked
    }

    /// Writes the remembered rows, if the table is free again.
    pub async fn announce(
        &self,
        client: &tokio_postgres::Client,
    ) -> Result<(), tokio_postgres::Error> {
        // Waits for `log.lock_timeout_ms` at most; the caller tries again.
        let rows = self.rows().clone();
        let rooms: Vec<i64> = rows.iter().map(|row| row.0).collect();
        let firsts: Vec<i64> = rows.iter().map(|row| row.1).collect();
        let lasts: Vec<i64> = rows.iter().map(|row| row.2).collect();
        client.execute(ANNOUNCE, &[&rooms, &firsts, &lasts]).await?;
        // Rows remembered meanwhile are written the next time.
        self.rows().drain(..rows.len());
        if self.is_locked.swap(false, Ordering::Relaxed) {
            tracing::info!("the outbox in PostgreSQL is no longer locked");
        }
        Ok(())
    }
}
