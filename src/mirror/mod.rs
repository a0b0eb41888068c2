//! Redis: carries committed events from each node to all others, live and after any absence.
//!
//! Redis holds nothing that the log does not hold. Losing it, flushing it, or being cut off from it
//! delays events between nodes, and loses none. This module knows neither the log nor the rooms:
//! batches come in from the lanes (`append`), and what other nodes wrote goes out as `Incoming`.
//!
//! All data in Redis is readable by people. `chat` is the setting `mirror.prefix`:
//!
//! - `chat:cluster`: the id of the log whose nodes use this Redis and this prefix.
//! - `chat:events`, a stream: `room`, `seq`, `event` (JSON) and `seal` of every committed event, at
//!   least once. Its consumer group `node:<id>` is a node's cursor; nothing is ever pending in it.
//! - `chat:events`, a channel: the same events, each with `seal` and `stream_id` as its first keys.
//! - `chat:signals`, a channel: signals, which may be lost (see `signals`).
//! - `chat:nodes`, a channel: each node's heartbeat, which the node must hear itself. (In a
//!   database other than 0 the channels are `chat:events@3` and so on.)
//! - `chat:node:<id>`: the lease of the live node with that name.
//! - `chat:seen:<id>`: exists for a day after the node was last alive.

mod append;
mod cluster;
mod connect;
mod cursor;
mod event;
mod follow;
mod lease;
mod listen;
mod parameters;
mod position;
mod probe;
mod seal;
mod signal;
mod strangers;
mod version;

use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use tokio::sync::{mpsc, oneshot, watch};

pub use append::Batch;
pub use event::Mirrored;
pub use probe::probe;
pub use seal::Seal;
pub use signal::Signal;

use self::append::{Append, Queued};
use self::cluster::Cluster;
use self::connect::Connector;
use self::cursor::Cursor;
use self::follow::Follow;
use self::lease::Lease;
use self::position::Position;
use self::signal::Signals;
use crate::budget::{Budget, Budgets};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::model::LogIdentity;
use crate::tasks::Tasks;

/// The prefix of the nodes' consumer groups.
const GROUP_PREFIX: &str = "node:";
/// `Incoming`s that may wait for their reader. When the queue is full the follower waits, and its
/// own queue of live messages fills (see `mirror.live_len_max` and `queue_bytes_max`). Each is a
/// few MiB at most, and its reader takes it at once.
const INCOMING_LEN: usize = 8;
/// Bytes of other nodes' signals that may wait: 64 of the longest messages. More are dropped.
const SIGNALS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Receipts of batches that may wait for the outbox task.
const MIRRORED_LEN: usize = 1024;

/// Reads one message of the events channel, for `fuzz/`, which has no Redis. `None`: it is not an
/// event of this log.
#[cfg(fuzzing)]
pub fn read_message(message: Vec<u8>, ours: &Seal) -> Option<Mirrored> {
    match event::Found::in_message(message, ours) {
        (_, event::Found::Event(event)) => Some(event),
        _ => None,
    }
}

/// A node's access to Redis. Cheap to clone; appending ends with the last clone.
#[derive(Clone)]
pub struct Mirror {
    batches: mpsc::Sender<Queued>,
    /// Takes one sweep at a time, on its own connection. Behind a full queue of batches on a slow
    /// Redis a sweep would wait, and keep all other nodes from sweeping.
    sweeps: mpsc::Sender<Queued>,
    /// For the batches that wait.
    budget: Arc<Budget>,
    status: watch::Receiver<Status>,
}

/// What a node gets from Redis; each part has one reader.
pub struct Streams {
    /// What all nodes committed, and when to compare with the log.
    pub incoming: mpsc::Receiver<Incoming>,
    /// Other nodes' signals, and the queue for our own.
    pub signals: (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Signal>),
    /// Receipts of batches that are now in Redis.
    pub mirrored: mpsc::Receiver<Vec<i64>>,
    /// The result of the first attempt to reach Redis. A node may serve while Redis is away, but
    /// not if Redis refused it.
    pub started: oneshot::Receiver<Result<(), OpenError>>,
}

/// Whether this node hears the others through Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Live,
    Away,
    /// Redis belongs to another log.
    Foreign,
}

/// What came from Redis.
#[derive(Debug)]
pub enum Incoming {
    /// Committed events in stream order. `backlog`: they happened while this node was down, so
    /// nobody here follows their rooms yet, but somebody soon may.
    Events { events: Vec<Mirrored>, backlog: bool },
    /// The stream cannot show what was missed: compare the rooms in use with the log.
    Doubt,
}

