//! How many connections there may be: in all, from one address, and in HTTP.
//!
//! Those within the limits are served. One beyond a limit is let in as far as one answer, so that
//! it is told why, and so that health checks get through to a node that is full: of those there is
//! a small number, and the newest has the place of the one that was silent longest.
//!
//! A connection that only waits for its client gives up its place when another needs one (see
//! `lobby`). So neither silence nor slowness keeps anybody out. It is never closed while a whole
//! request of its is being answered.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::lobby::{List, Lobby, Ticket};
use crate::config::Config;
use crate::metrics::{Metrics, Reason};

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
    http_max: usize,
    streams_max: usize,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    /// Connections within the limits.
    open: usize,
    /// Of those, the ones in HTTP: their client has said something, and they are neither WebSocket
    /// nor event stream. A buffer or two is kept for each that is not idle.
    http: usize,
    /// Beyond a limit of all, and of an address.
    beyond: [usize; 2],
    /// What counts for an address: its connections, or if it comes by way of a proxy, its
    /// WebSockets and streams.
    by_address: HashMap<IpAddr, usize>,
    /// Event streams, and those of each address.
    streams: usize,
    streams_by_address: HashMap<IpAddr, usize>,
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
    /// `api.streams_max`
    Streams,
}

/// What a connection waits for, as far as it is up to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    FirstByte,
    NextRequest,
    Body,
    Taking,
}

/// A connection's place; given back when dropped.
pub struct Permit {
    admission: Arc<Admission>,
    /// Told when the place is needed.
    call: Arc<Notify>,
    standing: Mutex<Standing>,
}

struct Standing {
    /// The limit that this connection is beyond; `None`: it is welcome.
    beyond: Option<Limit>,
    /// What counts for its address; `None`: it is a proxy's, or beyond a limit.
    seat: Option<Seat>,
    in_http: bool,
    ticket: Option<Ticket>,
    /// It was called, so its place counts for somebody else. It is closed, at once or when it has
    /// the answer to a request that came in the same moment.
    is_called: bool,
}

/// The place of a connection that is a WebSocket; given back when dropped.
pub struct Place {
    admission: Arc<Admission>,
    is_counted: bool,
    _seat: Seat,
}

/// The place of a connection for as long as it is an event stream.
pub struct Streaming {
    permit: Arc<Permit>,
    address: IpAddr,
    _seat: Option<Seat>,
}

/// What counts for an address; given back when dropped. The state must not be locked then.
pub struct Seat {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Limit {
    /// The word for it in the metrics: the setting's.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Total => "connections_max",
            Self::Http => "http_connections_max",
            Self::Address => "connections_per_address_max",
            Self::Streams => "streams_max",
        }
    }

    fn list(self) -> List {
        match self {
            Self::Total | Self::Http | Self::Streams => List::BeyondTotal,
            Self::Address => List::BeyondAddress,
        }
    }

    /// Its place in `State::beyond`.
    fn class(self) -> usize {
        usize::from(self == Self::Address)
    }
}

/// How many connections beyond the limits there may be, of all and of addresses.
pub fn beyond_max(connections_max: usize) -> [usize; 2] {
    let part = connections_max / BEYOND_TOTAL_PART;
    [BEYOND_TOTAL_MAX, BEYOND_ADDRESS_MAX].map(|most| part.clamp(BEYOND_MIN, most))
}

impl Wait {
    fn list(self) -> List {
        match self {
            Self::FirstByte => List::Silent,
            Self::NextRequest => List::Idle,
            Self::Body => List::Body,
            Self::Taking => List::Taking,
        }
    }
}

impl Admission {
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Arc<Self> {
        let Config { server: config, api, .. } = config;
        Arc::new(Self {
            connections_max: config.connections_max,
            per_address_max: config.connections_per_address_max,
            beyond_max: beyond_max(config.connections_max),
            http_max: config.http_connections_max,
            streams_max: api.streams_max,
            state: Mutex::default(),
            metrics,
        })
    }

    /// `None`: close it at once, there is no place even for a refusal. Without an address the
    /// connection is a proxy's, and counts for none.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Permit> {
        let address = address.map(site);
        let mut state = self.state();
        let beyond = self.beyond(&mut state, address);
        match beyond {
            None => {
                state.open += 1;
                self.metrics.connections_admitted.inc();
            }
            Some(limit) => {
                self.count_refused(limit);
                if !self.enter_beyond(&mut state, limit) {
                    return None;
                }
            }
        }
        let address = address.filter(|_| beyond.is_none());
        let seat = address.map(|address| {
            *state.by_address.entry(address).or_default() += 1;
            Seat { admission: self.clone(), address }
        });
        drop(state);
        let standing = Standing { beyond, seat, in_http: false, ticket: None, is_called: false };
        Some(Permit {
            admission: self.clone(),
            call: Arc::default(),
            standing: Mutex::new(standing),
        })
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
        let Some(list) = state.lobby.call_first(lists, Instant::now()) else { return false };
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
        let mut state = self.state();
        let count = state.by_address.get(&address).copied().unwrap_or(0);
        if count >= self.per_address_max {
            self.count_refused(Limit::Address);
            return Err(Limit::Address);
        }
        state.by_address.insert(address, count + 1);
        Ok(Seat { admission: self.clone(), address })
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

impl Permit {
    /// The limit that this connection is beyond.
    pub fn beyond(&self) -> Option<Limit> {
        self.standing().beyond
    }

