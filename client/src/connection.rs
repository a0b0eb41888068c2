//! One connection to a node, which may break or fall silent at any moment.
//!
//! It knows no commands and hides nothing: each frame comes as the server sent it, including
//! duplicates. A lost connection is the usual case, so it is a value ([`Gone`]). The connection
//! itself detects that a server has fallen silent. [`Client`](crate::Client) reconnects.

mod heard;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::{ClientConfig, RootCertStore};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use self::heard::Heard;

/// What one read of a socket takes. The default is 128 KiB for each connection, at once.
const READ_BYTES: usize = 4096;
/// A year: the clock cannot add `Duration::MAX`.
const PATIENCE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest frame that is accepted; a longer one ends the connection. The longest frames are
/// pages of history, some 1 MiB unless the server's settings say otherwise.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Close code of a connection that ended without one (RFC 6455, section 7.1.5).
const NO_CODE: u16 = 1005;

/// The address of a node or of a load balancer.
#[derive(Clone, Debug)]
pub struct Target {
    url: String,
    host: String,
    port: u16,
    /// `None` for `ws:`.
    tls: Option<Arc<ClientConfig>>,
}

/// The text is not a WebSocket URL.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a URL like ws://127.0.0.1:8080/ws or wss://chat.example.org/ws")]
pub struct BadUrl(pub String);

/// How long a [`Connection`] waits, and how much the kernel keeps for it.
#[derive(Clone, Debug)]
pub struct Waits {
    /// For connecting, TLS and the upgrade together. The kernel of a suspended node still accepts
    /// connections, but the node does not answer.
    pub open: Duration,
    /// After so long without a byte, a ping asks whether the server is there.
    pub silence: Duration,
    /// If nothing arrives within this time after the ping, the connection counts as broken.
    pub answer: Duration,
    /// Until the server has accepted what is sent.
    pub send: Duration,
    /// Size of the kernel's receive buffer; `None`: as the kernel decides.
    pub receive_bytes: Option<u32>,
}

impl Default for Waits {
    /// 10 s each, and a ping after 15 s. The server sends a ping every 25 s unless its settings say
    /// otherwise.
    fn default() -> Self {
        let each = Duration::from_secs(10);
        let silence = Duration::from_secs(15);
        Self { open: each, silence, answer: each, send: each, receive_bytes: None }
    }
}

/// A WebSocket to a node.
pub struct Connection {
    socket: WebSocketStream<MaybeTlsStream<Heard>>,
    waits: Waits,
    /// When it came, or was sent a ping, or was left alone.
    heard_at: Instant,
    /// It was silent, and a ping was sent.
    is_asked: bool,
}

/// Why a connection has ended, does not work any more, or could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// The server answered the upgrade with an HTTP status other than 101.
    #[error("the server refused the connection with HTTP status {0}")]
    Refused(u16),
    /// The server closed the connection. docs/protocol.md explains the codes.
    #[error("the server closed the connection with {code} {reason}")]
    Closed {
        /// The close code; 1005 if there was none.
        code: u16,
        /// The reason, for people.
        reason: String,
    },
    /// The server sent what no server may send: no WebSocket, or a frame that is not text.
    #[error("the server sent what it may not: {0}")]
    Wrong(String),
    /// It broke, fell silent or could not be made; the text says which.
    #[error("{0}")]
    Lost(String),
}

impl Gone {
    /// Whether the server says that this client does something wrong: it would do so again. With
    /// the code 1008 the server may be mistaken, and one more try is worth it.
    pub fn is_for_good(&self) -> bool {
        matches!(self, Self::Closed { code: 1002 | 1003 | 1007..=1009, .. })
    }

    /// Whether that is for a rule that the server believes to be broken. It may be mistaken.
    pub(crate) fn is_for_policy(&self) -> bool {
        matches!(self, Self::Closed { code: 1008, .. })
    }

    pub(crate) fn silent(what: &str) -> Self {
        Self::Lost(format!("the server did not {what} in time"))
    }
}

impl From<Error> for Gone {
    fn from(err: Error) -> Self {
        match err {
            Error::Http(answer) => Self::Refused(answer.status().as_u16()),
            // So does every connection that breaks.
            Error::Protocol(
                ProtocolError::ResetWithoutClosingHandshake
                | ProtocolError::HandshakeIncomplete
                | ProtocolError::SendAfterClosing,
            ) => Self::Lost(err.to_string()),
            Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_) => {
                Self::Wrong(err.to_string())
            }
            err => Self::Lost(err.to_string()),
        }
    }
}