/// Why a node must not start: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("mirror.url (REDIS_URL) is not a Redis URL; write redis://user:password@host:6379/0")]
    Url,
    #[error("mirror.url has {name}, which {advice}")]
    Parameter { name: String, advice: &'static str },
    #[error(
        "mirror.url has an unknown parameter; remove it, or, if it is part of the password, write \
         @ : / ? # in it as %40 %3A %2F %3F %23"
    )]
    UnnamedParameter,
    #[error(
        "mirror.url has an unknown part after #; remove it and what follows, or, if it is part of \
         the password, write it as %23"
    )]
    Fragment,
    #[error(
        "{found} is too old; verbatim needs Redis 7.0 or later, whose streams count their entries \
         (entries-added in XINFO STREAM): without that it would not notice a lost message"
    )]
    TooOld { found: String },
    #[error("Redis refused the user, the password or the database of mirror.url ({0}); correct it")]
    Refused(String),
    #[error("another live node is called {node}; set another node.id (VERBATIM_NODE__ID)")]
    NameTaken { node: String },
}

impl OpenError {
    /// Redis's errors do not quote passwords.
    fn refused(err: &RedisError) -> Self {
        match version::too_old(err) {
            Some(found) => Self::TooOld { found: found.to_owned() },
            None => Self::Refused(err.to_string()),
        }
    }
}

impl Mirror {
    /// Starts to append and to follow.
    pub fn start(
        config: &Config,
        log: &LogIdentity,
        budgets: &Budgets,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> Result<(Self, Streams), OpenError> {
        let settings = &config.mirror;
        let connector = Connector::new(settings)?;
        let (batches, batches_rx) = mpsc::channel(settings.queue_len_max);
        let (mirrored, mirrored_rx) = mpsc::channel(MIRRORED_LEN);
        let (incoming, incoming_rx) = mpsc::channel(INCOMING_LEN);
        let (status, status_rx) = watch::channel(Status::Away);
        let (first_attempt, started) = oneshot::channel();
        let key = format!("{}:events", settings.prefix);
        let cluster = Cluster::of(&settings.prefix, log);
        let seal = Seal::new(&log.secret);
        let append = |batches| Append {
            connector: connector.clone(),
            key: key.clone(),
            channel: connector.channel(&key),
            cluster: cluster.clone(),
            seal: seal.clone(),
            status: status_rx.clone(),
            stream_len_max: settings.stream_len_max,
            batches,
            mirrored: mirrored.clone(),
            metrics: metrics.clone(),
        };
        let (sweeps, sweeps_rx) = mpsc::channel(1);
        tasks.spawn("mirror append", append(batches_rx).run());
        tasks.spawn("mirror sweep", append(sweeps_rx).run());

        let signals = start_signals(config, &connector, &cluster, metrics, tasks);
        let node = config.node.id.clone();
        let token = format!("{:032x}", rand::random::<u128>());
        let heartbeat = Duration::from_millis(settings.heartbeat_ms);
        let forget_after = Duration::from_secs(settings.forget_after_s);
        let follow = Follow {
            events_channel: connector.channel(&key),
            nodes_channel: connector.channel(&format!("{}:nodes", settings.prefix)),
            connector,
            cursor: Cursor { stream: key, group: format!("{GROUP_PREFIX}{node}"), seal },
            cluster,
            heartbeat_frame: serde_json::json!({"node": node, "token": token}).to_string(),
            lease: Lease::new(&settings.prefix, &node, token, heartbeat, forget_after),
            node,
            heartbeat,
            live_len_max: settings.live_len_max,
            live_budget: budgets.from_mirror.clone(),
            incoming,
            status,
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            position: Position::default(),
            is_foreign: false,
        };
        tasks.spawn("mirror follow", follow.run(first_attempt));
        let (incoming, mirrored) = (incoming_rx, mirrored_rx);
        let streams = Streams { incoming, signals, mirrored, started };
        let budget = budgets.to_mirror.clone();
        Ok((Self { batches, sweeps, budget, status: status_rx }, streams))
    }

    /// Hands over committed events. `false`: the queue is full, and the outbox keeps them.
    pub fn append(&self, batch: Batch) -> bool {
        let queued = Queued::new(batch, &self.budget);
        queued.is_some_and(|queued| self.batches.try_send(queued).is_ok())
    }

    /// Hands over a sweep; `done` tells the result. Its bytes are counted but never refused: its
    /// events are in memory already, and while batches fill the queue, sweeps are the only way to
    /// Redis for those that did not fit.
    pub fn sweep(&self, batch: Batch) {
        // An error: another sweep is in progress.
        let _ = self.sweeps.try_send(Queued::beyond(batch, &self.budget));
    }

    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// The status, for tasks that do not append.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

fn start_signals(
    config: &Config,
    connector: &Connector,
    cluster: &Cluster,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Signal>) {
    let queue_len_max = config.signals.queue_len_max;
    let (say, outgoing) = mpsc::channel(queue_len_max);
    let (incoming, heard) = mpsc::channel(queue_len_max);
    let signals = Signals {
        connector: connector.clone(),
        cluster: cluster.clone(),
        channel: connector.channel(&format!("{}:signals", config.mirror.prefix)),
        heartbeat: Duration::from_millis(config.mirror.heartbeat_ms),
        queue_len_max,
        budget: Budget::new(SIGNALS_BYTES_MAX),
        outgoing,
        incoming,
        metrics: metrics.clone(),
        tasks: tasks.clone(),
    };
    tasks.spawn("mirror signals", signals.run());
    (say, heard)
}
