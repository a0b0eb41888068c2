//! A limited number of slots that many parties share: how many may one party have?
//!
//! As many as are still free. A party that takes all it can gets half of the slots, the next one
//! half of the rest, and a party that wants a few finds them, however many others want all. So
//! nobody has to set a limit per party, and while few want any, each may have many.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The slots, and how many each party has.
#[derive(Debug)]
pub struct Shares<K> {
    places: usize,
    taken: usize,
    by_party: HashMap<K, usize>,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    pub fn new(places: usize) -> Self {
        Self { places, taken: 0, by_party: HashMap::new() }
    }

    /// Slots taken.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Takes this many more slots, each for all of these parties. Takes none if a party would then
    /// have more than are free.
    pub fn take(&mut self, parties: &[K], count: usize) -> bool {
        if count == 0 {
            return true;
        }
        let Some(free) = self.places.checked_sub(self.taken.saturating_add(count)) else {
            return false;
        };
        // The very last slot can go to a party that has none.
        let fits = |party| self.of(party).saturating_add(count) <= free.max(1);
        if !parties.iter().all(fits) {
            return false;
        }
        self.taken += count;
        for party in parties {
            *self.by_party.entry(party.clone()).or_default() += count;
        }
        true
    }

    /// Gives back slots that were taken for these parties.
    pub fn give_back(&mut self, parties: &[K], count: usize) {
        self.taken = self.taken.saturating_sub(count);
        for party in parties {
            let Some(has) = self.by_party.get_mut(party) else { continue };
            *has = has.saturating_sub(count);
            if *has == 0 {
                self.by_party.remove(party);
            }
        }
        if self.by_party.is_empty() {
            self.by_party = HashMap::new();
        }
    }

    fn of(&self, party: &K) -> usize {
        self.by_party.get(party).copied().unwrap_or(0)
    }
}

/// Shares held by many at once.
#[derive(Debug)]
pub struct Pool<K>(Mutex<Shares<K>>);

/// The slots of one holder in a pool, for one party; given back when dropped.
#[derive(Debug)]
pub struct Share<K: Clone + Eq + Hash> {
    pool: Arc<Pool<K>>,
    party: K,
    count: usize,
}

impl<K: Clone + Eq + Hash> Pool<K> {
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Shares::new(places))))
    }

    /// Nothing under this lock can panic.
    fn shares(&self) -> MutexGuard<'_, Shares<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots taken.
    pub fn taken(&self) -> usize {
        self.shares().taken()
    }
}

impl<K: Clone + Eq + Hash> Share<K> {
    /// A share without slots.
    pub fn new(pool: Arc<Pool<K>>, party: K) -> Self {
        Self { pool, party, count: 0 }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes this many more slots, if it can.
    pub fn grow(&mut self, count: usize) -> bool {
        let grown = self.pool.shares().take(std::slice::from_ref(&self.party), count);
        if grown {
            self.count += count;
        }
        grown
    }

    /// Gives this many back.
    pub fn shrink(&mut self, count: usize) {
        let count = count.min(self.count);
        if count > 0 {
            self.pool.shares().give_back(std::slice::from_ref(&self.party), count);
            self.count -= count;
        }
    }
}

impl<K: Clone + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        self.shrink(self.count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken_one_by_one(shares: &mut Shares<u8>, party: u8) -> usize {
        std::iter::repeat_with(|| shares.take(&[party], 1)).take_while(|taken| *taken).count()
    }

    #[test]
    fn one_who_takes_all_it_gets_has_half_and_the_next_half_of_the_rest() {
        let mut shares = Shares::new(1000);
        assert_eq!(taken_one_by_one(&mut shares, 1), 500);
        assert_eq!(taken_one_by_one(&mut shares, 2), 250);
        assert_eq!(taken_one_by_one(&mut shares, 3), 125);
        assert!(shares.take(&[4], 10));
        shares.give_back(&[1], 500);
        assert_eq!(taken_one_by_one(&mut shares, 1), 307, "615 are free");
    }

    #[test]
    fn a_place_that_is_taken_for_two_counts_for_both() {
        let mut shares = Shares::new(100);
        let mut taken = 0;
        // One party under ever new names.
        while shares.take(&[255, taken], 1) {
            taken += 1;
        }
        assert_eq!(taken, 50);
        assert!(shares.take(&[7, 0], 1));
    }

    #[test]
    fn the_last_place_is_for_one_who_has_none() {
        let mut shares = Shares::new(1);
        assert!(shares.take(&[1], 1));
        assert!(!shares.take(&[2], 1));
        shares.give_back(&[1], 1);
        assert!(shares.take(&[2], 1));
        assert!(!Shares::new(0).take(&[1_u8], 1));
    }

    #[test]
    fn what_a_holder_has_is_given_back_when_it_ends() {
        let pool = Pool::new(100);
        let (mut one, mut other) = (Share::new(pool.clone(), 1), Share::new(pool.clone(), 1));
        assert!(one.grow(30) && other.grow(20));
        assert!(!other.grow(1), "both are one party");
        one.shrink(5);
        assert!(other.grow(5));
        assert_eq!((one.count(), other.count(), pool.taken()), (25, 25, 50));
        other.shrink(100);
        assert_eq!((other.count(), pool.taken()), (0, 25));
        drop((one, other));
        assert_eq!(pool.taken(), 0);
    }

    proptest! {
        /// Whatever is taken and given back: never more slots than exist, never more for a party
        /// than are free, and none left taken in the end.
        #[test]
        fn what_is_taken_is_what_is_given_back(
            places in 0..50_usize,
            steps in prop::collection::vec((0..4_u8, 0..4_u8, 1..9_usize, any::<bool>()), 0..200)
        ) {
            let mut shares = Shares::new(places);
            let mut held: Vec<([u8; 2], usize)> = Vec::new();
            for (one, other, count, gives) in steps {
                if gives && !held.is_empty() {
                    let (parties, count) = held.swap_remove(count % held.len());
                    shares.give_back(&parties, count);
                } else {
                    let parties = [one, 10 + other];
                    let taken: usize = held.iter().map(|(_, count)| count).sum();
                    let most = parties.iter().map(|party| {
                        let theirs = held.iter().filter(|(known, _)| known.contains(party));
                        theirs.map(|(_, count)| count).sum::<usize>()
                    });
                    let most = most.max().unwrap_or(0);
                    let fits = taken + count <= places
                        && most + count <= (places - taken - count).max(1);
                    prop_assert_eq!(shares.take(&parties, count), fits);
                    if fits {
                        held.push((parties, count));
                    }
                }
                prop_assert!(shares.taken() <= places);
            }
            for (parties, count) in held {
                shares.give_back(&parties, count);
            }
            prop_assert_eq!((shares.taken(), shares.by_party.len()), (0, 0));
        }
    }
}
