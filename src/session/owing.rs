//! The memory that a socket's commands keep until they are answered, for the search for the
//! connections that hold most while others need memory.
//!
//! A client that asks for much and takes no answers would keep all of it for a minute. It is ended
//! before clients with merely incomplete messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use crate::budget::{Held, Holder, Registered};
use crate::socket::Link;

/// One per socket whose commands keep enough to matter.
pub struct Owing {
    mark: Arc<Mark>,
    _registered: Registered,
}

struct Mark {
    link: Arc<Link>,
    /// Bytes, and the time of the last answer (or of the start).
    state: Mutex<(usize, Instant)>,
}

impl Owing {
    /// `held`: from the budget that counts the commands.
    pub fn new(held: &Held, link: &Arc<Link>, bytes: usize) -> Self {
        let state = Mutex::new((bytes, Instant::now()));
        let mark = Arc::new(Mark { link: link.clone(), state });
        let this: Weak<dyn Holder> = Arc::<Mark>::downgrade(&mark);
        Self { mark, _registered: held.budget().enter(this) }
    }

    /// The commands now keep this many bytes.
    pub fn tell(&self, bytes: usize) {
        self.mark.state().0 = bytes;
    }

    /// An answer was given, and the commands still keep this many bytes.
    pub fn moved(&self, bytes: usize) {
        *self.mark.state() = (bytes, Instant::now());
    }
}

impl Mark {
    fn state(&self) -> MutexGuard<'_, (usize, Instant)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder for Mark {
    fn waiting(&self) -> Option<(usize, Instant)> {
        let state = *self.state();
        (state.0 > 0).then_some(state)
    }

    fn evict(&self) {
        self.link.evict();
    }
}
