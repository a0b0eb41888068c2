//! What goes wrong in a schedule, and when: everything of it that the seed decides.
//!
//! It is pure, and knows no process and no socket.

use std::fmt;
use std::ops::Range;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Nodes of the cluster.
pub const NODES: usize = 3;

/// Of the short form: such that all kinds of faults but one are in it. It has no time for more.
pub const SHORT_SEEDS: [u64; 2] = [4455, 11652];
pub const SHORT_SECONDS: u64 = 8;

/// Before the first fault, in milliseconds: everybody is there and talks.
const CALM_MS: u64 = 1000;
/// From the end of a fault to the next of the same track.
const GAP_MS: Range<u64> = 100..700;
/// Sequences of faults that go on side by side: never more than two at a time.
const TRACKS: usize = 2;
/// One of so many schedules has one fault at a time only.
const SINGLE: u32 = 4;
/// A stop may last as long as this if the schedule is three times as long.
const LONG_STOP_MS: u64 = 30_000;

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

    /// kill -9 of all its processes, and a start that recovers.
    PostgresKill,
    /// Immediate shutdown and start.
    PostgresRestart,
    PostgresStop,
    /// pg_terminate_backend for all connections of a node.
    PostgresTerminate(usize),
    /// A room's row is locked for a while.
    PostgresLock(usize),

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
pub struct Planned {
    /// Since the beginning of the schedule.
    pub at_ms: u64,
    pub lasting_ms: u64,
    pub fault: Fault,
}

/// The tracks of a schedule, each in the order of time.
pub fn tracks(seed: u64, seconds: u64) -> Vec<Vec<Planned>> {
    // Another stream of random numbers than the clients' plan.
    let mut rng = StdRng::seed_from_u64(seed ^ 0xFA17);
    let count = if rng.random_ratio(1, SINGLE) { 1 } else { TRACKS };
    (0..count).map(|_| track(&mut rng, seconds)).collect()
}

fn track(rng: &mut StdRng, seconds: u64) -> Vec<Planned> {
    let end_ms = seconds * 1000;
    let mut planned = Vec::new();
    let mut at_ms = CALM_MS + rng.random_range(GAP_MS);
    loop {
        let fault = fault(rng);
        let lasting_ms = fault.lasting_ms(rng, seconds);
        if at_ms + lasting_ms > end_ms {
            return planned;
        }
        planned.push(Planned { at_ms, lasting_ms, fault });
        at_ms += lasting_ms + rng.random_range(GAP_MS);
    }
}

fn fault(rng: &mut StdRng) -> Fault {
    let node = rng.random_range(0..NODES);
    let to = [To::Redis, To::Postgres, To::Clients][rng.random_range(0..3)];
    let link = Link { node, to };
    match rng.random_range(0..100) {
        0..8 => Fault::NodeKill(node),
        8..12 => Fault::NodeTerm(node),
        12..19 => Fault::NodeStop(node),
        19..24 => Fault::RedisKill,
        24..28 => Fault::RedisStop,
        28..33 => Fault::RedisFlush,
        33..38 => Fault::RedisUnsubscribe,
        38..42 => Fault::RedisTrim(rng.random_range(0..50)),
        42..46 => Fault::RedisForget(node),
        46..50 => Fault::PostgresKill,
        50..53 => Fault::PostgresRestart,
        53..56 => Fault::PostgresStop,
        56..62 => Fault::PostgresTerminate(node),
        62..66 => Fault::PostgresLock(rng.random_range(0..usize::from(u8::MAX))),
        66..74 => Fault::Cut(link),
        74..82 => Fault::Hole(link),
        82..88 => Fault::Delay(link, rng.random_range(20..400)),
        _ => Fault::CommitCut { node, answer: rng.random_ratio(2, 3) },
    }
}

impl Fault {
    /// Without the start that follows it.
    fn lasting_ms(self, rng: &mut StdRng, seconds: u64) -> u64 {
        let range = match self {
            Self::NodeStop(_) if seconds * 1000 >= 3 * LONG_STOP_MS && rng.random_ratio(1, 3) => {
                5000..LONG_STOP_MS
            }
            Self::NodeStop(_) | Self::Hole(_) => 500..4000,
            Self::RedisStop | Self::PostgresStop => 300..3000,
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
            Self::PostgresKill => "PostgreSQL kill -9".to_owned(),
            Self::PostgresRestart => "PostgreSQL immediate restart".to_owned(),
            Self::PostgresStop => "PostgreSQL SIGSTOP".to_owned(),
            Self::PostgresTerminate(_) => "pg_terminate_backend".to_owned(),
            Self::PostgresLock(_) => "PostgreSQL row lock".to_owned(),
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
            | Self::CommitCut { node, .. }
            | Self::Cut(Link { node, .. })
            | Self::Hole(Link { node, .. })
            | Self::Delay(Link { node, .. }, _) => write!(f, " (n{})", node + 1),
            _ => Ok(()),
        }
    }
}
