//! The writing half of a socket, shared: whole frames go in, from any task, and leave in order.
//!
//! It does not read, and does not know what the frames say. Callers write **inline**: if the queue
//! is empty, the bytes go to the kernel on the caller's thread, without a copy or a wake-up,
//! because the kernel's send is the unavoidable cost of a delivery. Only what the kernel did not
//! take is queued, and the socket's own task (the *owner*) is woken to wait for space:
//!
//! ```text
//!  hub, session ── offer, push ──▶ queue empty? ── yes ──▶ try_write ──▶ kernel
//!                                      │ no                   │ the rest     ▲
//!                                      ▼                      ▼              │ up to 64 pieces
//!                               [ head│ piece │ piece ] ◀─────┘   owner: poll_flush
//! ```
//!
//! The lock is held across the write. That keeps frames whole: a second writer, between the write
//! and the queueing of its rest, would put its frame into the middle of the first. The write never
//! blocks, so the lock is held for microseconds.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use super::outlet::Outlet;
use super::queue::{PIECE_OVERHEAD_BYTES, Piece, Queued, Queues, cost};
use crate::budget::{Budget, Holder, Registered};

/// Pieces in one vectored write. More would not help: 64 chat frames are some 16 KiB, and the
/// kernel rarely has space for more. (Its own limit is 1,024.)
const PIECES_PER_WRITE: usize = 64;

/// Bytes that may wait in one queue while the node's budget of unsent bytes is full. A client that
/// takes what it is sent has an empty queue, and notices nothing.
const SCARCE_QUEUE_BYTES_MAX: usize = 16 * 1024;

/// The writing half of one socket.
#[derive(Debug)]
pub struct Link {
    /// Bytes that the queue may hold, overhead included; further pieces are refused.
    queue_bytes_max: usize,
    queues: Arc<Queues>,
    /// Registers it with the budget, which searches for the largest holders.
    _registered: Registered,
    state: Mutex<State>,
}

/// What happened to an offered frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// The kernel has it, or it is queued and will follow.
    Taken,
    /// None of it was taken; the socket will report `Drained` when there is room again.
    Full,
    /// The socket is closing or gone; nothing will be taken any more.
    Closed,
}

/// What the owner needs to know about the queue, read under one lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// Since when the kernel has taken nothing of what waits; `None`: nothing waits.
    pub stuck_since: Option<Instant>,
    /// More waits than the limit allows: stop reading commands.
    pub is_over_limit: bool,
    /// Room was asked for, and there is some now. Reported once.
    pub has_drained: bool,
    /// The kernel refused a write for good: the connection is lost.
    pub is_broken: bool,
    /// It kept too much for too long, and the node needs the memory.
    pub is_evicted: bool,
}

#[derive(Debug)]
struct State {
    /// The connection. `None` once it broke or was ended.
    writer: Option<Outlet>,
    /// Whole pieces that the kernel has not taken. Uses no memory while it is empty.
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that the kernel already has.
    head_written: usize,
    /// The size of the pieces, `PIECE_OVERHEAD_BYTES` included.
    queued: Queued,
    /// When the queue last became non-empty, or the kernel last took a byte of it.
    moved_at: Instant,
    /// `close` has begun: only the socket's own last frames are taken.
    is_closing: bool,
    /// A message of several frames has begun. Only its own frames and control frames may come
    /// before its end (RFC 6455, section 5.4).
    is_in_message: bool,
    is_evicted: bool,
    /// A frame was refused, or somebody asked to be told: the owner reports `Drained` when there is
    /// room for this much, the largest size that was refused.
    room_wanted: Option<usize>,
    /// The owner, as of its last `poll_flush`. Under the same lock as the queue, so that no wake-up
    /// is lost: either the owner's poll sees the piece, or the piece's writer sees the owner's
    /// waker.
    owner: Option<Waker>,
}