    /// Whether the connection is closed behind the next answer.
    pub fn is_last(&self) -> bool {
        let standing = self.standing();
        standing.beyond.is_some() || standing.is_called
    }

    /// From here on it is up to the client that something happens, and the place may be called for.
    pub fn waits(&self, wait: Wait) {
        let mut standing = self.standing();
        let mut state = self.admission.state();
        standing.leave(&mut state);
        // A stream is not in HTTP: what it does not take keeps no place there.
        let is_elsewhere = wait == Wait::Taking && !standing.in_http && standing.beyond.is_none();
        if !standing.is_called && !is_elsewhere {
            standing.enter(&mut state, wait.list(), &self.call);
        }
    }

    /// The client has done its part: the place is safe until the next `waits`.
    pub fn heard(&self) {
        let mut standing = self.standing();
        standing.leave(&mut self.admission.state());
    }

    /// The first byte of a request has come. `false`: there is no place to answer it.
    pub fn speaks(&self) -> bool {
        let mut standing = self.standing();
        let mut state = self.admission.state();
        standing.leave(&mut state);
        if standing.is_called {
            return true;
        }
        if standing.beyond.is_none() && !standing.in_http {
            if state.http < self.admission.http_max
                || self.admission.call_first(&mut state, &FOR_HTTP)
            {
                state.http += 1;
                standing.in_http = true;
            } else {
                self.admission.count_refused(Limit::Http);
                state.open -= 1;
                self.admission.metrics.connections_admitted.dec();
                standing.beyond = Some(Limit::Http);
                if !self.admission.enter_beyond(&mut state, Limit::Http) {
                    standing.is_called = true;
                    return false;
                }
            }
        }
        standing.enter(&mut state, List::Head, &self.call);
        true
    }

    /// Resolves when the place may have been called for: `must_go` knows.
    pub async fn called(&self) {
        self.call.notified().await;
    }

    /// Whether the place was called for while it was up to the client.
    pub fn must_go(&self) -> bool {
        let standing = self.standing();
        standing.ticket.as_ref().is_some_and(|ticket| !self.admission.state().lobby.holds(ticket))
    }

    /// Makes the place a WebSocket's, of a client at that address. This one is empty then.
    pub fn settle(&self, client: IpAddr) -> Result<Place, Limit> {
        let mut standing = self.standing();
        let seat = match standing.seat.take() {
            Some(seat) => seat,
            None => self.admission.seat(client)?,
        };
        standing.leave_http(&self.admission);
        // It counts for the place now.
        let is_counted = !std::mem::replace(&mut standing.is_called, true);
        Ok(Place { admission: self.admission.clone(), is_counted, _seat: seat })
    }

    /// Makes the place an event stream's, of a client at that address, until that is dropped.
    /// Nobody may have more streams than are still free: so no address has them all.
    pub fn stream(self: &Arc<Self>, client: IpAddr) -> Result<Streaming, Limit> {
        let address = site(client);
        let mut standing = self.standing();
        let seat = match standing.seat {
            Some(_) => None,
            None => Some(self.admission.seat(client)?),
        };
        let mut state = self.admission.state();
        let count = state.streams_by_address.get(&address).copied().unwrap_or(0);
        if count >= self.admission.streams_max.saturating_sub(state.streams) {
            drop((state, standing));
            self.admission.count_refused(Limit::Streams);
            return Err(Limit::Streams);
        }
        state.streams_by_address.insert(address, count + 1);
        state.streams += 1;
        drop(state);
        standing.leave_http(&self.admission);
        Ok(Streaming { permit: self.clone(), address, _seat: seat })
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn enter(&mut self, state: &mut State, list: List, call: &Arc<Notify>) {
        let list = self.beyond.map_or(list, Limit::list);
        self.ticket = Some(state.lobby.enter(list, call.clone(), Instant::now()));
    }

    fn leave_http(&mut self, admission: &Admission) {
        if std::mem::take(&mut self.in_http) && !self.is_called {
            admission.state().http -= 1;
        }
    }

    fn leave(&mut self, state: &mut State) {
        if let Some(ticket) = self.ticket.take() {
            self.is_called |= !state.lobby.leave(&ticket);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let standing = self.standing.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.admission.state();
        standing.leave(&mut state);
        match standing.beyond {
            // Whoever called for it has given it back.
            _ if standing.is_called => {}
            Some(limit) => state.beyond[limit.class()] -= 1,
            None => {
                state.open -= 1;
                state.http -= usize::from(standing.in_http);
                self.admission.metrics.connections_admitted.dec();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_counted {
            self.admission.state().open -= 1;
            self.admission.metrics.connections_admitted.dec();
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut standing = self.permit.standing();
        let mut state = self.permit.admission.state();
        state.streams -= 1;
        give_back(&mut state.streams_by_address, self.address);
        // HTTP goes on. For a moment there may be one connection too many in it.
        if standing.beyond.is_none() && !standing.is_called {
            standing.in_http = true;
            state.http += 1;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        give_back(&mut self.admission.state().by_address, self.address);
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
