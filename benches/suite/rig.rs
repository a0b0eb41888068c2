//! Servers to measure: nodes of ours, as the real program with its default settings, and the peers
//! of `benches/peers`. Each is started for one run and stopped behind it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::harness::daemon::{Daemon, find_program, free_port};
use crate::harness::postgres::Postgres;
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::sandbox::sandbox;

/// What the databases of the tests have otherwise, for speed; and commits know when they were.
const POSTGRES: [&str; 6] = [
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "shared_buffers=256MB",
    "track_commit_timestamp=on",
    "max_wal_size=4GB",
];
/// As docker-compose.yml has it.
const REDIS: [&str; 2] = ["--appendonly", "yes"];
const TERM: (Signal, &str) = (Signal::TERM, "TERM");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Ours, one node, on SQLite.
    Embedded,
    /// Ours, so many nodes, on PostgreSQL and Redis.
    Postgres(usize),
    Nats,
    SocketIo,
    Floor,
}

impl Server {
    /// As it is called in tables and plots.
    pub fn name(self) -> String {
        match self {
            Self::Embedded => "verbatim, SQLite".to_owned(),
            Self::Postgres(1) => "verbatim, PostgreSQL + Redis".to_owned(),
            Self::Postgres(nodes) => format!("verbatim, {nodes} nodes"),
            Self::Nats => "nats-server".to_owned(),
            Self::SocketIo => "Socket.IO + redis-streams".to_owned(),
            Self::Floor => "bare broadcaster".to_owned(),
        }
    }

    pub fn dialect(self) -> &'static str {
        match self {
            Self::Embedded | Self::Postgres(_) => "verbatim",
            Self::Nats => "nats",
            Self::SocketIo => "socketio",
            Self::Floor => "floor",
        }
    }

    /// What it was told has been written to disk before anybody hears of it.
    pub fn is_durable(self) -> bool {
        self.dialect() == "verbatim"
    }
}

/// A server that runs, until it is dropped.
pub struct Running {
    pub urls: Vec<String>,
    pub pids: Vec<u32>,
    /// Of ours.
    pub nodes: Vec<Process>,
    /// The URL of the database, if it is PostgreSQL.
    pub database: Option<String>,
    /// Stopped in this order, when the nodes are.
    _parts: Vec<Part>,
}

/// What is kept only to be stopped.
#[expect(dead_code, reason = "dropping it is its use")]
enum Part {
    Daemon(Daemon),
    Redis(Redis),
    Postgres(Postgres),
}

impl Running {
    pub async fn start(server: Server) -> Result<Self> {
        let running = match server {
            Server::Embedded => {
                let nodes = vec![Process::start(Vec::new()).await];
                Self::ours(nodes, None, Vec::new())
            }
            Server::Postgres(count) => Self::cluster(count).await,
            Server::Nats => Self::nats()?,
            Server::SocketIo => Self::socketio().await?,
            Server::Floor => Self::floor()?,
        };
        // The databases have written their first files by then, and are quiet.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(running)
    }

    fn ours(nodes: Vec<Process>, database: Option<String>, parts: Vec<Part>) -> Self {
        Self {
            urls: nodes.iter().map(|node| format!("ws://{}/ws", node.addr)).collect(),
            pids: nodes.iter().map(Process::pid).collect(),
            nodes,
            database,
            _parts: parts,
        }
    }

    fn peer(daemon: Daemon, port: u16, mut parts: Vec<Part>) -> Self {
        let (urls, pids) = (vec![format!("ws://127.0.0.1:{port}")], vec![daemon.pid()]);
        parts.insert(0, Part::Daemon(daemon));
        Self { urls, pids, nodes: Vec::new(), database: None, _parts: parts }
    }

    async fn cluster(count: usize) -> Self {
        let postgres = Postgres::start(&POSTGRES).await;
        let redis = Redis::start(&REDIS).await;
        let database = postgres.database().await;
        let mut nodes = Vec::new();
        for place in 1..=count {
            let environment = [
                ("VERBATIM_NODE__ID", format!("n{place}")),
                ("DATABASE_URL", database.clone()),
                ("REDIS_URL", redis.url()),
            ];
            let environment = environment.map(|(name, value)| (name.to_owned(), value));
            nodes.push(Process::start(environment.to_vec()).await);
        }
        Self::ours(nodes, Some(database), vec![Part::Redis(redis), Part::Postgres(postgres)])
    }

    fn nats() -> Result<Self> {
        let (port, ws_port) = (free_port(), free_port());
        let template = std::fs::read_to_string(peers().join("nats/nats.conf"))?;
        let text = template
            .replace("${PORT}", &port.to_string())
            .replace("${WS_PORT}", &ws_port.to_string());
        let folder = sandbox().folder("nats").keep();
        std::fs::write(folder.join("nats.conf"), text)?;
        let program = find_program("nats-server", &["/usr/sbin".into()]);
        let mut command = Command::new(program);
        command.arg("-c").arg(folder.join("nats.conf"));
        let daemon = daemon(command, &folder, ws_port)?;
        Ok(Self::peer(daemon, ws_port, Vec::new()))
    }

    async fn socketio() -> Result<Self> {
        let program = peers().join("socketio/server.js");
        let modules = peers().join("socketio/node_modules");
        ensure!(modules.exists(), "Socket.IO is not installed: run `make bench-deps`");
        let (port, redis) = (free_port(), Redis::start(&REDIS).await);
        let mut command = Command::new(find_program("node", &[]));
        command.arg(program).env("PORT", port.to_string()).env("REDIS_URL", redis.url());
        command.env("NODE_ENV", "production");
        let daemon = daemon(command, &sandbox().folder("socketio").keep(), port)?;
        Ok(Self::peer(daemon, port, vec![Part::Redis(redis)]))
    }

    fn floor() -> Result<Self> {
        let port = free_port();
        let mut command = Command::new(example("floor")?);
        command.arg(format!("127.0.0.1:{port}"));
        let daemon = daemon(command, &sandbox().folder("floor").keep(), port)?;
        Ok(Self::peer(daemon, port, Vec::new()))
    }
}

/// One of the programs that `benches/peers` has beside ours.
pub fn example(name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_BIN_EXE_verbatim")).parent();
    let program = folder.context("a program has a folder")?.join("examples").join(name);
    ensure!(program.exists(), "{} is not built: run `make bench`", program.display());
    Ok(program)
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers")
}

/// Starts it, and waits until somebody listens at that port.
fn daemon(command: Command, folder: &Path, port: u16) -> Result<Daemon> {
    let is_ready = |_| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    Daemon::start(command, &folder.join("log"), TERM, is_ready)
        .map_err(|not_ready| anyhow::anyhow!("a server did not start:\n{}", not_ready.log))
}
