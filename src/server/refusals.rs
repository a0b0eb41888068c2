//! A log line for each who is refused or thrown out, with the address: what whoever runs a node
//! needs to find out who floods it, and what programs such as fail2ban read. docs/operations.md has
//! the patterns, so the form of these lines is a promise.
//!
//! Refusing is the others' matter; here is only what is said about it, and how often: a flood must
//! not become a flood of lines.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::model::UserId;
use crate::protocol::close::CloseCode;
use crate::rate::{Bucket, Rate, Rates};

/// About one address.
const OF_ADDRESS: Rate = Rate { per_second: 1, burst: 10 };
/// About all together.
const OF_ALL: Rate = Rate { per_second: 50, burst: 500 };

/// One to a node.
pub struct Refusals {
    by_address: Rates<IpAddr>,
    all: Mutex<All>,
}

struct All {
    left: Bucket,
    /// Refusals without a line since the last one that had one.
    unsaid: u64,
}

impl Refusals {
    pub fn new(now: Instant) -> Self {
        let all = Mutex::new(All { left: Bucket::full(now), unsaid: 0 });
        Self { by_address: Rates::new(OF_ADDRESS, now), all }
    }

    /// A request, or a connection, was not served.
    pub fn refused(&self, address: IpAddr, reason: &str) {
        if let Some(unsaid) = self.may_say(address, Instant::now()) {
            tracing::info!(%address, %reason, unsaid, "refused");
        }
    }

    /// A connection that was served was ended, for what its client does or does not do.
    /// The user is in quotes, and behind everything that is ours: a name may have any letters.
    pub fn closed(
        &self,
        address: IpAddr,
        reason: &str,
        code: Option<CloseCode>,
        user: Option<&UserId>,
    ) {
        if let Some(unsaid) = self.may_say(address, Instant::now()) {
            let code = code.map(|code| code.0);
            let user = user.map(UserId::as_str);
            tracing::info!(%address, code, %reason, unsaid, user, "closed");
        }
    }

    /// Whether there may be a line; and then, how many there were not since the last.
    fn may_say(&self, address: IpAddr, now: Instant) -> Option<u64> {
        let is_one_too_many = self.by_address.take(&address, 1, now).is_err();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if is_one_too_many || all.left.take(OF_ALL, 1, now).is_err() {
            all.unsaid += 1;
            return None;
        }
        Some(std::mem::take(&mut all.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_address_cannot_fill_the_log_and_what_is_not_said_is_counted() {
        let begin = Instant::now();
        let refusals = Refusals::new(begin);
        let address = |last: u16| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
        let said = (0..1000).filter(|_| refusals.may_say(address(1), begin).is_some()).count();
        assert_eq!(said, 10);
        assert_eq!(refusals.may_say(address(2), begin), Some(990));
        assert_eq!(refusals.may_say(address(1), begin), None);
        assert_eq!(refusals.may_say(address(1), begin + Duration::from_secs(1)), Some(1));
    }

    #[test]
    fn many_addresses_cannot_either() {
        let now = Instant::now();
        let refusals = Refusals::new(now);
        let addresses = (0..10_000_u16).map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]));
        let said = addresses.filter(|address| refusals.may_say(*address, now).is_some()).count();
        assert_eq!(said, 500);
    }
}
