//! Rooms in which followers met an event that cannot be read.
//!
//! A follower that reaches such an event is ended, because nothing can be sent in its place. When
//! its client returns, it is refused that room and follows the others. Without this it would follow
//! all of them, and be ended again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{RoomName, Seq};

/// Rooms remembered. In further rooms each client is ended again.
const ROOMS_MAX: usize = 10_000;

/// For each room, the seq before an event that cannot be read; of several, the highest.
#[derive(Default)]
pub struct Sick {
    rooms: Mutex<HashMap<RoomName, Seq>>,
    /// `rooms.len()`, so that the usual case need not take the lock.
    len: AtomicUsize,
}

impl Sick {
    /// Nothing that runs under this lock can panic.
    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomName, Seq>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event after `after` cannot be read.
    pub fn note(&self, room: &RoomName, after: Seq) {
        let mut rooms = self.rooms();
        if rooms.len() >= ROOMS_MAX && !rooms.contains_key(room) {
            return;
        }
        let known = rooms.entry(room.clone()).or_insert(after);
        *known = after.max(*known);
        self.len.store(rooms.len(), Ordering::SeqCst);
    }

    /// The event after `after` can be read.
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

    /// The seq before the unreadable event, if one is known that a follower from `position` cannot
    /// pass.
    pub fn ahead_of(&self, room: &RoomName, position: Seq) -> Option<Seq> {
        if self.len.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.rooms().get(room).copied().filter(|after| *after >= position)
    }
}
