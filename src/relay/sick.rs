//! Rooms in which followers met an event that cannot be read.
//!
//! A follower that comes to such an event is ended, since nothing can be sent in its place. When
//! its client comes back, it is told which room it cannot follow, and goes on with the others:
//! without this it would follow all of them, and be ended again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{RoomName, Seq};

/// Rooms that are remembered. Beyond that a client is ended again, as if it were the first.
const ROOMS_MAX: usize = 10_000;

/// For each room the place in front of an event that cannot be read: of several the highest.
#[derive(Default)]
pub struct Sick {
    rooms: Mutex<HashMap<RoomName, Seq>>,
    /// `rooms.len()`, so that the usual case does not take the lock.
    len: AtomicUsize,
}

impl Sick {
    /// Nothing that runs under this lock can panic.
    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomName, Seq>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event behind `after` cannot be read.
    pub fn note(&self, room: &RoomName, after: Seq) {
        let mut rooms = self.rooms();
        if rooms.len() >= ROOMS_MAX && !rooms.contains_key(room) {
            return;
        }
        let known = rooms.entry(room.clone()).or_insert(after);
        *known = after.max(*known);
        self.len.store(rooms.len(), Ordering::SeqCst);
    }

    /// The event behind that place can be read.
    pub fn forget(&self, room: &RoomName, after: Seq) {
        let mut rooms = self.rooms();
        if rooms.get(room) == Some(&after) {
            rooms.remove(room);
        }
        if rooms.is_empty() {
            *rooms = HashMap::new();
        }
        self.len.store(rooms.len(), Ordering::SeqCst);
    }

    /// Where the event is, as far as is known, that whoever follows from `position` cannot pass.
    pub fn ahead_of(&self, room: &RoomName, position: Seq) -> Option<Seq> {
        if self.len.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.rooms().get(room).copied().filter(|after| *after >= position)
    }
}
