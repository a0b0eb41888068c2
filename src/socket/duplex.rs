//! What tungstenite takes for its stream: reads come from the connection, writes go to the link.
//!
//! Pongs and close frames, which tungstenite writes by itself, thereby stand in one queue with our
//! own frames, so nothing is ever torn by them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use super::boundary::Boundary;
use super::link::{Link, Offer};

/// Room for bytes that nobody wants, on the stack.
const DISCARD_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Duplex {
    /// The connection's reading side; `None` once it has moved on to another duplex. It is a half
    /// rather than the stream because only its `poll_read` learns from a short read that the kernel
    /// has no more, which saves the second, futile read after each frame.
    reader: Option<OwnedReadHalf>,
    link: Arc<Link>,
    boundary: Boundary,
    /// Bytes read since the codec was last known to be empty.
    burst_bytes: usize,
    /// Bytes came in since the owner last asked.
    heard: bool,
}

impl Duplex {
    /// `leftover` is what the codec was given to begin with.
    pub fn new(reader: OwnedReadHalf, link: Arc<Link>, leftover: &[u8]) -> Self {
        let mut boundary = Boundary::default();
        boundary.follow(leftover);
        let burst_bytes = leftover.len();
        Self { reader: Some(reader), link, boundary, burst_bytes, heard: false }
    }

    /// Whether bytes came in since the last call.
    pub fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Asked when the codec wants more bytes than there are: the burst that made its buffer grow,
    /// if that lies behind us, and zero in the midst of a message.
    pub fn take_burst_bytes(&mut self) -> usize {
        if !self.boundary.is_between_messages() {
            return 0;
        }
        std::mem::take(&mut self.burst_bytes)
    }

    /// The connection in a new duplex. This one reads as ended.
    pub fn move_out(&mut self) -> Self {
        Self {
            reader: self.reader.take(),
            link: Arc::clone(&self.link),
            boundary: std::mem::take(&mut self.boundary),
            burst_bytes: self.burst_bytes,
            heard: self.heard,
        }
    }

    /// Reads and forgets until the peer's end of the stream, or an error, which ends it as well.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(reader) = &mut self.reader else { return Poll::Ready(()) };
        let mut space = [0; DISCARD_BYTES];
        loop {
            let mut buf = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut *reader).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(reader) = &mut this.reader else { return Poll::Ready(Ok(())) };
        let before = buf.filled().len();
        let result = ready!(Pin::new(reader).poll_read(cx, buf));
        let read = &buf.filled()[before..];
        this.heard |= !read.is_empty();
        this.burst_bytes += read.len();
        this.boundary.follow(read);
        Poll::Ready(result)
    }
}

impl AsyncWrite for Duplex {
    /// Takes everything at once: a control frame has 127 bytes at most, and the socket reads no
    /// pings, hence owes no pongs, while the queue is over its limit.
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(match self.link.push_control(&Bytes::copy_from_slice(bytes)) {
            Offer::Taken => Ok(bytes.len()),
            Offer::Full | Offer::Closed => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }

    /// The queue is flushed by the owner; tungstenite need not wait for it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.end();
        Poll::Ready(Ok(()))
    }
}
