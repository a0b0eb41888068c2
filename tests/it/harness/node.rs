//! A node in this process, on a log of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::TcpListener;
use verbatim::config::{Config, Secret};
use verbatim::metrics::Metrics;
use verbatim::node::Node;

use super::Client;
use super::sandbox::sandbox;
use super::services;

/// How long a node of a test waits for its log: longer than a machine stands still. What the
/// program waits by default is for tests in which the log is away.
const LOG_PATIENCE_MS: u64 = 15_000;

/// A log, empty at first, and the settings of nodes that use it. It outlives its nodes, so a test
/// can stop one and start the next on the same data.
pub struct World {
    /// What every node of this world starts with.
    pub config: Config,
    /// Holds the SQLite file; removed at the end.
    _folder: TempDir,
}

pub struct TestNode {
    pub addr: SocketAddr,
    config: Config,
    node: Node,
}

impl World {
    pub async fn sqlite() -> Self {
        Self::on("")
    }

    pub async fn postgres() -> Self {
        Self::on(&services::database().await)
    }

    /// On that PostgreSQL database; on a new SQLite file if the URL is empty.
    pub fn on(url: &str) -> Self {
        let folder = sandbox().folder("world");
        let mut config = Config::from_defaults();
        config.node.id = "test".to_owned();
        config.log.url = Secret(url.to_owned());
        config.log.path = folder.path().join("verbatim.db").to_str().unwrap().to_owned();
        config.mirror.prefix = services::key_prefix();
        Self { config, _folder: folder }.patient()
    }

    /// Its nodes wait for their log for longer than the machine stands still, as they do unless a
    /// test says otherwise.
    pub fn patient(mut self) -> Self {
        let Config { log, lane, .. } = &mut self.config;
        for timeout_ms in [
            &mut log.connect_timeout_ms,
            &mut log.statement_timeout_ms,
            &mut log.lock_timeout_ms,
            &mut log.append_timeout_ms,
            &mut log.read_timeout_ms,
            &mut lane.answer_timeout_ms,
        ] {
            *timeout_ms = LOG_PATIENCE_MS;
        }
        self
    }

    /// Its nodes wait for their log no longer than the program does by default.
    pub fn impatient(mut self) -> Self {
        by_default(&mut self.config);
        self
    }

    pub async fn node(&self) -> TestNode {
        self.node_with(|_| {}).await
    }

    /// A node with some settings changed.
    pub async fn node_with(&self, change: impl FnOnce(&mut Config)) -> TestNode {
        let mut config = self.config.clone();
        change(&mut config);
        TestNode::start(config).await
    }

    /// The environment with which the real program uses this log.
    pub fn environment(&self) -> Vec<(String, String)> {
        let log = &self.config.log;
        let names = [
            ("VERBATIM_NODE__ID", self.config.node.id.clone()),
            ("VERBATIM_LOG__PATH", log.path.clone()),
            ("VERBATIM_MIRROR__PREFIX", self.config.mirror.prefix.clone()),
            ("DATABASE_URL", log.url.0.clone()),
        ];
        let times = [
            ("VERBATIM_LOG__CONNECT_TIMEOUT_MS", log.connect_timeout_ms),
            ("VERBATIM_LOG__STATEMENT_TIMEOUT_MS", log.statement_timeout_ms),
            ("VERBATIM_LOG__LOCK_TIMEOUT_MS", log.lock_timeout_ms),
            ("VERBATIM_LOG__APPEND_TIMEOUT_MS", log.append_timeout_ms),
            ("VERBATIM_LOG__READ_TIMEOUT_MS", log.read_timeout_ms),
            ("VERBATIM_LANE__ANSWER_TIMEOUT_MS", self.config.lane.answer_timeout_ms),
        ];
        let times = times.map(|(name, value)| (name, value.to_string()));
        names.into_iter().chain(times).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// What nodes wait for their log by default.
pub fn by_default(config: &mut Config) {
    let Config { log, lane, .. } = Config::from_defaults();
    config.log.connect_timeout_ms = log.connect_timeout_ms;
    config.log.statement_timeout_ms = log.statement_timeout_ms;
    config.log.lock_timeout_ms = log.lock_timeout_ms;
    config.log.append_timeout_ms = log.append_timeout_ms;
    config.log.read_timeout_ms = log.read_timeout_ms;
    config.lane.answer_timeout_ms = lane.answer_timeout_ms;
}

impl TestNode {
    pub async fn start(config: Config) -> Self {
        config.check().unwrap_or_else(|err| panic!("a test's settings: {err}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Boxed: it is long, and tests start several side by side.
        let node = Box::pin(Node::start(config.clone(), listener, Arc::new(Metrics::new()))).await;
        let node = node.unwrap_or_else(|err| panic!("the node does not start: {err:?}"));
        Self { addr: node.addr(), config, node }
    }

    /// Where it listens for those who watch it.
    pub fn internal_addr(&self) -> SocketAddr {
        self.node.internal_addr().expect("it has no internal_listen")
    }

    /// A new client that has taken its `hello`.
    pub async fn client(&self) -> Client {
        Client::greeted(self.addr).await
    }

    pub async fn stop(self) {
        self.node.stop().await;
    }

    /// Stops it and starts another with the same settings, on the same log and a new port.
    pub async fn restart(self) -> Self {
        let config = self.config.clone();
        self.stop().await;
        Self::start(config).await
    }
}
