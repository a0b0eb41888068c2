//! One connection as HTTP reads and writes it. It also knows whether the client is still there,
//! what waits for it, and whether an answer is in progress.
//!
//! It does not know HTTP. hyper reads nothing while it answers, so a client that closes its sending
//! side after its last request (`nc -N`) still gets an answer. But an event stream never ends by
//! itself: if its client is gone, it would live until a write fails, which takes two heartbeats in
//! a silent room. So a stream looks for itself, through a `Peer`.
//!
//! hyper does not say how far it is, so that is observed from here. An answer is in progress while
//! an [`Answering`] lives, and after that until hyper flushes, which it does when it has nothing
//! left to write. Anything that hyper writes at another time is its own refusal of something it
//! could not read. That has an empty body, so it is not sent; only its status is noted.
//!
//! HTTP is idle when it looks for the next request after an answer. Having nothing left to write is
//! not enough, and the difference is a security hole: an answer may be given before the body of its
//! request has been read. Whoever took the connection from hyper then would read the rest of the
//! body as a request.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::budget::{Budget, Holder, Registered};

/// Position of the status in what hyper writes: `HTTP/1.1 431 …`.
const STATUS: std::ops::Range<usize> = 9..12;

/// The connection, held by its one owner.
pub struct Transport {
    /// Only this struct keeps the stream, and for a moment a peer that checks whether the client is
    /// there. `wire` is also kept by the search for the connections that hold most memory. If that
    /// kept the stream during an upgrade, nobody could take the stream, and the upgrade would be
    /// lost after its answer.
    stream: Arc<TcpStream>,
    wire: Arc<Wire>,
    /// Already read, to be read again first.
    rest: Bytes,
    /// Nothing but `rest` is read.
    is_deaf: bool,
}

/// The client's side. Does not keep the connection open.
#[derive(Clone, Debug)]
pub struct Peer(Weak<Wire>);

/// An answer in progress, from when its request was read until its body has been written or given
/// up.
#[derive(Debug)]
pub struct Answering(Peer);

/// The state of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// There was a request, and all requests are answered and the answers are with the kernel.
    pub is_idle: bool,
    /// The kernel accepts no more data. The number counts how often it did before.
    pub stuck: Option<u64>,
    /// The status with which hyper itself refused what it read.
    pub refused: Option<u16>,
}

#[derive(Debug)]
struct Wire {
    stream: Weak<TcpStream>,
    state: Mutex<State>,
    /// Tells the task of the connection to end it: the client accepts no data, and the node needs
    /// the memory.
    evicted: Arc<Notify>,
    /// Registers the connection with the budget.
    _registered: Registered,
}

#[derive(Debug)]
struct State {
    /// Bytes given to hyper that the kernel has not accepted.
    owed: usize,
    /// When the kernel last accepted some of them, or the first were given.
    moved_at: Instant,
    /// How often the kernel accepted some.
    moves: u64,
    /// Answers in progress: one or none.
    answering: usize,
    /// Requests since HTTP was created.
    asked: usize,
    /// What is written belongs to an answer.
    is_open: bool,
    /// HTTP has looked for the next request since the last answer.
    looks: bool,
    is_blocked: bool,
    refused: Option<u16>,
}

impl Transport {
    pub fn new(stream: TcpStream, unsent: &Arc<Budget>) -> Self {
        let state = Mutex::new(State {
            owed: 0,
            moved_at: Instant::now(),
            moves: 0,
            answering: 0,
            asked: 0,
            is_open: false,
            looks: false,
            is_blocked: false,
            refused: None,
        });
        let stream = Arc::new(stream);
        let wire = Arc::new_cyclic(|this: &Weak<Wire>| {
            let (_registered, evicted) = (unsent.enter(this.clone()), Arc::default());
            Wire { stream: Arc::downgrade(&stream), state, evicted, _registered }
        });
        Self { stream, wire, rest: Bytes::new(), is_deaf: false }
    }

    pub fn peer(&self) -> Peer {
        Peer(Arc::downgrade(&self.wire))
    }

    /// Notified when the connection must end. The permit is stored, so the order does not matter.
    /// Not part of the transport, so that waiting for it does not block the transport.
    pub fn evicted(&self) -> Arc<Notify> {
        self.wire.evicted.clone()
    }

