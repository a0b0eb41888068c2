//! What the commands of a socket keep until they are answered, as those see it who look for who
//! keeps most while others need it.
//!
//! A client that asks for much and takes no answers keeps it all for a minute. It is ended before
//! those who merely have not finished their sentence.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use crate::budget::{Held, Holder, Place};
use crate::socket::Link;

/// One to a socket that keeps so much that it is worth looking at.
pub struct Owing {
    mark: Arc<Mark>,
    _place: Place,
}

struct Mark {
    link: Arc<Link>,
    /// Bytes, and when an answer was last given, or this began.
    state: Mutex<(usize, Instant)>,
}

impl Owing {
    /// `held`: of the budget that all of it is counted in.
    pub fn new(held: &Held, link: &Arc<Link>, bytes: usize) -> Self {
        let state = Mutex::new((bytes, Instant::now()));
        let mark = Arc::new(Mark { link: link.clone(), state });
        let this: Weak<dyn Holder> = Arc::<Mark>::downgrade(&mark);
        Self { mark, _place: held.budget().enter(this) }
    }

    /// So much is kept now.
    pub fn tell(&self, bytes: usize) {
        self.mark.state().0 = bytes;
    }

    /// An answer was given, and so much is still kept.
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
