//! How fast users and addresses may ask, by whatever sockets and requests they do.
//!
//! A command weighs 1 when it comes; what it turned out to be is charged when it is answered, in
//! the same unit: what a small command costs, a tenth of a millisecond at most.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::model::UserId;
use crate::rate::{Rate, Rates};

/// Bytes of an answer, or of the past that was read for a follower, that weigh as much as a small
/// command.
const BYTES_PER_WEIGHT: usize = 32 * 1024;

/// What a page of the past weighs that is read for a follower.
pub const PAGE_WEIGHT: u32 = 3;

/// One to a node.
pub struct Pace {
    by_user: Rates<UserId>,
    by_address: Rates<IpAddr>,
    /// Of those who ask over HTTP: they have no socket that would have a rate of its own.
    requests: Rates<IpAddr>,
}

impl Pace {
    pub fn new(config: &Config, now: Instant) -> Self {
        let (session, api) = (&config.session, &config.api);
        let rate = |per_second, burst| Rate { per_second, burst };
        let of_user = rate(session.user_commands_per_second, session.user_commands_burst);
        let of_address = rate(session.address_commands_per_second, session.address_commands_burst);
        Self {
            by_user: Rates::new(of_user, now),
            by_address: Rates::new(of_address, now),
            requests: Rates::new(rate(api.requests_per_second, api.requests_burst), now),
        }
    }

    /// Whether one more command may come now; if not, in how many milliseconds.
    pub fn take(&self, address: IpAddr, user: Option<&UserId>, now: Instant) -> Result<(), u64> {
        self.by_address.take(&address, 1, now)?;
        user.map_or(Ok(()), |user| self.by_user.take(user, 1, now))
    }

    /// Something of that weight was done.
    pub fn charge(&self, address: IpAddr, user: Option<&UserId>, weight: u32, now: Instant) {
        if weight > 0 {
            self.by_address.charge(&address, weight, now);
            if let Some(user) = user {
                self.by_user.charge(user, weight, now);
            }
        }
    }

    /// Whether one more request may come now, whatever it asks; if not, in how many milliseconds.
    pub fn request(&self, address: IpAddr, now: Instant) -> Result<(), u64> {
        self.requests.take(&address, 1, now)
    }

    /// As `charge`, for one who asks over HTTP.
    pub fn charge_request(
        &self,
        address: IpAddr,
        user: Option<&UserId>,
        weight: u32,
        now: Instant,
    ) {
        if weight > 0 {
            self.requests.charge(&address, weight, now);
            if let Some(user) = user {
                self.by_user.charge(user, weight, now);
            }
        }
    }

    /// How long a page of the past must wait that is read for one who follows over HTTP; if not at
    /// all, it is charged.
    pub fn page_wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        self.requests.take(&address, PAGE_WEIGHT, now).err().map(Duration::from_millis)
    }
}

/// What so many bytes weigh.
pub fn weight_of(bytes: usize) -> u32 {
    u32::try_from(bytes / BYTES_PER_WEIGHT).unwrap_or(u32::MAX)
}
