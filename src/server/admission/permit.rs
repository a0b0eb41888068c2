//! A connection's slot, from its admission to its end: what it waits for, when it must go, and what
//! happens to the slot when it becomes a WebSocket or an event stream.
//!
//! The limits are in `admission`. A slot is given back by dropping its permit.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::{Admission, FOR_HTTP, Limit, State, give_back, site};
use crate::server::lobby::{List, Ticket};

/// What a connection waits for from its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    FirstByte,
    NextRequest,
    Body,
    Taking,
}

/// A connection's slot; given back when dropped.
pub struct Permit {
    admission: Arc<Admission>,
    /// Notified when the slot is needed.
    call: Arc<Notify>,
    standing: Mutex<Standing>,
}

pub(super) struct Standing {
    /// The limit that this connection is beyond; `None`: it is within all limits.
    beyond: Option<Limit>,
    /// Its slot among those of its address; `None`: it is a proxy's, or beyond a limit.
    seat: Option<Seat>,
    pub(super) in_http: bool,
    ticket: Option<Ticket>,
    /// It waits for the client to take its answer.
    pub(super) is_taking: bool,
    /// It was called: its slot now belongs to another connection, and it counts as leaving. It is
    /// closed at once, or after the answer to a request that arrived at the same moment.
    is_called: bool,
    /// It was called while it waited for its client, and no slot is left for it to go on waiting.
    /// It must close.
    is_out: bool,
    /// Its slot now belongs to a WebSocket.
    is_socket: bool,
}

/// The slot of a WebSocket; given back when dropped.
pub struct SocketSlot {
    admission: Arc<Admission>,
    _seat: Seat,
}

/// The slot of an event stream; given back when dropped.
pub struct Streaming {
    permit: Arc<Permit>,
    address: IpAddr,
    _seat: Option<Seat>,
}

/// A slot of an address; given back when dropped. The state must not be locked then.
pub struct Seat {
    admission: Arc<Admission>,
    address: IpAddr,
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

impl Permit {
    pub(super) fn new(
        admission: Arc<Admission>,
        beyond: Option<Limit>,
        seat: Option<Seat>,
    ) -> Self {
        let standing = Standing {
            beyond,
            seat,
            in_http: false,
            ticket: None,
            is_taking: false,
            is_called: false,
            is_out: false,
            is_socket: false,
        };
        Self { admission, call: Arc::default(), standing: Mutex::new(standing) }
    }

    /// The limit that this connection is beyond, if any.
    pub fn beyond(&self) -> Option<Limit> {
        self.standing().beyond
    }

    /// Whether the connection closes after the next answer.
    pub fn is_last(&self) -> bool {
        let standing = self.standing();
        standing.beyond.is_some() || standing.is_called
    }

    /// It is the client's turn: the slot may be called for.
    pub fn waits(&self, wait: Wait) {
        let mut standing = self.standing();
        let mut state = self.admission.state();
        standing.leave(&mut state);
        // A stream is not in HTTP: one that does not take its events blocks no slot there.
        let is_elsewhere = wait == Wait::Taking && !standing.in_http && standing.beyond.is_none();
        if is_elsewhere {
            return;
        }
        standing.is_taking = wait == Wait::Taking;
        // A connection that was called and still waits could wait as long as it likes, since nobody
        // can call it again. So it needs one of the slots for that, or must end.
        if standing.stand_beyond(&self.admission, &mut state) {
            standing.enter(&mut state, wait.list(), &self.call);
        } else {
            standing.is_out = true;
            self.call.notify_one();
        }
    }

    /// The client takes nothing of its answer; `is_news`: until now it did. A connection that waits
    /// for something else keeps waiting for that. (Once, a slow body behind an answer that nobody
    /// took was in no list, and kept its slot until its timeout.)
    pub fn takes_nothing(&self, is_news: bool) {
        let is_to_wait = {
            let standing = self.standing();
            let waits = standing.is_out || standing.ticket.is_some();
            !waits || (is_news && standing.is_taking)
        };
        if is_to_wait {
            self.waits(Wait::Taking);
        }
    }

    /// The client takes its answer again. This changes nothing for a connection that waits for
    /// something else.
    pub fn takes(&self) {
        let mut standing = self.standing();
        if standing.is_taking {
            standing.leave(&mut self.admission.state());
        }
    }

    /// The client has done its part: the slot is safe until the next `waits`.
    pub fn heard(&self) {
        let mut standing = self.standing();
        standing.leave(&mut self.admission.state());
    }

