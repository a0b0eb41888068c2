//! Every rule of the chat, pure, for writes and for reads: what is known and a command in, events
//! and answers out, or a refusal.
//!
//! It does no I/O, reads no clock and holds no lock. For a write a log loads the facts that its
//! verb needs, under the room's lock, asks `room`, and writes what came out. For a read the facts
//! come with the rows, and `read` says whether they may be shown. There is no third place.

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
    /// Who does it.
    pub caller: UserId,
    /// The command's own id; whether it is an idempotency key, its type says.
    pub id: Option<ClientId>,
    pub verb: Verb,
}

/// What became of a `Write`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new event, durable once the batch is committed, and those that it causes: they have the
    /// next seqs, and are committed with it.
    Committed {
        event: Event,
        caused: Vec<Event>,
    },
    /// The user is a member now. `event` is `None` if they were one already. `messages`: how many
    /// of the events up to `last_seq` are messages.
    Joined {
        event: Option<Event>,
        last_seq: Seq,
        members: u64,
        messages: u64,
    },
    /// This command was committed before, under the same `id`; nothing was written.
    Duplicate(Receipt),
    Refused(Refusal),
}

/// What an `id` was committed as, where and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The type of its command, as the log has it. A newer version may have written one that this
    /// one does not know.
    pub kind: Cow<'static, str>,
    pub seq: Seq,
    pub at: Timestamp,
}

/// Why a well-formed command changes nothing, or shows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A user of that name does not come into a room, though some have before it was a rule. (The
    /// edge holds the names of a `create` to it: a log makes a room's row before it decides.)
    UserName(Invalid),
    RoomExists,
    RoomNotFound,
    /// The command's `id` names another one, of this type.
    IdReused {
        first: Cow<'static, str>,
    },
    NotMember,
}

impl Write {
    /// The `id`, if it is an idempotency key: was it committed before?
    ///
    /// A join is idempotent by nature: its id is not a key, so it is neither looked up nor kept.
    pub fn key(&self) -> Option<&ClientId> {
        let is_key = self.verb.kind().row().effect == Effect::Write;
        self.id.as_ref().filter(|_| is_key)
    }

    /// The users whose standing in the room must be known.
    pub fn users(&self) -> impl Iterator<Item = &UserId> {
        std::iter::once(&self.caller)
    }

    /// Whether it makes the room, if there is none.
    pub fn founds(&self) -> bool {
        self.verb == Verb::Create
    }
}

impl Receipt {
    fn of(verb: &Verb, event: &Event) -> Self {
        Self { kind: verb.kind().name().into(), seq: event.seq, at: event.at }
    }

    /// What becomes of a command that comes under the same `id`.
    ///
    /// An `id` names one command. A repetition is answered with the first outcome, whatever its
    /// text. But an ack for a command of another type would say that it was done, and it was not:
    /// create `1`, then message `1`, and the text would be lost under an ack.
    fn outcome(&self, verb: &Verb) -> Outcome {
        if self.kind == verb.kind().name() {
            Outcome::Duplicate(self.clone())
        } else {
            Outcome::Refused(Refusal::IdReused { first: self.kind.clone() })
        }
    }
}

impl Outcome {
    /// The events that the command added to the log, in their order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        let (event, caused) = match self {
            Self::Committed { event, caused } => (Some(event), &caused[..]),
            Self::Joined { event, .. } => (event.as_ref(), &[][..]),
            Self::Duplicate(_) | Self::Refused(_) => (None, &[][..]),
        };
        event.into_iter().chain(caused)
    }
}
