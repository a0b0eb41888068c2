//! A socket's frame codec, which exists only while something is being read.
//!
//! A codec and its buffers are a large part of a socket's memory, and most sockets of a chat server
//! are nearly always idle. Worse, its read buffer grows with the largest frame and never shrinks:
//! ten thousand clients that each sent one frame of 64 KiB would keep all of that. So between two
//! messages there is no codec:
//!
//! ```text
//!             bytes have come                      nothing more is there, and no part of
//!  Resting ──────────────────────▶ Working ──┐     a message is in the codec
//!     ▲                                      │
//!     └──────────────────────────────────────┘
//! ```
//!
//! A codec that got a close frame, or failed, is kept: it knows the state of the close handshake.

use std::task::{Context, Poll, ready};

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::boundary::Held;
use super::duplex::Duplex;

/// tungstenite's own write buffer: it holds one control frame (at most 127 bytes) until it is given
/// to the link, which never refuses it.
const CONTROL_BUFFER_BYTES_MAX: usize = 512;

#[derive(Debug)]
pub(super) struct Codec {
    state: State,
    /// The conversation has ended, in whatever way.
    is_ending: bool,
}

#[derive(Debug)]
enum State {
    Resting(Duplex),
    Working(Box<WebSocketStream<Duplex>>),
}

impl Codec {
    pub fn new(duplex: Duplex) -> Self {
        Self { state: State::Resting(duplex), is_ending: false }
    }

    pub fn duplex(&mut self) -> &mut Duplex {
        match &mut self.state {
            State::Resting(duplex) => duplex,
            State::Working(stream) => stream.get_mut(),
        }
    }

    /// The next message, as tungstenite returns it.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, tungstenite::Error>>> {
        loop {
            let stream = match &mut self.state {
                State::Working(stream) => stream,
                State::Resting(duplex) => {
                    ready!(duplex.poll_readable(cx));
                    self.working();
                    continue;
                }
            };
            match stream.poll_next_unpin(cx) {
                Poll::Ready(read) => {
                    self.is_ending |= !matches!(&read, Some(Ok(it)) if !it.is_close());
                    return Poll::Ready(read);
                }
                // The codec wrote what it owed the client before it looked for more. The duplex
                // must be polled as well, or nobody would be woken for it.
                Poll::Pending if !self.is_ending && stream.get_ref().is_between_messages() => {
                    self.state = State::Resting(stream.get_mut().move_out());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Sends the close frame after everything that is owed; nothing may follow it. Errors mean that
    /// nobody is there, which the farewell finds out by itself.
    pub async fn close(&mut self, frame: CloseFrame) {
        self.is_ending = true;
        let stream = self.working();
        let _ = stream.flush().await;
        let _ = stream.send(Message::Close(Some(frame))).await;
    }

    fn working(&mut self) -> &mut WebSocketStream<Duplex> {
        if let State::Resting(duplex) = &mut self.state {
            let duplex = duplex.move_out();
            // The codec has room for shorter frames anyway, and refuses longer ones.
            let Held { above: read_buffer_bytes, up_to: frame_bytes_max } = duplex.held();
            let config = config(read_buffer_bytes, frame_bytes_max);
            let stream = WebSocketStream::from_raw_socket(duplex, Role::Server, Some(config));
            let stream = stream.now_or_never();
            let stream = stream.expect("it is async only to see a waker, and waits for nothing");
            self.state = State::Working(Box::new(stream));
        }
        match &mut self.state {
            State::Working(stream) => stream,
            State::Resting(_) => unreachable!("it was replaced above"),
        }
    }
}

/// Every setting is explicit, because most of the codec's defaults are for few large connections:
/// they would cost 128 KiB each.
fn config(read_buffer_bytes: usize, frame_bytes_max: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(read_buffer_bytes)
        // Nothing is buffered here: the link joins writes.
        .write_buffer_size(0)
        .max_write_buffer_size(CONTROL_BUFFER_BYTES_MAX)
        .max_message_size(Some(frame_bytes_max))
        .max_frame_size(Some(frame_bytes_max))
        .accept_unmasked_frames(false)
}
