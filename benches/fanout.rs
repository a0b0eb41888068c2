//! What one delivery costs: a frame of a chat message to a thousand sockets, again and again.
//!
//! `cargo bench --bench fanout` prints the CPU time of the thread that offers, per delivery, beside
//! that of bare writes to the same kind of connection: the difference is what is ours. Loopback
//! counts the receiver's half of TCP to the sender, so a real network is cheaper.

use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use verbatim::config::SocketConfig;
use verbatim::protocol::frame::Frame;
use verbatim::socket::{Incoming, Link, Offer, Queues, Socket, tune};

const SOCKETS: usize = 1000;
const ROUNDS: usize = 300;
/// Long enough for the clients to empty their buffers: no round meets a full queue.
const ROUND_PAUSE: Duration = Duration::from_millis(20);
const CONFIG: SocketConfig = SocketConfig {
    frame_bytes_max: 64 * 1024,
    frame_timeout_ms: 30_000,
    heartbeat_ms: 25_000,
    stall_timeout_ms: 60_000,
    close_timeout_ms: 5_000,
    queue_bytes_max: 64 * 1024,
    read_buffer_bytes: 4096,
};

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let frame = Frame::text(&[b'x'; 200]);
    let (bare, links) = runtime.block_on(async {
        let bare = connect(SOCKETS).await?;
        for stream in &bare {
            stream.writable().await?;
        }
        let mut links = Vec::new();
        for stream in connect(SOCKETS).await? {
            links.push(serve(Socket::new(
                stream,
                Bytes::new(),
                &CONFIG,
                &Arc::new(Queues::default()),
            )));
        }
        anyhow::Ok((bare, links))
    })?;
    println!("socket {} bytes", size_of::<Socket>());

    measure("bare write", || {
        bare.iter().filter(|stream| stream.try_write(frame.bytes()).is_ok()).count()
    })?;
    measure("link.offer", || {
        links.iter().filter(|link| link.offer(frame.bytes()) == Offer::Taken).count()
    })?;
    Ok(())
}

/// Connections whose other ends are read by a thread, so that their reading is not in the figure.
async fn connect(count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut streams = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(std::net::TcpStream::connect(address)?);
        let (stream, _) = listener.accept().await?;
        tune(&stream, &CONFIG)?;
        streams.push(stream);
    }
    thread::spawn(move || {
        let mut space = [0; 16 * 1024];
        for client in &clients {
            client.set_nonblocking(true).expect("a socket can be made nonblocking");
        }
        loop {
            for mut client in &clients {
                while client.read(&mut space).is_ok_and(|len| len > 0) {}
            }
            thread::sleep(ROUND_PAUSE / 4);
        }
    });
    Ok(streams)
}

fn serve(mut socket: Socket) -> Arc<Link> {
    let link = Arc::clone(socket.link());
    tokio::spawn(async move { while !matches!(socket.next(true).await, Incoming::Closed(_)) {} });
    link
}

fn measure(what: &str, mut deliver: impl FnMut() -> usize) -> anyhow::Result<()> {
    let mut best = Duration::MAX;
    let (mut total, mut taken) = (Duration::ZERO, 0);
    for _ in 0..ROUNDS {
        let before = thread_cpu()?;
        taken += deliver();
        let spent = thread_cpu()? - before;
        best = best.min(spent);
        total += spent;
        thread::sleep(ROUND_PAUSE);
    }
    let each = |spent: Duration, count: usize| spent.as_secs_f64() * 1e6 / count as f64;
    println!(
        "{what}: {:.2} us per delivery, {:.2} in the best round, {taken} of {} taken",
        each(total, SOCKETS * ROUNDS),
        each(best, SOCKETS),
        SOCKETS * ROUNDS,
    );
    Ok(())
}

/// CPU time of this thread so far.
fn thread_cpu() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("needs Linux")?;
    let nanos = text.split(' ').next().context("an empty schedstat")?.parse()?;
    Ok(Duration::from_nanos(nanos))
}
