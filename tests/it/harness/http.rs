//! HTTP by hand over one kept-alive connection, and event streams read as they come.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::PATIENCE;
use super::raw::{Head, Raw};

/// One connection; requests go over it one after the other.
pub struct Http {
    raw: Raw,
    addr: SocketAddr,
}

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// As it came.
    pub head: String,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// An open event stream.
pub struct Stream {
    raw: Raw,
    pub head: Reply,
    /// Read and not taken yet.
    text: String,
    is_over: bool,
}

/// One block of a stream, between two empty lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: Option<String>,
    pub retry: Option<u64>,
    pub is_comment: bool,
}

impl Reply {
    fn of(head: &Head) -> Self {
        let lines = head.text.lines().filter_map(|line| line.split_once(": "));
        let headers = lines.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Self { status: head.status, head: head.text.clone(), headers, body: String::new() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        let json = serde_json::from_str(&self.body);
        json.unwrap_or_else(|err| panic!("{err}: {} {:?}", self.status, self.body))
    }
}

/// A connection with a receive buffer of that size.
async fn narrow(addr: SocketAddr, receive_bytes: u32) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(receive_bytes).unwrap();
    socket.connect(addr).await.unwrap()
}

/// The head of a request; `headers` are more lines of it.
fn request_head(addr: SocketAddr, line: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{line} HTTP/1.1\r\nHost: {addr}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head
}

/// A whole request, `line` such as `GET /api/rooms`.
pub fn request(
    addr: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> String {
    let mut text = request_head(addr, line, headers);
    if let Some(body) = body {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text + "\r\n" + body.unwrap_or_default()
}

impl Http {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self { raw: Raw::connect(addr).await, addr }
    }

    /// With a receive buffer of that size.
    pub async fn narrow(addr: SocketAddr, receive_bytes: u32) -> Self {
        Self { raw: Raw::over(narrow(addr, receive_bytes).await), addr }
    }

    pub async fn ask(&mut self, line: &str, headers: &[(&str, &str)], body: Option<&str>) -> Reply {
        self.send(request(self.addr, line, headers, body)).await;
        self.read(line.starts_with("HEAD ")).await
    }

    /// As `ask`, of a server that may be gone.
    pub async fn try_ask(
        &mut self,
        line: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Option<Reply> {
        self.send(request(self.addr, line, headers, body)).await;
        self.try_read(line.starts_with("HEAD ")).await
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A refusal may close before everything was sent; what counts is that it can be read.
        let _ = self.raw.try_send(bytes).await;
    }

    /// Sends no more, and goes on reading.
    pub async fn shut_down(&mut self) {
        self.raw.shut_down().await;
    }

    /// The next answer.
    pub async fn read(&mut self, is_head: bool) -> Reply {
        self.try_read(is_head).await.expect("no whole answer")
    }

    /// The next answer, if it is a whole one: `None` for one that is a stream, or breaks off.
    pub async fn try_read(&mut self, is_head: bool) -> Option<Reply> {
        let reply = self.try_read_head().await?;
        match reply.header("content-type") {
            _ if is_head => Some(reply),
            Some("text/event-stream") if reply.header("transfer-encoding").is_some() => None,
            _ => self.try_read_body(reply).await,
        }
    }

    /// The next answer without its body.
    pub async fn try_read_head(&mut self) -> Option<Reply> {
        Some(Reply::of(&self.raw.try_read_head().await?))
    }

    /// That answer with its body.
    pub async fn try_read_body(&mut self, mut head: Reply) -> Option<Reply> {
        let body = match head.header("transfer-encoding") {
            Some(_) => self.try_read_chunks().await?,
            None => {
                let len = head.header("content-length").map_or(0, |len| len.parse().unwrap());
                self.raw.try_read_exactly(len).await?
            }
        };
        head.body = String::from_utf8(body).expect("not UTF-8");
        Some(head)
    }

    async fn try_read_chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let len = self.raw.read_through(b"\r\n").await?;
            let len = usize::from_str_radix(len.trim_end(), 16).expect("not a chunk");
            let chunk = self.raw.try_read_exactly(len + 2).await?;
            body.extend_from_slice(&chunk[..len]);
            if len == 0 {
                return Some(body);
            }
        }
    }

    /// The next answer; of one that comes in chunks the head.
    pub async fn read_begin(&mut self) -> Reply {
        let mut reply = Reply::of(&self.raw.read_head().await);
        if let Some(len) = reply.header("content-length") {
            let body = self.raw.read_exactly(len.parse().unwrap()).await;
            reply.body = String::from_utf8(body).expect("not UTF-8");
        }
        reply
    }

    pub async fn expect_end(&mut self) {
        self.raw.expect_end().await;
    }
}

