//! One connection that may break at any moment, which is then a value and not the end of the test.
//!
//! It is the connection of the Rust client, and not the client above it: what a server repeats or
//! leaves out must reach the record.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;
use verbatim_client::{Connection, Target, Waits};

use crate::harness::PATIENCE;

/// Between two attempts to reach a server that is down; it does not tell when it is back.
const KNOCK_PAUSE: Duration = Duration::from_millis(20);

/// Attempts before the server counts as gone for good: as long as `PATIENCE`.
const KNOCKS_MAX: u32 = 1000;

pub struct Line {
    connection: Connection,
    /// By its hello.
    pub node: String,
}

/// The connection has ended, in order or not.
#[derive(Debug)]
pub struct Gone;

impl From<verbatim_client::Gone> for Gone {
    fn from(_: verbatim_client::Gone) -> Self {
        Self
    }
}

impl Line {
    /// Connects to wherever the server is by then, and takes its hello.
    pub async fn open(address: &watch::Receiver<SocketAddr>) -> Self {
        for _ in 0..KNOCKS_MAX {
            let address = *address.borrow();
            if let Ok(line) = Self::try_open(address).await {
                return line;
            }
            tokio::time::sleep(KNOCK_PAUSE).await;
        }
        panic!("the server is gone");
    }

    async fn try_open(address: SocketAddr) -> Result<Self, Gone> {
        let target = Target::parse(&format!("ws://{address}")).expect("a URL");
        let connection = Connection::open(&target, Waits::default()).await?;
        let mut line = Self { connection, node: String::new() };
        let hello = line.next().await?;
        line.node = hello["node"].as_str().ok_or(Gone)?.to_owned();
        Ok(line)
    }

    pub async fn send(&mut self, command: &Value) -> Result<(), Gone> {
        self.send_all(std::slice::from_ref(command)).await
    }

    /// Several in one write.
    pub async fn send_all(&mut self, commands: &[Value]) -> Result<(), Gone> {
        Ok(self.connection.send(commands.iter().map(Value::to_string)).await?)
    }

    /// The next frame. Cancel-safe, as reading from the connection is.
    pub async fn next(&mut self) -> Result<Value, Gone> {
        let text = self.next_text().await?;
        Ok(serde_json::from_str(&text).expect("a frame that is not JSON"))
    }

    /// The same, as it came.
    pub async fn next_text(&mut self) -> Result<String, Gone> {
        Ok(self.connection.next().await?)
    }

    /// A command with an id and its answer, whatever comes between; for what nothing disturbs.
    pub async fn ask(&mut self, command: Value) -> Value {
        self.send(&command).await.expect("the server hung up");
        loop {
            let frame = timeout(PATIENCE, self.next()).await.expect("no answer");
            let frame = frame.expect("the server hung up");
            if frame["id"] == command["id"] {
                return frame;
            }
        }
    }
}
