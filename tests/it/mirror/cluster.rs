//! Nodes that share a database and a Redis, and what a test wants to know of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use verbatim::config::{Config, Secret};

use crate::crowd::Outcome;
use crate::harness::node::TestNode;
use crate::harness::process::Process;
use crate::harness::proxy::Proxy;
use crate::harness::{Client, PATIENCE, World, raw, services};

/// Shorter than the default, so that a test need not wait for the default's three.
pub const HEARTBEAT: Duration = Duration::from_millis(200);

/// Between two looks at what does not tell when it changes.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

pub struct Cluster {
    pub world: World,
    /// Without a proxy.
    redis_url: String,
    /// The stream and the channel.
    pub events: String,
}

impl Cluster {
    /// On the PostgreSQL and the Redis that all tests share.
    pub async fn shared() -> Self {
        Self::with_redis(&services::redis_url().await).await
    }

    /// On a Redis of one's own.
    pub async fn with_redis(url: &str) -> Self {
        Self::on(&services::database().await, url)
    }

    pub fn on(database: &str, redis_url: &str) -> Self {
        let mut world = World::on(database);
        let config = &mut world.config;
        config.mirror.url = Secret(redis_url.to_owned());
        config.mirror.heartbeat_ms = HEARTBEAT.as_millis() as u64;
        // A crowd talks faster than a person.
        config.session.commands_per_second = 1_000_000;
        config.session.commands_burst = 1_000_000;
        let events = format!("{}:events", config.mirror.prefix);
        Self { world, redis_url: redis_url.to_owned(), events }
    }

    /// For tests in which nothing is amiss: a machine that stands still is no reason to doubt.
    pub fn trusting(mut self) -> Self {
        let mirror = &mut self.world.config.mirror;
        (mirror.heartbeat_ms, mirror.timeout_ms) = (10_000, 30_000);
        self
    }

    pub async fn node(&self, id: &str) -> TestNode {
        self.node_with(id, |_| {}).await
    }

    pub async fn node_with(&self, id: &str, change: impl FnOnce(&mut Config)) -> TestNode {
        let id = |config: &mut Config| config.node.id = id.to_owned();
        self.world.node_with(|config| (id(config), change(config)).1).await
    }

    pub async fn three_nodes(&self) -> [TestNode; 3] {
        tokio::join!(self.node("n1"), self.node("n2"), self.node("n3")).into()
    }

    /// What the program must be told to be such a node.
    pub fn environment(&self, id: &str) -> Vec<(String, String)> {
        let mut environment = self.world.environment();
        let mirror = &self.world.config.mirror;
        let more = [
            ("VERBATIM_NODE__ID", id.to_owned()),
            ("REDIS_URL", mirror.url.0.clone()),
            ("VERBATIM_MIRROR__HEARTBEAT_MS", mirror.heartbeat_ms.to_string()),
            ("VERBATIM_MIRROR__TIMEOUT_MS", mirror.timeout_ms.to_string()),
            ("VERBATIM_MIRROR__OUTBOX_POLL_MS", mirror.outbox_poll_ms.to_string()),
            ("VERBATIM_SESSION__COMMANDS_PER_SECOND", "1000000".to_owned()),
            ("VERBATIM_SESSION__COMMANDS_BURST", "1000000".to_owned()),
        ];
        environment.extend(more.map(|(name, value)| (name.to_owned(), value)));
        environment
    }

    pub async fn process(&self, id: &str) -> Process {
        Process::start(self.environment(id)).await
    }

    /// Its own connection, not by way of any proxy.
    pub async fn redis(&self) -> MultiplexedConnection {
        redis(&self.redis_url).await
    }

    /// The events of the stream in its order: room and seq.
    pub async fn stream(&self) -> Vec<(String, u64)> {
        type Entries = Vec<(String, BTreeMap<String, String>)>;
        let mut redis = self.redis().await;
        let mut all = redis::cmd("XRANGE");
        let all: Entries =
            all.arg(&self.events).arg("-").arg("+").query_async(&mut redis).await.unwrap();
        let event = |fields: &BTreeMap<String, String>| {
            (fields["room"].clone(), fields["seq"].parse().unwrap())
        };
        all.iter().map(|(_, fields)| event(fields)).collect()
    }

