//! One connection as HTTP reads and writes it, and beside it, whether the client is still there.
//!
//! It does not know HTTP. hyper reads nothing while it answers, so that a client that shuts down
//! its side when it has said all it wants to say (`nc -N`) is answered. But an event stream has no
//! end of its own, and one whose client has gone would be kept until a write fails: two heartbeats,
//! in a silent room. So a stream looks itself, through a `Peer`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The connection, for its one owner.
pub struct Line(Arc<TcpStream>);

/// The client's side. It does not keep the connection open.
#[derive(Clone, Debug)]
pub struct Peer(Weak<TcpStream>);

impl Line {
    pub fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    pub fn peer(&self) -> Peer {
        Peer(Arc::downgrade(&self.0))
    }

    /// The connection itself; `None` while somebody waits for the peer to go.
    pub fn into_stream(self) -> Option<TcpStream> {
        Arc::into_inner(self.0)
    }
}

impl Peer {
    /// Resolves when nothing more can come from the client: it is gone, or has said all it wants to
    /// say. One that has sent a request ahead cannot be seen to go.
    pub async fn gone(self) {
        let Some(stream) = self.0.upgrade() else { return };
        if let Ok(1..) = stream.peek(&mut [0]).await {
            std::future::pending().await
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buf) {
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
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(slices) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
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
