//! The node's counters, gauges and histograms, and their names.
//!
//! Names are `verbatim_*` with base units (seconds, bytes). No label holds a room or a user, so the
//! number of series does not grow with use.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Declares each metric once: help text, name and type; how it is made, unless by default; and its
/// unit, if it has one.
macro_rules! metrics {
    ($(
        $(#[doc = $help:literal])+
        $name:ident: $kind:ty $(= $make:expr)? $(, in $unit:ident)?;
    )*) => {
        /// One per node. Each field is one metric.
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ pub $name: $kind,)*
        }

        impl Metrics {
            /// All of them, without prefix and unit.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            pub fn new() -> Self {
                let mut registry = Registry::with_prefix("verbatim");
                $(
                    let $name: $kind = made!($($make)?);
                    let (help, metric) = (concat!($($help),+).trim_start(), $name.clone());
                    registered!(registry, stringify!($name), help, metric $(, $unit)?);
                )*
                Self { registry, $($name),* }
            }
        }
    };
}

macro_rules! made {
    () => {
        Default::default()
    };
    ($make:expr) => {
        $make
    };
}

macro_rules! registered {
    ($registry:ident, $name:expr, $help:expr, $metric:expr) => {
        $registry.register($name, $help, $metric)
    };
    ($registry:ident, $name:expr, $help:expr, $metric:expr, $unit:ident) => {
        $registry.register_with_unit($name, $help, Unit::$unit, $metric)
    };
}

metrics! {
    /// Open WebSockets
    connections: Gauge;
    /// Open connections, including HTTP, as limited by connections_max
    connections_admitted: Gauge;
    /// Connections closed while waiting for their client, because others needed the slot
    connections_displaced: Counter;
    /// Open HTTP connections that have sent a request, as limited by http_connections_max
    http_connections: Gauge;
    /// Refused connections, by reason
    connections_refused: Family<ReasonLabel, Counter>;
    /// Closed WebSockets, by close code
    sockets_closed: Family<CodeLabel, Counter>;
    /// Answered requests under /api, by route, method and status
    requests: Family<RequestLabel, Counter>;
    /// Open event streams
    streams: Gauge;
    /// Rooms in use on this node
    rooms_followed: Gauge;
    /// Followed rooms, summed over sockets
    follows: Gauge;
    /// Answered commands, by type and result
    commands: Family<CommandLabel, Counter>;
    /// Commands per transaction of the log
    commit_batch_size: Histogram = Histogram::new(BATCH_LEN);
    /// Duration of a transaction of the log
    commit_duration: Histogram = Histogram::new(SECONDS), in Seconds;
    /// Time from commit, or arrival through Redis, to the last write of a fan-out
    commit_to_delivery: Histogram = Histogram::new(SECONDS), in Seconds;
    /// Events handed to sockets
    deliveries: Counter;
    /// Pages read for catch-up, by source
    catch_ups: Family<SourceLabel, Counter>;
    /// Holes in a room's sequence that were filled from the log
    repairs: Counter;
    /// Rooms whose log was found to lack events that had been shown
    log_went_back: Counter;
    /// Sockets and event streams closed at an event that cannot be read from the log
    follows_damaged: Counter;
    /// Bytes in the send queues of all sockets
    queue: Gauge, in Bytes;
    /// Bytes held for clients, by budget
    budget: Family<BudgetLabel, Gauge>, in Bytes;
    /// Limit of the bytes held for clients, by budget
    budget_max: Family<BudgetLabel, Gauge>, in Bytes;
    /// Connections closed because they held memory that others needed, by budget
    evicted: Family<BudgetLabel, Counter>;
    /// Failed operations on the log, by kind
    log_errors: Family<KindLabel, Counter>;
    /// Connection tasks that panicked
    panics: Counter;
    /// Log lines dropped because stderr did not accept them
    log_lines_dropped: Counter;
    /// 1 while events from other nodes arrive through Redis
    mirror_live: Gauge;
    /// 1 if the last heartbeat found this node behind the Redis stream
    mirror_behind: Gauge;
    /// Events appended to Redis
    mirror_appended: Counter;
    /// Events left to the outbox because Redis was down or slow
    mirror_dropped: Counter;
    /// Duration of an append to Redis
    mirror_append_duration: Histogram = Histogram::new(SECONDS), in Seconds;
    /// Entries read from the Redis stream after an absence or a doubt
    mirror_drained: Counter;
    /// Times the Redis channel was suspected of losing messages
    mirror_doubts: Counter;
    /// Events from Redis that were ignored because they lack a valid seal
    mirror_unsealed: Counter;
    /// Events appended to Redis by sweeping the outbox
    outbox_swept: Counter;
    /// Outbox batches set aside because they cannot be read from the log
    outbox_damaged: Gauge;
    /// How far this node's clock is ahead of the log's
    log_clock_difference: Gauge<f64, AtomicU64>, in Seconds;
    /// Signals handed to sockets, by type
    signals: Family<SignalLabel, Counter>;
    /// Signals skipped because the socket was slow or behind
    signals_skipped: Counter;
    /// Signals lost on their way to or from other nodes
    signals_lost: Counter;
    /// Rooms whose presence is watched, here or on another node
    presence_rooms: Gauge;
    /// Stored read marks
    read_marks: Counter;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SignalLabel {
    /// `presence`, `typing` or `read`.
    pub r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CommandLabel {
    pub r#type: &'static str,
    /// `ok`, `duplicate`, or an error code.
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    /// The route as in the documentation, such as `/api/rooms/{room}/events`; `other` for none.
    pub route: &'static str,
    /// A method that the API knows, or `other`.
    pub method: &'static str,
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BudgetLabel {
    /// `unsent`, `inbound`, `rings`, `to_mirror` or `from_mirror`.
    pub budget: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// `ring` or `log`.
    pub source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// `unavailable`, `unknown`, `refused` or `damaged`.
    pub kind: &'static str,
}

/// 100 µs to 10 s: nobody notices less, and after more the client has given up.
const SECONDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Commands in a transaction: 1 to the default of `lane.batch_len_max`.
const BATCH_LEN: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Counts connections closed because of a budget.
    pub fn evicted(&self, budget: &'static str) -> Counter {
        self.evicted.get_or_create_owned(&BudgetLabel { budget })
    }

    /// Updates the metrics of a budget.
    pub fn budget(&self, budget: &'static str, bytes: usize, max: usize) {
        let label = BudgetLabel { budget };
        self.budget.get_or_create(&label).set(bytes as i64);
        self.budget_max.get_or_create(&label).set(max as i64);
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut out = String::new();
        if let Err(err) = text::encode(&mut out, &self.registry) {
            // Writing into a String fails only if the encoder of a metric does.
            tracing::error!(%err, "cannot encode metrics");
        }
        out
    }

    pub fn log_error(&self, kind: &'static str) {
        self.log_errors.get_or_create(&KindLabel { kind }).inc();
    }

    pub fn signal(&self, r#type: &'static str, told: u64, skipped: u64) {
        self.signals.get_or_create(&SignalLabel { r#type }).inc_by(told);
        self.signals_skipped.inc_by(skipped);
    }

    pub fn catch_up(&self, source: &'static str) {
        self.catch_ups.get_or_create(&SourceLabel { source }).inc();
    }
}
