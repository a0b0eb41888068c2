//! From the mirror to the relay: what other nodes committed.
//!
//! It does not order events or drop duplicates; the relay does both.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::doubt::Doubts;
use crate::hub::Entry;
use crate::mirror::{Incoming, Mirrored};
use crate::relay::Relay;

/// Owned by its task.
pub struct Feed {
    pub incoming: mpsc::Receiver<Incoming>,
    pub relay: Arc<Relay>,
    pub doubts: Doubts,
}

impl Feed {
    /// Runs until the mirror's follower ends. It never waits, because the task that sends
    /// `incoming` also keeps the node's lease and sends its heartbeat.
    pub async fn run(mut self) {
        while let Some(incoming) = self.incoming.recv().await {
            match incoming {
                Incoming::Events { events, backlog } => self.deliver(&events, backlog),
                Incoming::Doubt => self.doubts.raise(),
            }
        }
    }

    /// Consecutive events of one room are delivered together.
    fn deliver(&self, events: &[Mirrored], backlog: bool) {
        let committed = Instant::now();
        for run in events.chunk_by(|a, b| a.room == b.room) {
            let entry = |event: &Mirrored| Entry {
                seq: event.seq,
                frame: event.frame.clone(),
                left: event.left.clone(),
                committed,
            };
            let entries: Vec<_> = run.iter().map(entry).collect();
            if backlog {
                self.relay.deliver_backlog(&run[0].room, &entries);
            } else {
                self.relay.deliver_heard(&run[0].room, &entries);
            }
        }
    }
}
