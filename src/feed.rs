//! From the mirror to the relay: what other nodes committed.
//!
//! It orders nothing and drops nothing; the relay does both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::hub::{Entry, Hub};
use crate::log::Log;
use crate::mirror::{Incoming, Mirrored};
use crate::outbox::compare;
use crate::relay::Relay;
use crate::tasks::Tasks;

/// Pause before the log is asked again when it could not answer a doubt.
const RETRY: Duration = Duration::from_millis(250);

/// Owned by its task.
pub struct Feed {
    pub incoming: mpsc::Receiver<Incoming>,
    pub log: Log,
    pub hub: Arc<Hub>,
    pub relay: Arc<Relay>,
    pub tasks: Tasks,
}

impl Feed {
    /// Runs until the mirror's follower ends.
    pub async fn run(mut self) {
        let tasks = self.tasks.clone();
        while let Some(incoming) = self.incoming.recv().await {
            match incoming {
                Incoming::Events { events, backlog } => self.deliver(&events, backlog),
                Incoming::Doubt => {
                    tokio::select! {
                        () = self.ask_the_log() => {}
                        () = tasks.stopping() => {}
                    }
                }
            }
        }
    }

    /// Neighbours of one room go on in one piece.
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
                self.relay.deliver(&run[0].room, &entries);
            }
        }
    }

    async fn ask_the_log(&self) {
        while let Err(err) = compare(&self.log, &self.hub, &self.relay).await {
            tracing::debug!(%err, "a doubt must wait for the log");
            tokio::time::sleep(RETRY).await;
        }
    }
}
