//! What the node's log of itself says about the durable log: one line when it fails, one when it
//! is back.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by lanes and reads, so that an outage is told once and not once by each of them.
pub(super) struct Health {
    /// Whose.
    store: &'static str,
    /// True from the first failure to the next success. It guards only what is printed.
    away: AtomicBool,
}

impl Health {
    pub fn new(store: &'static str) -> Self {
        Self { store, away: AtomicBool::new(false) }
    }

    pub fn failed(&self, error: &(dyn Error + 'static)) {
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(err = chain(error), "{} fails; trying again", self.store);
        }
    }

    pub fn answered(&self) {
        // The load first: this is on every append's path, and a swap would bounce the cache line
        // between the lanes.
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("{} answers again", self.store);
        }
    }
}

/// An error with its causes. The driver's own `Display` says only "db error".
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
