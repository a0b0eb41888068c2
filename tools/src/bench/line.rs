//! One connection of the generator: from the upgrade to the live edge, and what is counted there.
//!
//! It does no I/O: bytes come in, and what is to be sent and done comes out. The crew has the
//! sockets and the time.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::board::Board;
use super::dialect::{Dialect, Place, Seen};
use super::outlet::Outlet;
use super::plan::Plan;
use super::stamp::Stamp;
use super::tally::{Arrival, Tally};
use super::wire::{self, Opcode};

pub struct Line {
    /// Its place in the plan's list of clients.
    pub client: usize,
    pub outlet: Arc<Outlet>,
    pub stage: Stage,
    /// Where it connects to: the client's node at first, another when that does not answer.
    pub target: usize,
    /// Since when it wants to be back where the messages are; `None`: it was not away.
    pub since: Option<u64>,
    /// Where it is in each room it follows; it outlives the connection.
    places: Vec<Place>,
    /// `Seen::Joined` still to come.
    joins_due: usize,
    /// It was there before, and asked for what it missed.
    is_resuming: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Stage {
    /// Not connected, and not connecting.
    Away,
    Connecting,
    /// The upgrade was asked for.
    Upgrading,
    /// What it follows was asked for.
    Joining,
    Live,
}

/// What a line needs to count.
pub struct Surroundings<'a> {
    pub plan: &'a Plan,
    pub dialect: &'a dyn Dialect,
    pub board: &'a Board,
    pub tally: &'a mut Tally,
    /// When the bytes were read.
    pub now: u64,
    /// Counted here and told to the board once for many reads.
    pub delivered: u64,
}

/// What came of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that were understood; the rest is the beginning of a frame.
    pub used: usize,
    /// To be sent.
    pub reply: Vec<u8>,
    /// Messages of this line that were answered.
    pub answered: usize,
    /// The line has just become live.
    pub is_live: bool,
    /// The connection is of no use any more.
    pub is_over: bool,
}

impl Line {
    pub fn new(client: usize, target: usize, outlet: Arc<Outlet>) -> Self {
        let (places, stage) = (Vec::new(), Stage::Away);
        let is_resuming = false;
        Self { client, outlet, stage, target, since: None, places, joins_due: 0, is_resuming }
    }

