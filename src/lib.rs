//! Verbatim: a self-hosted chat server that keeps every word.
//!
//! Every message, exactly once, in order, on every node, through any single failure. This page is
//! the map of the crate; ARCHITECTURE.md has the reasons. How a message flows:
//!
//! ```text
//! client ─▶ socket ─▶ session ─▶ desk ─▶ lane ──▶ log (COMMIT: the message exists)
//!                       ▲                  │ └─ answer ─▶ session
//!                       │                  └──▶ relay ─┐
//! client ◀─ socket ◀─ session ◀─ hub ◀────────────────┘
//!                       └── catch-up: the hub's ring, else a replay from the log
//! ```
//!
//! Modules, from the outside in. Each imports only from its own group and from the groups below it;
//! `tests/it/tidy.rs` checks that.

/// Asks a node whether it is alive, for `verbatim health`.
pub mod health;
/// One node: wires the parts together.
pub mod node;
/// Tests the configured stores, for `verbatim check`.
pub mod probe;

// Entry points: bytes in, a caller and a command out; a reply in, bytes out.

/// HTTP: accept, admit, route, upgrade; requests and event streams.
pub mod server;

/// One connected client: commands in, answers and events out.
pub mod session;

// Commands.

/// Executes all commands: deadlines, weights, where they go.
pub mod desk;

/// Passes what other nodes committed from the mirror to the relay.
pub mod feed;
/// Signals: who is online, who is typing, how far each user has read.
pub mod signals;

/// The write path: inbox → batch → log → relay → answers.
pub mod lane;
/// Puts committed events that Redis does not have yet from the log into the mirror.
pub mod outbox;

/// Compares the node's clock with the log's.
pub mod clock;
/// Asks the log for what Redis may have missed.
pub mod doubt;
/// Pages of past events, read once for all who ask at the same time.
pub mod replay;

/// From commit to fan-out: order, duplicates, holes.
pub mod relay;

/// Who follows which room on this node; recent events; fan-out.
pub mod hub;

// Interfaces to foreign crates.

/// The durable log: the interface, PostgreSQL, SQLite.
pub mod log;
/// Redis: append to the stream and the channel, follow both, keep the node's cursor.
pub mod mirror;
/// One WebSocket: bytes and frames, pings, close.
pub mod socket;

// Pure.

/// The rules of the chat, for writes and for reads.
pub mod rules;

/// The wire: commands, frames, errors, close codes.
pub mod protocol;

/// Memory budgets: bytes that a node holds for its clients, with limits.
pub mod budget;
/// Settings: text in, a checked `Config` out.
pub mod config;
/// Counters, gauges, histograms.
pub mod metrics;
/// The values of a chat, which are always valid.
pub mod model;
/// Rate limits.
pub mod rate;
/// Slots that many parties share.
pub mod share;
/// Process signals.
pub mod shutdown;
/// The middle of a node under seeded schedules, in virtual time.
#[cfg(test)]
mod sim;
/// The tasks of a node, its stop signal, its first failure.
pub mod tasks;
/// Logging.
pub mod trace;
/// Returns freed memory to the system.
pub mod trim;
