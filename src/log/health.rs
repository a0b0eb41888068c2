//! What the node's log of itself says about the durable log: one line when it fails, one when it
//! is back, and one a minute for each room in which something is damaged.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::LogError;
use crate::model::RoomName;
use crate::rules::{Outcome, Write};

/// A room is named again after so long, if something in it is asked for again.
const PAUSE: Duration = Duration::from_secs(60);
/// Rooms that are remembered, and so lines within `PAUSE`. A damaged index can concern them all.
const ROOMS_MAX: usize = 64;

/// Shared by lanes and reads, so that an outage is told once and not once by each of them.
pub(super) struct Health {
    /// Whose.
    store: &'static str,
    /// True from the first failure to the next success. It guards only what is printed.
    away: AtomicBool,
    /// As `away`.
    faults: Mutex<Faults>,
    begun: Instant,
    /// When something was committed last, in milliseconds from `begun`; 0: never, or a commit has
    /// failed since.
    committed: AtomicU64,
}

/// Which rooms were named as damaged lately. `None`: a call that is about several.
#[derive(Default)]
struct Faults {
    told: HashMap<Option<RoomName>, Instant>,
    /// Errors since the last line that were not told.
    unsaid: u64,
}

impl Health {
    pub fn new(store: &'static str) -> Self {
        let (away, faults) = (AtomicBool::new(false), Mutex::default());
        Self { store, away, faults, begun: Instant::now(), committed: AtomicU64::new(0) }
    }

    /// Notes whether commits succeed.
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

    /// An append failed. If it is not known by which command, the caller tries fewer at once.
    pub fn of_batch(&self, writes: &[Write], error: &LogError) {
        match (error, writes) {
            (LogError::Culprits(culprits), _) => {
                for (place, error) in culprits {
                    self.of_room(writes.get(*place).map(|write| &write.room), error);
                }
            }
            (_, [write]) => self.of_room(Some(&write.room), error),
            _ => {}
        }
    }

    /// Says so if the error will not pass by itself.
    pub fn of_room(&self, room: Option<&RoomName>, error: &LogError) {
        let what = match error {
            LogError::Damaged(_) => "holds something damaged",
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
    /// Whether to write a line, and how many errors had none since the last.
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