    /// The stream, and what was already read from it; `None` while somebody waits for the peer to
    /// go.
    pub fn into_stream(self) -> Option<(TcpStream, Bytes)> {
        Some((Arc::into_inner(self.stream)?, self.rest))
    }

    /// Read but not used yet.
    pub fn ahead(&self) -> &[u8] {
        &self.rest
    }

    /// Reads more, up to this many bytes in all. Fails if there is no room for more, or nothing
    /// more comes. Cancel-safe.
    pub async fn read_ahead(&mut self, bytes_max: usize) -> io::Result<()> {
        let mut buffer = [0; 1024];
        let room = bytes_max.saturating_sub(self.rest.len()).min(buffer.len());
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut buffer[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    let read = Bytes::copy_from_slice(&buffer[..len]);
                    self.rest = join(std::mem::take(&mut self.rest), read);
                    return Ok(());
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// Drops the first bytes of what was read: they are used.
    pub fn skip(&mut self, len: usize) {
        self.rest.advance(len);
    }

    /// Resolves when the client sends something (`true`) or can send nothing more. Cancel-safe.
    pub async fn arrives(&self) -> bool {
        !self.rest.is_empty() || matches!(self.stream.peek(&mut [0]).await, Ok(1..))
    }

    /// Whether something has arrived, even if the runtime does not know it yet.
    pub fn has_arrived(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = SockRef::from(&self.stream).peek(&mut byte);
        !self.rest.is_empty() || matches!(peeked, Ok(1..))
    }

    /// Prepares for a new HTTP; `unread` is what the previous one has read and not used.
    pub fn begin_anew(&mut self, unread: Bytes) {
        self.rest = join(unread, std::mem::take(&mut self.rest));
        // A blank line after a request is not a request. HTTP would wait for the rest of one, with
        // a shorter timeout than the next request has.
        while let Some(b'\r' | b'\n') = self.rest.first() {
            self.rest.advance(1);
        }
        let mut state = self.wire.state();
        (state.asked, state.refused, state.owed) = (0, None, 0);
        // A race: the node asks for the memory of unsent data at the moment the client takes it.
        // The next request must not be ended for that.
        let _ = self.wire.evicted.notified().now_or_never();
    }

    /// From here on, only this is read.
    pub fn read_only(&mut self, text: &'static [u8]) {
        (self.rest, self.is_deaf) = (Bytes::from_static(text), true);
        self.wire.state().refused = None;
    }

    /// Tells the client that nothing more comes, then reads and drops what it still sends, up to
    /// this many bytes. Closing a connection with unread data would reset it, and the client might
    /// never see its answer.
    pub async fn drain(&self, bytes_max: usize) {
        // The client may be gone.
        let _ = SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        let (mut drained, mut buffer) = (0, [0; 4096]);
        while drained < bytes_max && self.stream.readable().await.is_ok() {
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => drained += len,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

impl Peer {
    /// Resolves when nothing more can come from the client: it is gone, or has closed its sending
    /// side. A client that has sent a request ahead cannot be seen to go.
    pub async fn gone(self) {
        let Some(wire) = self.0.upgrade() else { return };
        let Some(stream) = wire.stream.upgrade() else { return };
        if let Ok(1..) = stream.peek(&mut [0]).await {
            std::future::pending().await
        }
    }

    /// This many bytes of an answer are on their way to the client.
    pub fn owes(&self, len: usize) {
        let Some(wire) = self.0.upgrade() else { return };
        let mut state = wire.state();
        if state.owed == 0 {
            state.moved_at = Instant::now();
        }
        state.owed += len;
    }

    /// Whether data waits for the client.
    pub fn is_owed(&self) -> bool {
        self.0.upgrade().is_some_and(|wire| wire.state().owed > 0)
    }

    /// A request has been read. What is written from here on is its answer.
    pub fn answering(&self) -> Answering {
        if let Some(wire) = self.0.upgrade() {
            let mut state = wire.state();
            (state.answering, state.asked) = (state.answering + 1, state.asked + 1);
            (state.is_open, state.looks) = (true, false);
        }
        Answering(self.clone())
    }

    /// Call when HTTP has done all that it can for now.
    pub fn progress(&self) -> Progress {
        let Some(wire) = self.0.upgrade() else { return Progress::default() };
        let state = wire.state();
        Progress {
            is_idle: state.asked > 0 && state.looks && !state.is_open && !state.is_blocked,
            stuck: state.is_blocked.then_some(state.moves),
            refused: state.refused,
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(wire) = self.0.0.upgrade() {
            wire.state().answering -= 1;
        }
    }
}

/// Concatenates both.
pub fn join(first: Bytes, second: Bytes) -> Bytes {
    if second.is_empty() || first.is_empty() {
        return if first.is_empty() { second } else { first };
    }
    [first, second].concat().into()
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The kernel accepted bytes. Some are heads and other uncounted bytes, so `owed` may briefly
    /// be too small.
    fn wrote(&mut self, len: usize) {
        (self.is_blocked, self.moves) = (false, self.moves + 1);
        if self.owed > 0 {
            self.owed = self.owed.saturating_sub(len);
            self.moved_at = Instant::now();
        }
    }
}

impl Holder for Wire {
    fn waiting(&self) -> Option<(usize, Instant)> {
        let State { owed, moved_at, .. } = *self.state();
        (owed > 0).then_some((owed, moved_at))
    }

    fn evict(&self) {
        // It may have taken everything meanwhile.
        let state = self.state();
        if state.owed > 0 {
            self.evicted.notify_one();
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        {
            let mut state = self.wire.state();
            state.looks |= !state.is_open;
        }
        if !self.rest.is_empty() || self.is_deaf {
            let len = self.rest.len().min(buf.remaining());
            buf.put_slice(&self.rest[..len]);
            self.rest.advance(len);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buf) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Transport {
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
        let mut state = self.wire.state();
        if !state.is_open {
            let head = slices.iter().find(|slice| !slice.is_empty());
            let status = head.and_then(|head| str::from_utf8(head.get(STATUS)?).ok()?.parse().ok());
            state.refused = state.refused.or(status);
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        loop {
            let Poll::Ready(ready) = self.stream.poll_write_ready(cx) else {
                state.is_blocked = true;
                return Poll::Pending;
            };
            ready?;
            match self.stream.try_write_vectored(slices) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    written.iter().for_each(|len| state.wrote(*len));
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this when everything is written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.wire.state();
        state.is_open &= state.answering > 0;
        if !state.is_open {
            state.owed = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Does nothing: the end is sent when the connection closes, right after this.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use hyper::Method;
    use tokio::net::TcpListener;

    use super::*;
    use crate::server::answer::Content;

    /// A connection, and its client's end.
    async fn transport() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (Transport::new(stream, &Budget::new(1024)), client)
    }

    #[tokio::test]
    async fn an_answer_without_its_body_is_owed_to_nobody() {
        let (transport, _client) = transport().await;
        let (peer, unsent) = (transport.peer(), Budget::new(1024));
        let waits = |method: &Method| {
            for content in
                [Content::Static(&[0; 4096]), Content::Whole(Bytes::from_static(&[0; 4096]))]
            {
                drop(content.body(method, &peer, &unsent, peer.answering()));
            }
            transport.wire.waiting().map(|(bytes, _)| bytes)
        };
        assert_eq!(waits(&Method::HEAD), None);
        assert_eq!(waits(&Method::GET), Some(8192));
    }

    #[tokio::test]
    async fn a_blank_line_after_a_request_is_not_another_request() {
        let (mut transport, _client) = transport().await;
        transport.begin_anew(Bytes::from_static(b"\r\n\n"));
        assert!(transport.ahead().is_empty() && !transport.has_arrived());
        transport.begin_anew(Bytes::from_static(b"\r\nGET"));
        assert_eq!(transport.ahead(), b"GET");
    }

    #[tokio::test]
    async fn a_search_for_the_largest_holder_does_not_keep_the_stream_open() {
        let (transport, _client) = transport().await;
        let looks = transport.wire.clone();
        assert!(transport.into_stream().is_some() && looks.waiting().is_none());
    }

    #[tokio::test]
    async fn a_client_that_has_read_everything_is_not_evicted_for_what_waited() {
        let (mut transport, _client) = transport().await;
        let is_ended =
            |transport: &Transport| transport.wire.evicted.notified().now_or_never().is_some();
        transport.peer().owes(4096);
        transport.wire.evict();
        transport.begin_anew(Bytes::new());
        assert!(!is_ended(&transport) && transport.wire.waiting().is_none());
        // Whoever looked before that comes too late.
        transport.wire.evict();
        assert!(!is_ended(&transport));
        transport.peer().owes(4096);
        transport.wire.evict();
        assert!(is_ended(&transport));
    }
}
