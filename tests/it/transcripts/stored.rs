//! What a conversation leaves behind: the rows of the log, the entries and messages of Redis.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub};
use tokio::time::timeout;
use tokio_postgres::NoTls;
use verbatim::config::LogConfig;

use super::shown::text;
use crate::harness::PATIENCE;
use crate::mirror::cluster::{redis as connect, until};

/// There is no address in what is stored.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Everything but times, and the numbers that stand for rooms.
const TABLES: [(&str, &str, &str); 3] = [
    ("rooms", "name, created_by, last_seq, message_count, member_count", "rooms order by name"),
    (
        "members",
        "name, user_id, joined_seq, read_seq, role",
        "members join rooms on rooms.id = room_id order by name, user_id",
    ),
    (
        "events",
        "name, seq, type, user_id, client_id, body, target_seq, messages",
        "events join rooms on rooms.id = room_id order by name, seq",
    ),
];

/// Each table, with its columns and its rows.
pub async fn rows(log: &LogConfig) -> Vec<String> {
    let mut lines = Vec::new();
    for (table, columns, rest) in TABLES {
        let columns: Vec<_> = columns.split(", ").collect();
        let cast = |name: &&str| format!("coalesce(cast({name} as text), 'null')");
        let texts: Vec<_> = columns.iter().map(cast).collect();
        let select = format!("select {} from {rest}", texts.join(" || ' | ' || "));
        lines.push(format!("{table}: {}", columns.join(" | ")));
        let rows = query(log, &select).await;
        lines.extend(rows.iter().map(|row| format!("  {}", text(row, NOBODY))));
    }
    lines
}

async fn query(log: &LogConfig, select: &str) -> Vec<String> {
    if log.url.0.is_empty() {
        let file = rusqlite::Connection::open(&log.path).unwrap();
        let mut select = file.prepare(select).unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        return rows.map(|row| row.unwrap()).collect();
    }
    let (client, connection) = tokio_postgres::connect(&log.url.0, NoTls).await.unwrap();
    // It ends with the client.
    tokio::spawn(connection);
    client.query(select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The Redis of a node, as a stranger sees it.
pub struct Redis {
    commands: MultiplexedConnection,
    channel: PubSub,
    key: String,
}

impl Redis {
    pub async fn new(url: &str, prefix: &str) -> Self {
        let key = format!("{prefix}:events");
        let mut channel = redis::Client::open(url).unwrap().get_async_pubsub().await.unwrap();
        channel.subscribe(&key).await.unwrap();
        Self { commands: connect(url).await, channel, key }
    }

    /// The stream, when it has so many entries, and as many messages of the channel.
    pub async fn entries(&mut self, len: usize) -> Vec<String> {
        let all = async || {
            let mut all = redis::cmd("XRANGE");
            all.arg(&self.key).arg("-").arg("+");
            let mut commands = self.commands.clone();
            all.query_async::<Vec<(String, Vec<String>)>>(&mut commands).await.unwrap()
        };
        let all = until("the entries", all, |all| all.len() >= len).await;
        let shown = |field: &[String]| match &*field[0] {
            "seal" => format!("seal=<{} characters>", field[1].len()),
            name => format!("{name}={}", text(&field[1], NOBODY)),
        };
        let entry = |(_, fields): &(String, Vec<String>)| {
            let fields: Vec<_> = fields.chunks(2).map(shown).collect();
            format!("entry {}", fields.join(" "))
        };
        let mut lines: Vec<_> = all.iter().map(entry).collect();
        for _ in &all {
            let message = timeout(PATIENCE, self.channel.on_message().next()).await;
            let message = message.expect("no message").expect("the channel has ended");
            let message: String = message.get_payload().unwrap();
            lines.push(format!("message {}", text(&message, NOBODY)));
        }
        lines
    }
}
