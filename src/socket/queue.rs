//! The pieces in a socket's queue, and how they are counted.
//!
//! It writes nothing; `link` does.

use std::sync::Arc;

use bytes::Bytes;

use crate::budget::{Budget, Held};
use crate::metrics::Gauge;

/// Bytes that a queued piece counts beyond its length: its entry in the queue and its allocation.
/// Without it, a client that sends pings and reads nothing would fill the queue with pongs of two
/// bytes, and a queue of 64 KiB would hold megabytes.
pub(super) const PIECE_OVERHEAD_BYTES: usize = 64;

/// The queues of all sockets of a node, together.
#[derive(Clone, Debug)]
pub struct Queues {
    /// In bytes, as each socket's own limit counts them.
    pub bytes: Gauge,
    /// The budget for all unsent data, including pages and answers in progress.
    pub unsent: Arc<Budget>,
    /// The other direction: unfinished messages of clients.
    pub inbound: Arc<Budget>,
}

/// For a single socket: practically unlimited.
impl Default for Queues {
    fn default() -> Self {
        let (unsent, inbound) = (Budget::new(1 << 40), Budget::new(1 << 40));
        Self { bytes: Gauge::default(), unsent, inbound }
    }
}

/// Frames that wait.
#[derive(Debug)]
pub(super) struct Piece {
    pub frames: Bytes,
    /// No other queue shares them, so they count here.
    pub is_own: bool,
}

/// What waits, counted twice: for the socket's own limit, and on the node's budget.
#[derive(Debug)]
pub(super) struct Queued {
    pub bytes: usize,
    total: Gauge,
    /// Shared pieces (events) are counted once, where they were made.
    pub held: Held,
}

impl Queued {
    pub fn new(queues: &Queues) -> Self {
        Self { bytes: 0, total: queues.bytes.clone(), held: queues.unsent.hold(0) }
    }

    pub fn set(&mut self, bytes: usize) {
        // Nearly always from 0 to 0: the kernel took everything at once.
        if bytes != self.bytes {
            self.total.inc_by(bytes as i64 - self.bytes as i64);
            self.bytes = bytes;
        }
    }

    pub fn add(&mut self, piece: &Piece) {
        self.set(self.bytes + cost(&piece.frames));
        self.held.set(self.held.bytes() + piece.held());
    }

    pub fn sub(&mut self, bytes: usize) {
        self.set(self.bytes - bytes);
    }
}

impl Piece {
    /// Its share of the node's memory, until its last byte is sent.
    pub fn held(&self) -> usize {
        PIECE_OVERHEAD_BYTES + if self.is_own { self.frames.len() } else { 0 }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.set(0);
    }
}

pub(super) fn cost(frames: &Bytes) -> usize {
    frames.len() + PIECE_OVERHEAD_BYTES
}
