//! How many connections there may be, in all and from one address.
//!
//! It refuses nobody itself: it says whether a connection is within the limits, and the routes
//! answer. Those beyond a limit are let in as far as the answer 503 or 429, and a few at a time, so
//! that health checks still get through to a node that is full.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::ServerConfig;
use crate::metrics::{Metrics, Reason};

/// Connections beyond the limits that may wait for their refusal at the same time. More are closed
/// without a word.
const REFUSED_AT_ONCE_MAX: usize = 256;

/// One to a node.
pub struct Admission {
    connections_max: usize,
    per_address_max: usize,
    open: AtomicUsize,
    refused: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    metrics: Arc<Metrics>,
}

/// A connection's place; given back when dropped.
pub struct Permit {
    admission: Arc<Admission>,
    /// Whose it is; with IPv6, a whole site's.
    pub address: IpAddr,
    /// The limit that this connection is beyond; `None`: it is welcome.
    pub beyond: Option<Limit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `server.connections_max`
    Total,
    /// `server.connections_per_address_max`
    Address,
}

impl Admission {
    pub fn new(config: &ServerConfig, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            connections_max: config.connections_max,
            per_address_max: config.connections_per_address_max,
            open: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            by_address: Mutex::default(),
            metrics,
        })
    }

    /// `None`: close it at once.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        let address = site(address);
        let beyond = self.count(address);
        let Some(limit) = beyond else {
            return Some(Permit { admission: self.clone(), address, beyond });
        };
        let reason = match limit {
            Limit::Total => "connections_max",
            Limit::Address => "connections_per_address_max",
        };
        self.metrics.connections_refused.get_or_create(&Reason { reason }).inc();
        if self.refused.fetch_add(1, Ordering::Relaxed) >= REFUSED_AT_ONCE_MAX {
            self.refused.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Permit { admission: self.clone(), address, beyond })
    }

    /// Counts a connection in, unless it is beyond a limit.
    fn count(&self, address: IpAddr) -> Option<Limit> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.connections_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Some(Limit::Total);
        }
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= self.per_address_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Some(Limit::Address);
        }
        *count += 1;
        self.metrics.connections_admitted.inc();
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.beyond.is_some() {
            self.admission.refused.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        self.admission.metrics.connections_admitted.dec();
        let mut by_address =
            self.admission.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Whom an address belongs to: with IPv6 one host has a whole /64.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn admission(total: usize, per_address: usize) -> Arc<Admission> {
        let mut config = Config::from_defaults().server;
        (config.connections_max, config.connections_per_address_max) = (total, per_address);
        Admission::new(&config, Arc::default())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_that_is_given_back_can_be_taken_again() {
        let admission = admission(2, 1);
        let first = admission.enter(address("10.0.0.1")).unwrap();
        assert_eq!(first.beyond, None);
        let same = admission.enter(address("10.0.0.1")).unwrap();
        assert_eq!(same.beyond, Some(Limit::Address));
        let second = admission.enter(address("10.0.0.2")).unwrap();
        assert_eq!(second.beyond, None);
        assert_eq!(admission.enter(address("10.0.0.3")).unwrap().beyond, Some(Limit::Total));
        drop((first, same));
        assert_eq!(admission.enter(address("10.0.0.1")).unwrap().beyond, None);
        drop(second);
        assert!(admission.by_address.lock().unwrap().is_empty());
    }

    #[test]
    fn one_ipv6_site_is_one_address() {
        let admission = admission(10, 1);
        let _first = admission.enter(address("2001:db8::1")).unwrap();
        assert_eq!(admission.enter(address("2001:db8::2")).unwrap().beyond, Some(Limit::Address));
        assert_eq!(admission.enter(address("2001:db8:0:1::1")).unwrap().beyond, None);
    }

    #[test]
    fn only_so_many_wait_for_a_refusal() {
        let admission = admission(0, 1);
        let refused: Vec<_> =
            (0..REFUSED_AT_ONCE_MAX).map(|_| admission.enter(address("10.0.0.1"))).collect();
        assert!(refused.iter().all(Option::is_some));
        assert!(admission.enter(address("10.0.0.1")).is_none());
        drop(refused);
        assert!(admission.enter(address("10.0.0.1")).is_some());
    }
}
