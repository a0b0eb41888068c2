//! The rules of the chat, for writes and for reads. Pure: facts and a command in; events and
//! answers, or a refusal, out.
//!
//! It does no I/O, reads no clock and holds no lock. For a write, the log loads the facts that the
//! command needs under the room's lock, asks `room`, and stores the result. For a read, the facts
//! come with the rows, and `read` says whether they may be shown. There are no rules anywhere else.

mod read;
mod room;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use self::read::{Reading, Standing, member, position};
pub use self::room::{Membership, Room};
use crate::model::{ClientId, Event, Invalid, RoomName, Seq, Timestamp, UserId};
use crate::protocol::command::Verb;
use crate::protocol::table::Effect;

/// A command that changes a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub room: RoomName,
    /// The user who does it.
    pub caller: UserId,
    /// The command's own id. Whether it is an idempotency key depends on the command's type.
    pub id: Option<ClientId>,
    pub verb: Verb,
}

/// The result of a `Write`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new event, durable once the batch is committed, and the events that it causes. They have
    /// the next seqs and are committed with it.
    Committed {
        event: Event,
        caused: Vec<Event>,
    },
    /// The user is a member now. `event` is `None` if they already were. `messages` is the number
    /// of messages among the events up to `last_seq`.
    Joined {
        event: Option<Event>,
        last_seq: Seq,
        members: u64,
        messages: u64,
    },
    /// This command was committed before under the same `id`. Nothing was written.
    Duplicate(Receipt),
    Refused(Refusal),
}

/// What an `id` was committed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The command's type, as stored in the log. A newer version may have written one that this
    /// version does not know.
    pub kind: Cow<'static, str>,
    pub seq: Seq,
    pub at: Timestamp,
}

/// Why a well-formed command changes or shows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This name is not allowed to join a room, though old members may have such names from before
    /// the rule. (For `create`, the parser checks it: a log makes the room's row before it
    /// decides.)
    UserName(Invalid),
    RoomExists,
    RoomNotFound,
    /// The command's `id` names another command, of this type.
    IdReused {
        first: Cow<'static, str>,
    },
    NotMember,
}

impl Write {
    /// The `id`, if it is an idempotency key that must be looked up and stored.
    ///
    /// A join is idempotent by nature, so its id is not a key.
    pub fn key(&self) -> Option<&ClientId> {
        let is_key = self.verb.kind().row().effect == Effect::Write;
        self.id.as_ref().filter(|_| is_key)
    }

    /// The users whose membership of the room must be loaded.
    pub fn users(&self) -> impl Iterator<Item = &UserId> {
        std::iter::once(&self.caller)
    }

    /// Whether it creates the room if there is none.
    pub fn founds(&self) -> bool {
        self.verb == Verb::Create
    }
}

impl Receipt {
    fn of(verb: &Verb, event: &Event) -> Self {
        Self { kind: verb.kind().name().into(), seq: event.seq, at: event.at }
    }

    /// The outcome of a command that repeats this `id`.
    ///
    /// An `id` names one command. A repetition gets the first outcome, whatever its text. For a
    /// command of another type, an ack would be wrong: after create `1`, a message `1` would be
    /// acked and its text lost.
    fn outcome(&self, verb: &Verb) -> Outcome {
        if self.kind == verb.kind().name() {
            Outcome::Duplicate(self.clone())
        } else {
            Outcome::Refused(Refusal::IdReused { first: self.kind.clone() })
        }
    }
}

impl Outcome {
    /// The events that the command added to the log, in order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        let (event, caused) = match self {
            Self::Committed { event, caused } => (Some(event), &caused[..]),
            Self::Joined { event, .. } => (event.as_ref(), &[][..]),
            Self::Duplicate(_) | Self::Refused(_) => (None, &[][..]),
        };
        event.into_iter().chain(caused)
    }
}
