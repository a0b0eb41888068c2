//! Every rule of the chat, pure: what is known of a room and a command in, an outcome out.
//!
//! It does no I/O, reads no clock and holds no lock: a log loads the facts under the room's lock,
//! asks here, and writes what came out. Both logs use it, so both keep the same rules.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::model::{
    ClientId, Event, EventKind, Invalid, Role, RoomName, Seq, Text, Timestamp, UserId,
};

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

/// Why a well-formed command changes nothing.
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

/// What a batch must know of one room before it decides, loaded under the room's lock; afterwards,
/// what the room has become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Who made the room; `None`: there is no such room.
    pub created_by: Option<UserId>,
    /// The highest seq given out; 0 exactly while the room does not exist.
    pub last_seq: Seq,
    /// The `at` of its last event.
    pub last_at: Timestamp,
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
            return receipt.outcome(&write.verb);
        }
        if let Some(refusal) = self.refusal(write) {
            return Outcome::Refused(refusal);
        }
        if write.verb == Verb::Join && self.members.contains(&write.user) {
            return self.joined(None);
        }
        let event = self.commit(write, now);
        if let Some(key) = key {
            self.receipts.insert(key, Receipt::of(&event));
        }
        match write.verb {
            Verb::Join => self.joined(Some(event)),
            _ => Outcome::Committed(event),
        }
    }

    fn refusal(&self, write: &Write) -> Option<Refusal> {
        let exists = self.created_by.is_some();
        let member = self.members.contains(&write.user);
        if write.verb == Verb::Join
            && !member
            && let Err(why) = write.user.check_new()
        {
            return Some(Refusal::UserName(why));
        }
        match write.verb {
            Verb::Create => exists.then_some(Refusal::RoomExists),
            _ if !exists => Some(Refusal::RoomNotFound),
            Verb::Join => None,
            Verb::Leave | Verb::Message(_) => (!member).then_some(Refusal::NotMember),
        }
    }

    /// Gives the event the next seq and its time, and updates the counters. Within a room time
    /// never goes back, whatever clocks do: those of two nodes differ, and one may be set back.
    fn commit(&mut self, write: &Write, now: Timestamp) -> Event {
        self.last_seq = self.last_seq.next();
        self.last_at = self.last_at.max(now);
        let (kind, text) = match &write.verb {
            Verb::Create => {
                self.created_by = Some(write.user.clone());
                self.enter(&write.user);
                (EventKind::Create, None)
            }
            Verb::Join => {
                self.enter(&write.user);
                (EventKind::Join, None)
            }
            Verb::Leave => {
                self.members.remove(&write.user);
                self.member_count = self.member_count.saturating_sub(1);
                self.changed_members.insert(write.user.clone(), None);
                (EventKind::Leave, None)
            }
            Verb::Message(text) => {
                self.message_count += 1;
                (EventKind::Message, Some(text.clone()))
            }
        };
        let client_id = if write.verb == Verb::Join { None } else { write.id.clone() };
        let (room, user) = (write.room.clone(), write.user.clone());
        let (seq, at) = (self.last_seq, self.last_at);
        Event { room, seq, user, client_id, at, kind, text, data: None }
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
        let (last_seq, members, messages) = (self.last_seq, self.member_count, self.message_count);
        Outcome::Joined { event, last_seq, members, messages }
    }
}

impl Verb {
    /// The command's type. Its event has the same.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Message(_) => "message",
        }
    }
}

impl Receipt {
    fn of(event: &Event) -> Self {
        Self { kind: event.kind.name().to_owned().into(), seq: event.seq, at: event.at }
    }

