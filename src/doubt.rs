//! Doubts: what Redis may not have brought is asked of the log, for all rooms in use.
//!
//! It does not ask what was doubted: to compare everything is one query for a thousand rooms. It
//! orders nothing, so it does not matter what arrives before, while or after it asks: the relay
//! reads what is missing up to the seq that the log says, and puts everything in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::hub::Hub;
use crate::log::{Log, LogError};
use crate::mirror::Status;
use crate::model::RoomName;
use crate::relay::Relay;
use crate::tasks::Tasks;

/// Rooms in one query.
const ROOMS_PER_QUERY: usize = 1000;
/// How often all rooms in use are compared with the log where nothing else brings what other nodes
/// commit. With the query it is below the second that is promised.
const COMPARE_EVERY: Duration = Duration::from_millis(600);
/// How often all rooms in use are compared with the log while Redis seems well. It may be another's
/// Redis: after a failover that some nodes did not notice, each side hears itself, finds its stream
/// whole, and removes the rows of what it has put there. Nothing but the log can tell. 10,000 rooms
/// are ten queries of 1 to 3 ms each: for each node half a percent of one of PostgreSQL's cores.
const COMPARE_ANYWAY_EVERY: Duration = Duration::from_secs(5);
/// Pause before the log is asked again when it did not answer.
const RETRY: Duration = Duration::from_millis(250);

/// A node's way to doubt. Cheap to clone; clones are the same.
#[derive(Clone, Default)]
pub struct Doubts(Arc<Notify>);

impl Doubts {
    /// Starts the task that asks; there is one to a node. It is nobody else's: the log may be slow
    /// or away, and what Redis does bring must not wait for that.
    pub fn start(log: &Log, hub: &Arc<Hub>, relay: &Arc<Relay>, tasks: &Tasks) -> Self {
        let doubts = Self::default();
        let ask = doubts.clone().ask(log.clone(), hub.clone(), relay.clone());
        let stop = tasks.clone();
        tasks.spawn("doubts", async move {
            tokio::select! {
                () = ask => {}
                () = stop.stopping() => {}
            }
        });
        doubts
    }

    /// As `start`, for a node without Redis on a log that other nodes may write to, too: it doubts
    /// all the time. (It asks nothing while nobody is there.)
    pub fn start_always(log: &Log, hub: &Arc<Hub>, relay: &Arc<Relay>, tasks: &Tasks) {
        let doubts = Self::start(log, hub, relay, tasks);
        let stop = tasks.clone();
        tasks.spawn("always in doubt", async move {
            let mut looks = interval(COMPARE_EVERY);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = looks.tick() => doubts.raise(),
                    () = stop.stopping() => return,
                }
            }
        });
    }

    /// Has all rooms in use compared with the log now and then, as `status` asks for; it looks at
    /// that every `poll`.
    ///
    /// A task of its own, because whoever looks into the outbox may have to wait: somebody has
    /// locked that table, or it has become slow. That is when this is needed.
    pub fn raise_by(&self, status: watch::Receiver<Status>, poll: Duration, tasks: &Tasks) {
        let (doubts, stop) = (self.clone(), tasks.clone());
        let raise = async move {
            let (mut looks, mut compared) = (interval(poll), Instant::now());
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                let every = match *status.borrow() {
                    Status::Live => COMPARE_ANYWAY_EVERY,
                    // The newest rows of the outbox do not tell all: a batch may have been given
                    // its row before another and be committed behind it, or its row is gone
                    // already, because its node does reach Redis.
                    Status::Away | Status::Foreign => COMPARE_EVERY,
                };
                if compared.elapsed() >= every {
                    doubts.raise();
                    compared = Instant::now();
                }
            }
        };
        tasks.spawn("compare", async move {
            tokio::select! {
                () = raise => {}
                () = stop.stopping() => {}
            }
        });
    }

    /// Has all rooms in use compared with the log, soon. Many at once are one; one that is raised
    /// while the log is being asked is another, since its room may have had its turn.
    pub fn raise(&self) {
        self.0.notify_one();
    }

    async fn ask(self, log: Log, hub: Arc<Hub>, relay: Arc<Relay>) {
        loop {
            self.0.notified().await;
            // A room that comes into use behind this begins with what the log says.
            for rooms in hub.room_names().chunks(ROOMS_PER_QUERY) {
                while let Err(err) = compare(rooms, &log, &hub, &relay).await {
                    tracing::debug!(%err, "a doubt must wait for the log");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Has the relay repair those of the rooms that are behind the log, and look into those that are
/// before it. Rooms that are damaged there keep no other from it.
async fn compare(
    rooms: &[RoomName],
    log: &Log,
    hub: &Hub,
    relay: &Arc<Relay>,
) -> Result<(), LogError> {
    // Before the log is asked: it has all of that, unless it went back.
    let known = |name: &RoomName| hub.room(name).and_then(|room| Some((room.edge()?, room)));
    let known: Vec<_> = rooms.iter().map(known).collect();
    let last_seqs = log.last_seqs(rooms).await?;
    for ((name, known), last_seq) in rooms.iter().zip(known).zip(last_seqs) {
        let Ok(last_seq) = last_seq else { continue };
        let last_seq = last_seq.unwrap_or_default();
        match known {
            Some((edge, room)) if last_seq < edge => {
                room.freeze();
                relay.suspect(&room);
            }
            _ => relay.hint(name, last_seq),
        }
    }
    Ok(())
}