impl Link {
    pub(super) fn new(writer: Outlet, queue_bytes_max: usize, queues: &Arc<Queues>) -> Arc<Self> {
        let state = State {
            writer: Some(writer),
            pieces: VecDeque::new(),
            head_written: 0,
            queued: Queued::new(queues),
            moved_at: Instant::now(),
            is_closing: false,
            is_in_message: false,
            is_evicted: false,
            room_wanted: None,
            owner: None,
        };
        Arc::new_cyclic(|this: &Weak<Self>| {
            let (_registered, queues) = (queues.unsent.enter(this.clone()), queues.clone());
            Self { queue_bytes_max, queues, _registered, state: Mutex::new(state) }
        })
    }

    /// Writes one or more whole frames, or refuses them all.
    ///
    /// An empty queue takes a piece of any size; otherwise a page larger than the queue could never
    /// leave. A refusal is remembered until the owner reports `Drained`. The caller must note the
    /// refusal under a lock that the session takes, too, or it may miss the report.
    pub fn offer(&self, frames: &Bytes) -> Offer {
        let mut state = self.lock();
        if state.is_closing {
            return Offer::Closed;
        }
        let may_wait = || {
            let is_scarce = self.queues.unsent.is_full();
            let max = if is_scarce { SCARCE_QUEUE_BYTES_MAX } else { self.queue_bytes_max };
            state.queued.bytes + cost(frames) <= max
        };
        if state.is_in_message || (!state.pieces.is_empty() && !may_wait()) {
            state.room_wanted = state.room_wanted.max(Some(cost(frames)));
            return Offer::Full;
        }
        write(state, frames, false)
    }

    /// Writes frames that may be lost, if nothing else is waiting. A refusal is not remembered.
    pub fn offer_idle(&self, frames: &Bytes) -> bool {
        let state = self.lock();
        let idle = !state.is_closing && !state.is_in_message && state.pieces.is_empty();
        idle && write(state, frames, true) == Offer::Taken
    }

    /// Writes frames that must not be refused: answers to the client's commands. They are limited
    /// because the socket stops reading commands while the queue is over its limit. Never `Full`.
    pub fn push(&self, frames: &Bytes) -> Offer {
        let state = self.lock();
        if state.is_closing { Offer::Closed } else { write(state, frames, true) }
    }

    /// Like `push`, for events, whose bytes are counted where they were made.
    pub fn push_shared(&self, frames: &Bytes) -> Offer {
        let state = self.lock();
        if state.is_closing { Offer::Closed } else { write(state, frames, false) }
    }

    /// A message of several frames begins or has ended. Meanwhile nothing is taken except by
    /// `push`, which the writer of the message must use for nothing else.
    pub fn set_in_message(&self, is_in_message: bool) {
        self.lock().is_in_message = is_in_message;
    }

    /// Asks for a `Drained`, as if a frame had been refused. If there is room already, it comes at
    /// once.
    pub fn tell_when_drained(&self) {
        self.tell_when_fits(0);
    }

    /// Like `tell_when_drained`, but when nothing is left.
    pub fn tell_when_empty(&self) {
        self.tell_when_fits(usize::MAX);
    }

    fn tell_when_fits(&self, wanted: usize) {
        let mut state = self.lock();
        state.room_wanted = state.room_wanted.max(Some(wanted));
        let owner = if self.has_drained(&state) { state.owner.take() } else { None };
        drop(state);
        wake(owner);
    }

    pub(super) fn inbound(&self) -> &Arc<Budget> {
        &self.queues.inbound
    }

    /// Bytes waiting for the kernel, as the limit counts them.
    pub fn queued_bytes(&self) -> usize {
        self.lock().queued.bytes
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.lock().is_evicted
    }

    /// Writes what tungstenite sends by itself: pongs, and the close frame after `begin_close`.
    pub(super) fn push_control(&self, frames: &Bytes) -> Offer {
        write(self.lock(), frames, true)
    }

