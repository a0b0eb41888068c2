//! One connection of the generator: from the upgrade to the live edge, and what is counted there.
//!
//! It does no I/O: bytes come in; bytes to send and things to do come out. The crew has the sockets
//! and the time.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::board::Board;
use super::dialect::{Dialect, Position, Seen};
use super::outlet::Outlet;
use super::plan::Plan;
use super::stamp::Stamp;
use super::tally::{Arrival, Tally};
use super::wire::{self, Opcode};

pub struct Line {
    /// Its index in the plan's list of clients.
    pub client: usize,
    pub outlet: Arc<Outlet>,
    pub stage: Stage,
    /// The index of its target: at first the client's own; another if that does not answer.
    pub target: usize,
    /// When it began to come back; `None`: it was not away.
    pub since: Option<u64>,
    /// Its position in each room it follows. Kept when the connection ends.
    positions: Vec<Position>,
    /// How many `Seen::Joined` are still to come.
    joins_due: usize,
    /// It has reconnected, and asked for what it missed.
    is_resuming: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Stage {
    /// Neither connected nor connecting.
    Away,
    Connecting,
    /// The upgrade was requested.
    Upgrading,
    /// It has asked to follow its rooms.
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
    /// Counted here, and added to the board once for many reads.
    pub delivered: u64,
}

/// The result of reading some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that were used; the rest is the beginning of a frame.
    pub used: usize,
    /// What to send.
    pub reply: Vec<u8>,
    /// Messages of this line that were answered.
    pub answered: usize,
    /// The line has just become live.
    pub is_live: bool,
    /// The connection cannot be used any more.
    pub is_over: bool,
}

impl Line {
    pub fn new(client: usize, target: usize, outlet: Arc<Outlet>) -> Self {
        let (positions, stage) = (Vec::new(), Stage::Away);
        let is_resuming = false;
        Self { client, outlet, stage, target, since: None, positions, joins_due: 0, is_resuming }
    }

    /// The request that begins the conversation.
    pub fn request(&mut self, plan: &Plan, dialect: &dyn Dialect) -> Vec<u8> {
        self.stage = Stage::Upgrading;
        let (client, target) = (&plan.clients[self.client], &plan.targets[self.target]);
        let path = if target.path.is_empty() { dialect.path(client) } else { &target.path };
        let host = &target.host;
        // The key should differ each time, so that no cache answers. There is no cache here.
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dmVyYmF0aW0gYmVuY2ghIQ==\r\n\r\n"
        )
        .into_bytes()
    }

    /// Handles the bytes that have arrived.
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

    /// The answer to the request. Anything but a 101 ends the connection.
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
        self.is_resuming = !self.positions.is_empty();
        let positions = self.is_resuming.then_some(self.positions.as_slice());
        outcome.reply.extend(around.dialect.follow(client, rooms, positions));
        self.joins_due = around.dialect.joins(client);
        if !around.dialect.is_numbered() {
            // Messages are counted instead.
            self.positions = client.follows.iter().map(|&room| Position { room, seq: 0 }).collect();
        }
        if self.joins_due == 0 {
            self.go_live(around, outcome);
        }
    }

    fn on_joined(
        &mut self,
        at: Option<Position>,
        around: &Surroundings<'_>,
        outcome: &mut Outcome,
    ) {
        // A client that resumes keeps its old positions.
        if self.is_resuming {
            return;
        }
        self.positions.extend(at);
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

    fn on_message(&mut self, at: Option<Position>, stamp: Stamp, around: &mut Surroundings<'_>) {
        // Without numbers, messages of different rooms are not told apart either.
        let at =
            at.or_else(|| self.positions.first().map(|at| Position { seq: at.seq + 1, ..*at }));
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

    /// Whether the client does not read. Its latencies are its own doing and are not counted.
    fn is_slow(&self, plan: &Plan) -> bool {
        plan.clients[self.client].is_slow
    }

    /// Moves the position. `false`: the event is a duplicate, or from a room that is not followed.
    fn advance(&mut self, at: Position, tally: &mut Tally) -> bool {
        let Some(position) = self.positions.iter_mut().find(|position| position.room == at.room)
        else {
            // The room is not followed (yet). A server must not do that.
            tally.duplicates += 1;
            return false;
        };
        if at.seq <= position.seq {
            tally.duplicates += 1;
            return false;
        }
        tally.holes += at.seq - position.seq - 1;
        position.seq = at.seq;
        true
    }

    fn on_ack(&mut self, at: Position, around: &mut Surroundings<'_>, outcome: &mut Outcome) {
        let Some(intended) = self.outlet.answered() else {
            return around.board.note_trouble(b"the server acked a message that was not sent");
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

    /// How many events this line lacks, if `tops` are the last seqs of the rooms.
    pub fn short(&self, tops: &[u64]) -> u64 {
        let short = |position: &Position| tops[position.room as usize].saturating_sub(position.seq);
        self.positions.iter().map(short).sum()
    }
}

#[cfg(test)]
mod tests;
