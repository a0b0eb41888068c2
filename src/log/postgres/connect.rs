//! The one place where connections to PostgreSQL are made: addresses, limits of time, encryption.
//!
//! It does not retry and does not pool; whoever connects decides what a failure means.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config};
use tokio_util::task::AbortOnDropHandle;

use super::OpenError;
use super::hosts::Hosts;
use super::tls::{self, Tls};
use super::words::Words;
use crate::config::LogConfig;

/// A peer that vanished without a word is noticed after 30 + 3 × 5 s without traffic, and after
/// 10 s if it owes an acknowledgement. (The defaults are two hours and never.) Lanes and reads give
/// up earlier by themselves; this ends what they left behind.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVES_RETRIES: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// PostgreSQL cuts an application_name here, with a notice in its own log each time.
const APPLICATION_NAME_BYTES_MAX: usize = 63;

/// A setting that a connection asks for when it begins, as `pg_settings` shows it.
pub(super) type Setting = (&'static str, String);

/// Plans of a lane and of a reader are handfuls of index look-ups, whatever the tables hold. A plan
/// that was made while a table was empty and that reads all of it would be kept until the next
/// ANALYZE, a minute and a million rows later. So plans are made once, and only from index
/// look-ups.
const PLANNER: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// READ COMMITTED, whatever a database or a role has as its default: who has waited for a lock must
/// see what was committed meanwhile. Under another level they would not, or would fail because of
/// it: an append, the schema at the start, a sweep, and each update by itself.
const ISOLATION: (&str, &str) = ("default_transaction_isolation", "read committed");

/// Everything it takes to connect.
#[derive(Clone)]
pub(super) struct Connector {
    /// All of the URL but its hosts.
    config: Config,
    hosts: Arc<Hosts>,
    tls: Tls,
    connect_timeout: Duration,
    /// What the options of `config` say, but for the operator's own.
    asked: Arc<[Setting]>,
}

/// A connection and the task that serves its socket. Dropping it closes the socket at once, even
/// in the middle of an answer: nobody can be given a connection that owes one.
pub(super) struct Connection {
    pub client: Client,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no connection within {0:?}")]
    TooSlow(Duration),
    #[error("no address")]
    Name(#[source] std::io::Error),
    #[error("no connection")]
    Failed(#[from] tokio_postgres::Error),
}

impl Connector {
    /// Reads the URL. Its errors do not quote it: a password with an odd character in it is parsed
    /// as something else, and would be shown as such.
    pub fn new(settings: &LogConfig, node_id: &str) -> Result<Self, OpenError> {
        let words = Words::read(&settings.url.0)?;
        let tls = tls::of(&words)?;
        let url = Config::from_str(&words.url).map_err(|_| OpenError::Url)?;
        if !words.ignored.is_empty() {
            tracing::warn!(
                ignored = words.ignored.join(", "),
                "log.url has parameters that verbatim sets by itself; how long connecting may take \
                 is log.connect_timeout_ms"
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

    /// For a lane. A transaction that its lane has given up must not hold its rooms for long, so
    /// the server ends it after the same time.
    pub fn for_lane(&self, settings: &LogConfig) -> Self {
        let ours = [
            ("statement_timeout", settings.statement_timeout_ms.to_string()),
            ("lock_timeout", settings.lock_timeout_ms.to_string()),
            ("idle_in_transaction_session_timeout", settings.append_timeout_ms.to_string()),
        ];
        self.asking(ours.into_iter().chain(planner()))
    }

    /// For reads, also of a database that its operator, or a disk that is nearly full, has set to
    /// read only: the setting is a default, which each session may change for itself. (A standby
    /// cannot be talked into it.) A lane keeps to it. Of several hosts the one that takes writes is
    /// read from, as a lane finds it: another may be behind.
    pub fn for_reads(&self, settings: &LogConfig) -> Self {
        let writes = ("default_transaction_read_only", "off".to_owned());
        let timeout = ("statement_timeout", settings.read_timeout_ms.to_string());
        let also = self.hosts.is_one().then_some(writes);
        self.asking([timeout].into_iter().chain(also).chain(planner()))
    }

    /// For the schema, which may wait for another node that is applying it.
    pub fn for_setup(&self, timeout: Duration) -> Self {
        self.asking([("statement_timeout", timeout.as_millis().to_string())])
    }

    /// The operator's own options come first, so that ours win where both say something.
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

    /// What every connection asks for.
    pub fn asked(&self) -> &[Setting] {
        &self.asked
    }

    /// As an operator would write them.
    pub fn hosts(&self) -> String {
        self.hosts.shown()
    }

    pub fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// A connection to the first server that gives one.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let connect = |config: Config| {
            let tls = self.tls();
            async move { config.connect(tls).await }
        };
        let (client, connection) = self.connect_by(connect).await?;
        let serve = async move {
            // How it ended is told to whoever waits for an answer. Nobody else needs to know: an
            // idle connection that ended is replaced when it is wanted.
            let _ = connection.await;
        };
        Ok(Connection { client, _task: AbortOnDropHandle::new(tokio::spawn(serve)) })
    }

    /// What `connect` makes of the first server for which it succeeds. `log.connect_timeout_ms` is
    /// for all of it: names, all hosts, encryption, the start of the session and the password.
    pub async fn connect_by<T, F>(&self, connect: impl Fn(Config) -> F) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        self.hosts.first(&self.config, self.connect_timeout, connect).await
    }
}

impl ConnectError {
    /// A name without an address, or a list without a name.
    pub fn nowhere() -> Self {
        Self::Name(std::io::ErrorKind::NotFound.into())
    }
}

/// A configuration can be given more hosts, but not fewer. What else a URL may say and is not here
/// is set by us.
///
/// Whatever it says, every connection must be to a server that writes, also one that only reads:
/// a standby is behind. Who takes its word for where a room stands would tell clients that what
/// they have seen never happened, and would give up events that are in the log. To ask when
/// connecting is enough: a primary becomes a standby by a restart, which ends its connections.
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

/// What `pg_stat_activity` shows. The server replaces what is not printable ASCII.
fn application_name(node_id: &str) -> String {
    let mut name = format!("verbatim {node_id}");
    name.truncate(name.floor_char_boundary(APPLICATION_NAME_BYTES_MAX));
    name
}
