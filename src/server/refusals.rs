//! One log line per refused or closed client, with its address, for operators who look for the
//! source of a flood and for tools such as fail2ban. docs/operations.md has the patterns, so the
//! format of these lines must stay stable.
//!
//! Who is refused is decided elsewhere. This limits how often it is logged: a flood of clients must
//! not become a flood of log lines.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::model::UserId;
use crate::protocol::close::CloseCode;
use crate::rate::{Bucket, Rate, Rates};

/// Log lines about one address.
const OF_ADDRESS: Rate = Rate { per_second: 1, burst: 10 };
/// Log lines about all addresses.
const OF_ALL: Rate = Rate { per_second: 50, burst: 500 };

/// One per node.
pub struct Refusals {
    by_address: Rates<IpAddr>,
    all: Mutex<All>,
}

struct All {
    left: Bucket,
    /// Refusals since the last line that were not logged.
    unsaid: u64,
}

impl Refusals {
    pub fn new(now: Instant) -> Self {
        let all = Mutex::new(All { left: Bucket::full(now), unsaid: 0 });
        Self { by_address: Rates::new(OF_ADDRESS, now), all }
    }

    /// A request or connection was refused.
    pub fn refused(&self, address: IpAddr, reason: &str) {
        if let Some(unsaid) = self.may_say(address, Instant::now()) {
            tracing::info!(%address, %reason, unsaid, "refused");
        }
    }

    /// A connection was ended because of its client. The user is quoted and comes last, because a
    /// name may contain anything.
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

    /// Whether to log now; if so, how many were not logged since the last line.
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