impl Target {
    /// Parses a `ws://` or `wss://` URL. If the URL has no path, the path is `/ws`.
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let default_port = match uri.scheme_str() {
            Some("ws") => 80,
            Some("wss") => 443,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        // Only a port may follow the host, and nothing may precede it.
        let authority = uri.authority().and_then(|it| it.as_str().strip_prefix(host));
        let port = match (authority, uri.port_u16()) {
            (Some(""), _) => default_port,
            (Some(_), Some(port)) => port,
            _ => return Err(bad()),
        };
        let has_path = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
        Ok(Self {
            url: match has_path {
                true => url.to_owned(),
                false => format!("{}/ws", url.trim_end_matches('/')),
            },
            // The brackets of an IPv6 address belong to the URL.
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            tls: if default_port == 443 { Some(tls().map_err(|_| bad())?) } else { None },
        })
    }

    /// The URL, with its path.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Connection {
    /// Connects. The server's first frame, `hello`, is the first of [`Connection::next`].
    ///
    /// Cancel-safe: if it is dropped, there is no connection.
    pub async fn open(target: &Target, waits: Waits) -> Result<Self, Gone> {
        let open = timeout(waits.open, Self::try_open(target, waits.receive_bytes)).await;
        let socket = open.map_err(|_| Gone::silent("answer"))??;
        Ok(Self { socket, waits, heard_at: Instant::now(), is_asked: false })
    }

    async fn try_open(
        target: &Target,
        receive_bytes: Option<u32>,
    ) -> Result<WebSocketStream<MaybeTlsStream<Heard>>, Error> {
        let stream = connect(target, receive_bytes).await?;
        stream.set_nodelay(true)?;
        let request = (&*target.url).into_client_request()?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let connector = target.tls.clone().map_or(Connector::Plain, Connector::Rustls);
        let upgrade = client_async_tls_with_config(
            request,
            Heard::new(stream),
            Some(config),
            Some(connector),
        );
        Ok(upgrade.await?.0)
    }

    /// Sends text frames, in as few writes as possible.
    ///
    /// Not cancel-safe: if it is dropped, some of the frames may have been sent and others not.
    pub async fn send(&mut self, frames: impl IntoIterator<Item = String>) -> Result<(), Gone> {
        let send = async {
            for frame in frames {
                self.socket.feed(Message::text(frame)).await?;
            }
            Ok(self.socket.flush().await?)
        };
        timeout(self.waits.send, send).await.unwrap_or_else(|_| Err(Gone::silent("read")))
    }

    /// The next text frame, as it came.
    ///
    /// Cancel-safe: nothing read is lost, and a ping that was not sent is sent later.
    pub async fn next(&mut self) -> Result<String, Gone> {
        loop {
            let patience = if self.is_asked { self.waits.answer } else { self.waits.silence };
            let until = self.heard_at + patience.min(PATIENCE_MAX);
            match timeout_at(until, self.socket.next()).await {
                Ok(Some(Ok(message))) => {
                    self.rested();
                    match message {
                        Message::Text(text) => return Ok(text.as_str().to_owned()),
                        Message::Close(close) => {
                            let close = close.map(|it| (it.code.into(), it.reason.to_string()));
                            let (code, reason) = close.unwrap_or((NO_CODE, String::new()));
                            return Err(Gone::Closed { code, reason });
                        }
                        Message::Binary(_) => return Err(Gone::Wrong("a binary frame".to_owned())),
                        _ => {}
                    }
                }
                Ok(Some(Err(err))) => return Err(err.into()),
                Ok(None) => return Err(Gone::Lost("the connection has ended".to_owned())),
                // Not a whole message, but life: a long page on a slow line.
                Err(_) if self.stream().is_some_and(|it| it.read_at > self.heard_at) => {
                    self.heard_at = self.stream().map_or(self.heard_at, |it| it.read_at);
                    self.is_asked = false;
                }
                Err(_) if self.is_asked => return Err(Gone::silent("answer a ping")),
                Err(_) => {
                    let ping = self.socket.send(Message::Ping("there?".into()));
                    let sent = timeout(self.waits.send, ping).await;
                    sent.map_err(|_| Gone::silent("read"))??;
                    self.heard_at = Instant::now();
                    self.is_asked = true;
                }
            }
        }
    }

