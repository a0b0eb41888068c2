//! The part of an append that both logs share, and which is pure: which facts a batch needs, and
//! what to write once it is decided.
//!
//! It has no rules (see `rules`) and no SQL. An index is that of a room in `rooms()`, which is
//! sorted by name: the order in which locks are taken.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ClientId, Event, RoomName, Seq, Timestamp, UserId};
use crate::rules::{Outcome, Room, Write};

/// A batch of writes, and which facts to load for it.
pub(super) struct Batch<'a> {
    writes: &'a [Write],
    /// Each room of the batch, once, in the byte order of the names.
    rooms: Vec<&'a RoomName>,
    /// For each write, its room's index in `rooms`.
    indexes: Vec<usize>,
}

/// A batch whose writes are decided.
pub(super) struct Decided {
    /// In the order of the writes. `None`: somebody else held the room.
    pub outcomes: Vec<Option<Outcome>>,
    /// For each event in `outcomes`, in the same order: its room's index, and the number of
    /// messages in the room before it (`None` for messages).
    event_indexes: Vec<(usize, Option<u64>)>,
    /// The rooms after the batch, by index.
    rooms: Vec<Option<Room>>,
    /// Each room's `last_seq` before the batch, by index.
    last_seqs_before: Vec<Seq>,
}

/// A room to which the batch added events.
pub(super) struct Changed<'a> {
    pub index: usize,
    pub first_seq: Seq,
    pub room: &'a Room,
}

impl<'a> Batch<'a> {
    pub fn new(writes: &'a [Write]) -> Self {
        let names: BTreeSet<&RoomName> = writes.iter().map(|write| &write.room).collect();
        let rooms: Vec<&RoomName> = names.into_iter().collect();
        let indexes = writes
            .iter()
            .map(|write| rooms.binary_search(&&write.room).expect("it was collected above"))
            .collect();
        Self { writes, rooms, indexes }
    }

    pub fn rooms(&self) -> &[&'a RoomName] {
        &self.rooms
    }

    /// The index of a room that a log returned; `None` if the batch does not name it.
    pub fn index(&self, room: &str) -> Option<usize> {
        self.rooms.binary_search_by(|name| name.as_str().cmp(room)).ok()
    }

    /// The rooms that a `create` names, each with its first creator, in the order of their names.
    ///
    /// If such a room does not exist, the batch will create it, by this user: a missing room has no
    /// receipts and refuses every other verb, so its first `create` is its first event.
    pub fn founders(&self) -> BTreeMap<usize, &'a UserId> {
        let mut founders = BTreeMap::new();
        for (write, index) in self.writes.iter().zip(&self.indexes) {
            if write.founds() {
                founders.entry(*index).or_insert(&write.caller);
            }
        }
        founders
    }

    /// Each (room, user) whose membership and role must be known, once.
    pub fn users(&self) -> BTreeSet<(usize, &'a UserId)> {
        let writes = self.writes.iter().zip(&self.indexes);
        writes.flat_map(|(write, index)| write.users().map(|user| (*index, user))).collect()
    }

    /// Each (room, user, id) that is an idempotency key, once: it may have been committed before.
    pub fn keys(&self) -> BTreeSet<(usize, &'a UserId, &'a ClientId)> {
        let writes = self.writes.iter().zip(&self.indexes);
        writes.filter_map(|(write, index)| Some((*index, &write.caller, write.key()?))).collect()
    }

    /// The outcomes if all rooms are held by others.
    pub fn nothing(&self) -> Vec<Option<Outcome>> {
        self.writes.iter().map(|_| None).collect()
    }

    /// Decides every write in order. `facts` has each room, loaded under its lock; `None` if
    /// somebody else holds it, so that nothing is decided in it.
    pub fn decide(&self, facts: Vec<Option<Room>>, now: Timestamp) -> Decided {
        let mut rooms = facts;
        let last_seq = |room: &Option<Room>| room.as_ref().map_or(Seq(0), |room| room.last_seq);
        let last_seqs_before = rooms.iter().map(last_seq).collect();
        let mut outcomes = Vec::with_capacity(self.writes.len());
        let mut event_indexes = Vec::with_capacity(self.writes.len());
        for (write, index) in self.writes.iter().zip(&self.indexes) {
            let Some(room) = &mut rooms[*index] else {
                outcomes.push(None);
                continue;
            };
            let mut messages = room.message_count;
            let outcome = room.decide(write, now);
            event_indexes.extend(outcome.events().map(|event| {
                let turn = (!event.is_message()).then_some(messages);
                messages += u64::from(event.is_message());
                (*index, turn)
            }));
            outcomes.push(Some(outcome));
        }
        Decided { outcomes, event_indexes, rooms, last_seqs_before }
    }
}

impl Decided {
    /// True if every write was a duplicate, refused, left out, or a join of an existing member.
    pub fn writes_nothing(&self) -> bool {
        self.event_indexes.is_empty()
    }

