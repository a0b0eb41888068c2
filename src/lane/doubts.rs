//! Commits that were not confirmed, and what became of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DOUBTS_MAX;
use crate::decide::Write;
use crate::log::{Appender, LogError};
use crate::model::RoomName;
use crate::relay::Relay;

/// Pause between two attempts to learn what became of a lost commit.
pub const SETTLE_RETRY: Duration = Duration::from_millis(200);

/// How often one batch asks before it is given up, and its clients may try again.
const SETTLE_TRIES: usize = 5;

#[derive(Debug, thiserror::Error)]
#[error("it is not known yet what became of the last {0} commits")]
struct InDoubt(usize);

/// A batch that was not confirmed may have been committed all the same. Its events would be missing
/// from this node's rooms until the next event shows the hole. So the lane asks until the lost
/// transaction has ended (it holds the rooms' locks until then), and tells the relay where the
/// rooms stand.
#[derive(Default)]
pub struct Doubts {
    /// The rooms of each such batch. At most `DOUBTS_MAX` batches: nothing is appended before there
    /// are fewer.
    batches: Vec<Vec<RoomName>>,
    asked: Option<Instant>,
}

impl Doubts {
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub fn add(&mut self, writes: &[Write]) {
        let mut rooms: Vec<_> = writes.iter().map(|write| write.room.clone()).collect();
        rooms.sort_unstable();
        rooms.dedup();
        self.batches.push(rooms);
    }

    /// Asks what became of them.
    pub async fn settle(
        &mut self,
        appender: &mut Appender,
        relay: &Arc<Relay>,
    ) -> Result<(), LogError> {
        self.asked = Some(Instant::now());
        let rooms: Vec<RoomName> = self.batches.concat();
        let settled = appender.settle(&rooms).await?;
        for (room, last_seq) in &settled.standing {
            relay.hint(room, *last_seq);
        }
        self.batches.retain_mut(|rooms| {
            rooms.retain(|room| settled.held.contains(room));
            !rooms.is_empty()
        });
        Ok(())
    }

    /// Asks now and then; while there are too many, again and again, but not for ever.
    pub async fn settle_enough(
        &mut self,
        appender: &mut Appender,
        relay: &Arc<Relay>,
    ) -> Result<(), LogError> {
        if self.batches.is_empty() {
            return Ok(());
        }
        if self.asked.is_none_or(|asked| asked.elapsed() >= SETTLE_RETRY) {
            self.settle(appender, relay).await?;
        }
        for _ in 0..SETTLE_TRIES {
            if self.batches.len() < DOUBTS_MAX {
                return Ok(());
            }
            tokio::time::sleep(SETTLE_RETRY).await;
            self.settle(appender, relay).await?;
        }
        Err(LogError::Unavailable(InDoubt(self.batches.len()).into()))
    }
}
