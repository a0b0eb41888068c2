//! The one place that connects to Redis: address, timeouts, encryption.
//!
//! It does not retry; the caller decides what a failure means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, PushInfo,
    RedisError,
};

use super::OpenError;
use super::parameters;
use super::version::{Server, too_old};
use crate::config::MirrorConfig;

/// The kernel notices a peer that vanished after this much silence, in case our own heartbeat does
/// not.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;

/// Everything it takes to connect.
#[derive(Clone)]
pub(super) struct Connector {
    client: Client,
    timeout: Duration,
    /// The number behind the URL's last slash.
    database: i64,
    /// Whether the warning about an unknown version was logged.
    has_warned: Arc<AtomicBool>,
}

impl Connector {
    /// Parses the URL. The errors do not quote it, because it may hold a password.
    pub fn new(config: &MirrorConfig) -> Result<Self, OpenError> {
        parameters::check(&config.url.0)?;
        let info = config.url.0.as_str().into_connection_info().map_err(|_| OpenError::Url)?;
        // This library leaves Nagle's algorithm on, which costs up to 40 ms.
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(KEEPALIVE);
        // With RESP3, channel messages and answers to commands share one connection, in the order
        // in which Redis sent them.
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let database = redis.db();
        let info = info.set_tcp_settings(tcp).set_redis_settings(redis);
        let client = Client::open(info).map_err(|_| OpenError::Url)?;
        let timeout = Duration::from_millis(config.timeout_ms);
        Ok(Self { client, timeout, database, has_warned: Arc::default() })
    }

    /// The name of a channel for users of this database.
    ///
    /// Keys belong to a database, but channels to the whole Redis: two clusters with one prefix in
    /// two databases would show each other's events to their clients.
    pub fn channel(&self, name: &str) -> String {
        match self.database {
            0 => name.to_owned(),
            database => format!("{name}@{database}"),
        }
    }

    /// Opens a connection for commands.
    pub async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        self.connect_with(self.config()).await
    }

    /// Opens a connection that also listens. `push` runs in the connection's task and must not
    /// wait.
    pub async fn listen<F>(&self, push: F) -> Result<MultiplexedConnection, RedisError>
    where
        F: Fn(PushInfo) -> Result<(), PushInfo> + Send + Sync + 'static,
    {
        self.connect_with(self.config().set_push_sender(push)).await
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
    }

    async fn connect_with(
        &self,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        let connect = async {
            let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
            let mut redis = connecting.await?;
            self.check_version(&mut redis).await?;
            Ok(redis)
        };
        // The library's timeouts do not cover every step of connecting.
        tokio::time::timeout(self.timeout * 2, connect).await.unwrap_or_else(|_| {
            Err(RedisError::from((ErrorKind::Io, "no connection within twice mirror.timeout_ms")))
        })
    }

    /// Runs on every connection: it may be another Redis than the last time.
    async fn check_version(&self, redis: &mut MultiplexedConnection) -> Result<(), RedisError> {
        match Server::ask(redis).await {
            Ok(Some(server)) => return server.check(),
            Ok(None) => {}
            Err(err) if is_forbidden(&err) => {}
            Err(err) => return Err(err),
        }
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "Redis does not say its version (INFO), which must be 7.0 or later; let the user \
                 of mirror.url run INFO"
            );
        }
        Ok(())
    }
}

/// Whether an ACL forbids the command.
pub(super) fn is_forbidden(err: &RedisError) -> bool {
    err.code() == Some("NOPERM")
}

/// Whether Redis refused for a reason that a retry will not change.
pub(super) fn is_refused(err: &RedisError) -> bool {
    let no_database = || err.detail().is_some_and(|why| why.contains("DB index is out of range"));
    matches!(err.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
        || matches!(err.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "NOPROTO"))
        || too_old(err).is_some()
        || no_database()
}
