//! Whether the settings can work: bounds for each, and conditions between them.
//!
//! It refuses what would fail later in a way that is harder to understand, and warns about what is
//! legal but rarely intended. It touches neither network nor disk.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::{Config, ConfigError, Secret};
use crate::model::UserId;

/// A command's frame without its message: keys, quotes and braces (62 bytes), two names of
/// 128 bytes and an id of 64, times three for non-ASCII written as escapes. Rounded up.
const ENVELOPE_BYTES: u64 = 1024;
/// A client's JSON may write é (2 bytes) as six: `\u00e9`. No common encoder does worse to text.
/// Control characters grow six times, but a message full of them does not justify longer frames.
const ESCAPED_IN: u64 = 3;
/// Our own JSON escapes only control characters, one byte as six.
const ESCAPED_OUT: u64 = 6;
/// Heartbeats that a node may miss and still not be forgotten, with a wide margin.
const HEARTBEATS_MISSED_MAX: u64 = 10;
/// Where proxies commonly cut silent connections: nginx's proxy_read_timeout, AWS's load balancers.
const PROXY_TIMEOUT_MS: u64 = 60_000;

/// Valkey's schemes mean the same as Redis's.
const MIRROR_SCHEMES: [&str; 6] = ["redis", "rediss", "valkey", "valkeys", "redis+unix", "unix"];

/// Something legal that the operator should know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub setting: &'static str,
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.text)
    }
}

impl Config {
    /// Refuses what cannot work, in the order of `config.toml`; otherwise returns the warnings.
    pub fn check(&self) -> Result<Vec<Warning>, ConfigError> {
        self.check_bounds()?;
        self.check_texts()?;
        self.check_together()?;
        Ok(self.warnings())
    }

    fn check_bounds(&self) -> Result<(), ConfigError> {
        for (name, value, bounds) in self.bounds() {
            if !bounds.contains(&value) {
                let (least, most) = (bounds.start(), bounds.end());
                return Err(wrong(name, value, format!("must be from {least} to {most}")));
            }
        }
        Ok(())
    }

