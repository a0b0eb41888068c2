//! One connection of a client to a node, which may break or fall silent at any moment.
//!
//! It knows no command and keeps no record. That it broke is a value and the usual case; that it
//! fell silent is found out by asking.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::{ClientConfig, RootCertStore};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

/// For connection, TLS and upgrade together. A node that is stopped accepts connections, in its
/// kernel, and says nothing.
const OPEN_TIMEOUT: Duration = Duration::from_millis(1500);
/// A line that was silent for so long is asked whether it is there, with a ping,
const SILENCE: Duration = Duration::from_millis(800);
/// and counts as broken if nothing came by then.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// Longest wait until the node has taken what is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// What one read of a socket takes. The default is 128 KiB for each connection, at once.
const READ_BYTES: usize = 4096;

/// The address of a node or of a load balancer, in parts.
#[derive(Clone)]
pub struct Target {
    pub url: String,
    host: String,
    port: u16,
    /// `None` for `ws:`.
    tls: Option<Arc<ClientConfig>>,
}

/// Why a URL is none that could be connected to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a URL like ws://127.0.0.1:8080/ws or wss://chat.example.org/ws")]
pub struct BadUrl(pub String);

pub struct Line {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heard_at: Instant,
    /// It was silent, and was asked whether it is there.
    is_asked: bool,
}

/// The connection has ended, in order or not, or is as good as ended.
#[derive(Debug)]
pub struct Gone;

impl Target {
    /// Without a path, the path is `/ws`.
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let default_port = match uri.scheme_str() {
            Some("ws") => 80,
            Some("wss") => 443,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        // Nothing but a port stands behind the host, and nothing before it.
        let authority = uri.authority().and_then(|it| it.as_str().strip_prefix(host));
        let port = match (authority, uri.port_u16()) {
            (Some(""), _) => default_port,
            (Some(_), Some(port)) => port,
            _ => return Err(bad()),
        };
        let has_path = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
        let path = if has_path { "" } else { "/ws" };
        Ok(Self {
            url: format!("{}{path}", url.trim_end_matches('/')),
            // Brackets belong to the URL and not to the address.
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            tls: if default_port == 443 { Some(tls().map_err(|_| bad())?) } else { None },
        })
    }
}

impl Line {
    /// With `receive_bytes`, the kernel keeps no more than that for a client that does not read.
    pub async fn open(target: &Target, receive_bytes: Option<u32>) -> Result<Self, Gone> {
        match timeout(OPEN_TIMEOUT, Self::try_open(target, receive_bytes)).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    async fn try_open(target: &Target, receive_bytes: Option<u32>) -> io::Result<Self> {
        let stream = connect(target, receive_bytes).await?;
        stream.set_nodelay(true)?;
        let request = (&*target.url).into_client_request().map_err(io::Error::other)?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BYTES).write_buffer_size(0);
        let connector = target.tls.clone().map_or(Connector::Plain, Connector::Rustls);
        let upgrade = client_async_tls_with_config(request, stream, Some(config), Some(connector));
        let (socket, _) = upgrade.await.map_err(io::Error::other)?;
        Ok(Self { socket, heard_at: Instant::now(), is_asked: false })
    }

    /// All of them in as few writes as possible.
    pub async fn send(&mut self, frames: impl IntoIterator<Item = String>) -> Result<(), Gone> {
        let send = async {
            for frame in frames {
                self.socket.feed(Message::text(frame)).await.map_err(|_| Gone)?;
            }
            self.socket.flush().await.map_err(|_| Gone)
        };
        timeout(SEND_TIMEOUT, send).await.unwrap_or(Err(Gone))
    }

    /// The next text frame. Cancel-safe: reading is, and a ping that was not sent is sent later.
    pub async fn next(&mut self) -> Result<Utf8Bytes, Gone> {
        loop {
            let patience = if self.is_asked { ANSWER_TIMEOUT } else { SILENCE };
            match timeout_at(self.heard_at + patience, self.socket.next()).await {
                Ok(Some(Ok(message))) => {
                    self.heard_at = Instant::now();
                    self.is_asked = false;
                    match message {
                        Message::Text(text) => return Ok(text),
                        Message::Close(_) | Message::Binary(_) => return Err(Gone),
                        _ => {}
                    }
                }
                Ok(_) => return Err(Gone),
                Err(_) if self.is_asked => return Err(Gone),
                Err(_) => {
                    let ping = self.socket.send(Message::Ping("there?".into()));
                    timeout(SEND_TIMEOUT, ping).await.map_err(|_| Gone)?.map_err(|_| Gone)?;
                    self.heard_at = Instant::now();
                    self.is_asked = true;
                }
            }
        }
    }

    /// After a time in which nobody read it, silence is nothing to wonder about.
    pub fn rested(&mut self) {
        self.heard_at = Instant::now();
        self.is_asked = false;
    }

    /// Ends it as one should.
    pub async fn close(mut self) {
        let close = async {
            // What was under way may still come; it ends with the server's close.
            if self.socket.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        // A node that does not answer the close is not waited for.
        let _ = timeout(ANSWER_TIMEOUT, close).await;
    }

    /// Ends it with a reset: what was under way is lost on both sides.
    pub fn reset(self) {
        let stream = match self.socket.get_ref() {
            MaybeTlsStream::Plain(stream) => stream,
            MaybeTlsStream::Rustls(tls) => tls.get_ref().0,
            _ => return,
        };
        // An error: it is reset already.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}

async fn connect(target: &Target, receive_bytes: Option<u32>) -> io::Result<TcpStream> {
    let Some(receive_bytes) = receive_bytes else {
        return TcpStream::connect((&*target.host, target.port)).await;
    };
    let mut addresses = lookup_host((&*target.host, target.port)).await?;
    let address = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Before connecting: the window is agreed on then.
    socket.set_recv_buffer_size(receive_bytes)?;
    socket.connect(address).await
}

/// Trusts whom this machine trusts. The provider is named, so that nothing depends on one that is
/// set for the whole process.
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
    use super::*;

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
    fn what_is_no_websocket_url_is_refused_with_its_text() {
        for url in
            ["", "127.0.0.1:8080", "http://chat", "ws://", "ws:///ws", "ws://a:b", "ws://a@b"]
        {
            let told = Target::parse(url).err().map(|err| err.to_string());
            assert!(told.is_some_and(|told| told.contains(&format!("{url:?}"))), "{url}");
        }
    }
}
