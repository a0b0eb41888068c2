//! The servers of a schedule: PostgreSQL, Redis, three nodes as processes, and a proxy on each way
//! between them and to the clients.
//!
//! It does nothing to them by itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client as RedisClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_postgres::{Client as Sql, NoTls};

use crate::fault::{Link, To};
use crate::harness::postgres::Postgres;
use crate::harness::process::{Exit, Process};
use crate::harness::proxy::{Pieces, Proxy};
use crate::harness::redis::Redis;
use crate::harness::sandbox::sandbox;
use crate::round::Kind;
use crate::schedule::NODES;

/// What the runner itself may wait for a server.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Before a node that could not start is started again, as a supervisor does it.
const START_PAUSE: Duration = Duration::from_millis(100);
/// Starts of one node in a row, before it counts as broken.
const STARTS_MAX: usize = 100;
/// What a node may ask of the system when a crew is sent to it: 1.5 GiB, in KiB.
const CREW_LIMIT: &str = "ulimit -v 1572864";

/// A PostgreSQL, and the disk that it is on.
pub struct Server {
    pub postgres: Postgres,
    #[cfg(target_os = "linux")]
    pub disk: crate::harness::disk::Disk,
}

/// A log of one node, and the disk that it is on.
#[cfg(target_os = "linux")]
pub struct Embedded {
    pub disk: crate::harness::disk::Disk,
    folder: tempfile::TempDir,
}

/// There is no such disk here.
#[cfg(not(target_os = "linux"))]
pub struct Embedded {
    folder: tempfile::TempDir,
}

pub struct Site<'a> {
    /// Whoever does something to a server holds it meanwhile.
    pub postgres: Mutex<&'a mut Server>,
    pub redis: Mutex<Redis>,
    pub nodes: Vec<Node>,
    /// The log, if there is but one node, that needs no PostgreSQL.
    pub embedded: Option<Embedded>,
    /// Whether the nodes know of it.
    pub has_redis: bool,
    postgres_url: String,
    pub redis_url: String,
}

pub struct Node {
    pub name: String,
    environment: Vec<(String, String)>,
    /// What a shell does before it becomes the process.
    script: Option<&'static str>,
    /// `None` while it is down.
    pub process: Mutex<Option<Process>>,
    /// What earlier processes of it said.
    log: Mutex<String>,
    redis: Proxy,
    postgres: Proxy,
    clients: Proxy,
    /// Held by whoever stops or restarts it, or disturbs that link of it.
    pub busy: Mutex<()>,
    pub links: [Mutex<()>; 3],
}

impl<'a> Site<'a> {
    /// A new database, a new Redis, and nodes that have not started.
    pub async fn new(server: &'a mut Server, kind: Kind, has_redis: bool) -> Self {
        let postgres_url = server.postgres.database().await;
        let database = postgres_url.rsplit('/').next().unwrap().to_owned();
        let redis = Redis::start(&[]).await;
        let (redis_port, postgres_port) = (redis.port(), server.postgres.port());
        // A crew has more to say than anybody wants to keep.
        let (level, script) = match kind {
            Kind::Faults | Kind::Disk => ("verbatim=debug", None),
            Kind::Crew => ("info", Some(CREW_LIMIT)),
        };
        let embedded = (kind == Kind::Disk).then(Embedded::new);
        let node = async |number: usize| {
            let name = format!("n{}", number + 1);
            let redis = Proxy::to(redis_port, Pieces::Chunks).await;
            let postgres = Proxy::to(postgres_port, Pieces::Chunks).await;
            let database = format!("postgres://postgres@127.0.0.1:{}/{database}", postgres.port());
            let mut environment = vec![
                ("VERBATIM_NODE__ID".to_owned(), name.clone()),
                ("VERBATIM_TRACE__LEVEL".to_owned(), level.to_owned()),
            ];
            match &embedded {
                Some(embedded) => environment.extend(embedded.environment()),
                None => environment.push(("DATABASE_URL".to_owned(), database)),
            }
            let redis_url = format!("redis://127.0.0.1:{}/0", redis.port());
            environment.extend(has_redis.then_some(("REDIS_URL".to_owned(), redis_url)));
            // Until it has started there is nothing behind it.
            let clients = Proxy::tight(1).await;
            let (process, log) = (Mutex::default(), Mutex::default());
            let (busy, links) = Default::default();
            Node { name, environment, script, process, log, redis, postgres, clients, busy, links }
        };
        let mut nodes = Vec::new();
        for number in 0..if embedded.is_some() { 1 } else { NODES } {
            nodes.push(node(number).await);
        }
        let redis_url = redis.url();
        Self {
            postgres: Mutex::new(server),
            redis: Mutex::new(redis),
            nodes,
            embedded,
            has_redis,
            postgres_url,
            redis_url,
        }
    }

