//! Verbatim: a self-hosted chat server that keeps every word.
//!
//! Every message, exactly once, in order, on every node, through any single failure. This page is
//! the map; ARCHITECTURE.md says why things are as they are. How a message flows:
//!
//! ```text
//! client ─▶ socket ─▶ session ─▶ desk ─▶ lane ──▶ log (COMMIT: the message exists)
//!                       ▲                  │ └─ answer ─▶ session
//!                       │                  └──▶ relay ─┐
//! client ◀─ socket ◀─ session ◀─ hub ◀────────────────┘
//!                       └── catch-up: the hub's ring, else a replay from the log
//! ```
//!
//! Modules, from the outside in. Each imports only from its own group and from those below it; a
//! test (`tests/it/tidy.rs`) holds them to it.

/// Asks a node whether it is alive, for `verbatim health`.
pub mod health;
/// One node: the parts, wired together.
pub mod node;
/// Tries what the settings point to, for `verbatim check`.
pub mod probe;

// The doors: bytes in, a caller and a command out; a reply in, bytes out.

/// HTTP: accept, admit, route, upgrade; requests and event streams.
pub mod server;

/// One connected client: commands in, answers and events out.
pub mod session;

// What commands do.

/// The one executor of commands: deadlines, what they weigh, where they go.
pub mod desk;

/// From the mirror to the relay: what other nodes committed.
pub mod feed;
/// Signs of life: who is online, who types, how far each has read.
pub mod signals;

/// The write path: what waits → one batch → log → relay → answers.
pub mod lane;
/// From the log to the mirror, for what did not get there by itself.
pub mod outbox;

/// The node's clock beside the log's.
pub mod clock;
/// What Redis may not have brought is asked of the log.
pub mod doubt;
/// Pages of the past, read once for everyone who asks meanwhile.
pub mod replay;

/// From commit to fan-out: order, duplicates, holes.
pub mod relay;

/// Who follows which room here; recent events; fan-out.
pub mod hub;

// Foreign crates, one contract each.

/// The durable log: the contract, PostgreSQL, SQLite.
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

/// Bytes that a node holds for its clients, with a limit.
pub mod budget;
/// Settings: text in, a checked `Config` out.
pub mod config;
/// Counters, gauges, histograms.
pub mod metrics;
/// Values that cannot exist invalid.
pub mod model;
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
