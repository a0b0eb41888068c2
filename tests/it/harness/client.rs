//! A chat client whose use reads like a script of the conversation.
//!
//! Whatever does not go by the script ends the test with everything that was said so far.
//!
//! It stands on tungstenite, and not on the Rust client: it sends what no client should, such as
//! other headers and binary frames, and it must see pings, close codes and the socket itself.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::PATIENCE;

/// Lines of the conversation that a failure shows.
const TRANSCRIPT_LEN_MAX: usize = 50;

pub struct Client {
    socket: WebSocketStream<TcpStream>,
    transcript: VecDeque<String>,
    lines: usize,
}

impl Client {
    /// Connects to `/ws`.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr, &[]).await.expect("cannot connect")
    }

    /// Connects and takes the `hello`.
    pub async fn greeted(addr: SocketAddr) -> Self {
        let mut client = Self::connect(addr).await;
        client.expect_hello().await;
        client
    }

    /// Connects with a receive buffer of that size, so that the server soon has to wait for this
    /// client when it does not read, and takes the `hello`.
    pub async fn narrow(addr: SocketAddr, receive_bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(receive_bytes).unwrap();
        let stream = socket.connect(addr).await.expect("cannot connect");
        let mut client = Self::over(stream, &[]).await.expect("cannot connect");
        client.expect_hello().await;
        client
    }

    /// Connects from that address of this machine, and takes the `hello`. (Elsewhere than on Linux
    /// only one of 127.0.0.0/8 is there.)
    #[cfg(target_os = "linux")]
    pub async fn from_address(address: &str, addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        let stream = socket.connect(addr).await.expect("cannot connect");
        let mut client = Self::over(stream, &[]).await.expect("cannot connect");
        client.expect_hello().await;
        client
    }

    /// With more headers; an error tells the HTTP status (`Error::Http`).
    pub async fn try_connect(addr: SocketAddr, headers: &[(&str, &str)]) -> Result<Self, Error> {
        Self::over(TcpStream::connect(addr).await?, headers).await
    }

    async fn over(stream: TcpStream, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let addr = stream.peer_addr()?;
        let mut request = format!("ws://{addr}/ws").into_client_request()?;
        for &(name, value) in headers {
            let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        stream.set_nodelay(true)?;
        let upgrade = timeout(PATIENCE, client_async(request, stream)).await;
        let (socket, _) = upgrade.expect("no answer to the upgrade")?;
        Ok(Self { socket, transcript: VecDeque::new(), lines: 0 })
    }

    pub async fn send(&mut self, command: Value) {
        self.send_text(&command.to_string()).await;
    }

    /// Any text, JSON or not.
    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_binary(&mut self, bytes: Vec<u8>) {
        self.send_message(Message::binary(bytes)).await;
    }

    async fn send_message(&mut self, message: Message) {
        self.note(format!("> {}", brief(&message)));
        if let Err(why) = self.try_send(message).await {
            self.fail(&format!("could not send: {why}"));
        }
    }

    /// For sends that may meet a socket that is closing.
    pub async fn try_send(&mut self, message: Message) -> Result<(), String> {
        match timeout(PATIENCE, self.socket.send(message)).await {
            Ok(sent) => sent.map_err(|err| err.to_string()),
            Err(_) => Err("the server took nothing".to_owned()),
        }
    }

    /// The next text frame, byte for byte.
    pub async fn next_text(&mut self) -> String {
        match self.next_message().await {
            Message::Text(text) => text.to_string(),
            other => self.fail(&format!("wanted a text frame, got {}", brief(&other))),
        }
    }

    /// The next text frame, which must be JSON.
    pub async fn next(&mut self) -> Value {
        let text = self.next_text().await;
        serde_json::from_str(&text).unwrap_or_else(|_| self.fail("that is not JSON"))
    }

    /// The next text frame as JSON, or the code with which the server closed instead.
    pub async fn next_or_close(&mut self) -> Result<Value, u16> {
        match self.next_message().await {
            Message::Text(text) => Ok(serde_json::from_str(&text).expect("that is not JSON")),
            Message::Close(Some(frame)) => Err(frame.code.into()),
            other => self.fail(&format!("wanted text or a close, got {}", brief(&other))),
        }
    }

    /// The next frame must have these keys with these values; it may have more.
    pub async fn expect(&mut self, wanted: Value) -> Value {
        let got = self.next().await;
        if !matches(&got, &wanted) {
            self.fail(&format!("wanted {wanted}"));
        }
        got
    }

    /// The next frame must be this text.
    pub async fn expect_exactly(&mut self, wanted: &str) {
        if self.next_text().await != wanted {
            self.fail(&format!("wanted exactly {wanted}"));
        }
    }

    pub async fn expect_hello(&mut self) -> Value {
        self.expect(json!({"type": "hello"})).await
    }

    /// Reads until a frame has these keys, and returns all frames read, that one last.
    pub async fn read_until(&mut self, wanted: Value) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let got = self.next().await;
            let found = matches(&got, &wanted);
            frames.push(got);
            if found {
                return frames;
            }
        }
    }

    /// Nothing waits to be read: the answer to a `ping` sent now is the next frame.
    pub async fn expect_nothing(&mut self) {
        self.send(json!({"type": "ping"})).await;
        self.expect(json!({"type": "pong"})).await;
    }

    /// The server must close, with this code; frames before that are not accepted.
    pub async fn expect_close(&mut self, code: u16) {
        match self.next_message().await {
            Message::Close(Some(frame)) if u16::from(frame.code) == code => {}
            other => self.fail(&format!("wanted close {code}, got {}", brief(&other))),
        }
        // The reply to it goes out while reading on; then the server hangs up.
        match timeout(PATIENCE, self.socket.next()).await {
            Ok(None | Some(Err(_))) => {}
            Ok(Some(Ok(more))) => self.fail(&format!("after close came {}", brief(&more))),
            Err(_) => self.fail("the server closed and did not hang up"),
        }
    }

    /// Reads until the server closes, with this code, and returns all frames read before that.
    pub async fn read_to_close(&mut self, code: u16) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            match self.next_message().await {
                Message::Text(text) => {
                    let frame = serde_json::from_str(&text);
                    frames.push(frame.unwrap_or_else(|_| self.fail("that is not JSON")));
                }
                Message::Close(Some(frame)) if u16::from(frame.code) == code => return frames,
                other => self.fail(&format!("wanted close {code}, got {}", brief(&other))),
            }
        }
    }

    /// Closes as a client does, and waits for the answer.
    pub async fn close(mut self) {
        if self.socket.close(None).await.is_ok() {
            // What was under way may still come; it ends with the server's close.
            let rest = async { while let Some(Ok(_)) = self.socket.next().await {} };
            if timeout(PATIENCE, rest).await.is_err() {
                self.fail("the server did not answer the close");
            }
        }
    }

    /// The connection itself, for what this type has no word for.
    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// The next message that is not a WebSocket ping or pong (pings are answered on the way).
    async fn next_message(&mut self) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = match timeout_at(deadline, self.socket.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(err))) => self.fail(&format!("wanted a frame, got an error: {err}")),
                Ok(None) => self.fail("wanted a frame, but the connection ended"),
                Err(_) => self.fail("wanted a frame, but none came"),
            };
            self.note(format!("< {}", brief(&message)));
            if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                return message;
            }
        }
    }

    fn note(&mut self, line: String) {
        self.lines += 1;
        self.transcript.push_back(line);
        if self.transcript.len() > TRANSCRIPT_LEN_MAX {
            self.transcript.pop_front();
        }
    }

    fn fail(&self, why: &str) -> ! {
        let mut text = format!("{why}\nthe conversation");
        if self.lines > self.transcript.len() {
            write!(text, " (the last of {} lines)", self.lines).unwrap();
        }
        for line in &self.transcript {
            write!(text, "\n  {line}").unwrap();
        }
        panic!("{text}");
    }
}

/// Whether `got` has every key of `wanted` with the same value.
fn matches(got: &Value, wanted: &Value) -> bool {
    let wanted = wanted.as_object().expect("a frame is an object");
    wanted.iter().all(|(key, value)| got.get(key) == Some(value))
}

fn brief(message: &Message) -> String {
    const CHARS_MAX: usize = 400;
    let text = match message {
        Message::Text(text) => text.to_string(),
        Message::Close(Some(frame)) => format!("close {} {}", frame.code, frame.reason),
        other => format!("{other:?}"),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}
