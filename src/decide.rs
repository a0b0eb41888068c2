//! Every rule of the chat, pure: what is known of a room and a command in, an outcome out.
//!
//! It does no I/O, reads no clock and holds no lock: a log loads the facts under the room's lock,
//! asks here, and writes what came out. Both logs use it, so both keep the same rules.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::model::{ClientId, Event, EventKind, Role, RoomName, Seq, Text, Timestamp, UserId};

/// A command that changes a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub room: RoomName,
    pub user: UserId,
    /// The idempotency key of `create`, `leave` and `message`; meaningless for `join`.
    pub id: Option<ClientId>,
    pub verb: Verb,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Join,
    Leave,
    Message(Text),
}

/// What became of a `Write`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new event, durable once the batch is committed.
    Committed(Event),
    /// The user is a member now. `event` is `None` if they were one already.
    Joined {
        event: Option<Event>,
        last_seq: Seq,
        members: u64,
    },
    /// This `id` was committed before; nothing was written.
    Duplicate(Receipt),
    Refused(Refusal),
}

/// Where and when an `id` was committed the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub seq: Seq,
    pub at: Timestamp,
}

/// Why a well-formed command changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    RoomExists,
    RoomNotFound,
    NotMember,
}

/// What a batch must know of one room before it decides, loaded under the room's lock; afterwards,
/// what the room has become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Who made the room; `None`: there is no such room.
    pub created_by: Option<UserId>,
    /// The highest seq given out; 0 exactly while the room does not exist.
    pub last_seq: Seq,
    pub message_count: u64,
    pub member_count: u64,
    /// Those users of the batch's commands who are members. Others need not be listed.
    pub members: HashSet<UserId>,
    /// Those (user, id) of the batch's commands that were committed before.
    pub receipts: HashMap<(UserId, ClientId), Receipt>,
    /// What the batch did to memberships, net: `None` ends one. Empty when loaded.
    pub changed_members: BTreeMap<UserId, Option<Membership>>,
}

/// A membership that the batch made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    pub joined_seq: Seq,
    pub role: Role,
}

impl Room {
    /// Decides one command and takes its effect into `self`, so that the next command of the
    /// batch sees it.
    pub fn decide(&mut self, write: &Write, now: Timestamp) -> Outcome {
        // A join is idempotent by nature: its id is not a key, so it is neither looked up nor kept.
        let key = match (&write.verb, &write.id) {
            (Verb::Join, _) | (_, None) => None,
            (_, Some(id)) => Some((write.user.clone(), id.clone())),
        };
        // Before any other rule: the first outcome stands, even if the room has changed since.
        if let Some(receipt) = key.as_ref().and_then(|key| self.receipts.get(key)) {
            return Outcome::Duplicate(*receipt);
        }
        if let Some(refusal) = self.refusal(write) {
            return Outcome::Refused(refusal);
        }
        if write.verb == Verb::Join && self.members.contains(&write.user) {
            return self.joined(None);
        }
        let event = self.commit(write, now);
        if let Some(key) = key {
            self.receipts.insert(key, Receipt { seq: event.seq, at: event.at });
        }
        match write.verb {
            Verb::Join => self.joined(Some(event)),
            _ => Outcome::Committed(event),
        }
    }

    fn refusal(&self, write: &Write) -> Option<Refusal> {
        let exists = self.created_by.is_some();
        let member = self.members.contains(&write.user);
        match write.verb {
            Verb::Create => exists.then_some(Refusal::RoomExists),
            _ if !exists => Some(Refusal::RoomNotFound),
            Verb::Join => None,
            Verb::Leave | Verb::Message(_) => (!member).then_some(Refusal::NotMember),
        }
    }

    /// Gives the event the next seq and updates the counters.
    fn commit(&mut self, write: &Write, now: Timestamp) -> Event {
        self.last_seq = self.last_seq.next();
        let kind = match &write.verb {
            Verb::Create => {
                self.created_by = Some(write.user.clone());
                self.enter(&write.user);
                EventKind::Create
            }
            Verb::Join => {
                self.enter(&write.user);
                EventKind::Join
            }
            Verb::Leave => {
                self.members.remove(&write.user);
                self.member_count = self.member_count.saturating_sub(1);
                self.changed_members.insert(write.user.clone(), None);
                EventKind::Leave
            }
            Verb::Message(text) => {
                self.message_count += 1;
                EventKind::Message(text.clone())
            }
        };
        let client_id = if write.verb == Verb::Join { None } else { write.id.clone() };
        let (room, user) = (write.room.clone(), write.user.clone());
        Event { room, seq: self.last_seq, user, client_id, at: now, kind }
    }

    /// Ownership is having made the room: an owner who left and joins again is the owner again.
    fn enter(&mut self, user: &UserId) {
        let role = if self.created_by.as_ref() == Some(user) { Role::Owner } else { Role::Member };
        self.members.insert(user.clone());
        self.member_count += 1;
        let membership = Membership { joined_seq: self.last_seq, role };
        self.changed_members.insert(user.clone(), Some(membership));
    }

    fn joined(&self, event: Option<Event>) -> Outcome {
        Outcome::Joined { event, last_seq: self.last_seq, members: self.member_count }
    }
}

impl Outcome {
    /// The event that the command added to the log, if it did.
    pub fn event(&self) -> Option<&Event> {
        match self {
            Self::Committed(event) => Some(event),
            Self::Joined { event, .. } => event.as_ref(),
            Self::Duplicate(_) | Self::Refused(_) => None,
        }
    }
}
