//! The settings of a node: text in, a checked `Config` out.
//!
//! Every limit of the system is a field here, with its unit. What each one means, and what happens
//! at it, is said once, in `config.toml` at the top of the repository, which is compiled in as the
//! defaults: there is no second place for a default to drift to.

use serde::Deserialize;

/// Everything a node is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: NodeConfig,
    pub server: ServerConfig,
    pub socket: SocketConfig,
    pub session: SessionConfig,
    pub lane: LaneConfig,
    pub hub: HubConfig,
    pub log: LogConfig,
    pub mirror: MirrorConfig,
    pub trace: TraceConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// This node's name among its peers; empty: the host name.
    pub id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    pub listen: String,
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    /// Origins beside the server's own host that browsers may come from (`*`: any). In the
    /// environment: separated by commas.
    pub allowed_origins: Vec<String>,
    pub header_timeout_ms: u64,
    pub header_bytes_max: usize,
    pub shutdown_timeout_ms: u64,
    /// What `goodbye` tells clients to wait before they come back.
    pub reconnect_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketConfig {
    pub frame_bytes_max: usize,
    pub heartbeat_ms: u64,
    pub stall_timeout_ms: u64,
    pub close_timeout_ms: u64,
    pub queue_bytes_max: usize,
    pub read_buffer_bytes: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    pub message_bytes_max: usize,
    pub commands_per_second: u32,
    pub commands_burst: u32,
    pub refused_per_second_max: u32,
    pub refused_seconds_max: u32,
    pub in_flight_max: usize,
    pub follows_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneConfig {
    pub count: usize,
    pub inbox_len_max: usize,
    pub batch_len_max: usize,
    /// The latest a command is answered, `unavailable` if need be.
    pub answer_timeout_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    pub ring_len_max: usize,
    pub ring_bytes_max: usize,
    pub room_linger_ms: u64,
    pub hold_ms: u64,
    pub held_len_max: usize,
    pub page_len: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// The embedded log's file; used when `url` is empty.
    pub path: String,
    /// Threads (SQLite) or pooled connections (PostgreSQL) that read.
    pub readers: usize,
    /// `postgres://…`; empty: embedded SQLite. Also `DATABASE_URL`.
    pub url: Secret,
    pub connect_timeout_ms: u64,
    pub statement_timeout_ms: u64,
    pub lock_timeout_ms: u64,
    pub append_timeout_ms: u64,
    pub read_timeout_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// `redis://…`; empty: no mirror, one node. Also `REDIS_URL`.
    pub url: Secret,
    /// Keys and channels are `<prefix>:events` and so on.
    pub prefix: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceConfig {
    /// `error`, `warn`, `info`, `debug`, or a tracing filter such as `info,verbatim::lane=debug`.
    pub level: String,
    /// `auto` (human on a terminal, JSON elsewhere is *not* implied: `auto` is human), `human`, `json`.
    pub format: String,
}

/// A text that must not be shown: neither `Debug` nor `Display` print it.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
