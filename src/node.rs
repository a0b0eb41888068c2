//! One node: the only place where the parts are wired together.
//!
//! It has no logic of its own. Nothing in it is global, so any number of nodes run in one process.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::config::Config;
use crate::hub::Hub;
use crate::lane::Lanes;
use crate::log::{Log, OpenError};
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::replay::Replay;
use crate::server::Server;
use crate::session::Shared;
use crate::tasks::Tasks;

/// A node that serves. Dropping it does not stop it; `stop` does.
pub struct Node {
    address: SocketAddr,
    tasks: Tasks,
}

/// Why a node does not start; one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error("the listening socket is unusable")]
    Listener(#[from] std::io::Error),
}

impl Node {
    /// Opens the log and serves on `listener`. The settings have passed `Config::check`.
    pub async fn start(config: Config, listener: TcpListener) -> Result<Self, StartError> {
        let address = listener.local_addr()?;
        let tasks = Tasks::new();
        let metrics = Arc::new(Metrics::new());
        let log = Log::open(&config).await?;
        let hub = Hub::new(config.hub.clone(), metrics.clone(), tasks.clone());
        let relay = Relay::new(
            hub.clone(),
            log.clone(),
            config.hub.clone(),
            metrics.clone(),
            tasks.clone(),
        );
        let lanes = Lanes::start(&config.lane, &log, &relay, &metrics, &tasks);
        let replay = Replay::new(log.clone(), config.hub.page_len, metrics.clone());
        let (name, watched) = (log.name(), log.clone());
        let node_id = config.node.id.clone();
        let shared = Shared { config, log, hub, relay, replay, metrics, tasks: tasks.clone() };
        let server = Server::new(Arc::new(shared), lanes);
        tasks.spawn("accept", server.run(listener));
        tasks.spawn("log watch", watch(watched, tasks.clone()));
        tracing::info!(node = node_id, log = name, %address, "ready");
        Ok(Self { address, tasks })
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, says goodbye to every client, lets the lanes finish what they took, closes
    /// every socket, and returns when nothing runs any more. The caller sets the deadline.
    pub async fn stop(&self) {
        self.tasks.stop();
        self.tasks.ended().await;
    }

    /// Resolves with the reason when the node cannot go on.
    pub async fn failed(&self) -> String {
        self.tasks.failed().await
    }
}

/// A log that has lost a thread makes a node that looks alive and is not.
async fn watch(log: Log, tasks: Tasks) {
    tokio::select! {
        reason = log.failed() => tasks.fail(reason),
        () = tasks.stopping() => {}
    }
}
