//! The history of a run while it is being made: one for all clients, and the clock they share.
//!
//! It judges nothing; the checker does, in the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use verbatim_checker::{History, Limits, Nanos};

pub struct Recorder {
    started: Instant,
    /// Held for a look-up and a push at a time, never across an await.
    history: Mutex<History>,
    pub counters: Counters,
}

/// What the line of progress tells.
#[derive(Default)]
pub struct Counters {
    /// Acks and refusals, but not `unavailable`.
    pub answered: AtomicU64,
    pub acked: AtomicU64,
    pub unavailable: AtomicU64,
    pub deliveries: AtomicU64,
    /// Connections beyond the first of each client, without those that it ended itself.
    pub reconnects: AtomicU64,
}

impl Recorder {
    pub fn new(limits: Limits) -> Self {
        let history = Mutex::new(History::new(limits));
        Self { started: Instant::now(), history, counters: Counters::default() }
    }

    pub fn now(&self) -> Nanos {
        // 584 years.
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    /// Whoever panicked while writing has written what it had to say.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, text: &str) {
        let now = self.now();
        self.history().note(now, text);
    }

    pub fn into_history(self) -> History {
        self.history.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
