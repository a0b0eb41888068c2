//! What tungstenite takes for its stream: reads come from the connection, writes go to the link.
//!
//! It reads ahead: one call takes what the kernel has, up to [`AHEAD_BYTES`], however small the
//! codec's own buffer is. So an idle socket keeps little memory, and a burst of commands costs one
//! call to the kernel rather than one for each few of them.
//!
//! Pongs and close frames, which tungstenite writes by itself, thereby stand in one queue with our
//! own frames, so nothing is ever torn by them.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use super::boundary::Boundary;
use super::link::{Link, Offer};

/// Room for what is read at once, on the stack. What the codec does not take of it is kept until it
/// does, which is at once as long as the socket is being read.
const AHEAD_BYTES: usize = 8192;

#[derive(Debug)]
pub(super) struct Duplex {
    /// The connection's reading side; `None` once it has moved on to another duplex. It is a half
    /// rather than the stream because only its `poll_read` learns from a short read that the kernel
    /// has no more, which saves the second, futile read after each frame.
    reader: Option<OwnedReadHalf>,
    link: Arc<Link>,
    /// Read from the connection, or along with the request, and not yet given to the codec. Holds
    /// no memory while it is empty.
    ahead: Bytes,
    boundary: Boundary,
    /// Bytes came in since the owner last asked.
    heard: bool,
}

impl Duplex {
    /// `leftover` was read from the connection before.
    pub fn new(reader: OwnedReadHalf, link: Arc<Link>, leftover: Bytes) -> Self {
        let mut duplex = Self {
            reader: Some(reader),
            link,
            ahead: Bytes::new(),
            boundary: Boundary::default(),
            heard: false,
        };
        duplex.keep(leftover);
        duplex
    }

    /// An empty `Bytes` may hold a large buffer all the same.
    fn keep(&mut self, ahead: Bytes) {
        self.ahead = if ahead.is_empty() { Bytes::new() } else { ahead };
    }

    /// Whether bytes came in since the last call.
    pub fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Whether all that the codec was given is whole messages.
    pub fn is_between_messages(&self) -> bool {
        self.boundary.is_between_messages()
    }

    /// Whether there is something to read: bytes, the end of the stream, or an error.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.reader {
            // An error is there to be read, too.
            Some(reader) if self.ahead.is_empty() => reader.as_ref().poll_read_ready(cx).map(drop),
            _ => Poll::Ready(()),
        }
    }

    /// The connection in a new duplex. This one reads as ended.
    pub fn move_out(&mut self) -> Self {
        Self {
            reader: self.reader.take(),
            link: Arc::clone(&self.link),
            ahead: std::mem::take(&mut self.ahead),
            boundary: std::mem::take(&mut self.boundary),
            heard: self.heard,
        }
    }

    /// Reads and forgets until the peer's end of the stream, or an error, which ends it as well.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ahead = Bytes::new();
        let Some(reader) = &mut self.reader else { return Poll::Ready(()) };
        let mut space = [const { MaybeUninit::uninit() }; AHEAD_BYTES];
        loop {
            let mut buf = ReadBuf::uninit(&mut space);
            match ready!(Pin::new(&mut *reader).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Reads from the connection into `buf`, and what does not fit there ahead.
    fn poll_connection(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(())) };
        if buf.remaining() >= AHEAD_BYTES {
            let before = buf.filled().len();
            ready!(Pin::new(reader).poll_read(cx, buf))?;
            self.heard |= buf.filled().len() > before;
            return Poll::Ready(Ok(()));
        }
        let mut space = [const { MaybeUninit::uninit() }; AHEAD_BYTES];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(reader).poll_read(cx, &mut read))?;
        let (now, ahead) = read.filled().split_at(read.filled().len().min(buf.remaining()));
        self.heard |= !now.is_empty();
        buf.put_slice(now);
        if !ahead.is_empty() {
            self.ahead = Bytes::copy_from_slice(ahead);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.ahead.is_empty() {
            ready!(this.poll_connection(cx, buf))?;
        } else {
            let now = this.ahead.split_to(this.ahead.len().min(buf.remaining()));
            buf.put_slice(&now);
            let ahead = std::mem::take(&mut this.ahead);
            this.keep(ahead);
        }
        let given = &buf.filled()[before..];
        this.boundary.follow(given);
        Poll::Ready(Ok(()))
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
