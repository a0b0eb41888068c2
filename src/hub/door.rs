//! A room's name, and whether anyone has come or gone since somebody last looked.
//!
//! It does not know who: whoever wants to know looks at the followers. So a room that nobody asks
//! about pays one store for each that comes or goes, and nothing for what is said in it. It is one
//! allocation a room, shared by its followers, who need the name anyway.

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

    /// Somebody came, went, or came to follow as somebody else. To be called when it is done, or
    /// under a lock that whoever looks takes, too: then the one who looks next sees it.
    pub fn pass(&self) {
        self.passed.store(true, Ordering::Release);
    }

    /// Whether anybody passed since the last call. Look after it, not before: who passes while one
    /// looks is then seen the next time.
    pub fn was_passed(&self) -> bool {
        self.passed.load(Ordering::Acquire) && self.passed.swap(false, Ordering::AcqRel)
    }
}
