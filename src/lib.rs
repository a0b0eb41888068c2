//! Verbatim: a self-hosted chat server that keeps every word.
//!
//! Every message, exactly once, in order, on every node, through any single failure. This page is
//! the map; ARCHITECTURE.md says why things are as they are. How a message flows:
//!
//! ```text
//! client ─▶ socket ─▶ session ─▶ lane ──▶ log (COMMIT: the message exists)
//!                       ▲          │ └─ answer ─▶ session
//!                       │          └──▶ relay ─┐
//! client ◀─ socket ◀─ session ◀─ hub ◀─────────┘
//!                       └── catch-up: the hub's ring, else a replay from the log
//! ```
//!
//! Modules, from the outside in; each imports only those below it:

/// One node: the parts, wired together.
pub mod node;

/// HTTP: accept, admit, route, upgrade.
pub mod server;
/// One connected client: commands in, answers and events out.
pub mod session;

/// The node's clock beside the log's.
pub mod clock;
/// What Redis may not have brought is asked of the log.
pub mod doubt;
/// From the mirror to the relay: what other nodes committed.
pub mod feed;
/// Who follows which room here; recent events; fan-out.
pub mod hub;
/// The write path: what waits → one batch → log → relay → answers.
pub mod lane;
/// From the log to the mirror, for what did not get there by itself.
pub mod outbox;
/// From commit to fan-out: order, duplicates, holes.
pub mod relay;
/// Signs of life: who is online, who types, how far each has read.
pub mod signals;

/// Pages of the past, read once for everyone who asks meanwhile.
pub mod replay;

/// The durable log: the contract, PostgreSQL, SQLite.
pub mod log;
/// Redis: append to the stream and the channel, follow both, keep the node's cursor.
pub mod mirror;
/// One WebSocket: bytes and frames, pings, close.
pub mod socket;

/// The rules of the chat, pure.
pub mod decide;
/// Values that cannot exist invalid.
pub mod model;
/// The wire: commands, frames, errors, close codes.
pub mod protocol;

/// A load generator, for `verbatim bench`. A client: it uses nothing of the server.
pub mod bench;
/// Bytes that a node holds for its clients, with a limit.
pub mod budget;
/// Settings: text in, a checked `Config` out.
pub mod config;
/// Asks a node whether it is alive, for `verbatim health`.
pub mod health;
/// Counters, gauges, histograms.
pub mod metrics;
/// Tries what the settings point to, for `verbatim check`.
pub mod probe;
/// How often something may happen.
pub mod rate;
/// How many of what everybody wants one party may have.
pub mod share;
/// The signals of the process.
pub mod shutdown;
/// What a node has running, the word to stop, the first failure.
pub mod tasks;
/// Where log lines go.
pub mod trace;
/// When memory is given back to the system.
pub mod trim;
/// Clients that put a cluster's promise to the test, for `verbatim verify`.
pub mod verify;