    pub async fn start(&self) {
        futures_util::future::join_all(self.nodes.iter().map(Node::start)).await;
    }

    /// Where clients find the nodes.
    pub fn urls(&self) -> Vec<String> {
        let url = |node: &Node| format!("ws://127.0.0.1:{}", node.clients.port());
        self.nodes.iter().map(url).collect()
    }

    /// Where the nodes listen themselves.
    pub async fn addrs(&self) -> Vec<SocketAddr> {
        let mut addrs = Vec::new();
        for node in &self.nodes {
            addrs.extend(node.process.lock().await.as_ref().map(|process| process.addr));
        }
        addrs
    }

    pub fn proxy(&self, link: Link) -> &Proxy {
        let node = &self.nodes[link.node];
        match link.to {
            To::Redis => &node.redis,
            To::Postgres => &node.postgres,
            To::Clients => &node.clients,
        }
    }

    /// A connection of the runner's own, not by way of a proxy. `None`: it is away.
    pub async fn sql(&self) -> Option<Sql> {
        let connect = tokio_postgres::connect(&self.postgres_url, NoTls);
        let (sql, connection) = tokio::time::timeout(ASK_TIMEOUT, connect).await.ok()?.ok()?;
        // It ends with the client, or with the server.
        tokio::spawn(connection);
        Some(sql)
    }

    /// What the nodes that answer say of a metric, all together.
    pub async fn metric_sum(&self, name: &str) -> u64 {
        let mut sum = 0;
        for addr in self.addrs().await {
            let text = ask(addr, "/metrics").await.unwrap_or_default();
            let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            sum += lines.filter_map(|value| value.parse::<u64>().ok()).sum::<u64>();
        }
        sum
    }

    pub async fn redis(&self) -> Option<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ASK_TIMEOUT))
            .set_response_timeout(Some(ASK_TIMEOUT));
        let client = RedisClient::open(&*self.redis_url).unwrap();
        client.get_multiplexed_async_connection_with_config(&config).await.ok()
    }
}

impl Embedded {
    fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            disk: crate::harness::disk::Disk::new(),
            folder: sandbox().folder("embedded"),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("verbatim.db")
    }

    fn environment(&self) -> Vec<(String, String)> {
        let path = self.path().display().to_string();
        #[cfg_attr(not(target_os = "linux"), expect(unused_mut))]
        let mut environment = vec![("VERBATIM_LOG__PATH".to_owned(), path)];
        #[cfg(target_os = "linux")]
        environment.extend(self.disk.environment());
        environment
    }
}

impl Server {
    pub async fn start() -> Self {
        let settings = ["autovacuum_naptime=5s"];
        #[cfg(target_os = "linux")]
        {
            let disk = crate::harness::disk::Disk::new();
            let postgres = Postgres::start_on(&disk, &settings).await;
            Self { postgres, disk }
        }
        #[cfg(not(target_os = "linux"))]
        Self { postgres: Postgres::start(&settings).await }
    }
}

/// What is answered there, whole. `None`: nothing, or not in time.
pub async fn ask(addr: SocketAddr, path: &str) -> Option<String> {
    let answer = async {
        let mut stream = TcpStream::connect(addr).await?;
        let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    tokio::time::timeout(ASK_TIMEOUT, answer).await.ok()?.ok()
}

impl Node {
    /// Starts it, again and again while it cannot.
    pub async fn start(&self) {
        let mut process = self.process.lock().await;
        for _ in 0..STARTS_MAX {
            match Process::try_start(self.script, self.environment.clone()).await {
                Ok(started) => {
                    self.clients.retarget(started.addr.port());
                    *process = Some(started);
                    return;
                }
                Err(output) => {
                    self.log.lock().await.push_str(&output);
                    tokio::time::sleep(START_PAUSE).await;
                }
            }
        }
        panic!("{} does not start:\n{}", self.name, self.log.lock().await);
    }

    /// Takes the process away, which has ended or is about to, and its log with it.
    pub async fn ended(&self) -> Option<Exit> {
        let mut process = self.process.lock().await.take()?;
        let exit = process.wait_exit().await;
        let mut log = self.log.lock().await;
        log.push_str(&process.output());
        log.push_str(&format!("-- {} ended: {exit:?}\n", self.name));
        Some(exit)
    }

    /// Everything that it ever said.
    pub async fn log(&self) -> String {
        let mut log = self.log.lock().await.clone();
        if let Some(process) = &*self.process.lock().await {
            log.push_str(&process.output());
        }
        log
    }
}
