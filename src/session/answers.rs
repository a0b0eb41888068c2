//! The answers that a session owes, in the order of its commands.
//!
//! The session takes the answers from here one by one and writes them. A write is in a lane from
//! the moment it is read. Everything else starts when all earlier commands have been answered, so a
//! client that pipelines always reads its own writes.

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

/// Below this, a socket's commands are not considered when others need memory.
const OWING_BYTES_MIN: usize = 8 * 1024;

/// Bounded by `in_flight_max`; at that length the session stops reading its socket.
#[derive(Default)]
pub struct Answers {
    /// Each with the rooms that the socket may come to follow when it is answered.
    owed: VecDeque<(Pending, Asks)>,
    /// The number of those rooms. A client that does not wait for answers gets no more rooms than
    /// one that does.
    rooms: usize,
    /// The first one is in progress.
    has_begun: bool,
    /// Memory kept by those commands, in bytes.
    bytes: usize,
    owing: Option<Box<Owing>>,
}

/// The user of the command, and the rooms that it may make the socket follow.
#[derive(Default)]
pub struct Asks {
    pub user: Option<UserId>,
    /// Each room with the user to follow it as: one for `join`, all in order for `resume`.
    pub follows: Vec<(RoomName, UserId)>,
    /// How many of those rooms the socket does not follow yet.
    pub rooms: usize,
    /// The memory that the command keeps until it is answered.
    pub held: Option<Held>,
}

/// A write whose answer is its event.
pub struct Awaited {
    pub asked: Asked,
    pub seq: Seq,
    pub at: Timestamp,
    /// The follower that delivers the event.
    pub follower: Arc<Follower>,
    /// When the client has waited long enough; then it gets an ack instead.
    pub due: Instant,
}

impl Answers {
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Rooms that owed answers may add to those that the socket follows.
    pub fn rooms(&self) -> usize {
        self.rooms
    }

    /// Whether the next answer is in progress. Once begun, it must be completed even if the client
    /// no longer reads: it may hold what others wait for (a connection to the log, the activation
    /// of a room), and it has its own timeouts.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the next answer is that of a write, which is decided elsewhere in any case.
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

    /// An answer of several parts continues: it is the next one again.
    pub fn go_on(&mut self, pending: Pending, asks: Asks) {
        self.rooms += asks.rooms;
        self.bytes += asks.held.as_ref().map_or(0, Held::bytes);
        self.owed.push_front((pending, asks));
    }

    /// The next answer, once it is there. Cancel-safe: an unfinished one stays in front.
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