    /// Every number with its bounds. The lower bound still works (tests use it); above the upper
    /// bound, a number is more likely a typo than intended.
    fn bounds(&self) -> Vec<(&'static str, u64, RangeInclusive<u64>)> {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        const MINUTE_MS: u64 = 60 * 1000;
        const MIB: u64 = 1024 * 1024;
        let Self { server, api, socket, session, lane, hub, log, mirror, signals, .. } = self;
        vec![
            ("server.connections_max", server.connections_max as u64, 1..=10_000_000),
            (
                "server.connections_per_address_max",
                server.connections_per_address_max as u64,
                1..=10_000_000,
            ),
            ("server.connects_per_second", server.connects_per_second.into(), 1..=10_000_000),
            ("server.connects_burst", server.connects_burst.into(), 1..=10_000_000),
            ("server.http_connections_max", server.http_connections_max as u64, 1..=10_000_000),
            ("server.header_timeout_ms", server.header_timeout_ms, 10..=10 * MINUTE_MS),
            // hyper's read buffer cannot be smaller.
            ("server.header_bytes_max", server.header_bytes_max as u64, 8192..=MIB),
            ("server.headers_max", server.headers_max as u64, 16..=1000),
            ("server.keep_alive_ms", server.keep_alive_ms, 0..=60 * MINUTE_MS),
            ("server.unsent_bytes_max", server.unsent_bytes_max as u64, MIB..=2048 * MIB),
            ("server.inbound_bytes_max", server.inbound_bytes_max as u64, MIB..=2048 * MIB),
            ("server.shutdown_timeout_ms", server.shutdown_timeout_ms, 10..=60 * MINUTE_MS),
            ("server.reconnect_ms", server.reconnect_ms, 0..=60 * MINUTE_MS),
            ("api.body_bytes_max", api.body_bytes_max as u64, 1024..=64 * MIB),
            ("api.body_timeout_ms", api.body_timeout_ms, 10..=10 * MINUTE_MS),
            ("api.requests_per_second", api.requests_per_second.into(), 1..=10_000_000),
            ("api.requests_burst", api.requests_burst.into(), 1..=10_000_000),
            ("api.streams_max", api.streams_max as u64, 1..=10_000_000),
            ("socket.frame_bytes_max", socket.frame_bytes_max as u64, 1024..=64 * MIB),
            ("socket.frame_timeout_ms", socket.frame_timeout_ms, 10..=10 * MINUTE_MS),
            ("socket.heartbeat_ms", socket.heartbeat_ms, 10..=DAY_MS),
            ("socket.stall_timeout_ms", socket.stall_timeout_ms, 10..=DAY_MS),
            ("socket.close_timeout_ms", socket.close_timeout_ms, 10..=10 * MINUTE_MS),
            ("socket.queue_bytes_max", socket.queue_bytes_max as u64, 1024..=1024 * MIB),
            ("socket.read_buffer_bytes", socket.read_buffer_bytes as u64, 128..=MIB),
            ("session.message_bytes_max", session.message_bytes_max as u64, 1..=16 * MIB),
            ("session.history_bytes_max", session.history_bytes_max as u64, 1..=1024 * MIB),
            ("session.commands_per_second", session.commands_per_second.into(), 1..=10_000_000),
            ("session.commands_burst", session.commands_burst.into(), 1..=10_000_000),
            (
                "session.user_commands_per_second",
                session.user_commands_per_second.into(),
                1..=100_000_000,
            ),
            ("session.user_commands_burst", session.user_commands_burst.into(), 1..=100_000_000),
            (
                "session.address_commands_per_second",
                session.address_commands_per_second.into(),
                1..=100_000_000,
            ),
            (
                "session.address_commands_burst",
                session.address_commands_burst.into(),
                1..=100_000_000,
            ),
            (
                "session.refused_per_second_max",
                session.refused_per_second_max.into(),
                1..=1_000_000,
            ),
            ("session.refused_seconds_max", session.refused_seconds_max.into(), 1..=3600),
            ("session.in_flight_max", session.in_flight_max as u64, 1..=100_000),
            ("session.follows_max", session.follows_max as u64, 1..=10_000_000),
            ("session.users_per_room_max", session.users_per_room_max as u64, 1..=1_000_000),
            ("lane.count", lane.count as u64, 1..=256),
            ("lane.inbox_len_max", lane.inbox_len_max as u64, 1..=1_000_000),
            ("lane.batch_len_max", lane.batch_len_max as u64, 1..=10_000),
            ("lane.answer_timeout_ms", lane.answer_timeout_ms, 10..=10 * MINUTE_MS),
            ("hub.ring_len_max", hub.ring_len_max as u64, 1..=1_000_000),
            ("hub.ring_bytes_max", hub.ring_bytes_max as u64, 1024..=1024 * MIB),
            ("hub.rings_bytes_max", hub.rings_bytes_max as u64, 0..=2048 * MIB),
            ("hub.follows_max", hub.follows_max as u64, 1..=1_000_000_000),
            ("hub.room_linger_ms", hub.room_linger_ms, 0..=DAY_MS),
            ("hub.hold_ms", hub.hold_ms, 1..=MINUTE_MS),
            ("hub.held_len_max", hub.held_len_max as u64, 1..=1_000_000),
            ("hub.page_len", hub.page_len as u64, 1..=10_000),
            ("log.readers", log.readers as u64, 1..=256),
            ("log.connect_timeout_ms", log.connect_timeout_ms, 10..=10 * MINUTE_MS),
            ("log.statement_timeout_ms", log.statement_timeout_ms, 10..=10 * MINUTE_MS),
            ("log.lock_timeout_ms", log.lock_timeout_ms, 10..=10 * MINUTE_MS),
            ("log.append_timeout_ms", log.append_timeout_ms, 10..=10 * MINUTE_MS),
            ("log.read_timeout_ms", log.read_timeout_ms, 10..=10 * MINUTE_MS),
            ("mirror.stream_len_max", mirror.stream_len_max as u64, 1..=100_000_000),
            ("mirror.queue_len_max", mirror.queue_len_max as u64, 1..=1_000_000),
            ("mirror.live_len_max", mirror.live_len_max as u64, 1..=10_000_000),
            ("mirror.queue_bytes_max", mirror.queue_bytes_max as u64, 1024..=2048 * MIB),
            ("mirror.timeout_ms", mirror.timeout_ms, 10..=10 * MINUTE_MS),
            ("mirror.heartbeat_ms", mirror.heartbeat_ms, 10..=10 * MINUTE_MS),
            ("mirror.forget_after_s", mirror.forget_after_s, 1..=366 * 24 * 60 * 60),
            ("mirror.outbox_poll_ms", mirror.outbox_poll_ms, 10..=10 * MINUTE_MS),
            ("mirror.outbox_age_ms", mirror.outbox_age_ms, 10..=10 * MINUTE_MS),
            ("signals.settle_ms", signals.settle_ms, 10..=MINUTE_MS),
            ("signals.lease_ms", signals.lease_ms, 100..=60 * MINUTE_MS),
            ("signals.listed_max", signals.listed_max as u64, 0..=100_000),
            ("signals.rooms_max", signals.rooms_max as u64, 1..=10_000_000),
            ("signals.typing_interval_ms", signals.typing_interval_ms, 10..=10 * MINUTE_MS),
            ("signals.typing_len_max", signals.typing_len_max as u64, 1..=10_000_000),
            ("signals.read_flush_ms", signals.read_flush_ms, 10..=10 * MINUTE_MS),
            ("signals.read_len_max", signals.read_len_max as u64, 1..=10_000_000),
            ("signals.read_told_max", signals.read_told_max as u64, 0..=10_000),
            ("signals.queue_len_max", signals.queue_len_max as u64, 1..=1_000_000),
        ]
    }

