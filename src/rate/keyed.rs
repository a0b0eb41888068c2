//! A rate for each of many parties: addresses, users.
//!
//! It refuses nobody itself. It keeps those that are not full, and forgets the others.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Bucket, Rate};

/// Locks that the parties are spread over, so that they rarely wait for each other.
const SHARDS: usize = 16;
/// Parties of a shard that are counted one by one: some 5 MiB for all shards. Beyond it newcomers
/// share one bucket, until others have been quiet for long enough to be forgotten.
const PARTIES_LEN_MAX: usize = 4096;
/// Below this many it is not worth looking for those that can be forgotten.
const SWEEP_LEN_MIN: usize = 64;
/// A look takes a fraction of a millisecond when all places are taken, and then it is taken again
/// and again.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// How long a party may have to pay for what was done. Behind an address there may be many people.
const DEBT_MAX: Duration = Duration::from_secs(2);

/// One to a node and kind of party.
pub struct Rates<K> {
    rate: Rate,
    shards: Box<[Mutex<Buckets<K>>]>,
    /// Seeded at random, so that parties cannot choose whom they share a lock with.
    hasher: RandomState,
}

struct Buckets<K> {
    /// Those that are not full; some that are full again.
    by_party: HashMap<K, Bucket>,
    /// The length at which full ones are looked for, and when they were the last time.
    sweep_at: usize,
    swept: Instant,
    /// Of those for whom there is no place.
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

    /// Whether the party may do something of that weight now; if not, in how many milliseconds.
    pub fn take(&self, party: &K, weight: u32, now: Instant) -> Result<(), u64> {
        self.shard(party).of(party, now).take(self.rate, weight, now)
    }

    /// The party did something of that weight.
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

    /// Forgets those that are full again, each time that the map has doubled: so what it costs is
    /// no more than a few entries looked at, however many parties there are.
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
            // A new one each millisecond, each of which is full again after 100.
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
        // Those who are known have their own; the others share what one may, in each shard.
        assert_eq!(admitted, SHARDS * (PARTIES_LEN_MAX + 2));
        let later = now + Duration::from_secs(1);
        for party in 4 * limit..4 * limit + 1000 {
            assert_eq!(rates.take(&party, 1, later), Ok(()));
        }
        assert!(len(&rates) <= 1000, "those before are forgotten");
    }
}
