//! A plain echo over the server's own socket module, for WebSocket conformance suites.
//!
//! It sends back every text and binary message, on any path of the address given as argument:
//! `cargo run --release --example echo -- 127.0.0.1:9001`. It is no chat: no rooms, no limits but
//! one on the size of a message.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use verbatim::config::SocketConfig;
use verbatim::protocol::frame::{Opcode, encode};
use verbatim::server::upgrade;
use verbatim::socket::{Incoming, Queues, Socket, tune};

/// Conformance suites send messages of 16 MiB; all else is as in a chat.
const SOCKET: SocketConfig = SocketConfig {
    frame_bytes_max: 64 * 1024 * 1024,
    frame_timeout_ms: 30_000,
    heartbeat_ms: 25_000,
    stall_timeout_ms: 60_000,
    close_timeout_ms: 5_000,
    queue_bytes_max: 64 * 1024,
    read_buffer_bytes: 4096,
};

/// After a failed accept (out of file descriptors, most often) there is no point in asking again at
/// once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address).await.with_context(|| address.clone())?;
    println!("echo on ws://{}", listener.local_addr()?);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Speaks HTTP until the upgrade. The socket gets a task of its own, so that HTTP's buffers do not
/// live as long as it does.
pub async fn serve(stream: TcpStream) {
    if let Err(error) = tune(&stream, &SOCKET) {
        eprintln!("tune: {error}");
        return;
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades();
    if let Err(error) = connection.await {
        eprintln!("http: {error}");
    }
}

async fn answer(mut request: Request<Body>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = match upgrade::check(&request) {
        Ok(accept) => {
            tokio::spawn(echo(hyper::upgrade::on(&mut request)));
            upgrade::response(&accept)
        }
        Err(refused) => upgrade::refusal(refused),
    };
    Ok(answer.map(|_| Full::default()))
}

async fn echo(upgrade: OnUpgrade) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return eprintln!("upgrade: {error}"),
    };
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("it is what was served");
    let (stream, leftover) = (parts.io.into_inner(), parts.read_buf);
    let mut socket = Socket::new(stream, leftover, &SOCKET, &Arc::new(Queues::default()));
    let reason = loop {
        // The socket itself stops reading while its queue is over the limit.
        let frame = match socket.next(true).await {
            Incoming::Text(text) => encode(Opcode::Text, text.as_bytes()),
            Incoming::Binary(bytes) => encode(Opcode::Binary, &bytes),
            Incoming::Drained | Incoming::Frames(_) => continue,
            Incoming::Closed(reason) => break reason,
        };
        // If nobody is there to take it, the next turn says so.
        socket.link().push(&frame);
    };
    socket.close(reason.code(), reason.text()).await;
}
