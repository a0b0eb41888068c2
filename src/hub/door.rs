//! A room's name, and whether anyone has come or gone since somebody last checked.
//!
//! It does not know who: whoever wants to know looks at the followers. So a room that nobody asks
//! about pays one store for each follower that comes or goes, and nothing for messages. It is one
//! allocation per room, shared by the followers, who need the name anyway.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::RoomName;

pub struct Door {
    pub name: RoomName,
    passed: AtomicBool,
}

impl Door {
    pub fn new(name: RoomName) -> Self {
        Self { name, passed: AtomicBool::new(true) }
    }

    /// A follower was added or removed, or now follows as another user. Call it after the change,
    /// or under a lock that the reader takes, too; then the next check sees it.
    pub fn pass(&self) {
        self.passed.store(true, Ordering::Release);
    }

    /// Whether anybody passed since the last call. Look at the followers after this call: then
    /// somebody who passes meanwhile is seen the next time.
    pub fn was_passed(&self) -> bool {
        self.passed.load(Ordering::Acquire) && self.passed.swap(false, Ordering::AcqRel)
    }
}
