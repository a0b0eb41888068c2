//! Makes every choice of a schedule, from a seed and nothing else.
//!
//! The choices are made in the order in which the schedule asks for them, so a seed always gives
//! the same schedule: one thread, tokio's paused clock, and no other randomness.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Clones are the same. Atomics only because tasks require them: there is one thread.
#[derive(Clone)]
pub struct Chance(Arc<Inner>);

struct Inner {
    state: AtomicU64,
    /// Over all choices and their times: runs with equal digests were equal.
    digest: AtomicU64,
    /// How slow everything is, in percent.
    slow: AtomicU64,
    begun: Instant,
    /// Prints each step.
    is_told: bool,
}

impl Chance {
    /// Must be called within the schedule's runtime.
    pub fn new(seed: u64, is_told: bool) -> Self {
        let (state, digest) = (AtomicU64::new(seed), AtomicU64::new(0));
        let (slow, begun) = (AtomicU64::new(0), Instant::now());
        Self(Arc::new(Inner { state, digest, slow, begun, is_told }))
    }

    /// SplitMix64: every seed is as good as any other.
    fn next(&self) -> u64 {
        let state = self.0.state.load(Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.state.store(state, Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&self, count: usize) -> usize {
        let chosen = (self.next() % count.max(1) as u64) as usize;
        self.note((count as u64) << 32 ^ chosen as u64);
        chosen
    }

    pub fn between(&self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    pub fn percent(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Records something that must be the same in every run.
    pub fn note(&self, what: u64) {
        let now = self.0.begun.elapsed().as_millis() as u64;
        let digest = self.0.digest.load(Relaxed).rotate_left(7) ^ what ^ now << 20;
        self.0.digest.store(digest.wrapping_mul(0x0100_0000_01B3), Relaxed);
    }

    pub fn digest(&self) -> u64 {
        self.0.digest.load(Relaxed)
    }

    pub fn set_slow(&self, percent: usize) {
        self.0.slow.store(percent as u64, Relaxed);
    }

    /// A moment in which others may do something: nothing, one turn, or some milliseconds.
    pub async fn pause(&self) {
        let slow = self.0.slow.load(Relaxed) as usize;
        match self.below(100) {
            dice if dice < slow / 20 => sleep(ms(self.between(100, 800))).await,
            dice if dice < slow => sleep(ms(self.between(1, 12))).await,
            dice if dice < 60 => {}
            _ => tokio::task::yield_now().await,
        }
    }

    /// Prints one line about the schedule, if somebody wants to read it.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if self.0.is_told {
            println!("{:>6} ms  {}", self.0.begun.elapsed().as_millis(), line());
        }
    }
}

pub fn ms(ms: usize) -> Duration {
    Duration::from_millis(ms as u64)
}