    fn check_texts(&self) -> Result<(), ConfigError> {
        let quoted = |text: &str| format!("{text:?}");
        if !self.node.id.is_empty() {
            UserId::parse(&self.node.id)
                .map_err(|invalid| wrong("node.id", quoted(&self.node.id), invalid.to_string()))?;
        }
        let listen = &self.server.listen;
        if listen_host(listen).is_none() {
            let allowed = "must be address:port, such as 127.0.0.1:8080 or [::]:8080";
            return Err(wrong("server.listen", quoted(listen), allowed));
        }
        let internal = &self.server.internal_listen;
        // Port 0 picks a free port, a different one each time.
        let is_same = internal == listen && !listen.ends_with(":0");
        if !internal.is_empty() && (listen_host(internal).is_none() || is_same) {
            let allowed = "must be empty, or an address:port other than server.listen";
            return Err(wrong("server.internal_listen", quoted(internal), allowed));
        }
        self.check_door()?;
        if self.log.url.is_empty() && self.log.path.trim().is_empty() {
            return Err(wrong("log.path", quoted(&self.log.path), "must name a file"));
        }
        check_url("log.url", &self.log.url, &["postgres", "postgresql"])?;
        check_url("mirror.url", &self.mirror.url, &MIRROR_SCHEMES)?;
        let prefix = &self.mirror.prefix;
        let is_key = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(is_key) {
            let allowed = "must be 1 to 64 letters, digits and - _ . :";
            return Err(wrong("mirror.prefix", quoted(prefix), allowed));
        }
        if let Some(bad) = self.trace.level.split(',').find(|part| !is_directive(part)) {
            let allowed = "must be error, warn, info, debug, trace or off, or a filter by module \
                           such as info,verbatim::lane=debug";
            return Err(wrong("trace.level", quoted(bad), allowed));
        }
        if !["auto", "human", "json"].contains(&self.trace.format.as_str()) {
            let allowed = "must be auto, human or json";
            return Err(wrong("trace.format", quoted(&self.trace.format), allowed));
        }
        Ok(())
    }

