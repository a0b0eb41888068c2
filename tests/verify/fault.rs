//! What can go wrong, each with the name that it has in the table.
//!
//! It is pure, and knows no process and no socket.

use std::fmt;

use rand::Rng;
use rand::rngs::StdRng;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and a new start after a while.
    NodeKill(usize),
    /// SIGTERM, and a new start.
    NodeTerm(usize),
    /// SIGSTOP, and SIGCONT after a while.
    NodeStop(usize),

    /// kill -9, and an empty start after a while.
    RedisKill,
    RedisStop,
    /// FLUSHALL
    RedisFlush,
    /// CLIENT KILL TYPE pubsub
    RedisUnsubscribe,
    /// XTRIM to so many entries.
    RedisTrim(u64),
    /// XGROUP DESTROY of a node's place.
    RedisForget(usize),
    /// Every answer comes 1.7 s late, to all nodes.
    RedisSlow,
    /// A node of another cluster uses the same Redis, and the same names of rooms.
    Stranger,

    /// kill -9 of all its processes, and a start that recovers.
    PostgresKill,
    /// Immediate shutdown and start.
    PostgresRestart,
    PostgresStop,
    /// pg_terminate_backend for all connections of a node.
    PostgresTerminate(usize),
    /// A room's row is locked for a while.
    PostgresLock(usize),
    /// A whole table is locked for a while.
    TableLock(Table),
    /// SIGSTOP of the one backend that is in a transaction of this node.
    BackendStop(usize),
    /// The database takes no writes for a while.
    ReadOnly,
    /// Somebody looks at the tables as they were, for a while: nothing can be vacuumed.
    Snapshot,
    /// No file of the database can grow for a while.
    DiskFull,
    /// An event that no node can read, in a room that nobody else uses.
    UnreadableRow(Mend),
    /// A node of a later version writes, into all rooms, events of types that no other knows.
    Newer,
    /// A room loses so many of its newest events.
    SetBack {
        room: usize,
        count: u64,
    },

    /// The disk of an embedded log does that for a while.
    Disk(DiskFault),

    /// Connections end, and new ones end at once, for a while.
    Cut(Link),
    /// Nothing comes through for a while, and nobody is told.
    Hole(Link),
    /// Everything comes that much later.
    Delay(Link, u64),
    /// The connection ends with the next COMMIT: before it arrives, or before its answer does.
    CommitCut {
        node: usize,
        answer: bool,
    },
}

/// A node's way to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub node: usize,
    pub to: To,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Redis,
    Postgres,
    Clients,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Outbox,
    Events,
    Rooms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// A sync of the write-ahead log is an I/O error.
    Fail,
    /// A sync of the write-ahead log does not return.
    Hang,
    /// Some pages of the file cannot be read.
    Bad,
    /// The same of the write-ahead log.
    BadWal,
}

/// A stop may last as long as this if the schedule is three times as long.
const LONG_STOP_MS: u64 = 30_000;

/// What becomes of a row that nobody can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    Remove,
    MakeRight,
}

impl Fault {
    /// Without the start that follows it.
    pub fn lasting_ms(self, rng: &mut StdRng, seconds: u64) -> u64 {
        let range = match self {
            Self::NodeStop(_) if seconds * 1000 >= 3 * LONG_STOP_MS && rng.random_ratio(1, 3) => {
                5000..LONG_STOP_MS
            }
            Self::NodeStop(_) | Self::Hole(_) => 500..4000,
            Self::RedisStop | Self::PostgresStop => 300..3000,
            // A backend that comes back later than `log.append_timeout_ms` is not waited for.
            Self::BackendStop(_) => 300..4000,
            // The first batch waits for `log.lock_timeout_ms`, and only the first.
            Self::TableLock(Table::Outbox) => 1500..3500,
            Self::TableLock(_) | Self::ReadOnly | Self::DiskFull => 500..2000,
            Self::Snapshot | Self::RedisSlow => 2000..5000,
            Self::UnreadableRow(_) | Self::Newer => 1000..5000,
            Self::Disk(_) => 300..3500,
            Self::Stranger => 1000..3000,
            Self::NodeKill(_) | Self::RedisKill | Self::PostgresKill => 0..1000,
            Self::Cut(_) => 0..1500,
            Self::Delay(..) | Self::PostgresLock(_) => 500..2000,
            _ => 0..100,
        };
        rng.random_range(range)
    }

