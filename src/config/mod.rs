//! The settings of a node: text in, a checked `Config` out.
//!
//! Every limit of the system is a field here, with its unit. `config.toml` at the top of the
//! repository explains each one. It is compiled in as the defaults, so explanation and default
//! cannot drift apart.
//!
//! `load` merges the sources, `environment` recognizes variables that are not settings, `check`
//! judges the result, `show` prints it, and `secret` masks passwords. Only `Sources::of_process`
//! reads the process environment, and no setting is kept in a global.

mod check;
mod door;
mod environment;
mod load;
mod secret;
mod show;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

pub use check::Warning;
pub use load::Sources;
pub use secret::{Secret, may_be_named};

/// All settings of a node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: NodeConfig,
    pub server: ServerConfig,
    pub api: ApiConfig,
    pub socket: SocketConfig,
    pub session: SessionConfig,
    pub lane: LaneConfig,
    pub hub: HubConfig,
    pub log: LogConfig,
    pub mirror: MirrorConfig,
    pub signals: SignalsConfig,
    pub trace: TraceConfig,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// This node's name; empty: the host name.
    pub id: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    pub listen: String,
    /// Where `/readyz` and `/metrics` are served; empty: at `listen`.
    pub internal_listen: String,
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    /// Per address, as are bursts.
    pub connects_per_second: u32,
    pub connects_burst: u32,
    /// Networks of proxies that are trusted to name the client.
    #[serde(deserialize_with = "list")]
    pub trusted_proxies: Vec<String>,
    /// How they name it: `x-forwarded-for`, `forwarded` or `proxy-protocol`.
    pub proxy_header: String,
    /// Host names of the server, besides its addresses and `localhost` (`*`: any).
    #[serde(deserialize_with = "list")]
    pub hosts: Vec<String>,
    /// Origins from which browsers may connect, besides the server's own host (`*`: any). In the
    /// environment: separated by commas.
    #[serde(deserialize_with = "list")]
    pub allowed_origins: Vec<String>,
    /// Whether the web page is served at `/`.
    pub page: bool,
    pub http_connections_max: usize,
    pub header_timeout_ms: u64,
    pub header_bytes_max: usize,
    pub headers_max: usize,
    pub keep_alive_ms: u64,
    pub unsent_bytes_max: usize,
    pub inbound_bytes_max: usize,
    pub shutdown_timeout_ms: u64,
    /// Reconnect delay sent in `goodbye`.
    pub reconnect_ms: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    pub body_bytes_max: usize,
    pub body_timeout_ms: u64,
    /// Per address, as are bursts.
    pub requests_per_second: u32,
    pub requests_burst: u32,
    pub streams_max: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SocketConfig {
    pub frame_bytes_max: usize,
    pub frame_timeout_ms: u64,
    pub heartbeat_ms: u64,
    pub stall_timeout_ms: u64,
    pub close_timeout_ms: u64,
    pub queue_bytes_max: usize,
    pub read_buffer_bytes: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    pub message_bytes_max: usize,
    pub history_bytes_max: usize,
    pub commands_per_second: u32,
    pub commands_burst: u32,
    /// Per user, over all sockets and requests.
    pub user_commands_per_second: u32,
    pub user_commands_burst: u32,
    /// Per address, over all sockets.
    pub address_commands_per_second: u32,
    pub address_commands_burst: u32,
    pub refused_per_second_max: u32,
    pub refused_seconds_max: u32,
    pub in_flight_max: usize,
    pub follows_max: usize,
    pub users_per_room_max: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LaneConfig {
    pub count: usize,
    pub inbox_len_max: usize,
    pub batch_len_max: usize,
    /// Latest time to answer a command, if need be with `unavailable`.
    pub answer_timeout_ms: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    pub ring_len_max: usize,
    pub ring_bytes_max: usize,
    /// For all rooms together.
    pub rings_bytes_max: usize,
    /// For all sockets together.
    pub follows_max: usize,
    pub room_linger_ms: u64,
    pub hold_ms: u64,
    pub held_len_max: usize,
    pub page_len: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// File of the embedded log; used if `url` is empty.
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

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// `redis://…`; empty: no mirror, a single node. Also `REDIS_URL`.
    pub url: Secret,
    /// Keys and channels are `<prefix>:events` and so on.
    pub prefix: String,
    pub stream_len_max: usize,
    pub queue_len_max: usize,
    pub live_len_max: usize,
    pub queue_bytes_max: usize,
    pub timeout_ms: u64,
    pub heartbeat_ms: u64,
    pub forget_after_s: u64,
    pub outbox_poll_ms: u64,
    pub outbox_age_ms: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignalsConfig {
    pub settle_ms: u64,
    pub lease_ms: u64,
    pub listed_max: usize,
    pub rooms_max: usize,
    pub typing_interval_ms: u64,
    pub typing_len_max: usize,
    pub read_flush_ms: u64,
    pub read_len_max: usize,
    pub read_told_max: usize,
    pub queue_len_max: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TraceConfig {
    /// `error`, `warn`, `info`, `debug`, or a tracing filter such as `info,verbatim::lane=debug`.
    pub level: String,
    /// `auto`, `human` or `json`.
    pub format: String,
}

/// Why there is no usable `Config`. Each is one line, ready to print for the operator, and never
/// contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A settings file that does not exist, cannot be read or is not TOML.
    #[error("{file}: {reason}")]
    File { file: String, reason: String },
    /// An unknown setting. `hint` is empty or suggests the nearest known one.
    #[error("unknown setting {name}{hint} ({origin})")]
    Unknown { name: String, hint: String, origin: String },
    /// A value of the wrong type or out of bounds. `origin` is empty or says in parentheses where
    /// it came from.
    #[error("{name} = {value}{origin}: {allowed}")]
    Value { name: String, value: String, origin: String, allowed: String },
    /// Settings that are valid but cannot work together.
    #[error("{0}")]
    Together(String),
}

/// The machine's host name: the default name of a node.
fn host_name() -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    if host.is_empty() { "node".to_owned() } else { host.into_owned() }
}

/// A list of strings: an array in TOML, one string with commas in the environment.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct ListVisitor;

    impl<'de> Visitor<'de> for ListVisitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of strings")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(parts.map(str::to_owned).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
            let mut list = Vec::new();
            while let Some(text) = seq.next_element()? {
                list.push(text);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(ListVisitor)
}