    /// The request that begins the conversation.
    pub fn request(&mut self, plan: &Plan, dialect: &dyn Dialect) -> Vec<u8> {
        self.stage = Stage::Upgrading;
        let (client, target) = (&plan.clients[self.client], &plan.targets[self.target]);
        let path = if target.path.is_empty() { dialect.path(client) } else { &target.path };
        let host = &target.host;
        // The key is to be different each time so that no cache answers; there is none here.
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dmVyYmF0aW0gYmVuY2ghIQ==\r\n\r\n"
        )
        .into_bytes()
    }

    /// Reads what there is.
    pub fn read(&mut self, bytes: &[u8], around: &mut Surroundings<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        if self.stage == Stage::Upgrading {
            self.on_answer(bytes, around, &mut outcome);
        }
        while self.stage > Stage::Upgrading && !outcome.is_over {
            let Some(frame) = wire::split(&bytes[outcome.used..]) else { break };
            outcome.used += frame.len;
            self.on_frame(frame.opcode, frame.payload, around, &mut outcome);
        }
        outcome
    }

    /// The answer to the request. Any other than a 101 is the end.
    fn on_answer(&mut self, bytes: &[u8], around: &mut Surroundings<'_>, outcome: &mut Outcome) {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return };
        if !bytes.starts_with(b"HTTP/1.1 101 ") {
            around.board.note_trouble(bytes);
            outcome.is_over = true;
            return;
        }
        outcome.used = end + 4;
        self.stage = Stage::Joining;
        let client = &around.plan.clients[self.client];
        outcome.reply = around.dialect.opening(client, &around.plan.rooms);
        if !around.dialect.greets() {
            self.follow(around, outcome);
        }
    }

    fn on_frame(
        &mut self,
        opcode: u8,
        payload: &[u8],
        around: &mut Surroundings<'_>,
        outcome: &mut Outcome,
    ) {
        const TEXT: u8 = Opcode::Text as u8;
        const BINARY: u8 = Opcode::Binary as u8;
        const CLOSE: u8 = Opcode::Close as u8;
        const PING: u8 = Opcode::Ping as u8;
        match opcode {
            TEXT | BINARY => {
                let (dialect, plan) = (around.dialect, around.plan);
                dialect.scan(payload, &plan.rooms, &mut |seen| self.see(seen, around, outcome));
            }
            PING => {
                wire::put(&mut outcome.reply, Opcode::Pong, payload);
            }
            CLOSE => {
                if !around.plan.resumes {
                    around.board.note_trouble(payload.get(2..).unwrap_or(b"closed"));
                }
                outcome.is_over = true;
            }
            _ => {}
        }
    }

    fn see(&mut self, seen: Seen<'_>, around: &mut Surroundings<'_>, outcome: &mut Outcome) {
        match seen {
            Seen::Greeted => self.follow(around, outcome),
            Seen::Joined { at } => self.on_joined(at, around, outcome),
            Seen::Resumed => self.go_live(around, outcome),
            Seen::Message { at, stamp } => self.on_message(at, stamp, around),
            Seen::Event { at } => {
                self.advance(at, around.tally);
            }
            Seen::Acked { at } => self.on_ack(at, around, outcome),
            Seen::Refused { error } => {
                self.outlet.answered();
                around.board.refused.fetch_add(1, Relaxed);
                around.board.note_trouble(error);
                outcome.answered += 1;
            }
            Seen::Respond(frame) => outcome.reply.extend_from_slice(frame),
            Seen::Trouble { error } => around.board.note_trouble(error),
        }
    }
    fn follow(&mut self, around: &Surroundings<'_>, outcome: &mut Outcome) {
        let (client, rooms) = (&around.plan.clients[self.client], &around.plan.rooms);
        if client.follows.is_empty() {
            return self.go_live(around, outcome);
        }
        self.is_resuming = !self.places.is_empty();
        let places = self.is_resuming.then_some(self.places.as_slice());
        outcome.reply.extend(around.dialect.follow(client, rooms, places));
        self.joins_due = around.dialect.joins(client);
        if !around.dialect.is_numbered() {
            // Messages are counted instead.
            self.places = client.follows.iter().map(|&room| Place { room, seq: 0 }).collect();
        }
        if self.joins_due == 0 {
            self.go_live(around, outcome);
        }
    }

    fn on_joined(&mut self, at: Option<Place>, around: &Surroundings<'_>, outcome: &mut Outcome) {
        // To one that is back, the places that it had are those that count.
        if self.is_resuming {
            return;
        }
        self.places.extend(at);
        self.joins_due = self.joins_due.saturating_sub(1);
        if self.joins_due == 0 {
            self.go_live(around, outcome);
        }
    }

    fn go_live(&mut self, around: &Surroundings<'_>, outcome: &mut Outcome) {
        if self.stage != Stage::Live {
            self.stage = Stage::Live;
            outcome.is_live = true;
            around.board.live.fetch_add(1, Relaxed);
        }
    }

    fn on_message(&mut self, at: Option<Place>, stamp: Stamp, around: &mut Surroundings<'_>) {
        // What is not numbered is not told apart by rooms either.
        let at = at.or_else(|| self.places.first().map(|at| Place { seq: at.seq + 1, ..*at }));
        let Some(at) = at else { return };
        if !self.advance(at, around.tally) {
            return;
        }
        around.delivered += 1;
        let waited = around.now.saturating_sub(stamp.nanos);
        if self.stage != Stage::Live {
            around.tally.replayed += 1;
        } else if around.board.is_measured(stamp.nanos) && !self.is_slow(around.plan) {
            let is_near = usize::from(stamp.node) == self.target;
            let latencies = if is_near { &mut around.tally.near } else { &mut around.tally.far };
            latencies.record(waited);
            if let Some(arrivals) = &mut around.tally.arrivals {
                arrivals.push(Arrival {
                    room: at.room,
                    seq: at.seq,
                    from: stamp.node,
                    to: self.target as u8,
                    sent: stamp.nanos,
                    arrived: around.now,
                });
            }
        }
    }

    /// What a client that does not read waits for is its own doing.
    fn is_slow(&self, plan: &Plan) -> bool {
        plan.clients[self.client].is_slow
    }

    /// Whether this is news: what a follower has is all up to its place.
    fn advance(&mut self, at: Place, tally: &mut Tally) -> bool {
        let Some(place) = self.places.iter_mut().find(|place| place.room == at.room) else {
            // Of a room that was not followed (yet): a server must not do that.
            tally.duplicates += 1;
            return false;
        };
        if at.seq <= place.seq {
            tally.duplicates += 1;
            return false;
        }
        tally.holes += at.seq - place.seq - 1;
        place.seq = at.seq;
        true
    }

    fn on_ack(&mut self, at: Place, around: &mut Surroundings<'_>, outcome: &mut Outcome) {
        let Some(intended) = self.outlet.answered() else {
            return around.board.note_trouble(b"an ack of what was not said");
        };
        let room = &around.board.rooms[at.room as usize];
        room.top.fetch_max(at.seq, Relaxed);
        room.acked.fetch_add(1, Relaxed);
        around.board.acked.fetch_add(1, Relaxed);
        outcome.answered += 1;
        if around.board.is_measured(intended) {
            around.tally.acks.record(around.now.saturating_sub(intended));
        }
    }

    /// The connection is gone.
    pub fn end(&mut self, board: &Board) {
        if self.stage == Stage::Live {
            board.live.fetch_sub(1, Relaxed);
        }
        self.stage = Stage::Away;
        self.outlet.close();
    }

    /// Events that this line does not have, of all that there are.
    pub fn short(&self, tops: &[u64]) -> u64 {
        let short = |place: &Place| tops[place.room as usize].saturating_sub(place.seq);
        self.places.iter().map(short).sum()
    }
}

#[cfg(test)]
mod tests;
