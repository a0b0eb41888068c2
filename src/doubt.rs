//! Doubts: what Redis may not have brought is asked of the log, for all rooms in use.
//!
//! It does not ask what was doubted: to compare everything is one query for a thousand rooms. It
//! orders nothing, so it does not matter what arrives before, while or after it asks: the relay
//! reads what is missing up to the seq that the log says, and puts everything in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::hub::Hub;
use crate::log::{Log, LogError};
use crate::model::RoomName;
use crate::relay::Relay;
use crate::tasks::Tasks;

/// Rooms in one query.
const ROOMS_PER_QUERY: usize = 1000;
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
                while let Err(err) = compare(rooms, &log, &relay).await {
                    tracing::debug!(%err, "a doubt must wait for the log");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Has the relay repair those of the rooms that are behind the log. Rooms that are damaged there
/// keep no other from it.
async fn compare(rooms: &[RoomName], log: &Log, relay: &Arc<Relay>) -> Result<(), LogError> {
    for (room, last_seq) in rooms.iter().zip(log.last_seqs(rooms).await?) {
        if let Ok(Some(last_seq)) = last_seq {
            relay.hint(room, last_seq);
        }
    }
    Ok(())
}
