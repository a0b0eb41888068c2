//! An answer of several pieces on its way into one socket, as one message of several frames.
//!
//! Meanwhile, the socket gets nothing else but control frames (RFC 6455, section 5.4). Other
//! answers wait for their turn as always. Live followers fall behind, and catch up afterwards.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::desk::history::{Broken, Pages, Part};
use crate::protocol::frame;
use crate::socket::Link;

type Read = Pin<Box<dyn Future<Output = (Box<Pages>, Result<Part, Broken>)> + Send>>;

/// Owned by the session's task.
pub struct Paging {
    link: Arc<Link>,
    next: Next,
    is_begun: bool,
}

/// The state of the next piece.
enum Next {
    /// It is read when the piece before has been taken.
    Waits(Box<Pages>),
    Reads(Read),
    /// There is none.
    Over,
}

impl Paging {
    pub fn new(link: Arc<Link>, pages: Box<Pages>) -> Self {
        link.set_in_message(true);
        Self { link, next: Next::Waits(pages), is_begun: false }
    }

    /// Begins to read the next piece if the socket has taken the one before; otherwise asks the
    /// socket to report that.
    pub fn proceed(&mut self) {
        let Next::Waits(_) = &self.next else { return };
        if self.link.queued_bytes() > 0 {
            self.link.tell_when_empty();
            return;
        }
        if let Next::Waits(mut pages) = std::mem::replace(&mut self.next, Next::Over) {
            self.next = Next::Reads(Box::pin(async move {
                let part = pages.next().await;
                (pages, part)
            }));
        }
    }

    /// Hands over the next piece once it is read, and returns its length. Cancel-safe: the read
    /// continues.
    pub async fn advance(&mut self) -> Result<usize, Broken> {
        let Next::Reads(read) = &mut self.next else { return std::future::pending().await };
        let (pages, part) = read.await;
        self.next = Next::Over;
        let Part { json, held, is_last } = part?;
        let fragment = frame::fragment(&json, !self.is_begun, is_last);
        drop(json);
        let len = fragment.len();
        // If it is closed, the session learns that from the socket.
        let _ = self.link.push_shared(&held.keep(fragment));
        self.is_begun = true;
        if is_last {
            self.link.set_in_message(false);
        } else {
            self.next = Next::Waits(pages);
        }
        Ok(len)
    }

    /// Whether the socket has the last piece.
    pub fn is_over(&self) -> bool {
        matches!(self.next, Next::Over)
    }
}
