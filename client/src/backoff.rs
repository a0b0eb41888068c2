//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential back-off with full jitter. The wait before an attempt is random, up to a bound that
/// doubles with each failed attempt. So clients that were cut off together do not return together.
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
}