    pub async fn sql(&self) -> tokio_postgres::Client {
        let url = &self.world.config.log.url.0;
        let (sql, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("no PostgreSQL");
        // It ends with the client.
        tokio::spawn(connection);
        sql
    }

    /// Rows that wait in the outbox.
    pub async fn outbox_len(&self) -> i64 {
        self.sql().await.query_one("select count(*) from outbox", &[]).await.unwrap().get(0)
    }

    pub async fn outbox_is_empty(&self) {
        until("an empty outbox", async || self.outbox_len().await, |len| *len == 0).await;
    }

    /// The stream holds each event of the room, at least once, in whatever order.
    pub async fn assert_streamed(&self, room: &str, last_seq: u64) {
        let streamed = self.stream().await.into_iter().filter(|(name, _)| name == room);
        let seqs: BTreeSet<u64> = streamed.map(|(_, seq)| seq).collect();
        assert!(seqs.iter().copied().eq(1..=last_seq), "{room} in the stream: {seqs:?}");
    }
}

pub async fn redis(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    // The library's own patience, half a second, is short on a busy machine.
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let connect = client.get_multiplexed_async_connection_with_config(&patient);
    connect.await.expect("no Redis")
}

/// Settings of a node whose Redis is behind that proxy.
pub fn behind(proxy: &Proxy) -> impl FnOnce(&mut Config) + use<> {
    let url = format!("redis://127.0.0.1:{}/0", proxy.port());
    move |config| config.mirror.url = Secret(url)
}

/// Settings of a node that must hear of everything by way of Redis: it does not look into the
/// outbox by itself, or compare its rooms with the log.
pub fn by_redis_alone(config: &mut Config) {
    config.mirror.outbox_poll_ms = 600_000;
}

pub fn at(address: SocketAddr) -> watch::Receiver<SocketAddr> {
    watch::channel(address).1
}

pub fn addresses(nodes: &[TestNode]) -> Vec<watch::Receiver<SocketAddr>> {
    nodes.iter().map(|node| at(node.addr)).collect()
}

/// Looks until it is as wanted.
pub async fn until<T: Debug>(
    what: &str,
    look: impl AsyncFn() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look().await;
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what} in vain: {found:?}");
        sleep(LOOK_PAUSE).await;
    }
}

/// What `/readyz` says of the mirror. A node without Redis serves all the same.
pub async fn mirror(node: SocketAddr) -> String {
    let (_, body) = raw::get(node, "/readyz").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    body["mirror"].as_str().unwrap().to_owned()
}

pub async fn mirror_is(node: SocketAddr, wanted: &str) {
    until(&format!("mirror {wanted:?}"), async || mirror(node).await, |is| is == wanted).await;
}

/// One number of `/metrics`; 0 if it is not there (yet).
pub async fn metric(node: SocketAddr, name: &str) -> u64 {
    let (_, body) = raw::get(node, "/metrics").await;
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |number| number.parse().unwrap())
}

/// The founder makes the room by a node, and others join and follow it by theirs.
pub async fn gather(room: &str, nodes: &[SocketAddr]) -> Vec<Client> {
    let mut clients = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let mut client = Client::greeted(*node).await;
        let user = number.to_string();
        if number == 0 {
            client.send(json!({"type": "create", "user_id": user, "room": room})).await;
            client.expect(json!({"type": "ack"})).await;
        }
        client.send(json!({"type": "join", "user_id": user, "room": room, "since": 0})).await;
        client.read_until(json!({"type": "joined"})).await;
        clients.push(client);
    }
    // Everyone has seen everyone come.
    let last_seq = nodes.len() as u64;
    for client in &mut clients {
        client.read_until(json!({"room": room, "seq": last_seq})).await;
    }
    clients
}

/// Says it in that room; that it was written is known on return.
pub async fn say(client: &mut Client, room: &str, text: &str) {
    say_as(client, "0", room, text).await;
}

pub async fn say_as(client: &mut Client, user: &str, room: &str, text: &str) {
    let id = format!("{:x}", rand::random::<u64>());
    let message = json!({"type": "message", "user_id": user, "room": room, "message": text});
    let mut command = message;
    command["id"] = id.clone().into();
    client.send(command).await;
    client.read_until(json!({"type": "ack", "id": id})).await;
}

/// The next thing it is shown is that text.
pub async fn hears(client: &mut Client, text: &str) {
    client.expect(json!({"type": "message", "message": text})).await;
}

/// What must be true whatever Redis went through.
pub fn assert_unnoticed(outcome: &Outcome) {
    outcome.assert_kept();
    assert_eq!(outcome.reconnects, 0, "clients were disconnected");
}
