//! How fast each address may ask. Pure: time is an argument.
//!
//! It refuses nobody itself. A socket has its own limit (`session::limits`); requests have only
//! their address in common.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::ApiConfig;
use crate::rate::{Bucket, Rate};

/// Addresses that are counted one by one: some 4 MiB. Beyond it newcomers share one bucket, until
/// others have been quiet for long enough to be forgotten.
const ADDRESSES_LEN_MAX: usize = 65_536;
/// Below this many it is not worth looking for those that can be forgotten.
const SWEEP_LEN_MIN: usize = 1024;
/// A look takes a millisecond when all places are taken, and then it is taken again and again.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// One to a node.
pub struct Rates {
    rate: Rate,
    buckets: Mutex<Buckets>,
}

struct Buckets {
    /// Those that are not full; some that are full again.
    by_address: HashMap<IpAddr, Bucket>,
    /// The length at which full ones are looked for, and when they were the last time.
    sweep_at: usize,
    swept: Instant,
    /// Of those for whom there is no place.
    rest: Bucket,
}

impl Rates {
    pub fn new(config: &ApiConfig, now: Instant) -> Self {
        let rate = Rate { per_second: config.requests_per_second, burst: config.requests_burst };
        let (by_address, rest) = (HashMap::new(), Bucket::full(now));
        let buckets = Buckets { by_address, sweep_at: SWEEP_LEN_MIN, swept: now, rest };
        Self { rate, buckets: Mutex::new(buckets) }
    }

    /// Whether one more request of this address may come now; if not, in how many milliseconds.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.sweep(now);
        buckets.of(address, now).take(self.rate, now)
    }
}

impl Buckets {
    fn of(&mut self, address: IpAddr, now: Instant) -> &mut Bucket {
        let is_room = self.by_address.len() < ADDRESSES_LEN_MAX;
        if is_room || self.by_address.contains_key(&address) {
            self.by_address.entry(address).or_insert_with(|| Bucket::full(now))
        } else {
            &mut self.rest
        }
    }

    /// Forgets those that are full again, each time that the map has doubled: so a request costs
    /// no more than a few entries looked at, however many addresses there are.
    fn sweep(&mut self, now: Instant) {
        let is_due = now.saturating_duration_since(self.swept) >= SWEEP_PAUSE;
        if is_due && self.by_address.len() >= self.sweep_at {
            self.swept = now;
            self.by_address.retain(|_, bucket| !bucket.is_full(now));
            self.by_address.shrink_to(2 * SWEEP_LEN_MIN);
            let twice = 2 * self.by_address.len();
            self.sweep_at = twice.clamp(SWEEP_LEN_MIN, ADDRESSES_LEN_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    fn rates(now: Instant) -> Rates {
        let mut config = Config::from_defaults().api;
        (config.requests_per_second, config.requests_burst) = (10, 2);
        Rates::new(&config, now)
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn each_address_has_its_own_limit() {
        let now = Instant::now();
        let rates = rates(now);
        let admitted =
            |number| (0..9).filter(|_| rates.admit(address(number), now).is_ok()).count();
        assert_eq!((admitted(1), admitted(2), admitted(1)), (2, 2, 0));
        let wait = rates.admit(address(1), now).unwrap_err();
        assert!((1..=101).contains(&wait), "{wait}");
        assert_eq!(rates.admit(address(1), now + Duration::from_millis(wait)), Ok(()));
    }

    #[test]
    fn those_that_have_been_quiet_are_forgotten() {
        let begin = Instant::now();
        let rates = rates(begin);
        for number in 0..100_000 {
            // A new address each millisecond, each of which is full again after 100.
            let now = begin + Duration::from_millis(number.into());
            assert_eq!(rates.admit(address(number), now), Ok(()));
        }
        assert!(rates.buckets.lock().unwrap().by_address.len() <= 2 * SWEEP_LEN_MIN);
    }

    #[test]
    fn a_crowd_of_addresses_takes_no_more_memory_and_locks_nobody_out() {
        let now = Instant::now();
        let rates = rates(now);
        let limit = ADDRESSES_LEN_MAX as u32;
        for number in 0..limit {
            assert_eq!(rates.admit(address(number), now), Ok(()));
        }
        // Those who are known have their own; the others share what one may.
        let more = (limit..2 * limit).filter(|number| rates.admit(address(*number), now).is_ok());
        assert_eq!(more.count(), 2);
        assert_eq!(rates.admit(address(7), now), Ok(()));
        assert_eq!(rates.buckets.lock().unwrap().by_address.len(), ADDRESSES_LEN_MAX);
        let later = now + Duration::from_secs(1);
        assert_eq!(rates.admit(address(limit + 1), later), Ok(()));
        assert_eq!(rates.buckets.lock().unwrap().by_address.len(), 1);
    }
}
