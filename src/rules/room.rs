//! One room as a batch of writes finds it, and the effect of each write on it.

use std::collections::{BTreeMap, HashMap};

use super::{Outcome, Receipt, Refusal, Write};
use crate::model::{ClientId, Event, EventKind, Role, Seq, Text, Timestamp, UserId};
use crate::protocol::command::Verb;

/// What a batch must know of one room before it decides, loaded under the room's lock. After
/// deciding, the new state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// The user who created the room; `None`: there is no such room.
    pub created_by: Option<UserId>,
    /// The highest seq given out; 0 only if the room does not exist.
    pub last_seq: Seq,
    /// The `at` of the last event.
    pub last_at: Timestamp,
    pub message_count: u64,
    pub member_count: u64,
    /// The users of the batch's commands who are members, with their roles. Other members need not
    /// be listed.
    pub members: HashMap<UserId, Role>,
    /// The (user, id) pairs of the batch's commands that were committed before.
    pub receipts: HashMap<(UserId, ClientId), Receipt>,
    /// The net changes of memberships by the batch: `None` ends one. Empty when loaded.
    pub changed_members: BTreeMap<UserId, Option<Membership>>,
}

/// A membership that the batch created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    pub joined_seq: Seq,
    pub role: Role,
}

impl Room {
    /// Decides one command and applies it to `self`, so that the next command of the batch sees its
    /// effect.
    pub fn decide(&mut self, write: &Write, now: Timestamp) -> Outcome {
        let key = write.key().map(|id| (write.caller.clone(), id.clone()));
        // Checked before any other rule: the first outcome stands, even if the room has changed
        // since.
        if let Some(receipt) = key.as_ref().and_then(|key| self.receipts.get(key)) {
            return receipt.outcome(&write.verb);
        }
        if let Some(refusal) = self.refusal(write) {
            return Outcome::Refused(refusal);
        }
        if write.verb == Verb::Join && self.members.contains_key(&write.caller) {
            return self.joined(None);
        }
        let event = self.apply(write, now);
        if let Some(key) = key {
            self.receipts.insert(key, Receipt::of(&write.verb, &event));
        }
        match write.verb {
            Verb::Join => self.joined(Some(event)),
            _ => Outcome::Committed { event, caused: Vec::new() },
        }
    }

    fn refusal(&self, write: &Write) -> Option<Refusal> {
        let exists = self.created_by.is_some();
        let is_member = self.members.contains_key(&write.caller);
        if write.verb == Verb::Join
            && !is_member
            && let Err(why) = write.caller.check_new()
        {
            return Some(Refusal::UserName(why));
        }
        match write.verb {
            Verb::Create => exists.then_some(Refusal::RoomExists),
            _ if !exists => Some(Refusal::RoomNotFound),
            Verb::Join => None,
            Verb::Leave | Verb::Message(_) => (!is_member).then_some(Refusal::NotMember),
        }
    }

    /// Applies the command.
    fn apply(&mut self, write: &Write, now: Timestamp) -> Event {
        match &write.verb {
            Verb::Create => {
                self.created_by = Some(write.caller.clone());
                let event = self.event(write, now, EventKind::Create, None);
                self.enter(&write.caller, Role::Owner);
                event
            }
            Verb::Join => {
                let event = self.event(write, now, EventKind::Join, None);
                // The creator is the owner, also after leaving and joining again.
                let is_maker = self.created_by.as_ref() == Some(&write.caller);
                self.enter(&write.caller, if is_maker { Role::Owner } else { Role::Member });
                event
            }
            Verb::Leave => {
                self.members.remove(&write.caller);
                self.member_count = self.member_count.saturating_sub(1);
                self.changed_members.insert(write.caller.clone(), None);
                self.event(write, now, EventKind::Leave, None)
            }
            Verb::Message(text) => {
                self.message_count += 1;
                self.event(write, now, EventKind::Message, Some(text.clone()))
            }
        }
    }

    /// An event of the caller with the next seq and a time. Within a room, time never goes back,
    /// even if clocks do: those of two nodes differ, and one may be set back.
    fn event(
        &mut self,
        write: &Write,
        now: Timestamp,
        kind: EventKind,
        text: Option<Text>,
    ) -> Event {
        self.last_seq = self.last_seq.next();
        self.last_at = self.last_at.max(now);
        Event {
            room: write.room.clone(),
            seq: self.last_seq,
            user: write.caller.clone(),
            client_id: write.key().cloned(),
            at: self.last_at,
            kind,
            text,
            data: None,
        }
    }

    /// Adds a member, by the event that was made last.
    fn enter(&mut self, user: &UserId, role: Role) {
        self.members.insert(user.clone(), role);
        self.member_count += 1;
        let membership = Membership { joined_seq: self.last_seq, role };
        self.changed_members.insert(user.clone(), Some(membership));
    }

    fn joined(&self, event: Option<Event>) -> Outcome {
        let (last_seq, members, messages) = (self.last_seq, self.member_count, self.message_count);
        Outcome::Joined { event, last_seq, members, messages }
    }
}