impl Stream {
    /// Asks for a stream; the head may be a refusal, which then has its body.
    pub async fn open(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap(), path, headers).await
    }

    /// With a receive buffer of that size.
    pub async fn narrow(addr: SocketAddr, path: &str, receive_bytes: u32) -> Self {
        Self::over(narrow(addr, receive_bytes).await, path, &[]).await
    }

    async fn over(stream: TcpStream, path: &str, headers: &[(&str, &str)]) -> Self {
        let addr = stream.peer_addr().unwrap();
        let mut raw = Raw::over(stream);
        raw.send(request(addr, &format!("GET {path}"), headers, None)).await;
        let mut head = Reply::of(&raw.read_head().await);
        if let Some(len) = head.header("content-length") {
            let len = len.parse().unwrap();
            head.body = String::from_utf8(raw.read_exactly(len).await).unwrap();
        }
        Self { raw, head, text: String::new(), is_over: false }
    }

    /// Sends no more, and goes on reading.
    pub async fn shut_down(&mut self) {
        self.raw.shut_down().await;
    }

    /// The next block; `None` at the end in order, with the last chunk of HTTP.
    pub async fn next_block(&mut self) -> Option<Block> {
        Some(Block::parse(&self.next_text().await?))
    }

    /// That block as it came.
    pub async fn next_text(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            if self.is_over {
                assert_eq!(self.text, "", "it ended in the middle of a block");
                return None;
            }
            let len = self.raw.read_through(b"\r\n").await.expect("the stream broke off");
            let len = usize::from_str_radix(len.trim_end(), 16).expect("not a chunk");
            let chunk = self.raw.read_exactly(len + 2).await;
            self.is_over = len == 0;
            self.text.push_str(std::str::from_utf8(&chunk[..len]).expect("not UTF-8"));
        }
    }

    /// The next block that is an event, as its seq, type and data.
    pub async fn next(&mut self) -> Option<(u64, String, Value)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let block = self.next_block().await?;
            assert!(!block.is_comment || Instant::now() < deadline, "there is no event");
            if let (Some(event), Some(data)) = (block.event, block.data) {
                let data: Value = serde_json::from_str(&data).expect("data is not JSON");
                return Some((block.id.map_or(0, |id| id.parse().unwrap()), event, data));
            }
        }
    }

    /// The next event must be that of this seq.
    pub async fn expect(&mut self, seq: u64) -> Value {
        let (id, event, data) = self.next().await.expect("the stream has ended");
        assert_eq!((id, &data["seq"], &data["type"]), (seq, &seq.into(), &event.into()), "{data}");
        data
    }

    /// The next events, and then the end in order.
    pub async fn expect_end(&mut self) {
        assert_eq!(self.next().await, None);
    }
}

impl Block {
    fn parse(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.lines() {
            match line.split_once(':').map(|(name, value)| (name, value.trim_start_matches(' '))) {
                Some(("", _)) => block.is_comment = true,
                Some(("id", value)) => block.id = Some(value.to_owned()),
                Some(("event", value)) => block.event = Some(value.to_owned()),
                Some(("data", value)) => {
                    assert_eq!(block.data, None, "an event of one line");
                    block.data = Some(value.to_owned());
                }
                Some(("retry", value)) => block.retry = Some(value.parse().unwrap()),
                _ => panic!("not a line of an event stream: {line:?}"),
            }
        }
        block
    }
}
