//! Tries whether Redis can do a node's work, for `verbatim check`.
//!
//! It does what a node does, on its own keys and channel under the prefix. Nodes do not notice it,
//! and it leaves nothing behind.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError, Script, Value, cmd};
use tokio::time::timeout;

use super::cluster::Cluster;
use super::connect::{Connector, is_refused};
use super::cursor::{Cursor, PageLen};
use super::lease::Lease;
use super::listen::Listener;
use super::seal::Seal;
use super::version::Server;
use super::{GROUP_PREFIX, OpenError};
use crate::budget::Budget;
use crate::config::MirrorConfig;
use crate::model::LogIdentity;

/// Expiry of the keys, in case the program is killed.
const LIFE: Duration = Duration::from_secs(60);
/// Other nodes' messages that may arrive meanwhile, and their bytes.
const LISTEN_LEN: usize = 1024;
const LISTEN_BYTES: usize = 16 * 1024 * 1024;

/// Why Redis cannot be used: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("Redis cannot be reached ({0}); start it, or correct mirror.url (REDIS_URL)")]
    Away(RedisError),
    #[error("Redis does not {step} ({err}); {}", advice(.err))]
    Step { step: &'static str, err: RedisError },
    #[error(
        "Redis belongs to another log under this mirror.prefix ({key} is {owner}); give one of the \
         clusters another prefix, or delete the key if that log no longer exists"
    )]
    Foreign { key: String, owner: String },
    #[error("Redis did not deliver a published message within mirror.timeout_ms")]
    Unheard,
    #[error(
        "Redis does not count a stream's entries (entries-added in XINFO STREAM); use Redis 7.0 or \
         later"
    )]
    Uncounted,
}

/// What is tried, and on which keys.
struct Trial {
    /// The channels that a node listens to.
    channels: [String; 3],
    /// The trial's own channel.
    channel: String,
    cursor: Cursor,
    lease: Lease,
    cluster: Cluster,
    keys: [String; 4],
    timeout: Duration,
}

/// Returns a line about the server, or why it cannot be used. `log`: checks the owner, if it is
/// known.
pub async fn probe(config: &MirrorConfig, log: Option<&LogIdentity>) -> Result<String, ProbeError> {
    let connector = Connector::new(config)?;
    let mut redis = connector.connect().await.map_err(|err| match is_refused(&err) {
        true => ProbeError::Open(OpenError::refused(&err)),
        false => ProbeError::Away(err),
    })?;
    let server = match Server::ask(&mut redis).await {
        Ok(Some(server)) => server.to_string(),
        Ok(None) | Err(_) => "Redis, which does not say its version (INFO),".to_owned(),
    };
    let trial = Trial::new(&connector, config);
    let tried = trial.run(&connector, &mut redis).await;
    let removed = cmd("DEL").arg(&trial.keys).query_async::<()>(&mut redis).await;
    tried?;
    if let Some(log) = log {
        let cluster = Cluster::of(&config.prefix, log);
        let owner = cluster.owner(&mut redis).await.map_err(at("say which log it belongs to"))?;
        if let Some(owner) = owner.filter(|owner| *owner != cluster.log_id) {
            return Err(ProbeError::Foreign { key: cluster.key, owner });
        }
    }
    removed.map_err(at("let keys be removed"))?;
    Ok(format!("{server} answers, and does what a node needs"))
}

/// What to do about it.
fn advice(err: &RedisError) -> &'static str {
    // A script's error has no code of its own: "The user executing the script can't run this
    // command", in later versions "ACL failure in script".
    let is_told = |part: &str| err.detail().is_some_and(|detail| detail.contains(part));
    match err.code() {
        Some("NOPERM") => "give the user of mirror.url permission",
        Some("READONLY") => "set mirror.url to the master",
        Some("OOM") => "give it more memory, or remove what fills it",
        _ if is_told("can't run this") || is_told("ACL failure") => {
            "give the user of mirror.url permission"
        }
        _ => "see Redis's log",
    }
}

fn at(step: &'static str) -> impl FnOnce(RedisError) -> ProbeError {
    move |err| ProbeError::Step { step, err }
}

