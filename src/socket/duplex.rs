//! The stream that tungstenite uses: reads come from the connection, writes go to the link.
//!
//! It reads ahead: one call takes what the kernel has, up to [`AHEAD_BYTES`], however small the
//! codec's own buffer is. So an idle socket keeps little memory, and a burst of commands costs one
//! system call, and not one for each few of them.
//!
//! A long frame is kept here until it is whole (see `boundary`), and counts on the node's budget
//! for unfinished messages. When that is full, it waits for room before it reads on.
//!
//! tungstenite's own pongs and close frames thereby go through the same queue as all other frames,
//! so no frame is split by them.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;

use super::begun::Begun;
use super::boundary::{Boundary, Held};
use super::link::{Link, Offer};

/// What one read takes, on the stack. The part that the codec does not take at once is kept until
/// it does.
pub(super) const AHEAD_BYTES: usize = 8192;
/// The same while the budget for unfinished messages is full: enough for any small frame, and
/// little of a longer one.
const SCARCE_AHEAD_BYTES: usize = 512;
/// Reads in one turn of the socket's task. Then other tasks run, however much there is to read.
const READS_PER_TURN: u8 = 4;

#[derive(Debug)]
pub(super) struct Duplex {
    /// The connection's reading half; `None` after `move_out`. It is a half and not the stream,
    /// because only a half's `poll_read` learns from a short read that the kernel has no more,
    /// which saves a second read after each frame.
    reader: Option<OwnedReadHalf>,
    link: Arc<Link>,
    /// Read from the connection or with the request, and not yet given to the codec. Uses no memory
    /// while it is empty.
    ahead: Bytes,
    boundary: Boundary,
    held: Held,
    /// The unfinished message or frame.
    begun: Option<Box<Begun>>,
    /// Reads left in this turn, and bytes left for the rest of the connection.
    reads_left: u8,
    bytes_left: usize,
    /// Bytes came in since the owner last asked.
    heard: bool,
}

impl Duplex {
    /// `leftover` was read from the connection before. Frames of the lengths in `held` are kept
    /// here until they are whole.
    pub fn new(reader: OwnedReadHalf, link: Arc<Link>, leftover: Bytes, held: Held) -> Self {
        let mut duplex = Self {
            reader: Some(reader),
            link,
            ahead: Bytes::new(),
            boundary: Boundary::default(),
            held,
            begun: None,
            reads_left: READS_PER_TURN,
            bytes_left: usize::MAX,
            heard: false,
        };
        duplex.take(&leftover);
        duplex
    }

    /// Which frames are kept here until they are whole.
    pub fn held(&self) -> Held {
        self.held
    }

    /// A turn of the socket's task begins.
    pub fn begin_turn(&mut self) {
        self.reads_left = READS_PER_TURN;
    }

    /// Reads no more than this many bytes from here on; then the stream reads as ended.
    pub fn limit(&mut self, bytes: usize) {
        self.bytes_left = bytes;
    }

    /// Whether bytes came in since the last call.
    pub fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Frames that came in since the last call, except those that end a message.
    pub fn take_frames(&mut self) -> u32 {
        self.boundary.take_frames()
    }

    /// When the unfinished message or frame began.
    pub fn begun_at(&self) -> Option<Instant> {
        self.begun.as_ref().map(|begun| begun.since)
    }

    /// Restarts the time of the unfinished message: it was not read for a while, which is not the
    /// client's fault.
    pub fn forgive(&mut self) {
        if let Some(begun) = &mut self.begun {
            begun.renew();
        }
    }

    /// Whether the unfinished message is given up, because others need its memory.
    pub fn is_evicted(&self) -> bool {
        self.begun.as_ref().is_some_and(|begun| begun.is_evicted())
    }

    /// Whether the codec was only given whole messages.
    pub fn is_between_messages(&self) -> bool {
        self.boundary.is_between_messages()
    }

