//! How often something may happen, on average and at once. Pure: time is an argument.
//!
//! It is the generic cell rate algorithm (ITU-T I.371): a bucket is one point in time, takes no
//! timer, and counts what happened exactly. What to do at the limit is its user's matter.

use std::time::{Duration, Instant};

/// A limit: so many a second on average, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// What one party has left.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    pub fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Whether it may happen once more now; if not, in how many milliseconds.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), u64> {
        let interval = Duration::from_secs(1) / rate.per_second;
        let full_at = self.full_at.max(now) + interval;
        match (full_at - now).checked_sub(interval * rate.burst) {
            None | Some(Duration::ZERO) => {
                self.full_at = full_at;
                Ok(())
            }
            Some(wait) => Err(wait.as_millis() as u64 + 1),
        }
    }

    /// As good as a new one: it need not be kept.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 20 };

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(begin);
        let mut taken = |now| (0..100).filter(|_| bucket.take(RATE, now).is_ok()).count();
        assert_eq!(taken(begin), 20);
        assert_eq!(taken(begin + Duration::from_secs(1)), 10);
    }

    #[test]
    fn whoever_waits_as_long_as_told_is_admitted() {
        let mut now = Instant::now();
        let mut bucket = Bucket::full(now);
        for _ in 0..200 {
            if let Err(ms) = bucket.take(RATE, now) {
                now += Duration::from_millis(ms);
                assert_eq!(bucket.take(RATE, now), Ok(()));
            }
        }
    }

    #[test]
    fn a_bucket_is_full_again_when_everything_has_come_back() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(begin);
        assert!(bucket.is_full(begin));
        assert_eq!(bucket.take(RATE, begin), Ok(()));
        assert!(!bucket.is_full(begin + Duration::from_millis(99)));
        assert!(bucket.is_full(begin + Duration::from_millis(100)));
    }
}
