//! One node: the only place where the parts are wired together.
//!
//! It has no logic of its own. Nothing in it is global, so several nodes can run in one process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::budget::Budgets;
use crate::clock;
use crate::config::Config;
use crate::desk::Desk;
use crate::desk::pace::Pace;
use crate::doubt::Doubts;
use crate::feed::Feed;
use crate::hub::Hub;
use crate::lane::Lanes;
use crate::log::{Closed, Log, OpenError};
use crate::metrics::Metrics;
use crate::mirror::{self, Mirror, Signal};
use crate::outbox::{Outbox, Refusals, Sweeper};
use crate::relay::Relay;
use crate::replay::Replay;
use crate::server::{Entrance, Server};
use crate::signals::Signals;
use crate::tasks::Tasks;
use crate::trim;

/// A running node. Dropping it does not stop it; call `stop`.
pub struct Node {
    address: SocketAddr,
    internal_address: Option<SocketAddr>,
    tasks: Tasks,
    log_closed: Closed,
}

/// Signals to the other nodes, and from them.
type ToPeers = (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Signal>);

/// Why a node cannot start: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error(transparent)]
    Mirror(#[from] mirror::OpenError),
    #[error("mirror.url (REDIS_URL) needs a shared log: set log.url (DATABASE_URL) as well")]
    NoOutbox,
    #[error("the mirror stopped while the node was starting")]
    MirrorEnded,
    #[error("cannot listen on {0} (server.internal_listen): {1}")]
    Internal(String, std::io::Error),
    #[error("the listening socket is unusable")]
    Listener(#[from] std::io::Error),
}

impl Node {
    /// Opens the log and serves on `listener`. The settings have passed `Config::check`. The caller
    /// passes the metrics because it counts some of its own before the node exists.
    pub async fn start(
        config: Config,
        listener: TcpListener,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let tasks = Tasks::new(metrics.panics.clone());
        let started = Self::wire(config, listener, metrics, tasks.clone()).await;
        if started.is_err() {
            // Tasks that were already started must not outlive this attempt.
            tasks.stop();
        }
        started
    }

    async fn wire(
        config: Config,
        listener: TcpListener,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Result<Self, StartError> {
        let address = listener.local_addr()?;
        let internal = listen_internally(&config.server.internal_listen).await?;
        let internal_address = internal.as_ref().map(TcpListener::local_addr).transpose()?;
        let log = Log::open(&config).await?;
        let budgets = Budgets::new(&config);
        let hub = Hub::new(config.hub.clone(), budgets.clone(), metrics.clone(), tasks.clone());
        watch_memory(&budgets, &metrics, &tasks);
        let relay = Relay::new(
            hub.clone(),
            log.clone(),
            config.hub.clone(),
            metrics.clone(),
            tasks.clone(),
        );
        let (mirror, signals) = match config.mirror.url.is_empty() {
            true => {
                if log.is_shared() {
                    tracing::warn!(
                        "DATABASE_URL is set and REDIS_URL is not: events of other nodes on this \
                         database are found by polling, up to a second late; set REDIS_URL if \
                         there are other nodes"
                    );
                    Doubts::start_always(&log, &hub, &relay, &tasks);
                }
                (None, None)
            }
            false => {
                let parts =
                    start_mirror(&config, &budgets, &log, &hub, &relay, &metrics, &tasks).await?;
                (Some(parts.0), Some(parts.1))
            }
        };
        let signals = Signals::start(&config, &hub, &log, signals, &metrics, &tasks);
        let lanes = Lanes::start(&config.lane, &log, &relay, mirror.as_ref(), &metrics, &tasks);
        let (page_len, unsent) = (config.hub.page_len, budgets.unsent.clone());
        let replay = Replay::new(log.clone(), page_len, unsent, metrics.clone());
        let (name, watched, log_closed) = (log.name(), log.clone(), log.closed());
        let node_id = config.node.id.clone();
        let status = mirror.as_ref().map(Mirror::watch);
        let clock_metrics = metrics.clone();
        let pace = Pace::new(&config, Instant::now());
        let desk = Desk {
            config,
            pace,
            budgets,
            log,
            lanes,
            hub,
            relay,
            replay,
            signals,
            status,
            metrics,
            tasks: tasks.clone(),
        };
        let server = Server::new(Arc::new(desk));
        tasks.spawn("accept", server.clone().run(listener, Entrance::Public));
        if let Some(listener) = internal {
            tasks.spawn("accept internal", server.run(listener, Entrance::Internal));
        }
        tasks.spawn("clock", clock::run(watched.clone(), clock_metrics, tasks.clone()));
        tasks.spawn("log watch", watch(watched, tasks.clone()));
        tracing::info!(node = node_id, log = name, %address, "ready");
        Ok(Self { address, internal_address, tasks, log_closed })
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The address of the internal listener, if there is one.
    pub fn internal_addr(&self) -> Option<SocketAddr> {
        self.internal_address
    }

    /// Stops accepting, says goodbye to every client, lets the lanes finish what they took, closes
    /// every socket and the log, and returns when nothing runs any more. The caller sets the
    /// deadline.
    pub async fn stop(&self) {
        self.tasks.stop();
        self.tasks.ended().await;
        self.log_closed.wait().await;
    }

    /// Resolves when the node cannot continue, with the reason.
    pub async fn failed(&self) -> String {
        self.tasks.failed().await
    }
}

async fn listen_internally(listen: &str) -> Result<Option<TcpListener>, StartError> {
    if listen.is_empty() {
        return Ok(None);
    }
    let bound = TcpListener::bind(listen).await;
    bound.map(Some).map_err(|err| StartError::Internal(listen.to_owned(), err))
}

/// Starts the mirror and the tasks between it, the log and the relay. Returns when the node has
/// read what it missed while it was down, or knows that Redis cannot be reached.
async fn start_mirror(
    config: &Config,
    budgets: &Budgets,
    log: &Log,
    hub: &Arc<Hub>,
    relay: &Arc<Relay>,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Result<(Mirror, ToPeers), StartError> {
    let outbox = || log.outbox().ok_or(StartError::NoOutbox);
    let identity = log.identity().ok_or(StartError::NoOutbox)?;
    let (looked_into, swept) = (outbox()?, outbox()?);
    let (mirror, streams) = Mirror::start(config, identity, budgets, metrics, tasks)?;
    let doubts = Doubts::start(log, hub, relay, tasks);
    let feed = Feed { incoming: streams.incoming, relay: relay.clone(), doubts: doubts.clone() };
    tasks.spawn("feed", feed.run());
    let poll = Duration::from_millis(config.mirror.outbox_poll_ms);
    doubts.raise_by(mirror.watch(), poll, tasks);
    let outbox = Outbox {
        outbox: looked_into,
        mirrored: streams.mirrored,
        status: mirror.watch(),
        relay: relay.clone(),
        doubts,
        poll,
        tasks: tasks.clone(),
    };
    tasks.spawn("outbox", outbox.run());
    let sweeper = Sweeper {
        outbox: swept,
        mirror: mirror.clone(),
        config: config.mirror.clone(),
        metrics: metrics.clone(),
        refusals: Refusals::default(),
        tasks: tasks.clone(),
    };
    tasks.spawn("sweep", sweeper.run());
    match streams.started.await {
        Ok(started) => started?,
        // The follower has ended, and has logged why.
        Err(_) => return Err(StartError::MirrorEnded),
    }
    Ok((mirror, streams.signals))
}

/// Keeps the memory held for clients within its limits, and returns freed memory to the system.
fn watch_memory(budgets: &Budgets, metrics: &Arc<Metrics>, tasks: &Tasks) {
    let (budgets, metrics, stop) = (budgets.clone(), metrics.clone(), tasks.clone());
    tasks.spawn("memory", async move {
        tokio::select! {
            () = budgets.unsent.relieve(metrics.evicted("unsent")) => {}
            () = budgets.inbound.relieve(metrics.evicted("inbound")) => {}
            () = trim::run(&budgets, &metrics) => {}
            () = stop.stopping() => {}
        }
    });
}

/// Without its threads the log answers nothing, but the node looks alive. So the node must fail.
async fn watch(log: Log, tasks: Tasks) {
    tokio::select! {
        reason = log.failed() => tasks.fail(reason),
        () = tasks.stopping() => {}
    }
}