    /// The new events, in the order of the writes: each with its room's index and, unless it is a
    /// message, the number of messages in the room before it.
    pub fn events(&self) -> impl Iterator<Item = (usize, &Event, Option<u64>)> {
        let events = self.outcomes.iter().flatten().flat_map(Outcome::events);
        self.event_indexes.iter().zip(events).map(|((index, turn), event)| (*index, event, *turn))
    }

    /// The rooms with new events. Memberships and counters only change with an event.
    pub fn changed(&self) -> impl Iterator<Item = Changed<'_>> {
        let rooms = self.rooms.iter().zip(&self.last_seqs_before).enumerate();
        let rooms =
            rooms.filter_map(|(index, (room, before))| Some((index, room.as_ref()?, before)));
        rooms
            .filter(|(_, room, before)| room.last_seq > **before)
            .map(|(index, room, before)| Changed { index, first_seq: before.next(), room })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Text;
    use crate::protocol::command::Verb;
    use crate::rules::Refusal;

    fn write(room: &str, user: &str, id: Option<&str>, verb: Verb) -> Write {
        Write {
            room: RoomName::parse(room).unwrap(),
            caller: UserId::parse(user).unwrap(),
            id: id.map(|id| ClientId::parse(id).unwrap()),
            verb,
        }
    }

    fn say(room: &str, user: &str, id: Option<&str>) -> Write {
        write(room, user, id, Verb::Message(Text::parse("hi", 16).unwrap()))
    }

    #[test]
    fn a_batch_asks_for_each_fact_once_and_in_the_order_of_names() {
        let writes = [
            say("b", "1", Some("x")),
            write("a", "2", Some("c"), Verb::Create),
            write("a", "1", Some("c"), Verb::Create),
            say("b", "1", Some("x")),
            say("b", "1", None),
            write("b", "1", Some("j"), Verb::Join),
        ];
        let batch = Batch::new(&writes);
        let names: Vec<&str> = batch.rooms().iter().map(|name| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!((batch.index("b"), batch.index("c")), (Some(1), None));
        let founders: Vec<_> = batch.founders().into_iter().collect();
        assert_eq!(founders, [(0, &writes[1].caller)]);
        let users: Vec<_> = batch.users().iter().map(|(p, u)| (*p, u.as_str())).collect();
        assert_eq!(users, [(0, "1"), (0, "2"), (1, "1")]);
        let keys: Vec<_> =
            batch.keys().iter().map(|(p, u, id)| (*p, u.as_str(), id.as_str())).collect();
        assert_eq!(keys, [(0, "1", "c"), (0, "2", "c"), (1, "1", "x")], "a join has no key");
    }

    #[test]
    fn a_decided_batch_says_what_to_write_and_nothing_more() {
        let writes = [
            write("new", "1", None, Verb::Create),
            say("nowhere", "1", None),
            say("new", "1", Some("x")),
            say("new", "1", Some("x")),
            say("old", "1", None),
            write("new", "2", None, Verb::Join),
        ];
        let batch = Batch::new(&writes);
        let old = Room {
            created_by: Some(UserId::parse("9").unwrap()),
            last_seq: Seq(7),
            message_count: 3,
            member_count: 1,
            ..Room::default()
        };
        let none = Some(Room::default());
        let decided = batch.decide(vec![none.clone(), none, Some(old.clone())], Timestamp(5));
        assert_eq!(decided.outcomes.len(), 6);
        assert_eq!(decided.outcomes[1], Some(Outcome::Refused(Refusal::RoomNotFound)));
        assert!(matches!(&decided.outcomes[3], Some(Outcome::Duplicate(it)) if it.seq == Seq(2)));
        let events: Vec<_> =
            decided.events().map(|(index, event, turn)| (index, event.seq.0, turn)).collect();
        assert_eq!(events, [(0, 1, Some(0)), (0, 2, None), (0, 3, Some(1))]);
        let changed: Vec<_> = decided
            .changed()
            .map(|c| (c.index, c.first_seq.0, c.room.last_seq.0, c.room.message_count))
            .collect();
        assert_eq!(changed, [(0, 1, 3, 1)]);
        assert!(!decided.writes_nothing());

        let refused = [say("old", "1", None)];
        let decided = Batch::new(&refused).decide(vec![Some(old)], Timestamp(5));
        assert!(decided.writes_nothing());
        assert_eq!(decided.changed().count(), 0);

        let mixed = [say("held", "1", None), write("new", "1", None, Verb::Create)];
        let decided = Batch::new(&mixed).decide(vec![None, Some(Room::default())], Timestamp(5));
        assert!(decided.outcomes[0].is_none() && decided.outcomes[1].is_some());
        let changed: Vec<_> = decided.changed().map(|changed| changed.index).collect();
        assert_eq!(changed, [1]);
    }
}
