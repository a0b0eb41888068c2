//! One WebSocket: bytes to frames and back, the ping deadline, joined writes, the close handshake.
//!
//! It does not know what the frames say, or who writes them. One task owns a [`Socket`] and calls
//! [`Socket::next`] for as long as it lives: that call reads, flushes, pings and checks the
//! deadlines. Anyone may hold its [`Link`] and write.

mod begun;
mod boundary;
mod clock;
mod codec;
mod duplex;
mod link;
mod outlet;
#[cfg(test)]
pub mod pipe;
mod queue;
mod reason;
mod tune;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use self::boundary::Held;
use self::clock::{Clock, Due};
use self::codec::Codec;
use self::duplex::Duplex;
use self::link::Flow;
pub use self::link::{Link, Offer};
use self::outlet::Outlet;
pub use self::queue::Queues;
pub use self::reason::CloseReason;
pub use self::tune::tune;
use crate::config::SocketConfig;
use crate::protocol::close::CloseCode;

/// How long closing may take for a socket whose memory others need. A frame that was begun must be
/// sent whole first, and the client does not read.
const EVICTED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that a client may still send after it is told to go: those that may be on their way, and
/// some more. A client that sends more is cut off.
const FAREWELL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An empty ping.
static PING: Bytes = Bytes::from_static(&[0x89, 0]);

/// The reading half of one WebSocket, the server's side, and the owner of the whole.
#[derive(Debug)]
pub struct Socket {
    link: Arc<Link>,
    codec: Codec,
    clock: Clock,
    /// The only timer, at or before `clock`'s next deadline. It is reset when it fires too early,
    /// not with every frame.
    timer: Pin<Box<Sleep>>,
    close_timeout: Duration,
    stage: Stage,
}

/// How far the conversation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The client sent something after which its input cannot be read any further. It has not been
    /// told yet.
    Refused,
    /// The client closed, and the reply is in the queue.
    PeerClosed(u16),
    /// Nobody is at the other end.
    Lost,
}

/// Stands for the code of a close frame without one (RFC 6455, section 7.1.5).
const NO_CODE: u16 = 1005;

/// What a socket reports to its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A text message. Drop it soon: it holds the read buffer in which it arrived.
    Text(Utf8Bytes),
    /// A binary message; the same applies.
    Binary(Bytes),
    /// After a refused offer, or a request to be told: the queue is down to half of its limit.
    Drained,
    /// This many frames arrived that end no message: pings, pongs, and parts of messages.
    Frames(u32),
    /// The socket is over for this reason; call [`Socket::close`] with it.
    Closed(CloseReason),
}

impl Socket {
    /// A connection whose upgrade was answered. `leftover` is what the client sent after its
    /// request, which was read with it. It is copied, because it holds HTTP's whole read buffer,
    /// which would be most of an idle socket's memory. Must be called within a runtime.
    pub fn new(
        stream: TcpStream,
        leftover: Bytes,
        config: &SocketConfig,
        queues: &Arc<Queues>,
    ) -> Self {
        let (reader, writer) = stream.into_split();
        let link = Link::new(Outlet::Tcp(writer), config.queue_bytes_max, queues);
        let held = Held { above: config.read_buffer_bytes, up_to: config.frame_bytes_max };
        let codec = Codec::new(Duplex::new(reader, Arc::clone(&link), leftover, held));
        let heartbeat = Duration::from_millis(config.heartbeat_ms);
        let stall_timeout = Duration::from_millis(config.stall_timeout_ms);
        let frame_timeout = Duration::from_millis(config.frame_timeout_ms);
        let close_timeout = Duration::from_millis(config.close_timeout_ms);
        let clock = Clock::new(heartbeat, stall_timeout, frame_timeout, Instant::now());
        let timer = Box::pin(sleep_until(clock.next_due(None, None)));
        Self { link, codec, clock, timer, close_timeout, stage: Stage::Open }
    }

    /// The writing half, to share.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Waits for the next event. Meanwhile it flushes the queue, sends and answers pings, and
    /// checks the deadlines, so it must be called for as long as the socket lives.
    ///
    /// With `reading` false it reads no frames, and the client's kernel stops sending. It also
    /// reads nothing while the queue is over its limit: a client that does not take answers may not
    /// ask.
    ///
    /// Cancel-safe: all state is in the socket, and nothing is taken before it is returned.
    pub async fn next(&mut self, reading: bool) -> Incoming {
        poll_fn(|cx| self.poll_next(cx, reading)).await
    }

