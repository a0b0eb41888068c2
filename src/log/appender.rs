//! How a lane appends, whichever log it is.

use std::collections::BTreeSet;

use super::health::Health;
#[cfg(test)]
use super::memory;
use super::{LogError, postgres, sqlite};
use crate::model::{RoomName, Seq};
use crate::rules::{Outcome, Write};

/// One lane's access to the log. Each lane has its own.
pub enum Appender {
    Sqlite(sqlite::Appender),
    Postgres(postgres::Appender),
    #[cfg(test)]
    Memory(memory::Memory),
}

impl Appender {
    /// Decides and commits a batch as one transaction. Outcomes are in the order of `writes`, and
    /// within a room seqs follow that order.
    ///
    /// An outcome is `None` if somebody else held the room: nothing was written to it. Only the
    /// room `wait_for` is waited for, and not for long. (The embedded log has no other writers.)
    ///
    /// A refused write does not affect the others. After an error nothing of the batch may be shown
    /// to anyone (`LogError` says what is known).
    ///
    /// Not cancel-safe: dropping the call leaves the outcome unknown. Implementations limit their
    /// own time (`log.append_timeout_ms`), so nobody needs to drop it.
    pub async fn append(
        &mut self,
        writes: &[Write],
        wait_for: Option<&RoomName>,
    ) -> Result<Vec<Option<Outcome>>, LogError> {
        let result = match self {
            Self::Sqlite(appender) => {
                let outcomes = appender.append(writes).await;
                outcomes.map(|outcomes| outcomes.into_iter().map(Some).collect())
            }
            Self::Postgres(appender) => appender.append(writes, wait_for).await,
            #[cfg(test)]
            Self::Memory(log) => {
                let outcomes = log.append(writes).await;
                outcomes.map(|outcomes| outcomes.into_iter().map(Some).collect())
            }
        };
        self.health().note(&result);
        result.inspect_err(|error| self.health().of_batch(writes, error))
    }

    fn health(&self) -> &Health {
        match self {
            Self::Sqlite(appender) => appender.health(),
            Self::Postgres(appender) => appender.health(),
            #[cfg(test)]
            Self::Memory(log) => log.health(),
        }
    }

    /// The outbox rows of the last `append`; none without a mirror.
    pub fn receipts(&mut self) -> Vec<i64> {
        match self {
            Self::Sqlite(_) => Vec::new(),
            #[cfg(test)]
            Self::Memory(_) => Vec::new(),
            Self::Postgres(appender) => appender.receipts(),
        }
    }

    /// After `LogError::Unknown`: the rooms that the lost transaction may have written to.
    pub fn in_doubt(&mut self, writes: &[Write]) -> Vec<RoomName> {
        match self {
            Self::Sqlite(_) => rooms_of(writes),
            Self::Postgres(appender) => appender.in_doubt(),
            #[cfg(test)]
            Self::Memory(_) => rooms_of(writes),
        }
    }

    /// The last seqs of a lost transaction's rooms, if that transaction has ended, one way or the
    /// other. Rooms that do not exist are left out. `None`: as far as is known, it has not ended.
    /// Waits for nobody except, for a moment, for the room `wait_for`.
    pub async fn last_seqs_if_ended(
        &mut self,
        rooms: &[RoomName],
        wait_for: Option<&RoomName>,
    ) -> Result<Option<Vec<(RoomName, Seq)>>, LogError> {
        match self {
            Self::Sqlite(appender) => Ok(Some(appender.last_seqs(rooms).await?)),
            Self::Postgres(appender) => appender.last_seqs_if_ended(rooms, wait_for).await,
            #[cfg(test)]
            Self::Memory(log) => Ok(Some(log.last_seqs_written(rooms).await?)),
        }
    }
}

fn rooms_of(writes: &[Write]) -> Vec<RoomName> {
    let rooms: BTreeSet<&RoomName> = writes.iter().map(|write| &write.room).collect();
    rooms.into_iter().cloned().collect()
}