    /// The first byte of a request has arrived. `false`: there is no slot to answer it.
    pub fn speaks(&self) -> bool {
        let mut standing = self.standing();
        let mut state = self.admission.state();
        standing.leave(&mut state);
        // A race: a connection is called at the moment its first byte arrives. Its slot already
        // belongs to another. If it went on without one, nobody could count or call it: a flood of
        // half-sent heads had thousands of such connections.
        if !standing.stand_beyond(&self.admission, &mut state) {
            return false;
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
                    state.leaving += 1;
                    return false;
                }
            }
        }
        standing.enter(&mut state, List::Head, &self.call);
        true
    }

    /// Resolves when the slot was called for during the client's turn. May be called again.
    pub async fn called(&self) {
        while !self.must_go() {
            self.call.notified().await;
        }
    }

    /// Whether the slot was called for during the client's turn.
    pub fn must_go(&self) -> bool {
        let standing = self.standing();
        standing.is_out
            || standing
                .ticket
                .as_ref()
                .is_some_and(|ticket| !self.admission.state().lobby.holds(ticket))
    }

    /// Turns the slot into that of a WebSocket, for a client at this address. The permit is empty
    /// afterwards.
    pub fn become_socket(&self, client: IpAddr) -> Result<SocketSlot, Limit> {
        let mut standing = self.standing();
        standing.must_stay(&self.admission)?;
        let seat = match standing.seat.take() {
            Some(seat) => seat,
            None => self.admission.seat(client)?,
        };
        standing.leave_http(&self.admission);
        standing.is_socket = true;
        Ok(SocketSlot { admission: self.admission.clone(), _seat: seat })
    }

    /// Turns the slot into that of an event stream, for a client at this address, until the stream
    /// is dropped.
    pub fn stream(self: &Arc<Self>, client: IpAddr) -> Result<Streaming, Limit> {
        let address = site(client);
        let mut standing = self.standing();
        standing.must_stay(&self.admission)?;
        let seat = match standing.seat {
            Some(_) => None,
            None => Some(self.admission.seat(client)?),
        };
        let mut state = self.admission.state();
        if !state.streams.take(&[address], 1) {
            drop((state, standing));
            self.admission.count_refused(Limit::Streams);
            return Err(Limit::Streams);
        }
        drop(state);
        standing.leave_http(&self.admission);
        Ok(Streaming { permit: self.clone(), address, _seat: seat })
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Wraps a slot that is already counted.
    pub(super) fn new(admission: Arc<Admission>, address: IpAddr) -> Self {
        Self { admission, address }
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
        (self.is_out, self.is_taking) = (false, false);
        if let Some(ticket) = self.ticket.take() {
            self.is_called |= !state.lobby.leave(&ticket);
        }
    }

    /// If its own slot was called for, takes one beyond the limits. `false`: there is none.
    fn stand_beyond(&mut self, admission: &Admission, state: &mut State) -> bool {
        if !self.is_called {
            return true;
        }
        let limit = self.beyond.unwrap_or(Limit::Total);
        if self.beyond.is_none() {
            admission.count_refused(limit);
        }
        (self.beyond, self.in_http) = (Some(limit), false);
        // It no longer counts as leaving, so others can be called.
        state.leaving -= 1;
        self.is_called = !admission.enter_beyond(state, limit);
        state.leaving += usize::from(self.is_called);
        !self.is_called
    }

    /// Fails if it was called: then it has no slot that could last.
    fn must_stay(&self, admission: &Admission) -> Result<(), Limit> {
        if !self.is_called {
            return Ok(());
        }
        admission.count_refused(Limit::Total);
        Err(Limit::Total)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let standing = self.standing.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.admission.state();
        standing.leave(&mut state);
        match standing.beyond {
            _ if standing.is_socket => {}
            // Its slot was already given to the connection that called it.
            _ if standing.is_called => state.leaving -= 1,
            Some(limit) => state.beyond[limit.class()] -= 1,
            None => {
                state.open -= 1;
                state.http -= usize::from(standing.in_http);
                self.admission.metrics.connections_admitted.dec();
            }
        }
    }
}

impl Drop for SocketSlot {
    fn drop(&mut self) {
        self.admission.state().open -= 1;
        self.admission.metrics.connections_admitted.dec();
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut standing = self.permit.standing();
        let mut state = self.permit.admission.state();
        state.streams.give_back(&[self.address], 1);
        // HTTP continues. For a moment it may have one connection too many.
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
