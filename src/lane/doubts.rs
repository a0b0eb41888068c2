//! Commits that were not confirmed, and what became of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DOUBTS_MAX;
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
    /// Which room of a batch is waited for.
    turn: usize,
}

impl Doubts {
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub fn add(&mut self, rooms: Vec<RoomName>) {
        if !rooms.is_empty() {
            self.batches.push(rooms);
        }
    }

    /// Asks what became of them, without waiting for anybody.
    pub async fn settle(
        &mut self,
        appender: &mut Appender,
        relay: &Arc<Relay>,
    ) -> Result<(), LogError> {
        self.ask(appender, relay, false).await
    }

    /// `waits`: there is nothing else to do, so a room of each may be waited for. Else one that
    /// other nodes write to all the time might never be found free.
    async fn ask(
        &mut self,
        appender: &mut Appender,
        relay: &Arc<Relay>,
        waits: bool,
    ) -> Result<(), LogError> {
        self.asked = Some(Instant::now());
        self.turn = self.turn.wrapping_add(1);
        for index in (0..self.batches.len()).rev() {
            let rooms = &self.batches[index];
            let wait_for = rooms.get(self.turn % rooms.len()).filter(|_| waits);
            if let Some(standing) = appender.settle(rooms, wait_for).await? {
                for (room, last_seq) in standing {
                    relay.hint(&room, last_seq);
                }
                self.batches.remove(index);
            }
        }
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
            let settled = self.settle(appender, relay).await;
            // What cannot be asked about keeps nobody from writing: one of them is no outage.
            if self.batches.len() >= DOUBTS_MAX {
                settled?;
            }
        }
        for _ in 0..SETTLE_TRIES {
            if self.batches.len() < DOUBTS_MAX {
                return Ok(());
            }
            tokio::time::sleep(SETTLE_RETRY).await;
            self.ask(appender, relay, true).await?;
        }
        match self.batches.len() {
            few if few < DOUBTS_MAX => Ok(()),
            many => Err(LogError::Unavailable(InDoubt(many).into())),
        }
    }
}
