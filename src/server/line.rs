//! One connection as HTTP reads and writes it, and beside it, whether the client is still there,
//! and what waits for it.
//!
//! It does not know HTTP. hyper reads nothing while it answers, so that a client that shuts down
//! its side when it has said all it wants to say (`nc -N`) is answered. But an event stream has no
//! end of its own, and one whose client has gone would be kept until a write fails: two heartbeats,
//! in a silent room. So a stream looks itself, through a `Peer`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::budget::{Budget, Holder, Place};

/// The connection, for its one owner.
pub struct Line(Arc<Wire>);

/// The client's side. It does not keep the connection open.
#[derive(Clone, Debug)]
pub struct Peer(Weak<Wire>);

#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    backlog: Mutex<Backlog>,
    /// Wakes whoever serves the connection, to end it: it takes nothing, and the node needs the
    /// memory of what waits for it.
    evicted: Arc<Notify>,
    /// Where this one is known to those who look for who keeps most.
    _place: Place,
}

/// What hyper was given and the kernel has not taken.
#[derive(Debug)]
struct Backlog {
    bytes: usize,
    /// When the kernel last took some of it, or it began.
    moved_at: Instant,
}

impl Line {
    pub fn new(stream: TcpStream, unsent: &Arc<Budget>) -> Self {
        let backlog = Mutex::new(Backlog { bytes: 0, moved_at: Instant::now() });
        Self(Arc::new_cyclic(|this: &Weak<Wire>| {
            let (_place, evicted) = (unsent.enter(this.clone()), Arc::default());
            Wire { stream, backlog, evicted, _place }
        }))
    }

    pub fn peer(&self) -> Peer {
        Peer(Arc::downgrade(&self.0))
    }

    /// Told when the connection must end. A permit is stored, so it does not matter who is first.
    /// It is no part of the line, so that waiting for it does not keep the line from moving on.
    pub fn evicted(&self) -> Arc<Notify> {
        self.0.evicted.clone()
    }

    /// The connection itself; `None` while somebody waits for the peer to go.
    pub fn into_stream(self) -> Option<TcpStream> {
        Arc::into_inner(self.0).map(|wire| wire.stream)
    }
}

impl Peer {
    /// Resolves when nothing more can come from the client: it is gone, or has said all it wants to
    /// say. One that has sent a request ahead cannot be seen to go.
    pub async fn gone(self) {
        let Some(wire) = self.0.upgrade() else { return };
        if let Ok(1..) = wire.stream.peek(&mut [0]).await {
            std::future::pending().await
        }
    }

    /// So many bytes of an answer are on their way to this client.
    pub fn owes(&self, len: usize) {
        let Some(wire) = self.0.upgrade() else { return };
        let mut backlog = wire.backlog();
        if backlog.bytes == 0 {
            backlog.moved_at = Instant::now();
        }
        backlog.bytes += len;
    }
}

impl Wire {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel took so many bytes: heads and what is not counted are among them, which makes
    /// the rest seem smaller than it is, and never for long.
    fn wrote(&self, len: usize) {
        let mut backlog = self.backlog();
        if backlog.bytes > 0 {
            backlog.bytes = backlog.bytes.saturating_sub(len);
            backlog.moved_at = Instant::now();
        }
    }
}

impl Holder for Wire {
    fn waiting(&self) -> Option<(usize, Instant)> {
        let Backlog { bytes, moved_at } = *self.backlog();
        (bytes > 0).then_some((bytes, moved_at))
    }

    fn evict(&self) {
        self.evicted.notify_one();
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.stream.poll_read_ready(cx))?;
            match self.0.stream.try_read_buf(buf) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match self.0.stream.try_write_vectored(slices) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    written.iter().for_each(|len| self.0.wrote(*len));
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end is told by closing, which comes right behind it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