    fn check_together(&self) -> Result<(), ConfigError> {
        let message_bytes = self.session.message_bytes_max as u64;
        let command_bytes = ESCAPED_IN * message_bytes + ENVELOPE_BYTES;
        let frame_bytes_max = self.socket.frame_bytes_max;
        self.check_room_for(("socket.frame_bytes_max", frame_bytes_max), command_bytes)?;
        self.check_room_for(("api.body_bytes_max", self.api.body_bytes_max), command_bytes)?;
        let event_bytes = ESCAPED_OUT * message_bytes + ENVELOPE_BYTES;
        self.check_room_for(("socket.queue_bytes_max", self.socket.queue_bytes_max), event_bytes)?;
        self.check_room_for(("hub.ring_bytes_max", self.hub.ring_bytes_max), event_bytes)?;

        let (batch, inbox) = (self.lane.batch_len_max, self.lane.inbox_len_max);
        if batch > inbox {
            let allowed = format!("must not be above lane.inbox_len_max = {inbox}");
            return Err(wrong("lane.batch_len_max", batch, allowed));
        }
        let (answer, append) = (self.lane.answer_timeout_ms, self.log.append_timeout_ms);
        if answer < append {
            let allowed = format!(
                "must be at least log.append_timeout_ms = {append}, or commands would be answered \
                 unavailable while their commit is still running"
            );
            return Err(wrong("lane.answer_timeout_ms", answer, allowed));
        }
        let (forget_s, beat) = (self.mirror.forget_after_s, self.mirror.heartbeat_ms);
        if forget_s * 1000 < HEARTBEATS_MISSED_MAX * beat {
            let allowed = format!(
                "must be at least {HEARTBEATS_MISSED_MAX} times mirror.heartbeat_ms = {beat}, or \
                 live nodes would be forgotten"
            );
            return Err(wrong("mirror.forget_after_s", forget_s, allowed));
        }
        if self.log.url.is_empty() && !self.mirror.url.is_empty() {
            return Err(ConfigError::Together(
                "mirror.url (REDIS_URL) is set but log.url (DATABASE_URL) is not: the mirror \
                 connects nodes that share PostgreSQL, and the embedded log cannot be shared; set \
                 log.url, or unset mirror.url"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// The longest allowed message must fit wherever whole frames are held.
    fn check_room_for(&self, (name, bytes): (&str, usize), needed: u64) -> Result<(), ConfigError> {
        if bytes as u64 >= needed {
            return Ok(());
        }
        let message_bytes = self.session.message_bytes_max;
        let allowed = format!(
            "must be at least {needed}, so that a message of session.message_bytes_max = \
             {message_bytes} fits with its JSON escapes"
        );
        Err(wrong(name, bytes, allowed))
    }

    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |setting, text: String| warnings.push(Warning { setting, text });
        let listen = &self.server.listen;
        if !listen_host(listen).is_some_and(is_loopback) {
            warn(
                "server.listen",
                format!(
                    "{listen} can be reached from other machines, and there is neither TLS nor \
                     authentication: anyone who reaches it can act as any user"
                ),
            );
        }
        let (per_address, total) =
            (self.server.connections_per_address_max, self.server.connections_max);
        if per_address > total {
            warn(
                "server.connections_per_address_max",
                format!(
                    "{per_address} is above server.connections_max = {total} and has no effect"
                ),
            );
        }
        let heartbeat = self.socket.heartbeat_ms;
        if heartbeat >= PROXY_TIMEOUT_MS {
            warn(
                "socket.heartbeat_ms",
                format!(
                    "{heartbeat} is not below {PROXY_TIMEOUT_MS}: many proxies cut silent \
                     connections"
                ),
            );
        }
        let (shutdown, answer) = (self.server.shutdown_timeout_ms, self.lane.answer_timeout_ms);
        if shutdown < answer {
            warn(
                "server.shutdown_timeout_ms",
                format!(
                    "{shutdown} is below lane.answer_timeout_ms = {answer}: commands in progress \
                     at shutdown may get no answer"
                ),
            );
        }
        warnings.extend(self.door_warnings());
        warnings
    }
}

pub(super) fn wrong(name: &str, value: impl ToString, allowed: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        name: name.to_owned(),
        value: value.to_string(),
        origin: String::new(),
        allowed: allowed.into(),
    }
}

/// The host of `host:port`; `None` if the text is not that.
fn listen_host(listen: &str) -> Option<&str> {
    let (host, port) = listen.rsplit_once(':')?;
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
    };
    port.parse::<u16>().ok()?;
    (listen.parse::<SocketAddr>().is_ok() || is_name(host)).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// Checked here because `tracing` takes a misspelled level for a module's name and logs nothing.
fn is_directive(text: &str) -> bool {
    let is_level = |level: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].contains(&level.to_lowercase().as_str())
    };
    let is_module =
        |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b));
    match text.split_once('=') {
        Some((module, level)) => !module.is_empty() && is_module(module) && is_level(level),
        None => is_level(text),
    }
}

fn check_url(name: &str, url: &Secret, schemes: &[&str]) -> Result<(), ConfigError> {
    let scheme = url.0.split_once("://").map(|(scheme, _)| scheme);
    if url.is_empty() || scheme.is_some_and(|scheme| schemes.contains(&scheme)) {
        return Ok(());
    }
    let allowed = match scheme.is_some_and(|scheme| scheme.contains("sentinel")) {
        true => "Sentinel is not supported; use redis:// with the address of the master, or of a \
                 proxy that leads to it"
            .to_owned(),
        false => format!("must be empty or begin with {}://", schemes.join(":// or ")),
    };
    Err(wrong(name, format!("{:?}", url.masked()), allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_bounds() {
        let config = Config::from_defaults();
        let settings = serde_json::to_value(&config).unwrap();
        let sections = settings.as_object().unwrap();
        let mut numbers = Vec::new();
        for (section, keys) in sections {
            let keys = keys.as_object().unwrap().iter().filter(|(_, value)| value.is_u64());
            numbers.extend(keys.map(|(key, _)| format!("{section}.{key}")));
        }
        let mut bounded: Vec<_> =
            config.bounds().into_iter().map(|(name, ..)| name.to_owned()).collect();
        numbers.sort();
        bounded.sort();
        assert_eq!(bounded, numbers);
    }

    #[test]
    fn hosts_are_told_from_nonsense() {
        let host = |listen| listen_host(listen).map(is_loopback);
        for loopback in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:8080", "localhost:8080"] {
            assert_eq!(host(loopback), Some(true), "{loopback}");
        }
        for public in ["0.0.0.0:8080", "[::]:8080", "192.0.2.7:80", "chat.example:80"] {
            assert_eq!(host(public), Some(false), "{public}");
        }
        for nonsense in ["", ":8080", "8080", "::1", "127.0.0.1", "a b:80", "a:65536", "a:http"] {
            assert_eq!(host(nonsense), None, "{nonsense}");
        }
    }
}
