//! How long to wait before the next attempt.

use std::time::Duration;

use tokio::time::Instant;

/// What a server may ask for at most: a mistake of its settings would be for ever.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Exponential back-off with full jitter: the wait before a try is random, up to a bound that
/// doubles with each try in vain. So clients that were cut off together do not return together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait.
    pub first: Duration,
    /// The highest bound.
    pub longest: Duration,
}

impl Backoff {
    /// The wait after `tries` failed attempts; `random` is from 0 to 1.
    pub(crate) fn wait(self, tries: u32, random: f64) -> Duration {
        let bound = self.first.saturating_mul(2_u32.saturating_pow(tries)).min(self.longest);
        bound.mul_f64(random.clamp(0.0, 1.0))
    }
}

/// When something that was refused for a moment is tried again.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    /// Not before then.
    pub at: Option<Instant>,
    tries: u32,
}

impl Retry {
    pub fn is_due(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| at <= now)
    }

    /// It was refused. Refusals while it waits are of the same try.
    pub fn put_off(
        &mut self,
        now: Instant,
        retry_after: Option<Duration>,
        backoff: Backoff,
        random: f64,
    ) {
        if self.is_due(now) {
            let wait = backoff.wait(self.tries, random);
            self.at = Some(now + retry_after.unwrap_or_default().min(RETRY_AFTER_MAX) + wait);
            self.tries = self.tries.saturating_add(1);
        }
    }

    /// It went well: the next refusal is the first.
    pub fn went_well(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_longest_and_the_wait_is_below_it() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
        let bounds = [0, 1, 4, 5, 40, u32::MAX].map(|tries| backoff.wait(tries, 1.0).as_secs());
        assert_eq!(bounds, [1, 2, 16, 30, 30, 30]);
        assert_eq!(backoff.wait(1, 0.25), Duration::from_millis(500));
        assert_eq!(backoff.wait(7, 0.0), Duration::ZERO);
    }

    #[test]
    fn refusals_of_one_try_put_it_off_once_and_no_server_for_ever() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
        let (mut retry, now) = (Retry::default(), Instant::now());
        for _ in 0..9 {
            retry.put_off(now, None, backoff, 1.0);
        }
        let at = now + Duration::from_secs(1);
        assert_eq!(retry.at, Some(at));
        retry.put_off(at, Some(Duration::MAX), backoff, 1.0);
        assert_eq!(retry.at, Some(at + RETRY_AFTER_MAX + Duration::from_secs(2)));
    }
}
