//! A rate for each of many parties: addresses, users.
//!
//! It stores only buckets that are not full, and forgets the others.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Bucket, Rate};

/// Locks, so that parties rarely wait for each other.
const SHARDS: usize = 16;
/// Parties counted individually per shard: some 5 MiB in all shards. Beyond it, new parties share
/// one bucket until others have been quiet long enough to be forgotten.
const PARTIES_LEN_MAX: usize = 4096;
/// With fewer parties, a sweep is not worth it.
const SWEEP_LEN_MIN: usize = 64;
/// A sweep takes a fraction of a millisecond if all slots are taken, and then sweeps may follow one
/// another.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// Longest time that a party needs to pay for past work. Many people may share an address.
const DEBT_MAX: Duration = Duration::from_secs(2);

/// One per node and kind of party.
pub struct Rates<K> {
    rate: Rate,
    shards: Box<[Mutex<Buckets<K>>]>,
    /// Randomly seeded, so that parties cannot choose with whom they share a lock.
    hasher: RandomState,
}

struct Buckets<K> {
    /// Buckets that are not full, and some that are full again.
    by_party: HashMap<K, Bucket>,
    /// The length at which full ones are swept, and when that was last done.
    sweep_at: usize,
    swept: Instant,
    /// For parties without a bucket of their own.
    rest: Bucket,
}

impl<K: Clone + Eq + Hash> Rates<K> {
    pub fn new(rate: Rate, now: Instant) -> Self {
        let buckets = || Buckets {
            by_party: HashMap::new(),
            sweep_at: SWEEP_LEN_MIN,
            swept: now,
            rest: Bucket::full(now),
        };
        let shards = (0..SHARDS).map(|_| Mutex::new(buckets())).collect();
        Self { rate, shards, hasher: RandomState::new() }
    }

    /// Takes this weight for the party, or returns in how many milliseconds to try again.
    pub fn take(&self, party: &K, weight: u32, now: Instant) -> Result<(), u64> {
        self.shard(party).of(party, now).take(self.rate, weight, now)
    }

    /// Charges the party for something of this weight.
    pub fn charge(&self, party: &K, weight: u32, now: Instant) {
        self.shard(party).of(party, now).charge_up_to(self.rate, weight, DEBT_MAX, now);
    }

    fn shard(&self, party: &K) -> MutexGuard<'_, Buckets<K>> {
        let index = self.hasher.hash_one(party) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    fn of(&mut self, party: &K, now: Instant) -> &mut Bucket {
        self.sweep(now);
        if self.by_party.len() >= PARTIES_LEN_MAX && !self.by_party.contains_key(party) {
            return &mut self.rest;
        }
        self.by_party.entry(party.clone()).or_insert_with(|| Bucket::full(now))
    }

    /// Forgets full buckets each time the map has doubled. So the cost per call is a few entries,
    /// however many parties there are.
    fn sweep(&mut self, now: Instant) {
        let is_due = now.saturating_duration_since(self.swept) >= SWEEP_PAUSE;
        if is_due && self.by_party.len() >= self.sweep_at {
            self.swept = now;
            self.by_party.retain(|_, bucket| !bucket.is_full(now));
            self.by_party.shrink_to(2 * SWEEP_LEN_MIN);
            let twice = 2 * self.by_party.len();
            self.sweep_at = twice.clamp(SWEEP_LEN_MIN, PARTIES_LEN_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(now: Instant) -> Rates<u32> {
        Rates::new(Rate { per_second: 10, burst: 2 }, now)
    }

    fn len(rates: &Rates<u32>) -> usize {
        rates.shards.iter().map(|shard| shard.lock().unwrap().by_party.len()).sum()
    }

    #[test]
    fn each_party_has_its_own_limit() {
        let now = Instant::now();
        let rates = rates(now);
        let admitted = |party| (0..9).filter(|_| rates.take(&party, 1, now).is_ok()).count();
        assert_eq!((admitted(1), admitted(2), admitted(1)), (2, 2, 0));
        let wait = rates.take(&1, 1, now).unwrap_err();
        assert!((1..=101).contains(&wait), "{wait}");
        assert_eq!(rates.take(&1, 1, now + Duration::from_millis(wait)), Ok(()));
        rates.charge(&3, 2, now);
        assert_eq!(admitted(3), 0);
    }

    #[test]
    fn those_that_have_been_quiet_are_forgotten() {
        let begin = Instant::now();
        let rates = rates(begin);
        for party in 0..100_000 {
            // A new one each millisecond; each is full again after 100.
            let now = begin + Duration::from_millis(party.into());
            assert_eq!(rates.take(&party, 1, now), Ok(()));
        }
        assert!(len(&rates) <= 2 * SHARDS * SWEEP_LEN_MIN);
    }

    #[test]
    fn a_crowd_takes_no_more_memory_and_locks_nobody_out() {
        let now = Instant::now();
        let rates = rates(now);
        let limit = (SHARDS * PARTIES_LEN_MAX) as u32;
        let admitted = (0..4 * limit).filter(|party| rates.take(party, 1, now).is_ok()).count();
        assert_eq!(len(&rates), SHARDS * PARTIES_LEN_MAX);
        // Known parties have their own; the others share one bucket per shard.
        assert_eq!(admitted, SHARDS * (PARTIES_LEN_MAX + 2));
        let later = now + Duration::from_secs(1);
        for party in 4 * limit..4 * limit + 1000 {
            assert_eq!(rates.take(&party, 1, later), Ok(()));
        }
        assert!(len(&rates) <= 1000, "those before are forgotten");
    }
}
