//! One connection as HTTP reads and writes it, and beside it, whether the client is still there,
//! what waits for it, and whether an answer is under way.
//!
//! It does not know HTTP. hyper reads nothing while it answers, so that a client that shuts down
//! its side when it has said all it wants to say (`nc -N`) is answered. But an event stream has no
//! end of its own, and one whose client has gone would be kept until a write fails: two heartbeats,
//! in a silent room. So a stream looks itself, through a `Peer`.
//!
//! hyper keeps to itself how far it is. What must be known of it is seen from here: an answer is
//! under way while an [`Answering`] lives, and after that until hyper flushes, which it does when
//! it has nothing left to write. What it writes at any other time is a refusal of its own, of what
//! it could not read. It has no words in it, so it is not sent: only its status is noted.
//!
//! It is idle when it looks for a next request behind an answer. That it has nothing left to write
//! is not enough, and the difference is a hole: an answer may be given before the body of its
//! request has been read, and who takes the connection from hyper then would read the rest of the
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

use crate::budget::{Budget, Holder, Place};

/// Where the status stands in what hyper writes: `HTTP/1.1 431 …`.
const STATUS: std::ops::Range<usize> = 9..12;

/// The connection, for its one owner.
pub struct Line {
    /// Only the line keeps it, and for a moment a peer that looks whether it is there. The wire is
    /// kept by whoever looks for who keeps most, too, and if that was in the moment of an upgrade,
    /// nobody could have the stream, and the upgrade was lost after its answer.
    stream: Arc<TcpStream>,
    wire: Arc<Wire>,
    /// Read already, and to be read again first.
    rest: Bytes,
    /// Nothing is read but `rest`.
    is_deaf: bool,
}

/// The client's side. It does not keep the connection open.
#[derive(Clone, Debug)]
pub struct Peer(Weak<Wire>);

/// An answer that is under way, from when its request was read until its body has been written or
/// given up.
#[derive(Debug)]
pub struct Answering(Peer);

/// How far an exchange is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Something was asked, and all that was asked is answered and with the kernel.
    pub is_idle: bool,
    /// The kernel has no room for what is to be written. It is the number of times that it had.
    pub stuck: Option<u64>,
    /// The status with which hyper itself refused what it read.
    pub refused: Option<u16>,
}

#[derive(Debug)]
struct Wire {
    stream: Weak<TcpStream>,
    state: Mutex<State>,
    /// Wakes whoever serves the connection, to end it: it takes nothing, and the node needs the
    /// memory of what waits for it.
    evicted: Arc<Notify>,
    /// Where this one is known to those who look for who keeps most.
    _place: Place,
}

#[derive(Debug)]
struct State {
    /// Of what hyper was given, the bytes that the kernel has not taken.
    owed: usize,
    /// When the kernel last took some of them, or they began.
    moved_at: Instant,
    /// How often the kernel took some.
    moves: u64,
    /// Answers under way: one, or none.
    answering: usize,
    /// Requests since HTTP began here.
    asked: usize,
    /// What is written is of an answer.
    is_open: bool,
    /// HTTP has looked for the next request since the last answer.
    looks: bool,
    is_blocked: bool,
    refused: Option<u16>,
}

