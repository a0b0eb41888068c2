//! The durable log: an event exists if it is in here.
//!
//! This file is the contract; `postgres` and `sqlite` implement it, and one test suite checks both.
//! The log does not encode frames and tells nobody what it wrote; the lane does.
//!
//! What both promise:
//! - **Atomic and durable.** When `append` returns `Ok`, the whole batch survives a crash of the
//!   process, the machine and the store. No read sees any of it before that.
//! - **Gapless.** In each room seqs count 1, 2, 3, … in commit order. A reader that has seen n can
//!   read everything below n.
//! - **Idempotent**, permanently, by (room, user, id), whichever node wrote it first.
//! - **Honest.** `LogError::Unknown` means that nobody knows; it never means "probably not".

mod apart;
mod appender;
mod batch;
mod health;
#[cfg(test)]
pub mod memory;
pub mod postgres;
pub mod sqlite;
mod stored;
mod told;

use std::error::Error as StdError;
use std::panic::resume_unwind;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub use apart::Apart;
pub use appender::Appender;
pub use postgres::{Outbox, Sweep};
pub use told::*;

use self::apart::Parts;
use self::health::Health;
use crate::config::Config;
use crate::model::{Event, LogIdentity, RoomName, Seq, UserId};
use crate::rules::Standing;

/// A commit this recent proves that the log accepts commits.
const JUST_NOW: Duration = Duration::from_secs(2);

/// The log of a node. Cheap to clone; clones share connections.
#[derive(Clone)]
pub enum Log {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
    #[cfg(test)]
    Memory(memory::Memory),
}

/// Writes read marks, for one task.
pub enum Marker {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Marker),
    /// Writes nothing.
    #[cfg(test)]
    Memory,
}

/// Resolves when a log is closed. It keeps nothing open.
pub struct Closed(Option<CancellationToken>);

/// Why a call to the log failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing was written. A later try may succeed.
    #[error("the log cannot be reached")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
    /// The commit was sent and its answer never came: it may or may not have been written. Only
    /// commands with an `id` may be sent again.
    #[error("the log did not say whether it committed")]
    Unknown(#[source] Box<dyn StdError + Send + Sync>),
    /// Nothing was written, and the same batch will be refused again: a bug, or a log that was
    /// changed by hand. Its commands may succeed one by one.
    #[error("the log refused the batch")]
    Refused(#[source] Box<dyn StdError + Send + Sync>),
    /// Something that this needs is in the log and cannot be read: a damaged page, or a row that
    /// this version does not know. Nothing was written, and trying again will not help. Other
    /// rooms, and other commands of the batch, may be fine.
    #[error("data that this needs is damaged in the log")]
    Damaged(#[source] Box<dyn StdError + Send + Sync>),
    /// Nothing was written, because of these commands: their indexes in the batch, ascending, each
    /// with its own error (`Refused` or `Damaged`). The others may be sent again without them.
    #[error("the log cannot write {} commands of the batch", .0.len())]
    Culprits(Vec<(usize, LogError)>),
}

impl LogError {
    /// Its name in the metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Unknown(_) => "unknown",
            Self::Refused(_) => "refused",
            Self::Damaged(_) | Self::Culprits(_) => "damaged",
        }
    }
}

/// Why the log cannot be opened: one sentence that tells the operator what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Sqlite(#[from] sqlite::OpenError),
    #[error(transparent)]
    Postgres(#[from] postgres::OpenError),
}

impl Closed {
    /// Resolves when everything is closed, after the last clone of the log and its last appender
    /// are gone. Only the embedded log has something to close: its file, which a hanging disk may
    /// keep open forever.
    pub async fn wait(&self) {
        if let Some(closed) = &self.0 {
            closed.cancelled().await;
        }
    }
}

impl Marker {
    /// Moves the marks forward, never back, and returns which have moved. Each (room, user) may
    /// appear once. It waits for nobody's lock, and holds its own locks only for the statement.
    pub async fn mark(&mut self, marks: &[Mark]) -> Result<Marked, LogError> {
        match self {
            Self::Sqlite(log) => log.mark(marks).await,
            Self::Postgres(marker) => marker.mark(marks).await,
            #[cfg(test)]
            Self::Memory => Ok(Marked::default()),
        }
    }
}

