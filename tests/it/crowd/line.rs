//! One connection that may break at any moment, which is then a value and not the end of the test.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::PATIENCE;

/// Between two attempts to reach a server that is down; it does not tell when it is back.
const KNOCK_PAUSE: Duration = Duration::from_millis(20);

/// Attempts before the server counts as gone for good: as long as `PATIENCE`.
const KNOCKS_MAX: u32 = 1000;

pub struct Line {
    socket: WebSocketStream<TcpStream>,
    /// By its hello.
    pub node: String,
}

/// The connection has ended, in order or not.
#[derive(Debug)]
pub struct Gone;

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
        let stream = TcpStream::connect(address).await.map_err(|_| Gone)?;
        stream.set_nodelay(true).map_err(|_| Gone)?;
        let upgrade = client_async(format!("ws://{address}/ws"), stream);
        let (socket, _) = upgrade.await.map_err(|_| Gone)?;
        let mut line = Self { socket, node: String::new() };
        let hello = line.next().await?;
        line.node = hello["node"].as_str().ok_or(Gone)?.to_owned();
        Ok(line)
    }

    pub async fn send(&mut self, command: &Value) -> Result<(), Gone> {
        self.socket.send(Message::text(command.to_string())).await.map_err(|_| Gone)
    }

    /// Several in one write.
    pub async fn send_all(&mut self, commands: &[Value]) -> Result<(), Gone> {
        for command in commands {
            self.socket.feed(Message::text(command.to_string())).await.map_err(|_| Gone)?;
        }
        self.socket.flush().await.map_err(|_| Gone)
    }

    /// The next frame. Cancel-safe, as reading from the stream is.
    pub async fn next(&mut self) -> Result<Value, Gone> {
        let text = self.next_text().await?;
        Ok(serde_json::from_str(&text).expect("a frame that is not JSON"))
    }

    /// The same, as it came.
    pub async fn next_text(&mut self) -> Result<Utf8Bytes, Gone> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) if !other.is_close() => panic!("the server sent {other:?}"),
                _ => return Err(Gone),
            }
        }
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
