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

/// One per node. Each field is one metric; its help text is in `register`.
pub struct Metrics {
    registry: Registry,
    pub connections: Gauge,
    pub connections_admitted: Gauge,
    pub connections_displaced: Counter,
    pub http_connections: Gauge,
    pub connections_refused: Family<ReasonLabel, Counter>,
    pub sockets_closed: Family<CodeLabel, Counter>,
    pub requests: Family<RequestLabel, Counter>,
    pub streams: Gauge,
    pub rooms_followed: Gauge,
    pub follows: Gauge,
    pub commands: Family<CommandLabel, Counter>,
    pub commit_batch_size: Histogram,
    pub commit_duration: Histogram,
    pub commit_to_delivery: Histogram,
    pub deliveries: Counter,
    pub catch_ups: Family<SourceLabel, Counter>,
    pub repairs: Counter,
    pub went_back: Counter,
    pub follows_damaged: Counter,
    pub queue_bytes: Gauge,
    pub budget_bytes: Family<BudgetLabel, Gauge>,
    pub budget_max_bytes: Family<BudgetLabel, Gauge>,
    evicted: Family<BudgetLabel, Counter>,
    pub log_errors: Family<KindLabel, Counter>,
    pub panics: Counter,
    pub log_lines_dropped: Counter,
    pub mirror_live: Gauge,
    pub mirror_lag: Gauge,
    pub mirror_appended: Counter,
    pub mirror_dropped: Counter,
    pub mirror_append_duration: Histogram,
    pub mirror_drained: Counter,
    pub mirror_doubts: Counter,
    pub mirror_unsealed: Counter,
    pub outbox_swept: Counter,
    pub outbox_damaged: Gauge,
    pub log_clock_difference: Gauge<f64, AtomicU64>,
    pub signals: Family<SignalLabel, Counter>,
    pub signals_skipped: Counter,
    pub signals_lost: Counter,
    pub presence_rooms: Gauge,
    pub read_marks: Counter,
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
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("verbatim"),
            connections: Gauge::default(),
            connections_admitted: Gauge::default(),
            connections_displaced: Counter::default(),
            http_connections: Gauge::default(),
            connections_refused: Family::default(),
            sockets_closed: Family::default(),
            requests: Family::default(),
            streams: Gauge::default(),
            rooms_followed: Gauge::default(),
            follows: Gauge::default(),
            commands: Family::default(),
            commit_batch_size: Histogram::new(BATCH_LEN),
            commit_duration: Histogram::new(SECONDS),
            commit_to_delivery: Histogram::new(SECONDS),
            deliveries: Counter::default(),
            catch_ups: Family::default(),
            repairs: Counter::default(),
            went_back: Counter::default(),
            follows_damaged: Counter::default(),
            queue_bytes: Gauge::default(),
            budget_bytes: Family::default(),
            budget_max_bytes: Family::default(),
            evicted: Family::default(),
            log_errors: Family::default(),
            panics: Counter::default(),
            log_lines_dropped: Counter::default(),
            mirror_live: Gauge::default(),
            mirror_lag: Gauge::default(),
            mirror_appended: Counter::default(),
            mirror_dropped: Counter::default(),
            mirror_append_duration: Histogram::new(SECONDS),
            mirror_drained: Counter::default(),
            mirror_doubts: Counter::default(),
            mirror_unsealed: Counter::default(),
            outbox_swept: Counter::default(),
            outbox_damaged: Gauge::default(),
            log_clock_difference: Gauge::default(),
            signals: Family::default(),
            signals_skipped: Counter::default(),
            signals_lost: Counter::default(),
            presence_rooms: Gauge::default(),
            read_marks: Counter::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let m = &mut self.registry;
        m.register("connections", "Open WebSockets", self.connections.clone());
        m.register(
            "connections_admitted",
            "Open connections, including HTTP, as limited by connections_max",
            self.connections_admitted.clone(),
        );
        m.register(
            "connections_displaced",
            "Connections closed while waiting for their client, because others needed the slot",
            self.connections_displaced.clone(),
        );
        m.register(
            "http_connections",
            "Open HTTP connections that have sent a request, as limited by http_connections_max",
            self.http_connections.clone(),
        );
        m.register(
            "connections_refused",
            "Refused connections, by reason",
            self.connections_refused.clone(),
        );
        m.register(
            "sockets_closed",
            "Closed WebSockets, by close code",
            self.sockets_closed.clone(),
        );
        m.register(
            "requests",
            "Answered requests under /api, by route, method and status",
            self.requests.clone(),
        );
        m.register("streams", "Open event streams", self.streams.clone());
        m.register("rooms_followed", "Rooms in use on this node", self.rooms_followed.clone());
        m.register("follows", "Followed rooms, summed over sockets", self.follows.clone());
        m.register("commands", "Answered commands, by type and result", self.commands.clone());
        m.register(
            "commit_batch_size",
            "Commands per transaction of the log",
            self.commit_batch_size.clone(),
        );
        m.register_with_unit(
            "commit_duration",
            "Duration of a transaction of the log",
            Unit::Seconds,
            self.commit_duration.clone(),
        );
        m.register_with_unit(
            "commit_to_delivery",
            "Time from commit to the last write of a fan-out",
            Unit::Seconds,
            self.commit_to_delivery.clone(),
        );
        m.register("deliveries", "Events handed to sockets", self.deliveries.clone());
        m.register("catch_ups", "Pages read for catch-up, by source", self.catch_ups.clone());
        m.register(
            "repairs",
            "Holes in a room's sequence that were filled from the log",
            self.repairs.clone(),
        );
        m.register(
            "log_went_back",
            "Rooms whose log was found to lack events that had been shown",
            self.went_back.clone(),
        );
        m.register(
            "follows_damaged",
            "Sockets and event streams closed at an event that cannot be read from the log",
            self.follows_damaged.clone(),
        );
        m.register_with_unit(
            "queue",
            "Bytes in the send queues of all sockets",
            Unit::Bytes,
            self.queue_bytes.clone(),
        );
        m.register_with_unit(
            "budget",
            "Bytes held for clients, by budget",
            Unit::Bytes,
            self.budget_bytes.clone(),
        );
        m.register_with_unit(
            "budget_max",
            "Limit of the bytes held for clients, by budget",
            Unit::Bytes,
            self.budget_max_bytes.clone(),
        );
        m.register(
            "evicted",
            "Connections closed because they held memory that others needed, by budget",
            self.evicted.clone(),
        );
        m.register("log_errors", "Failed operations on the log, by kind", self.log_errors.clone());
        m.register("panics", "Connection tasks that panicked", self.panics.clone());
        m.register(
            "log_lines_dropped",
            "Log lines dropped because stderr did not accept them",
            self.log_lines_dropped.clone(),
        );
        self.register_mirror();
        self.register_signals();
    }

    fn register_mirror(&mut self) {
        let m = &mut self.registry;
        m.register(
            "mirror_live",
            "1 while events from other nodes arrive through Redis",
            self.mirror_live.clone(),
        );
        m.register(
            "mirror_behind",
            "1 if the last heartbeat found this node behind the Redis stream",
            self.mirror_lag.clone(),
        );
        m.register("mirror_appended", "Events appended to Redis", self.mirror_appended.clone());
        m.register(
            "mirror_dropped",
            "Events left to the outbox because Redis was down or slow",
            self.mirror_dropped.clone(),
        );
        m.register_with_unit(
            "mirror_append_duration",
            "Duration of an append to Redis",
            Unit::Seconds,
            self.mirror_append_duration.clone(),
        );
        m.register(
            "mirror_drained",
            "Entries read from the Redis stream after an absence or a doubt",
            self.mirror_drained.clone(),
        );
        m.register(
            "mirror_doubts",
            "Times the Redis channel was suspected of losing messages",
            self.mirror_doubts.clone(),
        );
        m.register(
            "mirror_unsealed",
            "Events from Redis that were ignored because they lack a valid seal",
            self.mirror_unsealed.clone(),
        );
        m.register(
            "outbox_swept",
            "Events appended to Redis on behalf of another node",
            self.outbox_swept.clone(),
        );
        m.register(
            "outbox_damaged",
            "Outbox batches set aside because they cannot be read from the log",
            self.outbox_damaged.clone(),
        );
        m.register_with_unit(
            "log_clock_difference",
            "How far this node's clock is ahead of the log's",
            Unit::Seconds,
            self.log_clock_difference.clone(),
        );
    }

    fn register_signals(&mut self) {
        let m = &mut self.registry;
        m.register("signals", "Signals handed to sockets, by type", self.signals.clone());
        m.register(
            "signals_skipped",
            "Signals skipped because the socket was slow or behind",
            self.signals_skipped.clone(),
        );
        m.register(
            "signals_lost",
            "Signals lost on their way to or from other nodes",
            self.signals_lost.clone(),
        );
        m.register(
            "presence_rooms",
            "Rooms whose presence is watched, here or on another node",
            self.presence_rooms.clone(),
        );
        m.register("read_marks", "Stored read marks", self.read_marks.clone());
    }

    /// Counts connections closed because of a budget.
    pub fn evicted(&self, budget: &'static str) -> Counter {
        self.evicted.get_or_create_owned(&BudgetLabel { budget })
    }

    /// Updates the metrics of a budget.
    pub fn budget(&self, budget: &'static str, bytes: usize, max: usize) {
        let label = BudgetLabel { budget };
        self.budget_bytes.get_or_create(&label).set(bytes as i64);
        self.budget_max_bytes.get_or_create(&label).set(max as i64);
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