impl Log {
    /// Opens the configured log: PostgreSQL if `log.url` is set, else the embedded SQLite. Both
    /// create what is missing, and refuse what they do not know.
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        let log = &config.log;
        if log.url.is_empty() {
            let log = log.clone();
            // The disk may be slow, and the caller may be told to stop meanwhile.
            let opened = spawn_blocking(move || sqlite::Sqlite::open(&log)).await;
            let opened = opened.unwrap_or_else(|err| resume_unwind(err.into_panic()));
            return Ok(Self::Sqlite(opened?));
        }
        let mirrored = !config.mirror.url.is_empty();
        let (lanes, node_id) = (config.lane.count, &config.node.id);
        let postgres = postgres::Postgres::open(log, lanes, node_id, mirrored).await?;
        Ok(Self::Postgres(postgres))
    }

    /// Whether other nodes may write to it.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Resolves with a message when a part of the log has died that the node cannot do without.
    pub async fn failed(&self) -> String {
        match self {
            Self::Sqlite(log) => log.thread_ended().await.to_string(),
            // It has no threads, and reconnects automatically.
            Self::Postgres(_) => std::future::pending().await,
            #[cfg(test)]
            Self::Memory(_) => std::future::pending().await,
        }
    }

    /// Resolves when nothing uses the log any more and it is closed.
    pub fn closed(&self) -> Closed {
        match self {
            Self::Sqlite(log) => Closed(Some(log.closed())),
            Self::Postgres(_) => Closed(None),
            #[cfg(test)]
            Self::Memory(_) => Closed(None),
        }
    }

    /// A new appender, for one lane. Connects at the first append.
    pub fn appender(&self) -> Appender {
        match self {
            Self::Sqlite(log) => Appender::Sqlite(log.appender()),
            Self::Postgres(log) => Appender::Postgres(log.appender()),
            #[cfg(test)]
            Self::Memory(log) => Appender::Memory(log.clone()),
        }
    }

    /// Events with seq > `after`, ascending, at most `limit`. Empty if the room does not exist.
    pub async fn read(
        &self,
        room: &RoomName,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Event>, LogError> {
        self.read_page(room, after, limit, usize::MAX).await
    }

    /// Like `read`, but stops at about `bytes_max` bytes of text, after at least one event: for
    /// readers whose memory use must not depend on the length of messages.
    pub async fn read_page(
        &self,
        room: &RoomName,
        after: Seq,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        let page = match self {
            Self::Sqlite(log) => log.read_page(room, after, limit, bytes_max).await,
            Self::Postgres(log) => log.read_page(room, after, limit, bytes_max).await,
            #[cfg(test)]
            Self::Memory(log) => log.read_page(room, after, limit, bytes_max).await,
        };
        self.told(Some(room), page)
    }

    /// The newest events with seq < `before` (`None`: all), ascending, within the same limits as
    /// `read_page`.
    pub async fn read_before(
        &self,
        room: &RoomName,
        before: Option<Seq>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        let page = match self {
            Self::Sqlite(log) => log.read_before(room, before, limit, bytes_max).await,
            Self::Postgres(log) => log.read_before(room, before, limit, bytes_max).await,
            #[cfg(test)]
            Self::Memory(_) => memory::no(),
        };
        self.told(Some(room), page)
    }

    /// A user's standing in a room, in one snapshot. `None`: the room does not exist.
    pub async fn standing(
        &self,
        room: &RoomName,
        user: &UserId,
    ) -> Result<Option<Standing>, LogError> {
        let standing = match self {
            Self::Sqlite(log) => log.standing(room, user).await,
            Self::Postgres(log) => log.standing(room, user).await,
            #[cfg(test)]
            Self::Memory(log) => log.standing(room, user).await,
        };
        self.told(Some(room), standing)
    }

    /// Like `standing`, for many rooms at once.
    pub async fn standings(
        &self,
        rooms: &[RoomName],
        user: &UserId,
    ) -> Result<Apart<Option<Standing>>, LogError> {
        let mut parts = Parts::of(rooms);
        while let Some(part) = parts.next() {
            let standings = match self {
                Self::Sqlite(log) => log.standings(part, user).await,
                Self::Postgres(log) => log.standings(part, user).await,
                #[cfg(test)]
                Self::Memory(log) => log.standings(part, user).await,
            };
            parts.put(part, self.told_of(part, standings))?;
        }
        Ok(parts.answers)
    }

    /// The room's highest committed seq. `None`: the room does not exist.
    pub async fn last_seq(&self, room: &RoomName) -> Result<Option<Seq>, LogError> {
        let last_seq = match self {
            Self::Sqlite(log) => log.last_seq(room).await,
            Self::Postgres(log) => log.last_seq(room).await,
            #[cfg(test)]
            Self::Memory(log) => log.last_seq(room).await,
        };
        self.told(Some(room), last_seq)
    }

    /// Like `last_seq`, for many rooms at once.
    pub async fn last_seqs(&self, rooms: &[RoomName]) -> Result<Apart<Option<Seq>>, LogError> {
        let mut parts = Parts::of(rooms);
        while let Some(part) = parts.next() {
            let last_seqs = match self {
                Self::Sqlite(log) => log.last_seqs(part).await,
                Self::Postgres(log) => log.last_seqs(part).await,
                #[cfg(test)]
                Self::Memory(log) => log.last_seqs(part).await,
            };
            parts.put(part, self.told_of(part, last_seqs))?;
        }
        Ok(parts.answers)
    }

    /// Which log this is; `None` if it is not shared.
    pub fn identity(&self) -> Option<&LogIdentity> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(log) => Some(log.identity()),
            #[cfg(test)]
            Self::Memory(_) => None,
        }
    }

    /// The outbox, if the log has one: batches that are committed and not yet known to be mirrored.
    pub fn outbox(&self) -> Option<Outbox> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(log) => log.outbox(),
            #[cfg(test)]
            Self::Memory(_) => None,
        }
    }

    /// A new writer of read marks. Connects at the first write.
    pub fn marker(&self) -> Marker {
        match self {
            Self::Sqlite(log) => Marker::Sqlite(log.clone()),
            Self::Postgres(log) => Marker::Postgres(log.marker()),
            #[cfg(test)]
            Self::Memory(_) => Marker::Memory,
        }
    }

    /// Rooms with a name above `after`, in the byte order of their names, as this user sees them.
    pub async fn rooms(
        &self,
        user: Option<&UserId>,
        after: Option<&RoomName>,
        limit: usize,
    ) -> Result<Vec<RoomSummary>, LogError> {
        let rooms = match self {
            Self::Sqlite(log) => log.rooms(user, after, limit).await,
            Self::Postgres(log) => log.rooms(user, after, limit).await,
            #[cfg(test)]
            Self::Memory(_) => memory::no(),
        };
        self.told(None, rooms)
    }

    /// Members with an id above `after`, in the byte order of their ids.
    pub async fn members(
        &self,
        room: &RoomName,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>, LogError> {
        let members = match self {
            Self::Sqlite(log) => log.members(room, after, limit).await,
            Self::Postgres(log) => log.members(room, after, limit).await,
            #[cfg(test)]
            Self::Memory(_) => memory::no(),
        };
        self.told(Some(room), members)
    }

    /// Checks that the log accepts commits: by a recent one, else by a commit that changes nothing.
    pub async fn ping_writes(&self) -> Result<(), LogError> {
        if self.health().has_committed_within(JUST_NOW) {
            return Ok(());
        }
        match self {
            Self::Sqlite(log) => log.ping_writes().await,
            Self::Postgres(log) => log.ping_writes().await,
            #[cfg(test)]
            Self::Memory(_) => memory::no(),
        }
    }

    /// Checks that the log answers.
    pub async fn ping(&self) -> Result<(), LogError> {
        match self {
            Self::Sqlite(log) => log.ping().await,
            Self::Postgres(log) => log.ping().await,
            #[cfg(test)]
            Self::Memory(_) => memory::no(),
        }
    }

    /// The log's time, if its clock may differ from this node's.
    pub async fn time(&self) -> Result<SystemTime, LogError> {
        match self {
            Self::Sqlite(_) => Ok(SystemTime::now()),
            Self::Postgres(log) => log.time().await,
            #[cfg(test)]
            Self::Memory(_) => memory::no(),
        }
    }

    /// Reads everything and returns the first few problems. `None`: nothing was read. PostgreSQL
    /// has its own tools for this (`pg_amcheck`).
    pub async fn examine(&self) -> Result<Option<Vec<String>>, LogError> {
        match self {
            Self::Sqlite(log) => log.examine().await.map(Some),
            Self::Postgres(_) => Ok(None),
            #[cfg(test)]
            Self::Memory(_) => memory::no(),
        }
    }

    /// Its name in `/readyz` and in the node's log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
            #[cfg(test)]
            Self::Memory(_) => "memory",
        }
    }

    /// Logs damage that a read found.
    fn told<T>(&self, room: Option<&RoomName>, result: Result<T, LogError>) -> Result<T, LogError> {
        result.inspect_err(|error| self.health().of_room(room, error))
    }

    fn health(&self) -> &Health {
        match self {
            Self::Sqlite(log) => log.health(),
            Self::Postgres(log) => log.health(),
            #[cfg(test)]
            Self::Memory(log) => log.health(),
        }
    }

    /// Like `told`, for a call about several rooms. If it is unknown which room is damaged, nothing
    /// is logged, and the caller asks about fewer.
    fn told_of<T>(&self, rooms: &[RoomName], result: Result<T, LogError>) -> Result<T, LogError> {
        match rooms {
            [room] => self.told(Some(room), result),
            _ => result,
        }
    }
}
