//! Everything that was committed in a schedule. Clients are checked against it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::model::{Event, EventKind, RoomName, Seq, UserId};
use crate::protocol::frame::Frame;

/// One committed event.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    pub room: usize,
    pub seq: Seq,
    /// The user who left by it.
    pub left: Option<usize>,
    /// Its number among all events, from 1.
    pub number: usize,
    /// The number of the room's previous event; 0: there is none.
    pub before: usize,
}

#[derive(Default)]
pub struct Truth(Mutex<State>);

#[derive(Default)]
struct State {
    /// Keyed by the bytes of their frames.
    facts: HashMap<Bytes, Fact>,
    count: usize,
    /// The current events of each room, by number.
    rooms: Vec<Vec<usize>>,
    /// The highest seq that each room ever had.
    highest: Vec<usize>,
    /// Rooms that have gone back.
    back: Vec<usize>,
    /// Of each room and user: whether they are a member, and the number of the event that made it
    /// so.
    members: BTreeMap<(usize, usize), (bool, usize)>,
    /// The seqs of the events that were written under an id.
    ids: HashMap<(usize, String), Seq>,
    was_damaged: bool,
    /// Events that clients were shown.
    shown: u64,
    /// The first promise that was broken.
    broken: Option<String>,
}

impl Truth {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn committed(&self, event: &Event, frame: &Frame) {
        let mut state = self.state();
        let state = &mut *state;
        state.count += 1;
        let room = room_of(&event.room);
        if state.rooms.len() <= room {
            state.rooms.resize(room + 1, Vec::new());
            state.highest.resize(room + 1, 0);
        }
        let left = event.left().map(user_of);
        if matches!(event.kind, EventKind::Create | EventKind::Join | EventKind::Leave) {
            state.members.insert((room, user_of(&event.user)), (left.is_none(), state.count));
        }
        if let Some(id) = &event.client_id
            && state.ids.insert((room, id.as_str().to_owned()), event.seq).is_some()
            && !state.back.contains(&room)
        {
            state.broken.get_or_insert(format!("{id:?} was committed twice in room {room}"));
        }
        let before = state.rooms[room].last().copied().unwrap_or(0);
        let (seq, number) = (event.seq, state.count);
        state.facts.insert(frame.bytes().clone(), Fact { room, seq, left, number, before });
        state.rooms[room].push(number);
        state.highest[room] = state.highest[room].max(state.rooms[room].len());
    }

    pub fn shown(&self) {
        self.state().shown += 1;
    }

    pub fn shown_len(&self) -> u64 {
        self.state().shown
    }

    pub fn fact(&self, frame: &[u8]) -> Option<Fact> {
        self.state().facts.get(frame).copied()
    }

    /// The number of the last event.
    pub fn now(&self) -> usize {
        self.state().count
    }

    /// Whether the user has been a member since that event, as far as the log went back nowhere.
    pub fn was_member_since(&self, room: usize, user: usize, number: usize) -> bool {
        let state = self.state();
        let member = state.members.get(&(room, user));
        !state.back.contains(&room) && member.is_some_and(|(is, since)| *is && *since <= number)
    }

    /// The seq of the event that was written under this id.
    pub fn written(&self, room: usize, id: &str) -> Option<Seq> {
        self.state().ids.get(&(room, id.to_owned())).copied()
    }

    pub fn went_back(&self, room: usize, to: Seq) {
        let mut state = self.state();
        state.rooms[room].truncate(to.0 as usize);
        state.back.push(room);
    }

    pub fn has_gone_back(&self, room: usize) -> bool {
        self.state().back.contains(&room)
    }

    pub fn has_any_gone_back(&self) -> bool {
        !self.state().back.is_empty()
    }

    pub fn set_damaged(&self) {
        self.state().was_damaged = true;
    }

    pub fn was_damaged(&self) -> bool {
        self.state().was_damaged
    }

    pub fn last(&self, room: usize) -> Seq {
        Seq(self.state().rooms[room].len() as u64)
    }

    /// Whether the room has more events than it ever had.
    pub fn is_beyond(&self, room: usize, highest: usize) -> bool {
        self.state().rooms[room].len() > highest
    }

    pub fn highest(&self, room: usize) -> usize {
        self.state().highest[room]
    }

    pub fn numbers(&self, room: usize) -> Vec<usize> {
        self.state().rooms[room].clone()
    }

    /// Reports a broken promise. The first one counts.
    pub fn fail(&self, what: String) {
        self.state().broken.get_or_insert(what);
    }

    pub fn broken(&self) -> Option<String> {
        self.state().broken.clone()
    }
}

pub fn room(index: usize) -> RoomName {
    RoomName::stored(["a", "b", "c"][index])
}

pub fn room_of(name: &RoomName) -> usize {
    usize::from(name.as_str().as_bytes()[0] - b'a')
}

/// The host of all rooms, who never leaves.
pub const HOST: usize = 9;

pub fn user(index: usize) -> UserId {
    UserId::stored(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"][index])
}

pub fn user_of(user: &UserId) -> usize {
    usize::from(user.as_str().as_bytes()[0] - b'0')
}
