//! Rate limits: how often something may happen, on average and at once. Pure: time is an argument.
//!
//! This is the generic cell rate algorithm (ITU-T I.371): a bucket is one point in time, needs no
//! timer, and counts exactly. The caller decides what to do at the limit.
//!
//! Things have weights. Something heavier than the burst may happen once nothing else has happened
//! for a while, and is paid for afterwards. So is weight that becomes known only later.

mod backoff;
mod keyed;

use std::time::{Duration, Instant};

pub use backoff::Backoff;
pub use keyed::Rates;

/// So many per second on average, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl Rate {
    /// Average time between two of weight 1.
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }
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

    /// Takes this weight, or returns in how many milliseconds to try again.
    pub fn take(&mut self, rate: Rate, weight: u32, now: Instant) -> Result<(), u64> {
        let wait = self.wait(rate, weight, now);
        if wait.is_zero() {
            self.charge(rate, weight, now);
            return Ok(());
        }
        Err(wait.as_millis() as u64 + 1)
    }

    /// Charges for something of this weight.
    pub fn charge(&mut self, rate: Rate, weight: u32, now: Instant) {
        self.full_at = self.full_at.max(now) + rate.interval() * weight;
    }

    /// As `charge`, but forgets what would take longer than this to pay: the bucket is shared by
    /// many, who would all be kept out for what one of them did.
    pub fn charge_up_to(&mut self, rate: Rate, weight: u32, longest: Duration, now: Instant) {
        self.charge(rate, weight, now);
        self.full_at = self.full_at.min(now + rate.interval() * rate.burst + longest);
    }

    /// How long until something of this weight may happen.
    pub fn wait(&self, rate: Rate, weight: u32, now: Instant) -> Duration {
        let full_at = self.full_at.max(now) + rate.interval() * weight.min(rate.burst);
        (full_at - now).saturating_sub(rate.interval() * rate.burst)
    }

    /// As good as new: it need not be stored.
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
        let mut taken = |now| (0..100).filter(|_| bucket.take(RATE, 1, now).is_ok()).count();
        assert_eq!(taken(begin), 20);
        assert_eq!(taken(begin + Duration::from_secs(1)), 10);
    }

    #[test]
    fn whoever_waits_as_long_as_told_is_admitted() {
        let mut now = Instant::now();
        let mut bucket = Bucket::full(now);
        for _ in 0..200 {
            if let Err(ms) = bucket.take(RATE, 1, now) {
                now += Duration::from_millis(ms);
                assert_eq!(bucket.take(RATE, 1, now), Ok(()));
            }
        }
    }

    #[test]
    fn a_bucket_is_full_again_when_everything_has_come_back() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(begin);
        assert!(bucket.is_full(begin));
        assert_eq!(bucket.take(RATE, 1, begin), Ok(()));
        assert!(!bucket.is_full(begin + Duration::from_millis(99)));
        assert!(bucket.is_full(begin + Duration::from_millis(100)));
    }

    #[test]
    fn what_is_heavy_is_paid_for() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(begin);
        // More than the burst, and then nothing for as long as it is worth.
        assert_eq!(bucket.take(RATE, 50, begin), Ok(()));
        assert_eq!(bucket.wait(RATE, 1, begin), Duration::from_millis(3100));
        assert_eq!(bucket.take(RATE, 1, begin), Err(3101));
        let later = begin + Duration::from_millis(3100);
        assert_eq!(bucket.take(RATE, 1, later), Ok(()));
        // Not before the whole burst is available again.
        assert_eq!(bucket.take(RATE, 50, later), Err(2001));
        bucket.charge(RATE, 10, later);
        assert_eq!(bucket.take(RATE, 1, later), Err(1101));
    }

    #[test]
    fn what_one_of_many_did_keeps_nobody_out_for_long() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(begin);
        bucket.charge_up_to(RATE, 1_000_000, Duration::from_secs(2), begin);
        assert_eq!(bucket.wait(RATE, 0, begin), Duration::from_secs(2));
        bucket.charge_up_to(RATE, 1_000_000, Duration::from_secs(2), begin);
        assert_eq!(bucket.wait(RATE, 0, begin), Duration::from_secs(2));
    }

    #[test]
    fn weights_add_up_to_the_rate() {
        let begin = Instant::now();
        let (mut bucket, mut taken) = (Bucket::full(begin), 0);
        for ms in 0..10_000 {
            let weight = 1 + ms % 7;
            let now = begin + Duration::from_millis(ms.into());
            if bucket.take(RATE, weight, now).is_ok() {
                taken += weight;
            }
        }
        assert!((110..=127).contains(&taken), "{taken} in ten seconds");
    }
}