    /// Whether there is something to read: bytes, the end of the stream, or an error.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ahead.is_empty() {
            return Poll::Ready(());
        }
        ready!(self.poll_turn(cx));
        ready!(self.poll_room(cx));
        match &self.reader {
            // An error can be read, too.
            Some(reader) => reader.as_ref().poll_read_ready(cx).map(drop),
            None => Poll::Ready(()),
        }
    }

    /// Moves the connection to a new duplex. This one then reads as ended.
    pub fn move_out(&mut self) -> Self {
        Self {
            reader: self.reader.take(),
            link: Arc::clone(&self.link),
            ahead: std::mem::take(&mut self.ahead),
            boundary: std::mem::take(&mut self.boundary),
            held: self.held,
            begun: self.begun.take(),
            reads_left: self.reads_left,
            bytes_left: self.bytes_left,
            heard: self.heard,
        }
    }

    /// Reads and discards until the end of the stream, or an error.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (self.ahead, self.begun) = (Bytes::new(), None);
        let mut space = [const { MaybeUninit::uninit() }; AHEAD_BYTES];
        // Other tasks run in between, even if somebody sends endlessly to a socket that is closing.
        for _ in 0..READS_PER_TURN {
            let Some(reader) = &mut self.reader else { return Poll::Ready(()) };
            let mut buf = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(reader).poll_read(cx, &mut buf));
            if read.is_err() || !self.goes_on(buf.filled().len()) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts what was read. Returns whether there may be more.
    fn goes_on(&mut self, len: usize) -> bool {
        self.bytes_left = self.bytes_left.saturating_sub(len);
        len > 0 && self.bytes_left > 0
    }

    /// Whether this turn may read on.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.reads_left > 0 {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits until the unfinished message may take more memory.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.begun {
            Some(begun) => begun.poll_room(cx, self.link.inbound()),
            None => Poll::Ready(()),
        }
    }

    /// Reads from the connection into `buf`; what does not fit, or is not whole, is kept.
    fn poll_connection(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_turn(cx));
            ready!(self.poll_room(cx));
            let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(())) };
            let mut space = [const { MaybeUninit::uninit() }; AHEAD_BYTES];
            let len = if self.link.inbound().is_full() { SCARCE_AHEAD_BYTES } else { AHEAD_BYTES };
            let mut read = ReadBuf::uninit(&mut space[..len]);
            ready!(Pin::new(reader).poll_read(cx, &mut read))?;
            self.reads_left -= 1;
            if !self.goes_on(read.filled().len()) {
                // The end of the stream. What was begun stays unfinished.
                return Poll::Ready(Ok(()));
            }
            self.heard = true;
            let given = self.give(read.filled(), buf);
            if given > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes what came, and gives the codec as much whole data as it has room for. Returns how
    /// much.
    fn give(&mut self, came: &[u8], buf: &mut ReadBuf<'_>) -> usize {
        let held_len = self.boundary.follow(came, self.held);
        let is_simple = self.begun.is_none() && held_len == 0 && self.boundary.is_whole();
        if is_simple {
            let (now, ahead) = came.split_at(came.len().min(buf.remaining()));
            buf.put_slice(now);
            if !ahead.is_empty() {
                self.ahead = Bytes::copy_from_slice(ahead);
            }
            return now.len();
        }
        self.keep(came, held_len);
        self.give_ahead(buf)
    }

    /// Like `give`, for what came with the request.
    fn take(&mut self, came: &[u8]) {
        // Not kept if empty: an empty `Bytes` may still hold a large buffer.
        if !came.is_empty() {
            let held_len = self.boundary.follow(came, self.held);
            self.keep(came, held_len);
        }
    }

    /// Makes what is whole ready for the codec, and keeps the rest.
    fn keep(&mut self, came: &[u8], held_len: usize) {
        let mut begun =
            self.begun.take().unwrap_or_else(|| Box::new(Begun::new(self.link.inbound())));
        self.ahead = begun.keep(came, held_len);
        if self.boundary.take_ended() {
            begun.renew();
        }
        if !self.boundary.is_whole() {
            begun.count(self.boundary.message_len());
            self.begun = Some(begun);
        }
    }

    fn give_ahead(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let now = self.ahead.split_to(self.ahead.len().min(buf.remaining()));
        buf.put_slice(&now);
        if self.ahead.is_empty() {
            self.ahead = Bytes::new();
        }
        now.len()
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return this.poll_connection(cx, buf);
        }
        this.give_ahead(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    /// Takes everything at once: a control frame has at most 127 bytes, and while the queue is over
    /// its limit the socket reads no pings, and so owes no pongs.
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

    /// The owner flushes the queue; tungstenite need not wait for it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.end();
        Poll::Ready(Ok(()))
    }
}
