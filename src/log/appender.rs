//! A lane's way to append to the log, whichever it is.

use std::collections::BTreeSet;

use super::health::Health;
#[cfg(test)]
use super::memory;
use super::{LogError, postgres, sqlite};
use crate::model::{RoomName, Seq};
use crate::rules::{Outcome, Write};

/// One lane's way to append. Each lane has its own; it is not shared.
// The larger variant is the one that matters; a node has one of these for each lane.
#[allow(clippy::large_enum_variant)]
pub enum Appender {
    Sqlite(sqlite::Appender),
    Postgres(postgres::Appender),
    #[cfg(test)]
    Memory(memory::Memory),
}

impl Appender {
    /// Decides and commits a batch as one transaction; outcomes are in the order of `writes`, and
    /// every seq in them follows that order within its room.
    ///
    /// `None`: somebody else holds the room just now, and nothing of it was written; the room named
    /// by `wait_for`, and no other, is waited for, but not for long. (There is nobody else at the
    /// embedded log.)
    ///
    /// A write that the rules refuse costs its neighbours nothing. On any error nothing of the
    /// batch may be shown to anyone (`LogError` says what is known).
    ///
    /// Not cancel-safe: a dropped call leaves the outcome unknown. The implementations bound
    /// themselves in time (`log.append_timeout_ms`), so there is no need to.
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

    /// The outbox rows that the last `append` wrote; none without a mirror.
    pub fn receipts(&mut self) -> Vec<i64> {
        match self {
            Self::Sqlite(_) => Vec::new(),
            #[cfg(test)]
            Self::Memory(_) => Vec::new(),
            Self::Postgres(appender) => appender.receipts(),
        }
    }

    /// After `LogError::Unknown`: the rooms that the lost transaction wrote to, if it did.
    pub fn in_doubt(&mut self, writes: &[Write]) -> Vec<RoomName> {
        match self {
            Self::Sqlite(_) => rooms_of(writes),
            Self::Postgres(appender) => appender.in_doubt(),
            #[cfg(test)]
            Self::Memory(_) => rooms_of(writes),
        }
    }

    /// Where all rooms of one lost transaction stand since it has ended, one way or the other;
    /// rooms that do not exist are left out. `None`: it has not ended, as far as is known. It
    /// waits for nobody, or, if that is wished, for one of the rooms for a moment.
    pub async fn settle(
        &mut self,
        rooms: &[RoomName],
        wait_for: Option<&RoomName>,
    ) -> Result<Option<Vec<(RoomName, Seq)>>, LogError> {
        match self {
            Self::Sqlite(appender) => Ok(Some(appender.settle(rooms).await?)),
            Self::Postgres(appender) => appender.settle(rooms, wait_for).await,
            #[cfg(test)]
            Self::Memory(log) => Ok(Some(log.settle(rooms).await?)),
        }
    }
}

fn rooms_of(writes: &[Write]) -> Vec<RoomName> {
    let rooms: BTreeSet<&RoomName> = writes.iter().map(|write| &write.room).collect();
    rooms.into_iter().cloned().collect()
}
