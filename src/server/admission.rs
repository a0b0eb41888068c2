//! How many connections there may be: in all, from one address and how fast, and in HTTP.
//!
//! Those within the limits are served. One beyond a limit is let in as far as one answer, so that
//! it is told why, and so that health checks get through to a node that is full: of those there is
//! a small number, and the newest has the place of the one that was silent longest.
//!
//! A connection that only waits for its client gives up its place when another needs one (see
//! `lobby`). So neither silence nor slowness keeps anybody out. It is never closed while a whole
//! request of its is being answered. Until it is closed it is counted beside the limits, and of
//! those there is a small number, too: a flood that displaces faster than tasks run would else have
//! all files of the node.

mod permit;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use self::permit::{Permit, Seat, Streaming, Wait};
use super::lobby::{List, Lobby};
use crate::config::Config;
use crate::metrics::{Metrics, Reason};
use crate::rate::{Rate, Rates};
use crate::share::Shares;

/// Of so many connections within the limits, a part may be beyond `server.connections_max`, and let
/// in for one answer, at the same time: few enough for the files that are kept for them.
const BEYOND_TOTAL_PART: usize = 8;
const BEYOND_TOTAL_MAX: usize = 256;
/// The same for those that are beyond what their address may have. They have places of their own,
/// so that one address cannot keep the others' health checks out.
const BEYOND_ADDRESS_MAX: usize = 64;
/// A node of few connections has these.
const BEYOND_MIN: usize = 16;

/// Who gives up a place: whoever has asked before and is idle comes back without harm, then those
/// who have said nothing, or not all.
const FOR_A_CONNECTION: [List; 5] =
    [List::Idle, List::Silent, List::Head, List::Body, List::Taking];
/// Who is silent is not in HTTP.
const FOR_HTTP: [List; 4] = [List::Idle, List::Head, List::Body, List::Taking];

/// One to each listener of a node.
pub struct Admission {
    connections_max: usize,
    per_address_max: usize,
    /// As `State::beyond`.
    beyond_max: [usize; 2],
    leaving_max: usize,
    http_max: usize,
    /// New connections of each address; of a client behind a proxy, new WebSockets and streams.
    connects: Rates<IpAddr>,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

struct State {
    /// Connections within the limits.
    open: usize,
    /// Of those, the ones in HTTP: their client has said something, and they are neither WebSocket
    /// nor event stream. A buffer or two is kept for each that is not idle.
    http: usize,
    /// Beyond a limit of all, and of an address.
    beyond: [usize; 2],
    /// Those that were called and are not closed yet. They count nowhere else.
    leaving: usize,
    /// What counts for an address: its connections, or if it comes by way of a proxy, its
    /// WebSockets and streams.
    by_address: HashMap<IpAddr, usize>,
    /// Event streams, of which there are few: no address has all of them.
    streams: Shares<IpAddr>,
    lobby: Lobby,
}

/// A limit that somebody is beyond of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `server.connections_max`
    Total,
    /// `server.http_connections_max`
    Http,
    /// `server.connections_per_address_max`
    Address,
    /// `server.connects_per_second`
    Connects,
    /// `api.streams_max`
    Streams,
}

impl Limit {
    /// The word for it in the metrics: the setting's.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Total => "connections_max",
            Self::Http => "http_connections_max",
            Self::Address => "connections_per_address_max",
            Self::Connects => "connects_per_second",
            Self::Streams => "streams_max",
        }
    }

    fn list(self) -> List {
        match self {
            Self::Total | Self::Http | Self::Streams => List::BeyondTotal,
            Self::Address | Self::Connects => List::BeyondAddress,
        }
    }

    /// Its place in `State::beyond`.
    fn class(self) -> usize {
        usize::from(matches!(self, Self::Address | Self::Connects))
    }
}

/// How many connections beyond the limits there may be, of all and of addresses.
fn beyond_max(connections_max: usize) -> [usize; 2] {
    let part = connections_max / BEYOND_TOTAL_PART;
    [BEYOND_TOTAL_MAX, BEYOND_ADDRESS_MAX].map(|most| part.clamp(BEYOND_MIN, most))
}

/// How many connections there may be that were called and are not closed yet: few, for they are
/// closed as soon as their tasks run.
fn leaving_max(connections_max: usize) -> usize {
    let [_, few] = beyond_max(connections_max);
    few
}

/// How many files are for connections that are not within the limits.
pub fn files_beyond(connections_max: usize) -> usize {
    beyond_max(connections_max).iter().sum::<usize>() + leaving_max(connections_max)
}

