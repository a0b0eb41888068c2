//! What the node logs about the durable log: one line when it fails, one when it works again, and
//! one per minute for each room with damaged data.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::LogError;
use crate::model::RoomName;
use crate::rules::{Outcome, Write};

/// How long until a room is logged again.
const PAUSE: Duration = Duration::from_secs(60);
/// Rooms remembered, and so the most lines within `PAUSE`. A damaged index may affect all rooms.
const ROOMS_MAX: usize = 64;

/// Shared by lanes and reads, so that an outage is logged once and not by each of them.
pub(super) struct Health {
    /// The store's name.
    store: &'static str,
    /// True from the first failure to the next success. It only controls what is logged.
    away: AtomicBool,
    /// Like `away`.
    faults: Mutex<Faults>,
    begun: Instant,
    /// When the last commit was, in milliseconds from `begun`; 0: never, or a commit has failed
    /// since.
    committed: AtomicU64,
}

/// Rooms that were recently logged as damaged. `None`: calls about several rooms.
#[derive(Default)]
struct Faults {
    told: HashMap<Option<RoomName>, Instant>,
    /// Errors since the last line that were not logged.
    unsaid: u64,
}

impl Health {
    pub fn new(store: &'static str) -> Self {
        let (away, faults) = (AtomicBool::new(false), Mutex::default());
        Self { store, away, faults, begun: Instant::now(), committed: AtomicU64::new(0) }
    }

    /// Notes whether an append succeeded.
    pub fn note(&self, appended: &Result<Vec<Option<Outcome>>, LogError>) {
        match appended {
            Ok(outcomes) => {
                if outcomes.iter().flatten().any(|outcome| outcome.events().next().is_some()) {
                    let now = self.begun.elapsed().as_millis() as u64;
                    self.committed.store(now.max(1), Ordering::Relaxed);
                }
            }
            Err(LogError::Unavailable(_) | LogError::Unknown(_)) => {
                self.committed.store(0, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    /// Whether something was committed within that time, and no commit has failed since.
    pub fn has_committed_within(&self, time: Duration) -> bool {
        let committed = self.committed.load(Ordering::Relaxed);
        let since = (self.begun.elapsed().as_millis() as u64).saturating_sub(committed);
        committed > 0 && u128::from(since) <= time.as_millis()
    }

    pub fn failed(&self, error: &(dyn Error + 'static)) {
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(err = chain(error), "{} fails; retrying", self.store);
        }
    }

    pub fn answered(&self) {
        // Loads first: this runs on every append, and a swap would move the cache line between the
        // lanes.
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("{} answers again", self.store);
        }
    }

    /// Logs a failed append. If the failing command is unknown, the caller tries fewer at once.
    pub fn of_batch(&self, writes: &[Write], error: &LogError) {
        match (error, writes) {
            (LogError::Culprits(culprits), _) => {
                for (index, error) in culprits {
                    self.of_room(writes.get(*index).map(|write| &write.room), error);
                }
            }
            (_, [write]) => self.of_room(Some(&write.room), error),
            _ => {}
        }
    }

    /// Logs an error that does not pass by itself.
    pub fn of_room(&self, room: Option<&RoomName>, error: &LogError) {
        let what = match error {
            LogError::Damaged(_) => "found damaged data",
            LogError::Refused(_) => "refused a command",
            LogError::Unavailable(_) | LogError::Unknown(_) | LogError::Culprits(_) => return,
        };
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unsaid) = faults.tell(room, Instant::now()) {
            drop(faults);
            let room = room.map(RoomName::as_str);
            tracing::error!(room, err = chain(error), unsaid, "{} {what}", self.store);
        }
    }
}

impl Faults {
    /// `None`: log nothing. Else the number of errors since the last line that were not logged.
    fn tell(&mut self, room: Option<&RoomName>, now: Instant) -> Option<u64> {
        if self.told.len() >= ROOMS_MAX {
            self.told.retain(|_, told| now.duration_since(*told) < PAUSE);
        }
        let room = room.cloned();
        let is_told = match self.told.get(&room) {
            Some(told) => now.duration_since(*told) < PAUSE,
            None => self.told.len() >= ROOMS_MAX,
        };
        if is_told {
            self.unsaid += 1;
            return None;
        }
        self.told.insert(room, now);
        Some(std::mem::take(&mut self.unsaid))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_room_is_one_line_a_minute_and_many_are_few_lines() {
        let mut faults = Faults::default();
        let begun = Instant::now();
        let room = |n: usize| RoomName::stored(&format!("r{n}"));
        assert_eq!(faults.tell(Some(&room(0)), begun), Some(0));
        assert_eq!(faults.tell(Some(&room(0)), begun), None);
        assert_eq!(faults.tell(None, begun), Some(1));
        for n in 1..1000 {
            let is_told = faults.tell(Some(&room(n)), begun + PAUSE / 2).is_some();
            assert_eq!(is_told, n < ROOMS_MAX - 1, "{n}");
        }
        let untold = 1000 - ROOMS_MAX as u64 + 1;
        assert_eq!(faults.tell(Some(&room(999)), begun + PAUSE), Some(untold));
        assert_eq!(faults.tell(Some(&room(1)), begun + PAUSE), None, "it was half a minute ago");
        assert_eq!(faults.tell(Some(&room(0)), begun + PAUSE), Some(1));
    }
}
