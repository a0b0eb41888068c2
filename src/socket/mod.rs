//! One WebSocket: bytes to frames and back, the ping deadline, joined writes, the close handshake.
//!
//! It does not know what the frames say, nor who writes them. One task owns a [`Socket`] and calls
//! [`Socket::next`] for as long as it lives: that one call reads, flushes, pings and watches the
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

/// What the close of a socket may take whose memory others need. What has begun to leave must leave
/// whole before it, and its client does not read.
const EVICTED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a client may still send when it is told to go: what may be on its way by then, and some.
/// Who goes on for longer is cut off.
const FAREWELL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An empty ping.
static PING: Bytes = Bytes::from_static(&[0x89, 0]);

/// The reading half of one WebSocket, the server's side, and the owner of the whole.
#[derive(Debug)]
pub struct Socket {
    link: Arc<Link>,
    codec: Codec,
    clock: Clock,
    /// The one timer: at or before `clock`'s next moment. It is moved when it fires too early, not
    /// with every frame.
    timer: Pin<Box<Sleep>>,
    close_timeout: Duration,
    stage: Stage,
}

/// How far the conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The client sent what cannot be read on from; it has not been told yet.
    Refused,
    /// The client closed, and the reply to it is in the queue.
    PeerClosed(u16),
    /// There is nobody at the other end.
    Lost,
}

/// What stands for the code of a close frame that has none (RFC 6455, section 7.1.5).
const NO_CODE: u16 = 1005;

/// What a socket has for its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A text message. Let go of it soon: it holds the read buffer that it came in.
    Text(Utf8Bytes),
    /// A binary message, of which the same is true.
    Binary(Bytes),
    /// After an offer was refused, or somebody asked: the queue is down to half of its limit.
    Drained,
    /// So many frames came that are no messages: pings, pongs, and parts of messages.
    Frames(u32),
    /// The socket is over for this reason; what is left is to call [`Socket::close`] with it.
    Closed(CloseReason),
}

impl Socket {
    /// A connection whose upgrade was answered. `leftover` is what the client sent behind its
    /// request, read along with it; it is taken, for it holds HTTP's whole read buffer, which would
    /// else be most of what an idle socket costs. To be called within a runtime, as the connection
    /// was.
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

    /// Waits for what comes next. Meanwhile the queue is flushed, pings are sent and answered, and
    /// the deadlines are watched, so it must be called for as long as the socket lives.
    ///
    /// With `reading` false no frames are read, and the client's own kernel holds it back. Nothing
    /// is read either while the queue is over its limit: who does not take answers may not ask.
    ///
    /// Cancel-safe: all state is in the socket, and nothing is taken before it is returned.
    pub async fn next(&mut self, reading: bool) -> Incoming {
        poll_fn(|cx| self.poll_next(cx, reading)).await
    }

    /// Ends the socket in order: what is queued, the close frame, the client's answer, and the end
    /// of the stream, all within the close timeout. It is right to call it after every
    /// [`Incoming::Closed`]; it knows when there is nobody to speak to.
    ///
    /// The future is one pointer, so that the session's own does not hold room for it all along.
    pub fn close(
        mut self,
        code: CloseCode,
        reason: &'static str,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // Whoever did not follow within the timeout is cut off by the drop.
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
            // Also while nothing is read: what has begun is kept all the same.
            if self.codec.duplex().is_evicted() {
                return Poll::Ready(self.on_end(CloseReason::UNFINISHED));
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
                // words and gone without reading our answers, and those words are still here.
                if flow.is_broken {
                    return Poll::Ready(self.on_end(CloseReason::Lost));
                }
            }
            match ready!(self.poll_clock(cx, &flow, reading)) {
                Due::Nothing => {}
                // If the link is closed, the read side is about to say so.
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
        // Those that came with an earlier message first: they are paid for before more is read.
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

    /// The client said goodbye. The next read writes the reply and then finds the stream ended.
    fn on_close(&mut self, frame: Option<&CloseFrame>) {
        self.stage = Stage::PeerClosed(frame.map_or(NO_CODE, |frame| frame.code.into()));
    }

    /// No more can be read. A client that has said its goodbye did not vanish, whatever became of
    /// the connection since.
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
            // What did not move for a minute will not move in time; the client reads it from the
            // log when it is back.
            self.link.drop_backlog();
        }
        if matches!(self.stage, Stage::Open | Stage::Refused) {
            let reason = Utf8Bytes::from_static(reason);
            let frame = CloseFrame { code: code.0.into(), reason };
            self.codec.close(frame).await;
        }
        poll_fn(|cx| self.poll_farewell(cx)).await;
        // Half a close, and then reading to the end. Dropping a connection with unread bytes makes
        // the kernel send a reset, on which the client's kernel throws away what its program has
        // not read yet: our close frame, and every answer before it.
        self.link.end();
        poll_fn(|cx| self.codec.duplex().poll_discard(cx)).await;
    }

    /// Until the queue is with the kernel and the client has answered the close frame. Both at
    /// once: a client that is busy writing may not read before it has written.
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
    /// Others may hold the link for a while yet. They learn that it is over, and the connection and
    /// its queue do not wait for them to let go.
    fn drop(&mut self) {
        self.link.end();
    }
}