    /// Writes what the kernel takes, and registers the caller as the task to wake: when the kernel
    /// has space, when the queue stops being empty, and when the connection breaks.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Flow {
        let mut state = self.lock();
        while !state.pieces.is_empty() {
            match state.poll_write(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => state.end(),
                Poll::Pending => break,
            }
        }
        if !state.owner.as_ref().is_some_and(|owner| owner.will_wake(cx.waker())) {
            state.owner = Some(cx.waker().clone());
        }
        let has_drained = self.has_drained(&state);
        if has_drained {
            state.room_wanted = None;
        }
        Flow {
            stuck_since: (!state.pieces.is_empty()).then_some(state.moved_at),
            is_over_limit: state.queued.bytes > self.queue_bytes_max,
            has_drained,
            is_broken: state.writer.is_none(),
            is_evicted: state.is_evicted,
        }
    }

    /// From here on offers are `Closed`; only the socket's own close frame may follow.
    pub(super) fn begin_close(&self) {
        self.lock().is_closing = true;
    }

    /// Drops what is waiting, except the rest of a piece whose beginning was sent: the client must
    /// never get half a frame and then another.
    pub(super) fn drop_backlog(&self) {
        let mut state = self.lock();
        let keep = usize::from(state.head_written > 0);
        state.pieces.truncate(keep);
        let head = state.pieces.front();
        let (left, held) =
            head.map_or((0, 0), |head| (cost(&head.frames) - state.head_written, head.held()));
        state.queued.set(left);
        state.queued.held.set(held);
    }

    /// Drops what is waiting and ends writing: the peer sees the end of the stream.
    pub(super) fn end(&self) {
        self.lock().end();
    }

    /// Room was asked for, and there is some: the queue is down to half of its limit, so that a
    /// follower near the limit does not alternate between live and catching up with every frame;
    /// and there is enough for what was refused, or it would be refused and told again without a
    /// pause.
    fn has_drained(&self, state: &State) -> bool {
        state.room_wanted.is_some_and(|wanted| {
            let is_half_empty = state.queued.bytes <= self.queue_bytes_max / 2;
            let fits = state.queued.bytes.saturating_add(wanted) <= self.queue_bytes_max;
            is_half_empty && (fits || state.pieces.is_empty())
        })
    }

    /// A panic under the lock cannot leave the queue half changed, because nothing between two
    /// related changes can panic. So a poisoned lock is usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder for Link {
    fn waiting(&self) -> Option<(usize, Instant)> {
        let state = self.lock();
        // Ending this socket does not free what others wait for as well.
        (!state.pieces.is_empty()).then(|| (state.queued.held.bytes(), state.moved_at))
    }

    fn evict(&self) {
        let mut state = self.lock();
        state.is_evicted = true;
        let owner = state.owner.take();
        drop(state);
        wake(owner);
    }
}

/// Writes inline if nothing is waiting, else queues. `is_own`: see `Piece`.
fn write(mut state: MutexGuard<'_, State>, frames: &Bytes, is_own: bool) -> Offer {
    let Some(writer) = &state.writer else { return Offer::Closed };
    if !state.pieces.is_empty() {
        state.enqueue(frames, is_own);
        return Offer::Taken;
    }
    let written = match writer.try_write(frames) {
        Ok(written) => written,
        Err(error) if is_passing(&error) => 0,
        Err(_) => {
            let owner = state.owner.take();
            state.end();
            drop(state);
            wake(owner);
            return Offer::Closed;
        }
    };
    if written == frames.len() {
        return Offer::Taken;
    }
    state.enqueue(frames, is_own);
    state.queued.sub(written);
    state.head_written = written;
    state.moved_at = Instant::now();
    let owner = state.owner.take();
    drop(state);
    wake(owner);
    Offer::Taken
}

impl State {
    fn enqueue(&mut self, frames: &Bytes, is_own: bool) {
        let piece = Piece { frames: frames.clone(), is_own };
        self.queued.add(&piece);
        self.pieces.push_back(piece);
    }

