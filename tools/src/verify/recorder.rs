//! The history of a run while it is recorded: one history and one clock for all clients.
//!
//! The checker judges it at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use verbatim_checker::{History, Limits, Nanos};

pub struct Recorder {
    started: Instant,
    /// Locked only for a look-up and a push, never across an `.await`.
    history: Mutex<History>,
    pub counters: Counters,
}

/// The counts in the progress line.
#[derive(Default)]
pub struct Counters {
    /// Acks and refusals, but not `unavailable`.
    pub answered: AtomicU64,
    pub acked: AtomicU64,
    pub unavailable: AtomicU64,
    pub deliveries: AtomicU64,
    /// Connections after the first of each client.
    pub reconnects: AtomicU64,
}

impl Recorder {
    pub fn new(limits: Limits) -> Self {
        let history = Mutex::new(History::new(limits));
        Self { started: Instant::now(), history, counters: Counters::default() }
    }

    pub fn now(&self) -> Nanos {
        // Enough for 584 years.
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    /// A panic while it is locked leaves the history usable, so poisoning is ignored.
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