    /// What becomes of a command that comes under the same `id`.
    ///
    /// An `id` names one command. A repetition is answered with the first outcome, whatever its
    /// text. But an ack for a command of another type would say that it was done, and it was not:
    /// create `1`, then message `1`, and the text would be lost under an ack.
    fn outcome(&self, verb: &Verb) -> Outcome {
        if self.kind == verb.name() {
            Outcome::Duplicate(self.clone())
        } else {
            Outcome::Refused(Refusal::IdReused { first: self.kind.clone() })
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The slowest possible chat: everything is worked out from the list of events, every time.
    #[derive(Default)]
    struct Model {
        events: Vec<Event>,
    }

    impl Model {
        /// Before there was a rule for the names of those who come in.
        fn of_an_older_log() -> Self {
            let event = |seq, user, kind| {
                let (room, user) = (RoomName::stored("r"), UserId::stored(user));
                let (seq, at) = (Seq(seq), Timestamp(0));
                Event { room, seq, user, client_id: None, at, kind, text: None, data: None }
            };
            let (made, came) = (event(1, "1", EventKind::Create), event(2, "3 ", EventKind::Join));
            Self { events: vec![made, came] }
        }

        fn is_member(&self, user: &UserId) -> bool {
            let mut moves = self.events.iter().filter(|event| event.user == *user);
            let last = moves.rfind(|event| !event.is_message());
            last.is_some_and(|event| event.kind != EventKind::Leave)
        }

        fn members(&self) -> BTreeMap<UserId, Membership> {
            let creator = self.events.first().map(|event| event.user.clone());
            let entered =
                |event: &&Event| matches!(event.kind, EventKind::Create | EventKind::Join);
            let entries = self.events.iter().filter(entered).map(|event| {
                let owner = Some(&event.user) == creator.as_ref();
                let role = if owner { Role::Owner } else { Role::Member };
                (event.user.clone(), Membership { joined_seq: event.seq, role })
            });
            entries.filter(|(user, _)| self.is_member(user)).collect()
        }

        fn last_at(&self) -> Timestamp {
            self.events.iter().map(|event| event.at).max().unwrap_or_default()
        }

        fn messages(&self) -> u64 {
            self.events.iter().filter(|event| event.is_message()).count() as u64
        }

        fn receipt(&self, user: &UserId, id: Option<&ClientId>) -> Option<Receipt> {
            let same = |event: &&Event| event.user == *user && event.client_id.as_ref() == id;
            let first = self.events.iter().find(same).filter(|_| id.is_some());
            first.map(Receipt::of)
        }

        fn apply(&mut self, write: &Write, now: Timestamp) -> Outcome {
            let joins = write.verb == Verb::Join;
            let receipt = self.receipt(&write.user, write.id.as_ref()).filter(|_| !joins);
            if let Some(receipt) = receipt {
                let first = receipt.kind.clone();
                return match first == write.verb.name() {
                    true => Outcome::Duplicate(receipt),
                    false => Outcome::Refused(Refusal::IdReused { first }),
                };
            }
            if joins && !self.is_member(&write.user) && write.user.as_str().ends_with(' ') {
                return Outcome::Refused(Refusal::UserName(Invalid::Edge));
            }
            let (kind, text) = match &write.verb {
                Verb::Create if !self.events.is_empty() => {
                    return Outcome::Refused(Refusal::RoomExists);
                }
                Verb::Create => (EventKind::Create, None),
                _ if self.events.is_empty() => return Outcome::Refused(Refusal::RoomNotFound),
                Verb::Join => (EventKind::Join, None),
                _ if !self.is_member(&write.user) => {
                    return Outcome::Refused(Refusal::NotMember);
                }
                Verb::Leave => (EventKind::Leave, None),
                Verb::Message(text) => (EventKind::Message, Some(text.clone())),
            };
            let seq = Seq(self.events.len() as u64 + 1);
            let client_id = write.id.clone().filter(|_| !joins);
            let (room, user) = (write.room.clone(), write.user.clone());
            let at = self.last_at().max(now);
            let event = Event { room, seq, user, client_id, at, kind, text, data: None };
            let already = joins && self.is_member(&write.user);
            if !already {
                self.events.push(event.clone());
            }
            if !joins {
                return Outcome::Committed(event);
            }
            Outcome::Joined {
                event: Some(event).filter(|_| !already),
                last_seq: Seq(self.events.len() as u64),
                members: self.members().len() as u64,
                messages: self.messages(),
            }
        }

        /// What a log would load for these writes.
        fn facts(&self, writes: &[(Write, Timestamp)]) -> Room {
            let users: HashSet<_> = writes.iter().map(|(write, _)| write.user.clone()).collect();
            let keys = writes.iter().filter_map(|(write, _)| {
                let key = (write.user.clone(), write.id.clone()?);
                Some((key, self.receipt(&write.user, write.id.as_ref())?))
            });
            Room {
                created_by: self.events.first().map(|event| event.user.clone()),
                last_seq: Seq(self.events.len() as u64),
                last_at: self.last_at(),
                message_count: self.messages(),
                member_count: self.members().len() as u64,
                members: users.into_iter().filter(|user| self.is_member(user)).collect(),
                receipts: keys.collect(),
                changed_members: BTreeMap::new(),
            }
        }
    }

    fn write() -> impl Strategy<Value = Write> {
        let verb = prop_oneof![
            1 => Just(Verb::Create),
            3 => Just(Verb::Join),
            3 => Just(Verb::Leave),
            5 => "[a-c]".prop_map(|text| Verb::Message(Text::stored(&text))),
        ];
        // The last of them would be refused by name, but may be in the room already.
        let user = prop::sample::select(&["1", "2", "3", "3 "][..]);
        (user, prop::option::of(1..6_u8), verb).prop_map(|(user, id, verb)| Write {
            room: RoomName::stored("r"),
            user: UserId::stored(user),
            id: id.map(|id| ClientId::stored(&id.to_string())),
            verb,
        })
    }

    proptest! {
        /// Batches of any size, with duplicates, joins and leaves in them, decide as one command
        /// at a time would; and what they say they changed is what has changed.
        #[test]
        fn batches_keep_the_rules_of_the_slowest_chat(
            older: bool,
            batches in prop::collection::vec(
                (prop::collection::vec(write(), 1..12), 0..9_i64),
                1..12,
            )
        ) {
            let mut model = if older { Model::of_an_older_log() } else { Model::default() };
            for (time, (batch, ahead)) in (0..).zip(batches) {
                // Each is of a node whose clock is ahead of the slowest one.
                let now = Timestamp(time + ahead);
                let batch: Vec<_> = batch.into_iter().map(|write| (write, now)).collect();
                let mut members = model.members();
                let mut room = model.facts(&batch);
                for (write, now) in &batch {
                    prop_assert_eq!(room.decide(write, *now), model.apply(write, *now));
                }
                for (user, membership) in &room.changed_members {
                    match membership {
                        Some(membership) => members.insert(user.clone(), *membership),
                        None => members.remove(user),
                    };
                }
                prop_assert_eq!(members, model.members());
                let after = model.facts(&batch);
                prop_assert_eq!(&room.created_by, &after.created_by);
                prop_assert_eq!(room.last_seq, after.last_seq);
                prop_assert_eq!(room.last_at, after.last_at);
                prop_assert_eq!(room.message_count, after.message_count);
                prop_assert_eq!(room.member_count, after.member_count);
                prop_assert!(model.events.is_sorted_by_key(|event| event.at));
                let numbers: Vec<_> = model.events.iter().map(|event| event.seq.0).collect();
                prop_assert_eq!(numbers, (1..=model.events.len() as u64).collect::<Vec<_>>());
            }
        }
    }
}
