//! Rates of users and addresses, over all their sockets and requests.
//!
//! A command weighs 1 when it arrives. What it turned out to weigh is charged when it is answered,
//! in the same unit: the cost of a small command, at most a tenth of a millisecond.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::model::UserId;
use crate::rate::{Rate, Rates};

/// Bytes of an answer, or of past events read for a follower, that weigh as much as a small
/// command.
const BYTES_PER_WEIGHT: usize = 32 * 1024;

/// Weight of a page of past events read for a follower.
pub const PAGE_WEIGHT: u32 = 3;

/// One per node.
pub struct Pace {
    by_user: Rates<UserId>,
    by_address: Rates<IpAddr>,
    /// For HTTP requests: they have no socket with a rate of its own.
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

    /// Takes one command, or returns in how many milliseconds to try again.
    pub fn take(&self, address: IpAddr, user: Option<&UserId>, now: Instant) -> Result<(), u64> {
        self.by_address.take(&address, 1, now)?;
        user.map_or(Ok(()), |user| self.by_user.take(user, 1, now))
    }

    /// Charges for work of this weight.
    pub fn charge(&self, address: IpAddr, user: Option<&UserId>, weight: u32, now: Instant) {
        if weight > 0 {
            self.by_address.charge(&address, weight, now);
            if let Some(user) = user {
                self.by_user.charge(user, weight, now);
            }
        }
    }

    /// Takes one request of any kind, or returns in how many milliseconds to try again.
    pub fn request(&self, address: IpAddr, now: Instant) -> Result<(), u64> {
        self.requests.take(&address, 1, now)
    }

    /// As `charge`, for HTTP requests.
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

    /// How long to wait before a page of past events may be read for an event stream. `None`: it
    /// may be read now, and is charged.
    pub fn page_wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        self.requests.take(&address, PAGE_WEIGHT, now).err().map(Duration::from_millis)
    }
}

/// The weight of this many bytes.
pub fn weight_of(bytes: usize) -> u32 {
    u32::try_from(bytes / BYTES_PER_WEIGHT).unwrap_or(u32::MAX)
}