impl Trial {
    fn new(connector: &Connector, config: &MirrorConfig) -> Self {
        let prefix = &config.prefix;
        let name = format!("check-{:016x}", rand::random::<u64>());
        let stream = format!("{prefix}:{name}");
        let heartbeat = Duration::from_millis(config.heartbeat_ms);
        let channel = |name: &str| connector.channel(&format!("{prefix}:{name}"));
        Self {
            channels: ["events", "nodes", "signals"].map(channel),
            channel: channel(&name),
            lease: Lease::new(prefix, &name, name.clone(), heartbeat, LIFE),
            keys: [
                stream.clone(),
                format!("{prefix}:node:{name}"),
                format!("{prefix}:seen:{name}"),
                format!("{prefix}:cluster:{name}"),
            ],
            cluster: Cluster { key: format!("{prefix}:cluster:{name}"), log_id: name },
            cursor: Cursor { stream, group: format!("{GROUP_PREFIX}check"), seal: Seal::new(b"") },
            timeout: Duration::from_millis(config.timeout_ms),
        }
    }

    async fn run(
        &self,
        connector: &Connector,
        redis: &mut MultiplexedConnection,
    ) -> Result<(), ProbeError> {
        let channels: Vec<_> =
            self.channels.iter().chain([&self.channel]).map(String::as_str).collect();
        let budget = Budget::new(LISTEN_BYTES);
        let listener = Listener::connect(connector, &channels, LISTEN_LEN, &budget);
        let listener = listener.await.map_err(at("let a node subscribe to channels"))?;
        self.lease(redis).await.map_err(at("let a node have its name"))?;
        self.cluster.claim(redis).await.map_err(at("let a node claim it for its log"))?;
        self.stream(redis).await.map_err(at("let a node use streams"))?;
        self.append(redis).await.map_err(at("take events from a script"))?;
        // An error: it is removed later, or by hand.
        let life = LIFE.as_secs();
        for key in [&self.keys[0], &self.cluster.key] {
            let _ = cmd("EXPIRE").arg(key).arg(life).query_async::<()>(redis).await;
        }
        self.read(redis).await?;
        let publish = cmd("PUBLISH").arg(&self.channel).arg("x").query_async::<()>(redis).await;
        publish.map_err(at("let a node publish"))?;
        let heard = timeout(self.timeout, self.hears_both(listener)).await;
        heard.is_ok_and(|heard| heard).then_some(()).ok_or(ProbeError::Unheard)
    }

    async fn lease(&self, redis: &mut MultiplexedConnection) -> Result<(), RedisError> {
        self.lease.take(redis).await?;
        self.lease.renew(redis).await?;
        cmd("PTTL").arg(&self.keys[1]).query_async::<i64>(redis).await?;
        cmd("EXISTS").arg(&self.keys[2]).query_async::<bool>(redis).await?;
        self.lease.release(redis).await
    }

    async fn stream(&self, redis: &mut MultiplexedConnection) -> Result<(), RedisError> {
        self.cursor.create(redis).await?;
        self.cursor.group(redis).await?;
        self.cursor.end(redis).await.map(drop)
    }

    /// Appends as a node does.
    async fn append(&self, redis: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let script = Script::new(include_str!("mirror.lua"));
        let mut invocation = script.key(&self.keys[0]);
        invocation.key(&self.cluster.key).arg(&self.channel).arg(1);
        invocation.arg(&self.cluster.log_id).arg(0);
        invocation.arg("check").arg(1).arg(r#"{"type":"check"}"#).arg("");
        invocation.invoke_async::<()>(redis).await
    }

    async fn read(&self, redis: &mut MultiplexedConnection) -> Result<(), ProbeError> {
        let step = "let a node read the stream";
        self.cursor.read(redis, PageLen::default()).await.map_err(at(step))?;
        let end = self.cursor.end(redis).await.map_err(at(step))?;
        let end = end.filter(|end| end.read > 0).ok_or(ProbeError::Uncounted)?;
        self.cursor.set(redis, end).await.map_err(at(step))?;
        self.cursor.destroy(redis, &self.cursor.group).await.map_err(at(step))
    }

    /// Waits for the script's message and the one published after it. `false`: the connection
    /// ended.
    async fn hears_both(&self, mut listener: Listener) -> bool {
        let mut heard = 0;
        while heard < 2 {
            let messages = listener.next().await;
            if messages.is_empty() {
                return false;
            }
            heard += messages.iter().filter(|message| self.is_ours(&message.push)).count();
        }
        true
    }

    fn is_ours(&self, push: &PushInfo) -> bool {
        let channel = match push.data.first() {
            Some(Value::BulkString(channel)) => channel.as_slice(),
            _ => return false,
        };
        push.kind == PushKind::Message && channel == self.channel.as_bytes()
    }
}
