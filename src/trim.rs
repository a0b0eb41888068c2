//! Returns freed memory to the system, some time after much of it was freed.
//!
//! It compares the memory of the process with what the node holds for clients, and trims when the
//! difference has grown.

use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budgets;
use crate::metrics::Metrics;

/// Interval of checks. Trimming often would return memory that is about to be used again.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest pause after a trim that freed little: the memory is in use.
const VAIN_PAUSE_MAX: Duration = Duration::from_secs(320);
/// Less is not worth a trim.
const WORTH_BYTES: usize = 16 * 1024 * 1024;
/// Memory of a connection, whatever it does.
const CONNECTION_BYTES: usize = 4 * 1024;

/// Runs forever. Does nothing where the system does not report the memory of a process.
pub async fn run(budgets: &Budgets, metrics: &Metrics) {
    let held = || {
        let connections = usize::try_from(metrics.connections_admitted.get()).unwrap_or(0);
        budgets.bytes() + connections * CONNECTION_BYTES
    };
    let Some(resident) = resident_bytes() else { return std::future::pending().await };
    let mut rule = Rule::new(resident, held(), Instant::now());
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(resident) = resident_bytes() else { continue };
        if rule.is_due(resident, held(), Instant::now()) {
            // May take long for a runtime thread. An error means that the runtime ends.
            let _ = tokio::task::spawn_blocking(verbatim_heap::trim).await;
            rule.trimmed(resident, resident_bytes().unwrap_or(resident), Instant::now());
        }
    }
}

/// Decides when to trim. Pure.
///
/// Two mistakes that it avoids. Looking only at what is held, it would miss memory that came and
/// went between two looks. Taking the remainder of a trim that freed little for memory in use, it
/// would never return what was being freed at that moment.
struct Rule {
    /// The least memory besides what was held.
    least: usize,
    /// The most that was held since the last trim.
    most_held: usize,
    /// After a trim that freed little, the next is not before this, unless less is held.
    not_before: Instant,
    pause: Duration,
}

impl Rule {
    fn new(resident: usize, held: usize, now: Instant) -> Self {
        let least = resident.saturating_sub(held);
        Self { least, most_held: held, not_before: now, pause: PAUSE }
    }

    fn is_due(&mut self, resident: usize, held: usize, now: Instant) -> bool {
        let rest = resident.saturating_sub(held);
        self.least = self.least.min(rest);
        self.most_held = self.most_held.max(held);
        let has_fallen = self.most_held - held >= WORTH_BYTES;
        let is_due = rest - self.least >= WORTH_BYTES && (has_fallen || now >= self.not_before);
        if is_due {
            self.most_held = held;
        }
        is_due
    }

    fn trimmed(&mut self, before: usize, after: usize, now: Instant) {
        let was_vain = before.saturating_sub(after) < WORTH_BYTES / 2;
        self.pause = if was_vain { (2 * self.pause).min(VAIN_PAUSE_MAX) } else { PAUSE };
        self.not_before = now + self.pause;
    }
}

/// Resident memory of the process (RSS).
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn what_came_and_went_between_two_looks_is_given_back() {
        let now = Instant::now();
        let mut rule = Rule::new(20 * MIB, 0, now);
        assert!(!rule.is_due(35 * MIB, 0, now), "not worth it");
        assert!(!rule.is_due(200 * MIB, 180 * MIB, now), "it is held");
        assert!(rule.is_due(70 * MIB, 0, now));
    }

    #[test]
    fn a_time_in_vain_is_not_the_last() {
        let mut now = Instant::now();
        let mut rule = Rule::new(20 * MIB, 0, now);
        assert!(!rule.is_due(400 * MIB, 390 * MIB, now));
        // No longer held, but still being freed: nothing can be returned yet.
        assert!(rule.is_due(400 * MIB, 0, now));
        rule.trimmed(400 * MIB, 398 * MIB, now);
        let due = (0..4).filter(|_| {
            now += PAUSE;
            rule.is_due(398 * MIB, 0, now)
        });
        assert!(due.count() > 0, "within 20 seconds");
    }

    #[test]
    fn what_is_in_use_is_not_trimmed_again_and_again() {
        let mut now = Instant::now();
        let mut rule = Rule::new(20 * MIB, 0, now);
        let mut times = 0;
        for _ in 0..720 {
            now += PAUSE;
            if rule.is_due(300 * MIB, 0, now) {
                times += 1;
                rule.trimmed(300 * MIB, 300 * MIB, now);
            }
        }
        assert!((10..=20).contains(&times), "{times} times in an hour");
        // Memory is taken and freed: then it trims at once.
        assert!(!rule.is_due(500 * MIB, 200 * MIB, now));
        assert!(rule.is_due(500 * MIB, 0, now));
    }
}