    /// One vectored write, when the kernel has space.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writer) = &self.writer else {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        };
        std::task::ready!(writer.poll_write_ready(cx))?;
        let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            let skip = if count == 0 { self.head_written } else { 0 };
            *slice = IoSlice::new(&piece.frames[skip..]);
            count += 1;
        }
        match writer.try_write_vectored(&slices[..count]) {
            Ok(0) => Poll::Ready(Err(ErrorKind::WriteZero.into())),
            Ok(written) => {
                self.advance(written);
                Poll::Ready(Ok(()))
            }
            // The caller asks again, and the next `poll_write_ready` waits.
            Err(error) if is_passing(&error) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// The kernel took `written` bytes from the front.
    fn advance(&mut self, written: usize) {
        self.moved_at = Instant::now();
        self.queued.sub(written);
        self.head_written += written;
        let mut held = self.queued.held.bytes();
        while let Some(head) =
            self.pieces.front().filter(|head| self.head_written >= head.frames.len())
        {
            self.head_written -= head.frames.len();
            held -= head.held();
            self.queued.sub(PIECE_OVERHEAD_BYTES);
            self.pieces.pop_front();
        }
        self.queued.held.set(held);
        if self.pieces.is_empty() {
            // A queue that was long once would otherwise keep its memory while the socket idles.
            self.pieces = VecDeque::new();
        }
    }

    fn end(&mut self) {
        self.is_closing = true;
        self.writer = None;
        self.pieces = VecDeque::new();
        self.head_written = 0;
        self.queued.set(0);
        self.queued.held.set(0);
    }
}

/// The kernel has no space now, but the connection is fine.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Called without the lock, so that the owner does not wake up only to wait for it.
fn wake(owner: Option<Waker>) {
    if let Some(owner) = owner {
        owner.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn link(queue_bytes_max: usize) -> (Arc<Link>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (_, writer) = accepted.unwrap().0.into_split();
        writer.writable().await.unwrap();
        let link = Link::new(Outlet::Tcp(writer), queue_bytes_max, &Arc::default());
        (link, client.unwrap())
    }

    /// Ten thousand sockets that were slow once must not keep memory for it.
    #[tokio::test]
    async fn a_drained_queue_holds_no_memory() {
        let (link, mut client) = link(64 << 20).await;
        let frame = Bytes::from(vec![7; 64 * 1024]);
        let mut sent = 0;
        while link.lock().pieces.len() < 100 {
            assert_eq!(link.offer(&frame), Offer::Taken);
            sent += frame.len();
        }
        let reading = tokio::spawn(async move {
            let mut space = vec![0; sent];
            client.read_exact(&mut space).await.map(|_| client)
        });
        let drained = |cx: &mut Context<'_>| match link.poll_flush(cx).stuck_since {
            None => Poll::Ready(()),
            Some(_) => Poll::Pending,
        };
        poll_fn(drained).await;
        assert_eq!(link.lock().pieces.capacity(), 0);
        assert_eq!((link.queued_bytes(), link.lock().head_written), (0, 0));
        drop(reading.await.unwrap().unwrap());
    }

    /// The client must never get half a frame and then another.
    #[tokio::test]
    async fn dropping_the_backlog_keeps_the_frame_that_was_begun() {
        let (link, _client) = link(64 << 20).await;
        let frame = Bytes::from(vec![7; 16 << 20]);
        assert_eq!(link.offer(&frame), Offer::Taken);
        assert_eq!(link.offer(&frame), Offer::Taken);
        let written = link.lock().head_written;
        assert!(written > 0);
        link.drop_backlog();
        assert_eq!(link.queued_bytes(), cost(&frame) - written);
        // None of it is with the kernel: it may be dropped.
        link.lock().head_written = 0;
        link.drop_backlog();
        assert_eq!(link.queued_bytes(), 0);
    }
}
