//! Tells a session which of its followers need it.
//!
//! It does not say why: the session looks at each.

use std::sync::{Arc, Mutex, PoisonError};

use super::follower::Follower;

/// Followers of one session that need it: they fell behind, stopped, or got an event that the
/// session awaits. A follower is in here at most once for each time it went live, and a session
/// awaits one event at a time, so this is limited by `follows_max`.
#[derive(Default)]
pub struct Inbox {
    followers: Mutex<Vec<Arc<Follower>>>,
    arrived: tokio::sync::Notify,
}

impl Inbox {
    /// Waits until there is something to take. Cancel-safe: a stored permit stays.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub fn take(&self) -> Vec<Arc<Follower>> {
        std::mem::take(&mut *self.followers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn put(&self, follower: Arc<Follower>) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).push(follower);
        self.arrived.notify_one();
    }
}
