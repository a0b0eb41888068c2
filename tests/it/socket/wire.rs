//! The other end of a socket under test: a TCP connection and frames made by hand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use verbatim::config::SocketConfig;
use verbatim::protocol::close::CloseCode;
use verbatim::socket::{CloseReason, Incoming, Link, Queues, Socket};

pub const TEXT: u8 = 0x81;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8A;

/// Nothing that is waited for takes this long; who waits longer has found a lost wake-up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Deadlines far away, limits small.
pub fn config() -> SocketConfig {
    SocketConfig {
        frame_bytes_max: 64 * 1024,
        frame_timeout_ms: 30_000,
        heartbeat_ms: 60_000,
        stall_timeout_ms: 60_000,
        close_timeout_ms: 5_000,
        queue_bytes_max: 16 * 1024,
        read_buffer_bytes: 512,
    }
}

/// Waits for what must come.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("nothing came")
}

/// A socket and its client. The kernel's buffers are as small as they get, so that a client that
/// does not read is felt at once and writes are torn everywhere.
pub async fn pair(config: &SocketConfig) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(2048).unwrap();
    let connecting = client.connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    let (client, (stream, _)) = (client.unwrap(), accepted.unwrap());
    client.set_nodelay(true).unwrap();
    stream.set_nodelay(true).unwrap();
    SockRef::from(&stream).set_send_buffer_size(4096).unwrap();
    (Socket::new(stream, Bytes::new(), config, &Arc::new(Queues::default())), client)
}

/// What comes next but for frames that are no messages.
pub async fn next(socket: &mut Socket) -> Incoming {
    loop {
        match soon(socket.next(true)).await {
            Incoming::Frames(_) => {}
            other => return other,
        }
    }
}

/// Runs a socket that only needs to live: what it reads is dropped, and when it is over it is
/// closed in order.
pub fn run(mut socket: Socket) -> (Arc<Link>, tokio::task::JoinHandle<CloseReason>) {
    let link = Arc::clone(socket.link());
    let task = tokio::spawn(async move {
        loop {
            if let Incoming::Closed(reason) = socket.next(true).await {
                socket.close(reason.code(), reason.text()).await;
                return reason;
            }
        }
    });
    (link, task)
}

/// A client's frame, masked.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5A, 0x01, 0xFF, 0x00];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=65_535 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A client's close frame.
pub fn masked_close(code: u16) -> Vec<u8> {
    masked(CLOSE, &code.to_be_bytes())
}

/// The next frame from the server: its first byte and its payload. `None` at the end of the stream
/// between frames; an end within one is a torn frame and fails.
pub async fn read_frame(client: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    soon(async {
        let first = client.read_u8().await.ok()?;
        let len = match client.read_u8().await.expect("torn header") {
            126 => u64::from(client.read_u16().await.expect("torn header")),
            127 => client.read_u64().await.expect("torn header"),
            short => u64::from(short),
        };
        let mut payload = vec![0; len as usize];
        client.read_exact(&mut payload).await.expect("torn frame");
        Some((first, payload))
    })
    .await
}

/// Reads the close frame that must come next, answers it, and sees the end of the stream.
pub async fn expect_close(client: &mut TcpStream, code: CloseCode) {
    let (first, payload) = read_frame(client).await.expect("a close frame");
    assert_eq!(first, CLOSE, "{payload:?}");
    assert_eq!(payload[..2], code.0.to_be_bytes());
    // Where the client has broken the protocol, nobody reads the answer.
    client.write_all(&masked_close(code.0)).await.unwrap();
    assert_eq!(read_frame(client).await, None);
}
