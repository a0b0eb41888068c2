//! What was committed while the outbox could not be written to, because somebody had locked it.
//!
//! The outbox serves Redis alone, so it stops no message: batches are committed without their rows,
//! which are remembered here and written when the table is free. Should the node die before that,
//! and have failed to put the events into Redis, the stream lacks them; the log and all followers
//! have them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::error::is_lock_timeout;
use super::rows::Rows;
use crate::log::LogError;

/// Rows remembered; beyond that the stream may lack events.
const ROWS_MAX: usize = 100_000;

/// Asked when a batch could not be written because something was locked: was it this?
const TRY: &str = "begin; lock table outbox in row exclusive mode nowait; rollback";

const ANNOUNCE: &str = "
    insert into outbox (room_id, first_seq, last_seq, at)
    select u.room_id, u.first_seq, u.last_seq, clock_timestamp()
    from unnest($1::bigint[], $2::bigint[], $3::bigint[])
         with ordinality as u (room_id, first_seq, last_seq, place)
    order by u.place";

/// One to a node.
#[derive(Default)]
pub(super) struct Unannounced {
    /// The table is locked, as far as is known.
    is_locked: AtomicBool,
    rows: Mutex<Vec<Row>>,
}

/// A room and its first and last new seq.
type Row = (i64, i64, i64);

impl Unannounced {
    pub fn is_locked(&self) -> bool {
        self.is_locked.load(Ordering::Relaxed)
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is something to write, or to find out.
    ///
    /// The race that the second half closes: a batch found the table locked; it came free, and all
    /// that was remembered was written, before this batch was remembered.
    pub fn is_owing(&self) -> bool {
        self.is_locked() || !self.rows().is_empty()
    }

    /// These were committed without their rows. It does not say that the table is locked: under
    /// load there is always a batch that began while it was.
    pub fn remember(&self, written: &Rows<'_>) {
        let mut rows = self.rows();
        let left = ROWS_MAX.saturating_sub(rows.len());
        rows.extend(written.changed().take(left));
    }

    /// A batch met a lock. Whether it was the outbox's, so that the batch may do without.
    pub async fn met_lock(&self, error: &LogError, shared: &Shared, deadline: Instant) -> bool {
        let LogError::Unavailable(cause) = error else { return false };
        // Also of a new connection, whose statements are prepared.
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
            tracing::warn!("somebody has locked the outbox in PostgreSQL; messages do without it");
        }
        is_locked
    }

    /// Writes what is remembered, if the table is free again.
    pub async fn announce(
        &self,
        client: &tokio_postgres::Client,
    ) -> Result<(), tokio_postgres::Error> {
        // It waits for `log.lock_timeout_ms` at most, and is tried again.
        let rows = self.rows().clone();
        let rooms: Vec<i64> = rows.iter().map(|row| row.0).collect();
        let firsts: Vec<i64> = rows.iter().map(|row| row.1).collect();
        let lasts: Vec<i64> = rows.iter().map(|row| row.2).collect();
        client.execute(ANNOUNCE, &[&rooms, &firsts, &lasts]).await?;
        // What came meanwhile is written the next time.
        self.rows().drain(..rows.len());
        if self.is_locked.swap(false, Ordering::Relaxed) {
            tracing::info!("the outbox is free again");
        }
        Ok(())
    }
}