impl Admission {
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Arc<Self> {
        let Config { server: config, api, .. } = config;
        let connects =
            Rate { per_second: config.connects_per_second, burst: config.connects_burst };
        Arc::new(Self {
            connections_max: config.connections_max,
            per_address_max: config.connections_per_address_max,
            beyond_max: beyond_max(config.connections_max),
            leaving_max: leaving_max(config.connections_max),
            http_max: config.http_connections_max,
            connects: Rates::new(connects, Instant::now()),
            state: Mutex::new(State {
                open: 0,
                http: 0,
                beyond: [0; 2],
                leaving: 0,
                by_address: HashMap::new(),
                streams: Shares::new(api.streams_max),
                lobby: Lobby::default(),
            }),
            metrics,
        })
    }

    /// An error: close it at once, there is no place even for a refusal. Without an address the
    /// connection is a proxy's, and counts for none.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, Limit> {
        let address = address.map(site);
        let is_fast = address.is_some_and(|address| self.is_fast(address));
        let mut state = self.state();
        let beyond = match is_fast {
            true => Some(Limit::Connects),
            false => self.beyond(&mut state, address),
        };
        match beyond {
            None => {
                state.open += 1;
                self.metrics.connections_admitted.inc();
            }
            Some(limit) => {
                self.count_refused(limit);
                if !self.enter_beyond(&mut state, limit) {
                    return Err(limit);
                }
            }
        }
        let address = address.filter(|_| beyond.is_none());
        let seat = address.map(|address| {
            *state.by_address.entry(address).or_default() += 1;
            Seat::new(self.clone(), address)
        });
        drop(state);
        Ok(Permit::new(self.clone(), beyond, seat))
    }

    /// Whether the address connects faster than it may.
    fn is_fast(&self, address: IpAddr) -> bool {
        self.connects.take(&address, 1, Instant::now()).is_err()
    }

    /// The limit that one more connection is beyond. At that of all, somebody may give way.
    fn beyond(&self, state: &mut State, address: Option<IpAddr>) -> Option<Limit> {
        let count = address.and_then(|address| state.by_address.get(&address));
        if count.is_some_and(|count| *count >= self.per_address_max) {
            return Some(Limit::Address);
        }
        let is_full = state.open >= self.connections_max;
        let is_beyond = is_full && !self.call_first(state, &FOR_A_CONNECTION);
        is_beyond.then_some(Limit::Total)
    }

    fn enter_beyond(&self, state: &mut State, limit: Limit) -> bool {
        let class = limit.class();
        if state.beyond[class] >= self.beyond_max[class] && !self.call_first(state, &[limit.list()])
        {
            return false;
        }
        state.beyond[class] += 1;
        true
    }

    /// Takes back a place. `false`: nobody can give one up.
    fn call_first(&self, state: &mut State, lists: &[List]) -> bool {
        if state.leaving >= self.leaving_max {
            return false;
        }
        let Some(list) = state.lobby.call_first(lists, Instant::now()) else { return false };
        state.leaving += 1;
        match list {
            List::BeyondTotal => state.beyond[0] -= 1,
            List::BeyondAddress => state.beyond[1] -= 1,
            list => {
                state.open -= 1;
                state.http -= usize::from(list != List::Silent);
                self.metrics.connections_admitted.dec();
                self.metrics.connections_displaced.inc();
            }
        }
        true
    }

    /// Counts something for an address behind a proxy.
    fn seat(self: &Arc<Self>, address: IpAddr) -> Result<Seat, Limit> {
        let address = site(address);
        if self.is_fast(address) {
            self.count_refused(Limit::Connects);
            return Err(Limit::Connects);
        }
        let mut state = self.state();
        let count = state.by_address.get(&address).copied().unwrap_or(0);
        if count >= self.per_address_max {
            self.count_refused(Limit::Address);
            return Err(Limit::Address);
        }
        state.by_address.insert(address, count + 1);
        Ok(Seat::new(self.clone(), address))
    }

    /// Whether those that were called should have time to go before others come: soon nobody could
    /// be called any more.
    pub fn is_crowded(&self) -> bool {
        self.state().leaving >= self.leaving_max / 2
    }

    /// Notes how many connections are in HTTP.
    pub fn tell(&self) {
        self.metrics.http_connections.set(self.state().http as i64);
    }

    fn count_refused(&self, limit: Limit) {
        let reason = Reason { reason: limit.reason() };
        self.metrics.connections_refused.get_or_create(&reason).inc();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_back(counts: &mut HashMap<IpAddr, usize>, address: IpAddr) {
    if let Some(count) = counts.get_mut(&address) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&address);
        }
    }
}

/// Whom an address belongs to: with IPv6 one host has a whole /64.
pub fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests;