impl Line {
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
            let (_place, evicted) = (unsent.enter(this.clone()), Arc::default());
            Wire { stream: Arc::downgrade(&stream), state, evicted, _place }
        });
        Self { stream, wire, rest: Bytes::new(), is_deaf: false }
    }

    pub fn peer(&self) -> Peer {
        Peer(Arc::downgrade(&self.wire))
    }

    /// Told when the connection must end. A permit is stored, so it does not matter who is first.
    /// It is no part of the line, so that waiting for it does not keep the line from moving on.
    pub fn evicted(&self) -> Arc<Notify> {
        self.wire.evicted.clone()
    }

    /// The connection itself, and what was read of it already; `None` while somebody waits for the
    /// peer to go.
    pub fn into_stream(self) -> Option<(TcpStream, Bytes)> {
        Some((Arc::into_inner(self.stream)?, self.rest))
    }

    /// What was read and not used yet.
    pub fn ahead(&self) -> &[u8] {
        &self.rest
    }

    /// Reads more of it, up to so many bytes in all; an error also if there is no room for more, or
    /// nothing more comes. Cancel-safe.
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

    /// So many bytes of it are used.
    pub fn skip(&mut self, len: usize) {
        self.rest.advance(len);
    }

    /// Resolves when the client says something (`true`), or can say nothing more. Cancel-safe.
    pub async fn arrives(&self) -> bool {
        !self.rest.is_empty() || matches!(self.stream.peek(&mut [0]).await, Ok(1..))
    }

    /// Whether something has arrived, also if the runtime does not know it yet.
    pub fn has_arrived(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = SockRef::from(&self.stream).peek(&mut byte);
        !self.rest.is_empty() || matches!(peeked, Ok(1..))
    }

    /// Makes ready for HTTP to begin anew, which has read these bytes and not used them.
    pub fn begin_anew(&mut self, unread: Bytes) {
        self.rest = join(unread, std::mem::take(&mut self.rest));
        // A blank line behind a request is none, and HTTP would wait for the rest of it, for less
        // time than the next request has.
        while let Some(b'\r' | b'\n') = self.rest.first() {
            self.rest.advance(1);
        }
        let mut state = self.wire.state();
        (state.asked, state.refused, state.owed) = (0, None, 0);
        // The race that this closes: the node wants the memory of what waits for a client, who
        // takes it in that moment. Its next request must not end for that.
        let _ = self.wire.evicted.notified().now_or_never();
    }

    /// From here on, this is all that is read.
    pub fn read_only(&mut self, text: &'static [u8]) {
        (self.rest, self.is_deaf) = (Bytes::from_static(text), true);
        self.wire.state().refused = None;
    }

    /// Reads what the client still sends, up to so many bytes, and drops it, after telling it that
    /// there is nothing more to come. To close a connection with something unread would reset it,
    /// and a client that is reset may never see its answer.
    pub async fn drain(&self, bytes_max: usize) {
        // It may be gone already.
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
    /// Resolves when nothing more can come from the client: it is gone, or has said all it wants to
    /// say. One that has sent a request ahead cannot be seen to go.
    pub async fn gone(self) {
        let Some(wire) = self.0.upgrade() else { return };
        let Some(stream) = wire.stream.upgrade() else { return };
        if let Ok(1..) = stream.peek(&mut [0]).await {
            std::future::pending().await
        }
    }

    /// So many bytes of an answer are on their way to this client.
    pub fn owes(&self, len: usize) {
        let Some(wire) = self.0.upgrade() else { return };
        let mut state = wire.state();
        if state.owed == 0 {
            state.moved_at = Instant::now();
        }
        state.owed += len;
    }

    /// Whether something waits for this client.
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

    /// To be asked when HTTP has done all that it could do for now.
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

/// One behind the other.
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
    /// The kernel took so many bytes: heads and what is not counted are among them, which makes
    /// the rest seem smaller than it is, and never for long.
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
        // It may have taken everything since it was asked.
        let state = self.state();
        if state.owed > 0 {
            self.evicted.notify_one();
        }
    }
}

impl AsyncRead for Line {
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

    /// Called when everything is written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.wire.state();
        state.is_open &= state.answering > 0;
        if !state.is_open {
            state.owed = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// The end is told by closing, which comes right behind it.
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
    async fn line() -> (Line, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (Line::new(stream, &Budget::new(1024)), client)
    }

    #[tokio::test]
    async fn an_answer_without_its_body_is_owed_to_nobody() {
        let (line, _client) = line().await;
        let (peer, unsent) = (line.peer(), Budget::new(1024));
        let waits = |method: &Method| {
            for content in
                [Content::Static(&[0; 4096]), Content::Whole(Bytes::from_static(&[0; 4096]))]
            {
                drop(content.body(method, &peer, &unsent, peer.answering()));
            }
            line.wire.waiting().map(|(bytes, _)| bytes)
        };
        assert_eq!(waits(&Method::HEAD), None);
        assert_eq!(waits(&Method::GET), Some(8192));
    }

    #[tokio::test]
    async fn a_blank_line_behind_a_request_is_no_other_one() {
        let (mut line, _client) = line().await;
        line.begin_anew(Bytes::from_static(b"\r\n\n"));
        assert!(line.ahead().is_empty() && !line.has_arrived());
        line.begin_anew(Bytes::from_static(b"\r\nGET"));
        assert_eq!(line.ahead(), b"GET");
    }

    #[tokio::test]
    async fn whoever_looks_for_who_keeps_most_does_not_keep_the_stream() {
        let (line, _client) = line().await;
        let looks = line.wire.clone();
        assert!(line.into_stream().is_some() && looks.waiting().is_none());
    }

    #[tokio::test]
    async fn who_has_taken_everything_is_not_ended_for_what_waited() {
        let (mut line, _client) = line().await;
        let is_ended = |line: &Line| line.wire.evicted.notified().now_or_never().is_some();
        line.peer().owes(4096);
        line.wire.evict();
        line.begin_anew(Bytes::new());
        assert!(!is_ended(&line) && line.wire.waiting().is_none());
        // And whoever looked before that comes too late.
        line.wire.evict();
        assert!(!is_ended(&line));
        line.peer().owes(4096);
        line.wire.evict();
        assert!(is_ended(&line));
    }
}