    /// Ends the socket in order: what is queued, the close frame, the client's answer, and the end
    /// of the stream, all within the close timeout. It may be called after every
    /// [`Incoming::Closed`]; it knows when nobody is there to talk to.
    ///
    /// Boxed, so that the session's future does not reserve space for it.
    pub fn close(
        mut self,
        code: CloseCode,
        reason: &'static str,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // A client that did not answer within the timeout is cut off by the drop.
            let is_evicted = self.link.is_evicted();
            let max = if is_evicted { EVICTED_CLOSE_TIMEOUT } else { Duration::MAX };
            let patience = self.close_timeout.min(max);
            if timeout(patience, self.finish(code, reason)).await.is_err() {
                tracing::debug!(code = code.0, "close handshake timed out");
            }
        })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, reading: bool) -> Poll<Incoming> {
        self.codec.duplex().begin_turn();
        loop {
            let flow = self.link.poll_flush(cx);
            if flow.is_evicted {
                return Poll::Ready(Incoming::Closed(CloseReason::Evicted));
            }
            if flow.has_drained {
                return Poll::Ready(Incoming::Drained);
            }
            // Checked also while nothing is read: an unfinished message is kept all the same.
            if self.codec.duplex().is_evicted() {
                return Poll::Ready(self.on_end(CloseReason::UNFINISHED_EVICTED));
            }
            let reading = reading && !flow.is_over_limit;
            if reading {
                match self.poll_read(cx) {
                    Poll::Ready(Some(incoming)) => return Poll::Ready(incoming),
                    // A control frame may have put a pong into the queue: flush again.
                    Poll::Ready(None) => continue,
                    Poll::Pending => {}
                }
                // A failed write alone does not end the socket: the client may have sent its last
                // messages and gone without reading our answers, and those messages are still here.
                if flow.is_broken {
                    return Poll::Ready(self.on_end(CloseReason::Lost));
                }
            }
            match ready!(self.poll_clock(cx, &flow, reading)) {
                Due::Nothing => {}
                // If the link is closed, reading will report it.
                Due::Ping => drop(self.link.push_control(&PING)),
                Due::Stalled => {
                    return Poll::Ready(Incoming::Closed(CloseReason::Stalled));
                }
                Due::Silent => return Poll::Ready(Incoming::Closed(CloseReason::Silent)),
                Due::Unfinished => {
                    return Poll::Ready(self.on_end(CloseReason::UNFINISHED));
                }
            }
        }
    }

    /// The next message. `None`: a control frame was read, and there may be more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        // Frames that came with an earlier message first: they are paid for before more is read.
        let mut frames = self.codec.duplex().take_frames();
        let read = if frames == 0 { self.codec.poll_next(cx) } else { Poll::Pending };
        let duplex = self.codec.duplex();
        if duplex.take_heard() {
            self.clock.on_heard(Instant::now());
        }
        if read.is_pending() {
            frames += duplex.take_frames();
            if frames > 0 {
                return Poll::Ready(Some(Incoming::Frames(frames)));
            }
        }
        Poll::Ready(match ready!(read) {
            Some(Ok(Message::Text(text))) => Some(Incoming::Text(text)),
            Some(Ok(Message::Binary(bytes))) => Some(Incoming::Binary(bytes)),
            Some(Ok(Message::Close(frame))) => {
                self.on_close(frame.as_ref());
                None
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => None,
            Some(Err(error)) => Some(self.on_end(CloseReason::of(&error))),
            None => Some(self.on_end(CloseReason::Lost)),
        })
    }

    /// The client closed. The next read writes the reply, and then finds the end of the stream.
    fn on_close(&mut self, frame: Option<&CloseFrame>) {
        self.stage = Stage::PeerClosed(frame.map_or(NO_CODE, |frame| frame.code.into()));
    }

    /// Nothing more can be read. A client that has closed did not vanish, whatever happened to the
    /// connection since.
    fn on_end(&mut self, reason: CloseReason) -> Incoming {
        let reason = match self.stage {
            Stage::PeerClosed(code) => CloseReason::Peer(code),
            _ => reason,
        };
        self.stage = match reason {
            CloseReason::Peer(code) => Stage::PeerClosed(code),
            CloseReason::Refused(..) => Stage::Refused,
            _ => Stage::Lost,
        };
        Incoming::Closed(reason)
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>, flow: &Flow, reading: bool) -> Poll<Due> {
        let is_listening = reading && flow.stuck_since.is_none();
        if self.clock.set_listening(is_listening, Instant::now) {
            self.codec.duplex().forgive();
        }
        let begun_at = self.codec.duplex().begun_at();
        let due = self.clock.next_due(flow.stuck_since, begun_at);
        if due < self.timer.deadline() {
            self.timer.as_mut().reset(due);
        }
        ready!(self.timer.as_mut().poll(cx));
        let result = self.clock.on_due(flow.stuck_since, begun_at, Instant::now());
        self.timer.as_mut().reset(self.clock.next_due(flow.stuck_since, begun_at));
        Poll::Ready(result)
    }

    async fn finish(&mut self, code: CloseCode, reason: &'static str) {
        self.link.begin_close();
        self.codec.duplex().limit(FAREWELL_BYTES_MAX);
        if code == CloseCode::STALLED {
            // What did not move for a minute will not move now. The client reads it from the log
            // when it returns.
            self.link.drop_backlog();
        }
        if matches!(self.stage, Stage::Open | Stage::Refused) {
            let reason = Utf8Bytes::from_static(reason);
            let frame = CloseFrame { code: code.0.into(), reason };
            self.codec.close(frame).await;
        }
        poll_fn(|cx| self.poll_farewell(cx)).await;
        // Shuts down writing, then reads to the end. Dropping a connection with unread bytes makes
        // the kernel send a reset; then the client's kernel discards what its program has not read
        // yet: our close frame, and the answers before it.
        self.link.end();
        poll_fn(|cx| self.codec.duplex().poll_discard(cx)).await;
    }

    /// Waits until the kernel has the queue and the client has answered the close frame. Both at
    /// once: a client that is busy writing may not read until it has written.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.codec.duplex().begin_turn();
        let flow = self.link.poll_flush(cx);
        while self.stage == Stage::Open {
            match ready!(self.codec.poll_next(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => self.stage = Stage::Lost,
            }
        }
        if self.stage == Stage::Refused && self.codec.duplex().poll_discard(cx).is_ready() {
            self.stage = Stage::Lost;
        }
        let is_flushed = flow.is_broken || flow.stuck_since.is_none();
        if is_flushed { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Socket {
    /// Others may hold the link a while longer. This ends it for them, and frees the connection and
    /// its queue at once.
    fn drop(&mut self) {
        self.link.end();
    }
}