    /// For the table: without the numbers.
    pub fn kind(self) -> String {
        match self {
            Self::NodeKill(_) => "node kill -9".to_owned(),
            Self::NodeTerm(_) => "node SIGTERM".to_owned(),
            Self::NodeStop(_) => "node SIGSTOP".to_owned(),
            Self::RedisKill => "Redis kill -9, empty restart".to_owned(),
            Self::RedisStop => "Redis SIGSTOP".to_owned(),
            Self::RedisFlush => "Redis FLUSHALL".to_owned(),
            Self::RedisUnsubscribe => "Redis CLIENT KILL TYPE pubsub".to_owned(),
            Self::RedisTrim(_) => "Redis XTRIM".to_owned(),
            Self::RedisForget(_) => "Redis XGROUP DESTROY".to_owned(),
            Self::RedisSlow => "Redis slow by 1.7 s".to_owned(),
            Self::Stranger => "Redis shared with another cluster".to_owned(),
            Self::PostgresKill => "PostgreSQL kill -9".to_owned(),
            Self::PostgresRestart => "PostgreSQL immediate restart".to_owned(),
            Self::PostgresStop => "PostgreSQL SIGSTOP".to_owned(),
            Self::PostgresTerminate(_) => "pg_terminate_backend".to_owned(),
            Self::PostgresLock(_) => "PostgreSQL row lock".to_owned(),
            Self::TableLock(Table::Outbox) => "PostgreSQL lock of the outbox".to_owned(),
            Self::TableLock(Table::Events) => "PostgreSQL lock of events".to_owned(),
            Self::TableLock(Table::Rooms) => "PostgreSQL lock of rooms".to_owned(),
            Self::BackendStop(_) => "PostgreSQL backend SIGSTOP".to_owned(),
            Self::ReadOnly => "PostgreSQL read only".to_owned(),
            Self::Snapshot => "PostgreSQL snapshot held".to_owned(),
            Self::DiskFull => "PostgreSQL disk full".to_owned(),
            Self::SetBack { .. } => "log set back".to_owned(),
            Self::UnreadableRow(Mend::Remove) => "unreadable row, removed".to_owned(),
            Self::UnreadableRow(Mend::MakeRight) => "unreadable row, made right".to_owned(),
            Self::Newer => "events of a newer node".to_owned(),
            Self::Disk(DiskFault::Fail) => "disk: syncs fail".to_owned(),
            Self::Disk(DiskFault::Hang) => "disk: syncs hang".to_owned(),
            Self::Disk(DiskFault::Bad) => "disk: bad pages".to_owned(),
            Self::Disk(DiskFault::BadWal) => "disk: bad pages in the WAL".to_owned(),
            Self::Cut(link) => format!("{} cut", link.to),
            Self::Hole(link) => format!("{} black hole", link.to),
            Self::Delay(link, _) => format!("{} delay", link.to),
            Self::CommitCut { answer: true, .. } => {
                "cut after COMMIT, before its answer".to_owned()
            }
            Self::CommitCut { answer: false, .. } => "cut at COMMIT".to_owned(),
        }
    }
}

impl Fault {
    /// Whether there is nothing to do it to without a Redis.
    pub fn is_of_redis(self) -> bool {
        match self {
            Self::RedisKill
            | Self::RedisStop
            | Self::RedisFlush
            | Self::RedisUnsubscribe
            | Self::RedisTrim(_)
            | Self::RedisForget(_)
            | Self::RedisSlow
            | Self::Stranger => true,
            Self::Cut(link) | Self::Hole(link) | Self::Delay(link, _) => link.to == To::Redis,
            _ => false,
        }
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "node to Redis",
            Self::Postgres => "node to PostgreSQL",
            Self::Clients => "clients to node",
        })
    }
}

/// For the timeline.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind())?;
        match self {
            Self::NodeKill(node)
            | Self::NodeTerm(node)
            | Self::NodeStop(node)
            | Self::RedisForget(node)
            | Self::PostgresTerminate(node)
            | Self::BackendStop(node)
            | Self::CommitCut { node, .. }
            | Self::Cut(Link { node, .. })
            | Self::Hole(Link { node, .. })
            | Self::Delay(Link { node, .. }, _) => write!(f, " (n{})", node + 1),
            _ => Ok(()),
        }
    }
}