    /// Call this after a pause in reading, so that the pause does not count as the server's
    /// silence.
    pub fn rested(&mut self) {
        self.heard_at = Instant::now();
        self.is_asked = false;
    }

    /// Closes, and waits for the server's close, but no longer than [`Waits::answer`].
    pub async fn close(mut self) {
        let close = async {
            // Frames on their way may still arrive; the server's close is the last.
            if self.socket.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        // An error: the node did not answer the close in time.
        let _ = timeout(self.waits.answer, close).await;
    }

    /// Ends the connection with a TCP reset. What is on its way is lost, in both directions.
    pub fn reset(self) {
        if let Some(stream) = self.stream() {
            // An error: it is reset already.
            let _ = SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
        }
    }

    fn stream(&self) -> Option<&Heard> {
        match self.socket.get_ref() {
            MaybeTlsStream::Plain(stream) => Some(stream),
            MaybeTlsStream::Rustls(tls) => Some(tls.get_ref().0),
            _ => None,
        }
    }
}

async fn connect(target: &Target, receive_bytes: Option<u32>) -> io::Result<TcpStream> {
    let Some(receive_bytes) = receive_bytes else {
        return TcpStream::connect((&*target.host, target.port)).await;
    };
    let mut addresses = lookup_host((&*target.host, target.port)).await?;
    let address = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Before connecting, because the TCP window is negotiated then.
    socket.set_recv_buffer_size(receive_bytes)?;
    socket.connect(address).await
}

/// Trusts the certificate authorities of this machine. The crypto provider is given explicitly, so
/// that nothing depends on one that is set for the whole process.
fn tls() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(Arc::new(config?.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// A connection, and what the server at its other end writes on, past its WebSocket.
    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&format!("ws://{}", listener.local_addr().unwrap())).unwrap();
        let each = Duration::from_millis(200);
        let waits = Waits { silence: each, answer: each, ..Waits::default() };
        let accept = async {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_tungstenite::accept_async(stream).await.unwrap().into_inner()
        };
        let (connection, stream) = tokio::join!(Connection::open(&target, waits), accept);
        (connection.unwrap(), stream)
    }

    #[tokio::test]
    async fn a_frame_that_takes_long_on_its_way_is_life() {
        const BYTES: &[u8] = b"\x81\x14twenty bytes of text";
        let (mut connection, mut stream) = pair().await;
        let write = async {
            for byte in BYTES {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let (text, ()) = tokio::join!(connection.next(), write);
        assert_eq!(text.as_deref(), Ok("twenty bytes of text"));
        let silent = connection.next().await.unwrap_err();
        assert_eq!(silent, Gone::silent("answer a ping"));
    }

    #[tokio::test]
    async fn what_no_server_may_send_is_not_taken_for_a_break() {
        for bytes in [&b"\x82\x01x"[..], b"\xf1\x01x", b"\x81\x01\xff", b"\x00\x01x"] {
            let (mut connection, mut stream) = pair().await;
            stream.write_all(bytes).await.unwrap();
            let gone = connection.next().await.unwrap_err();
            assert!(matches!(gone, Gone::Wrong(_)), "{bytes:?}: {gone:?}");
        }
        let (mut connection, stream) = pair().await;
        drop(stream);
        assert!(matches!(connection.next().await, Err(Gone::Lost(_))));
    }

    #[test]
    fn a_target_has_a_host_a_port_and_a_path() {
        let check = |url: &str, full: &str, host: &str, port: u16| {
            let target = Target::parse(url).unwrap();
            assert_eq!((&*target.url, &*target.host, target.port), (full, host, port));
        };
        check("ws://127.0.0.1:8080", "ws://127.0.0.1:8080/ws", "127.0.0.1", 8080);
        check("ws://127.0.0.1:8080/", "ws://127.0.0.1:8080/ws", "127.0.0.1", 8080);
        check("ws://chat/socket", "ws://chat/socket", "chat", 80);
        check("wss://chat.example.org", "wss://chat.example.org/ws", "chat.example.org", 443);
        check("ws://[::1]:9/ws", "ws://[::1]:9/ws", "::1", 9);
    }

    #[test]
    fn a_text_that_is_not_a_websocket_url_is_refused_and_named() {
        for url in
            ["", "127.0.0.1:8080", "http://chat", "ws://", "ws:///ws", "ws://a:b", "ws://a@b"]
        {
            let told = Target::parse(url).err().map(|err| err.to_string());
            assert!(told.is_some_and(|told| told.contains(&format!("{url:?}"))), "{url}");
        }
    }
}
