//! The one place that connects to PostgreSQL: addresses, timeouts, encryption.
//!
//! It neither retries nor pools; the caller decides what a failure means.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config};
use tokio_util::task::AbortOnDropHandle;

use super::OpenError;
use super::hosts::Hosts;
use super::parameters::Parameters;
use super::tls::{self, Tls};
use crate::config::LogConfig;

/// A peer that vanished is noticed after 30 + 3 × 5 s without traffic, or after 10 s if it owes an
/// acknowledgement. (The defaults are two hours and never.) Lanes and reads give up earlier; this
/// ends what they left behind.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVES_RETRIES: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// PostgreSQL truncates application_name to this length, with a notice in its log each time.
const APPLICATION_NAME_BYTES_MAX: usize = 63;

/// A setting that a connection asks for, as `pg_settings` shows it.
pub(super) type Setting = (&'static str, String);

/// Plans of lanes and reads are a few index look-ups each, however large the tables are. A plan
/// made while a table was empty reads the whole table, and would be kept until the next ANALYZE: a
/// minute and a million rows later. So each statement is planned once, and only with index
/// look-ups.
const PLANNER: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// READ COMMITTED, whatever the default of the database or role: after waiting for a lock, a
/// statement must see what was committed meanwhile. Under another level appends, the schema at the
/// start, sweeps and single updates would not see it, or would fail.
const ISOLATION: (&str, &str) = ("default_transaction_isolation", "read committed");

/// Everything it takes to connect.
#[derive(Clone)]
pub(super) struct Connector {
    /// Everything in the URL but its hosts.
    config: Config,
    hosts: Arc<Hosts>,
    tls: Tls,
    connect_timeout: Duration,
    /// The settings in `config`'s options, without the operator's own.
    asked: Arc<[Setting]>,
}

/// A connection and the task that serves its socket. Dropping it closes the socket at once, even in
/// the middle of an answer, so nobody gets a connection that still owes one.
pub(super) struct Connection {
    pub client: Client,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no connection within {0:?}")]
    TooSlow(Duration),
    #[error("the host has no address")]
    Name(#[source] std::io::Error),
    #[error("cannot connect")]
    Failed(#[from] tokio_postgres::Error),
}

impl Connector {
    /// Parses the URL. The errors do not quote it: a password with an unencoded special character
    /// is parsed as something else, and would be shown as that.
    pub fn new(settings: &LogConfig, node_id: &str) -> Result<Self, OpenError> {
        let parameters = Parameters::read(&settings.url.0)?;
        let tls = tls::of(&parameters)?;
        let url = Config::from_str(&parameters.url).map_err(|_| OpenError::Url)?;
        if !parameters.ignored.is_empty() {
            tracing::warn!(
                ignored = parameters.ignored.join(", "),
                "parameters of log.url were ignored, because verbatim sets them itself (the \
                 connection timeout is log.connect_timeout_ms)"
            );
        }
        let hosts = Arc::new(Hosts::of(&url).ok_or(OpenError::Url)?);
        let connect_timeout = Duration::from_millis(settings.connect_timeout_ms);
        let mut config = without_hosts(&url);
        config
            .application_name(application_name(node_id))
            .connect_timeout(connect_timeout)
            .keepalives(true)
            .keepalives_idle(KEEPALIVES_IDLE)
            .keepalives_interval(KEEPALIVES_INTERVAL)
            .keepalives_retries(KEEPALIVES_RETRIES)
            .tcp_user_timeout(TCP_USER_TIMEOUT);
        Ok(Self { config, hosts, tls, connect_timeout, asked: Arc::default() })
    }

    /// For a lane. A transaction that its lane gave up must not hold its rooms for long, so the
    /// server ends it after the same time.
    pub fn for_lane(&self, settings: &LogConfig) -> Self {
        let ours = [
            ("statement_timeout", settings.statement_timeout_ms.to_string()),
            ("lock_timeout", settings.lock_timeout_ms.to_string()),
            ("idle_in_transaction_session_timeout", settings.append_timeout_ms.to_string()),
        ];
        self.asking(ours.into_iter().chain(planner()))
    }

    /// For reads. They also work on a database that an operator, or a provider whose disk is nearly
    /// full, has set to read-only: that is a default, which each session may override. (A standby
    /// stays read-only.) A lane respects it. Of several hosts, reads use the one that accepts
    /// writes, as lanes do, because another may lag behind.
    pub fn for_reads(&self, settings: &LogConfig) -> Self {
        let writes = ("default_transaction_read_only", "off".to_owned());
        let timeout = ("statement_timeout", settings.read_timeout_ms.to_string());
        let also = self.hosts.is_one().then_some(writes);
        self.asking([timeout].into_iter().chain(also).chain(planner()))
    }

    /// For the schema, which may wait for another node that applies it.
    pub fn for_setup(&self, timeout: Duration) -> Self {
        self.asking([("statement_timeout", timeout.as_millis().to_string())])
    }

    /// The operator's options come first, so that ours win.
    fn asking(&self, ours: impl IntoIterator<Item = Setting>) -> Self {
        let isolation = (ISOLATION.0, ISOLATION.1.to_owned());
        let asked: Arc<[Setting]> = std::iter::once(isolation).chain(ours).collect();
        let mut options = self.config.get_options().unwrap_or_default().to_owned();
        for (name, value) in &*asked {
            options.push_str(&format!(" -c {name}={}", value.replace(' ', r"\ ")));
        }
        let mut config = self.config.clone();
        config.options(options);
        Self { config, asked, ..self.clone() }
    }

    /// The settings that every connection asks for.
    pub fn asked(&self) -> &[Setting] {
        &self.asked
    }

    /// The hosts, as an operator would write them.
    pub fn hosts(&self) -> String {
        self.hosts.shown()
    }

    pub fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Connects to the first server that accepts.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let connect = |config: Config| {
            let tls = self.tls();
            async move { config.connect(tls).await }
        };
        let (client, connection) = self.connect_by(connect).await?;
        let serve = async move {
            // Callers waiting for an answer learn how it ended. Nobody else needs to know: an idle
            // connection that ended is replaced when it is needed.
            let _ = connection.await;
        };
        Ok(Connection { client, _task: AbortOnDropHandle::new(tokio::spawn(serve)) })
    }

    /// Runs `connect` for each server until one succeeds. `log.connect_timeout_ms` covers
    /// everything: name resolution, all hosts, encryption, session start and password.
    pub async fn connect_by<T, F>(&self, connect: impl Fn(Config) -> F) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        self.hosts.first(&self.config, self.connect_timeout, connect).await
    }
}

impl ConnectError {
    /// For a name without an address, or a list without a name.
    pub fn nowhere() -> Self {
        Self::Name(std::io::ErrorKind::NotFound.into())
    }
}

/// `Config` can add hosts but not remove them, so this copies everything else. What the URL may say
/// and is not copied is set by us.
///
/// Every connection must be to a server that accepts writes, even for reads, because a standby lags
/// behind. A node that believed it about where a room stands would tell clients that what they have
/// seen never happened, and would give up events that are in the log. Checking at connect is
/// enough: a primary becomes a standby only by a restart, which ends its connections.
fn without_hosts(url: &Config) -> Config {
    let mut config = Config::new();
    config
        .ssl_mode(url.get_ssl_mode())
        .ssl_negotiation(url.get_ssl_negotiation())
        .channel_binding(url.get_channel_binding())
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    if let Some(user) = url.get_user() {
        config.user(user);
    }
    if let Some(password) = url.get_password() {
        config.password(password);
    }
    if let Some(dbname) = url.get_dbname() {
        config.dbname(dbname);
    }
    if let Some(options) = url.get_options() {
        config.options(options);
    }
    config
}

fn planner() -> impl Iterator<Item = Setting> {
    PLANNER.iter().map(|(name, value)| (*name, (*value).to_owned()))
}

/// The name in `pg_stat_activity`. The server replaces everything but printable ASCII.
fn application_name(node_id: &str) -> String {
    let mut name = format!("verbatim {node_id}");
    name.truncate(name.floor_char_boundary(APPLICATION_NAME_BYTES_MAX));
    name
}
