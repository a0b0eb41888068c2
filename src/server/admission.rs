//! Limits on connections: in total, per address, how fast they arrive, and how many are in HTTP.
//!
//! Connections within the limits are served. One beyond a limit is admitted for a single answer, so
//! that it learns why, and so that health checks reach a full node. There are few slots for these.
//! When all are taken, the newest connection displaces the one that has been silent longest.
//!
//! A connection that only waits for its client gives up its slot when another needs one (see
//! `lobby`), so silent or slow clients keep nobody out. It is never closed while a complete request
//! is being answered. A connection that was called to give up its slot counts as leaving until it
//! is closed, outside the limits. Leaving connections are limited as well: otherwise, a flood that
//! displaces connections faster than their tasks run could take all of the node's files.

mod permit;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use self::permit::{Permit, Seat, Streaming, Wait};
use super::lobby::{List, Lobby};
use crate::config::Config;
use crate::metrics::{Metrics, ReasonLabel};
use crate::rate::{Rate, Rates};
use crate::share::Shares;

/// One in this many connections may be beyond `server.connections_max` and admitted for one answer,
/// up to the maximum below. That is few enough for the files kept for them.
const BEYOND_TOTAL_PART: usize = 8;
const BEYOND_TOTAL_MAX: usize = 256;
/// The same for connections beyond a limit of their address. They have slots of their own, so that
/// one address cannot keep the health checks of others out.
const BEYOND_ADDRESS_MAX: usize = 64;
/// Minimum of both, for nodes with few connections.
const BEYOND_MIN: usize = 16;

/// Who gives up a slot, in order: first idle clients, which can reconnect without harm, then those
/// that have sent nothing or not a whole request, then those that do not take their answers.
const FOR_A_CONNECTION: [List; 5] =
    [List::Idle, List::Silent, List::Head, List::Body, List::Taking];
/// Silent connections are not in HTTP.
const FOR_HTTP: [List; 4] = [List::Idle, List::Head, List::Body, List::Taking];

/// One per listener.
pub struct Admission {
    connections_max: usize,
    per_address_max: usize,
    /// The limits of `State::beyond`.
    beyond_max: [usize; 2],
    leaving_max: usize,
    http_max: usize,
    /// New connections per address. For clients behind a proxy: new WebSockets and event streams.
    connects: Rates<IpAddr>,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

struct State {
    /// Connections within the limits.
    open: usize,
    /// Those of them that are in HTTP: their client has sent something, and they are neither
    /// WebSocket nor event stream. Each has a buffer or two, unless it is idle.
    http: usize,
    /// Beyond a limit in total, and beyond a limit of an address.
    beyond: [usize; 2],
    /// Called and not closed yet. They count nowhere else.
    leaving: usize,
    /// What counts for an address: its connections; behind a proxy, its WebSockets and event
    /// streams.
    by_address: HashMap<IpAddr, usize>,
    /// Slots for event streams, shared so that no address has all of them.
    streams: Shares<IpAddr>,
    lobby: Lobby,
}

/// A limit that a connection is beyond.
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
    /// Its name in the metrics: the setting's.
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

    /// Its index in `State::beyond`.
    fn class(self) -> usize {
        usize::from(matches!(self, Self::Address | Self::Connects))
    }
}

/// Most connections beyond the limits, in total and per address.
fn beyond_max(connections_max: usize) -> [usize; 2] {
    let part = connections_max / BEYOND_TOTAL_PART;
    [BEYOND_TOTAL_MAX, BEYOND_ADDRESS_MAX].map(|most| part.clamp(BEYOND_MIN, most))
}

/// Most connections that were called and are not closed yet. Few, because they are closed as soon
/// as their tasks run.
fn leaving_max(connections_max: usize) -> usize {
    let [_, few] = beyond_max(connections_max);
    few
}

/// Files needed for connections that are not within the limits.
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

    /// Admits a connection. `Err`: close it at once, because there is no slot even for a refusal.
    /// `None` as address: it comes from a proxy and counts for no address.
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

    /// The limit that one more connection would exceed. If all slots are taken, another may give
    /// way.
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

    /// Takes back a slot. `false`: nobody can give one up.
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

    /// Takes a slot for an address behind a proxy.
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

    /// Whether connections that were called need time to leave before others are accepted: at
    /// their limit, no more can be called.
    pub fn is_crowded(&self) -> bool {
        self.state().leaving >= self.leaving_max / 2
    }

    /// Updates the metric of connections in HTTP.
    pub fn tell(&self) {
        self.metrics.http_connections.set(self.state().http as i64);
    }

    fn count_refused(&self, limit: Limit) {
        let reason = ReasonLabel { reason: limit.reason() };
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

/// The owner of an address: with IPv6, one host has a whole /64.
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
