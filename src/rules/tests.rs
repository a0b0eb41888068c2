//! Checks batches against the slowest possible chat.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::model::{EventKind, Role, Text};

/// The slowest possible chat: it recomputes everything from the list of events every time.
#[derive(Default)]
struct Model {
    events: Vec<Event>,
}

impl Model {
    /// From before there was a rule for the names of new members.
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
        let entered = |event: &&Event| matches!(event.kind, EventKind::Create | EventKind::Join);
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
        first.map(|event| Receipt {
            kind: event.kind.name().to_owned().into(),
            seq: event.seq,
            at: event.at,
        })
    }

    fn apply(&mut self, write: &Write, now: Timestamp) -> Outcome {
        let joins = write.verb == Verb::Join;
        let receipt = self.receipt(&write.caller, write.id.as_ref()).filter(|_| !joins);
        if let Some(receipt) = receipt {
            let first = receipt.kind.clone();
            return match first == write.verb.kind().name() {
                true => Outcome::Duplicate(receipt),
                false => Outcome::Refused(Refusal::IdReused { first }),
            };
        }
        if joins && !self.is_member(&write.caller) && write.caller.as_str().ends_with(' ') {
            return Outcome::Refused(Refusal::UserName(Invalid::Edge));
        }
        let (kind, text) = match &write.verb {
            Verb::Create if !self.events.is_empty() => {
                return Outcome::Refused(Refusal::RoomExists);
            }
            Verb::Create => (EventKind::Create, None),
            _ if self.events.is_empty() => return Outcome::Refused(Refusal::RoomNotFound),
            Verb::Join => (EventKind::Join, None),
            _ if !self.is_member(&write.caller) => {
                return Outcome::Refused(Refusal::NotMember);
            }
            Verb::Leave => (EventKind::Leave, None),
            Verb::Message(text) => (EventKind::Message, Some(text.clone())),
        };
        let seq = Seq(self.events.len() as u64 + 1);
        let client_id = write.id.clone().filter(|_| !joins);
        let (room, user) = (write.room.clone(), write.caller.clone());
        let at = self.last_at().max(now);
        let event = Event { room, seq, user, client_id, at, kind, text, data: None };
        let already = joins && self.is_member(&write.caller);
        if !already {
            self.events.push(event.clone());
        }
        if !joins {
            return Outcome::Committed { event, caused: Vec::new() };
        }
        Outcome::Joined {
            event: Some(event).filter(|_| !already),
            last_seq: Seq(self.events.len() as u64),
            members: self.members().len() as u64,
            messages: self.messages(),
        }
    }

    /// The facts that a log would load for these writes.
    fn facts(&self, writes: &[(Write, Timestamp)]) -> Room {
        let users: HashSet<_> = writes.iter().map(|(write, _)| write.caller.clone()).collect();
        let members = self.members();
        let keys = writes.iter().filter_map(|(write, _)| {
            let key = (write.caller.clone(), write.id.clone()?);
            Some((key, self.receipt(&write.caller, write.id.as_ref())?))
        });
        Room {
            created_by: self.events.first().map(|event| event.user.clone()),
            last_seq: Seq(self.events.len() as u64),
            last_at: self.last_at(),
            message_count: self.messages(),
            member_count: self.members().len() as u64,
            members: users
                .into_iter()
                .filter_map(|user| Some((user.clone(), members.get(&user)?.role)))
                .collect(),
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
    // Rule checks would refuse the last name, but such a member may exist already.
    let user = prop::sample::select(&["1", "2", "3", "3 "][..]);
    (user, prop::option::of(1..6_u8), verb).prop_map(|(user, id, verb)| Write {
        room: RoomName::stored("r"),
        caller: UserId::stored(user),
        id: id.map(|id| ClientId::stored(&id.to_string())),
        verb,
    })
}

proptest! {
    /// Batches of any size, with duplicates, joins and leaves, give the same result as one command
    /// at a time, and the changes they report are the changes made.
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
            // Each is from a node whose clock is ahead of the slowest one.
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
