//! Doubts: compares all rooms in use with the log, when Redis may have missed something.
//!
//! It does not ask what was doubted, because comparing everything is one query per thousand rooms.
//! It orders nothing, so events may arrive before, while or after it asks: the relay reads what is
//! missing up to the log's seq, and puts everything in order.

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
/// How often all rooms in use are compared with the log if nothing else brings other nodes' events.
/// Together with the query this stays below the promised second.
const COMPARE_EVERY: Duration = Duration::from_millis(600);
/// How often all rooms in use are compared while Redis seems well. It may be another Redis than the
/// other nodes': after a failover that some nodes did not notice, each side hears itself, finds its
/// stream whole, and removes the outbox rows of what it put there. Only the log can show that.
/// 10,000 rooms are ten queries of 1 to 3 ms each: for each node half a percent of one of
/// PostgreSQL's cores.
const COMPARE_ANYWAY_EVERY: Duration = Duration::from_secs(5);
/// Pause before the log is asked again after it did not answer.
const RETRY: Duration = Duration::from_millis(250);

/// Raises doubts. Cheap to clone; clones are the same.
#[derive(Clone, Default)]
pub struct Doubts(Arc<Notify>);

impl Doubts {
    /// Starts the task that asks; a node has one. It is a task of its own because the log may be
    /// slow or away, and that must not delay what Redis brings.
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

    /// Like `start`, for a node without Redis whose log other nodes may write to: it doubts all the
    /// time. (It asks nothing while no room is in use.)
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

    /// Has all rooms in use compared with the log as often as `status` requires, checking that
    /// every `poll`.
    ///
    /// A task of its own, because the task that looks into the outbox may have to wait: somebody
    /// has locked that table, or it has become slow. That is when this is needed.
    pub fn raise_by(&self, status: watch::Receiver<Status>, poll: Duration, tasks: &Tasks) {
        let (doubts, stop) = (self.clone(), tasks.clone());
        let raise = async move {
            let (mut looks, mut compared) = (interval(poll), Instant::now());
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                let every = match *status.borrow() {
                    Status::Live => COMPARE_ANYWAY_EVERY,
                    // The newest outbox rows do not show everything: a batch may have drawn its row
                    // before another and committed after it, or its row is gone already, because
                    // its own node does reach Redis.
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

    /// Has all rooms in use compared with the log soon. Several calls at once lead to one
    /// comparison; a call during a comparison leads to another, because its room may have been
    /// compared already.
    pub fn raise(&self) {
        self.0.notify_one();
    }

    async fn ask(self, log: Log, hub: Arc<Hub>, relay: Arc<Relay>) {
        loop {
            self.0.notified().await;
            // A room that comes into use after this starts with the log's own seq.
            for rooms in hub.room_names().chunks(ROOMS_PER_QUERY) {
                while let Err(err) = compare(rooms, &log, &hub, &relay).await {
                    tracing::debug!(%err, "a comparison waits for the log");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Has the relay repair the rooms that are behind the log, and check those that are ahead of it.
/// Damaged rooms do not stop the others.
async fn compare(
    rooms: &[RoomName],
    log: &Log,
    hub: &Hub,
    relay: &Arc<Relay>,
) -> Result<(), LogError> {
    // Read before the log is asked: the log has everything up to there, unless it went back.
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
