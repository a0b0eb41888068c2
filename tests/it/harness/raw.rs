//! A bare TCP connection: HTTP by hand, and WebSocket frames that no library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::PATIENCE;

pub struct Raw {
    stream: TcpStream,
    /// Read but not asked for yet.
    buffer: Vec<u8>,
}

/// The head of an HTTP answer.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub text: String,
}

/// A frame as it came: first byte (FIN, RSV, opcode) and payload.
#[derive(Debug, PartialEq, Eq)]
pub struct RawFrame {
    pub first: u8,
    pub payload: Vec<u8>,
}

/// One request on a connection of its own: status, head and body of the answer.
pub async fn get(addr: SocketAddr, path: &str) -> (Head, String) {
    let mut raw = Raw::connect(addr).await;
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")).await;
    let head = raw.read_head().await;
    let body = raw.read_to_end().await;
    (head, String::from_utf8(body).expect("the body is not UTF-8"))
}

/// What `/readyz` of a node that is ready answers, soon if not at once: a log that has not answered
/// for a second counts as away, though the whole machine stood still.
pub async fn ready(addr: SocketAddr) -> (Head, String) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (head, body) = get(addr, "/readyz").await;
        if head.status == 200 {
            return (head, body);
        }
        assert!(head.status == 503 && Instant::now() < deadline, "{}{body}", head.text);
    }
}

impl Raw {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("cannot connect");
        Self::over(stream)
    }

    /// Over a connection that was made in a way of its own.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Connects and upgrades to a WebSocket; the next bytes are frames.
    pub async fn upgrade(addr: SocketAddr) -> Self {
        let mut raw = Self::connect(addr).await;
        raw.send(upgrade_request(addr, "")).await;
        let head = raw.read_head().await;
        assert_eq!(head.status, 101, "{}", head.text);
        raw
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the server does not take what is sent");
    }

    /// For sends that may meet a closed connection.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let write = self.stream.write_all(bytes.as_ref());
        timeout(PATIENCE, write).await.expect("the server takes nothing")
    }

    /// Sends no more, and goes on reading (`nc -N`).
    pub async fn shut_down(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    pub async fn read_head(&mut self) -> Head {
        self.try_read_head().await.expect("no head")
    }

    /// `None`: the server hung up before the end of it.
    pub async fn try_read_head(&mut self) -> Option<Head> {
        let text = self.read_through(b"\r\n\r\n").await?;
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        Some(Head { status: status.unwrap_or_else(|| panic!("no status in {text}")), text })
    }

    /// A text up to and with that mark; `None` if the server hangs up before it.
    pub async fn read_through(&mut self, mark: &[u8]) -> Option<String> {
        let end = loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|part| part == mark) {
                break at + mark.len();
            }
            if self.read_more().await == 0 {
                return None;
            }
        };
        let text = String::from_utf8(self.buffer.drain(..end).collect());
        Some(text.expect("not UTF-8"))
    }

    /// Everything until the server hangs up.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.read_more().await > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// The server must hang up without saying another byte.
    pub async fn expect_end(&mut self) {
        let rest = self.read_to_end().await;
        assert!(rest.is_empty(), "wanted the end, got {}", rest.escape_ascii());
    }

    /// A frame from us: masked, as clients must.
    pub async fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(masked_frame(first, payload)).await;
    }

    pub async fn read_frame(&mut self) -> RawFrame {
        let head = self.read_exactly(2).await;
        let len = match head[1] {
            126 => usize::from(u16::from_be_bytes(self.read_array().await)),
            127 => usize::try_from(u64::from_be_bytes(self.read_array().await)).unwrap(),
            short => usize::from(short),
        };
        RawFrame { first: head[0], payload: self.read_exactly(len).await }
    }

    async fn read_array<const N: usize>(&mut self) -> [u8; N] {
        self.read_exactly(N).await.try_into().unwrap()
    }

    pub async fn read_exactly(&mut self, len: usize) -> Vec<u8> {
        let read = self.try_read_exactly(len).await;
        read.unwrap_or_else(|| panic!("the end after {} of {len} bytes", self.buffer.len()))
    }

    /// `None`: the server hung up before that.
    pub async fn try_read_exactly(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < len {
            if self.read_more().await == 0 {
                return None;
            }
        }
        Some(self.buffer.drain(..len).collect())
    }

    /// Bytes read, 0 at the end. A reset is an end too: what is behind it is the same nothing.
    async fn read_more(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.buffer);
        timeout(PATIENCE, read).await.expect("the server neither speaks nor hangs up").unwrap_or(0)
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// `headers`: more lines, each ended by CRLF.
pub fn upgrade_request(addr: SocketAddr, headers: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// The bytes of a frame of a client, which must mask what it sends.
pub fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASKED: u8 = 0x80;
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(MASKED | len as u8),
        len @ 126..=0xFFFF => {
            frame.push(MASKED | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(MASKED | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}
