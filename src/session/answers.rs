//! The answers that a session owes, in the order of its commands.
//!
//! It does not write to the socket: the session takes the answers from here one by one. A write is
//! on its way in a lane from the moment it is read; everything else starts when all commands
//! before it have been answered, so a client that pipelines always reads its own writes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::owing::Owing;
use crate::budget::Held;
use crate::desk::{Asked, Pending, Reply, written};
use crate::hub::Follower;
use crate::model::{RoomName, Seq, Timestamp, UserId};
use crate::protocol::error::Problem;
use crate::socket::Link;

/// Commands that keep more than this are looked at when others need their memory.
const OWING_BYTES_MIN: usize = 8 * 1024;

/// Bounded by `in_flight_max`: at that length the session stops reading its socket.
#[derive(Default)]
pub struct Answers {
    /// Each with what it may make the socket follow.
    owed: VecDeque<(Pending, Asks)>,
    /// Those rooms, summed. A client that does not wait for its answers gets no more rooms than
    /// one that does.
    rooms: usize,
    /// The front one is being worked out.
    has_begun: bool,
    /// Bytes that those commands keep.
    bytes: usize,
    owing: Option<Box<Owing>>,
}

/// Whose command an answer is to, and what the socket may come to follow by it.
#[derive(Default)]
pub struct Asks {
    pub user: Option<UserId>,
    /// Each room with the user to follow it as: one for a `join`, in their order for a `resume`.
    pub follows: Vec<(RoomName, UserId)>,
    /// How many of those rooms it does not follow yet.
    pub rooms: usize,
    /// What the command keeps until it is answered.
    pub held: Option<Held>,
}

/// A write whose answer is its event.
pub struct Awaited {
    pub asked: Asked,
    pub seq: Seq,
    pub at: Timestamp,
    /// Who brings it.
    pub follower: Arc<Follower>,
    /// When the client has waited long enough: then it gets an ack instead.
    pub due: Instant,
}

impl Answers {
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Rooms that the answers owed may add to those that the socket follows.
    pub fn rooms(&self) -> usize {
        self.rooms
    }

    /// Whether the next answer is being worked out. From then on it must be, up to its end, also if
    /// the client does not listen any more: it may hold what others wait for (a connection to the
    /// log, the activation of a room), and its time-outs are its own.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the next answer is of a write: it is decided elsewhere, whatever is owed here.
    pub fn is_decided(&self) -> bool {
        matches!(self.owed.front(), Some((Pending::Write(..), _)))
    }

    pub fn push(&mut self, pending: Pending, asks: Asks, link: &Arc<Link>) {
        self.rooms += asks.rooms;
        self.bytes += asks.held.as_ref().map_or(0, Held::bytes);
        if let Some(owing) = &self.owing {
            owing.tell(self.bytes);
        } else if let Some(held) = &asks.held
            && self.bytes > OWING_BYTES_MIN
        {
            self.owing = Some(Box::new(Owing::new(held, link, self.bytes)));
        }
        self.owed.push_back((pending, asks));
    }

    /// An answer of several parts goes on: it is the next one again.
    pub fn go_on(&mut self, pending: Pending, asks: Asks) {
        self.rooms += asks.rooms;
        self.bytes += asks.held.as_ref().map_or(0, Held::bytes);
        self.owed.push_front((pending, asks));
    }

    /// The next answer, when it is there. Cancel-safe: what is not finished stays in front.
    pub async fn next(&mut self) -> (Reply, Asks) {
        if let Some((front, _)) = self.owed.front_mut() {
            front.begin();
        }
        let reply = match self.owed.front_mut() {
            None => return std::future::pending().await,
            Some((Pending::Ready(_) | Pending::Later(_), _)) => None,
            Some((Pending::Write(_, answered), _)) => Some(Ok(answered.await)),
            Some((Pending::Work(work), _)) => {
                self.has_begun = true;
                Some(Err(work.await))
            }
        };
        self.has_begun = false;
        let (front, asks) = self.owed.pop_front().unzip();
        let asks: Asks = asks.unwrap_or_default();
        self.rooms -= asks.rooms;
        self.bytes -= asks.held.as_ref().map_or(0, Held::bytes);
        if self.owed.is_empty() {
            // Idle sockets keep no memory for answers.
            (self.owed, self.owing) = (VecDeque::new(), None);
        } else if let Some(owing) = &self.owing {
            owing.moved(self.bytes);
        }
        let reply = match (front, reply) {
            (Some(Pending::Ready(reply)), _) | (_, Some(Err(reply))) => reply,
            (Some(Pending::Write(asked, _)), Some(Ok(answer))) => written(asked, answer),
            _ => Reply::Problem(Problem::internal()),
        };
        (reply, asks)
    }
}
