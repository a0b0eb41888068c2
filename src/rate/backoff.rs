//! Pauses between retries: each is twice as long as the one before, up to a limit.

use std::time::Duration;

use rand::Rng;

/// Owned by the loop that retries.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// The first pause, and the longest.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// Whether there was no pause since the last success.
    pub fn is_fresh(&self) -> bool {
        self.next == self.min
    }

    /// How long to pause now.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }

    /// The same, shortened at random by up to half, so that nodes that fail together do not retry
    /// together.
    pub fn jittered(&mut self) -> Duration {
        self.pause().mul_f64(rand::rng().random_range(0.5..1.0))
    }

    /// After a success: the next pause is the first again.
    pub fn reset(&mut self) {
        self.next = self.min;
    }

    /// If a retry cannot succeed soon: the next pause is the longest.
    pub fn give_time(&mut self) {
        self.next = self.max;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(20), ms(100));
        assert!(backoff.is_fresh());
        assert_eq!([(); 5].map(|()| backoff.pause()), [20, 40, 80, 100, 100].map(ms));
        assert!(!backoff.is_fresh());
        backoff.reset();
        assert!((ms(10)..=ms(20)).contains(&backoff.jittered()));
        assert_eq!(backoff.pause(), ms(40));
        backoff.reset();
        backoff.give_time();
        assert_eq!(backoff.pause(), ms(100));
    }
}
