//! Commits that were not confirmed, and what became of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::DOUBTS_MAX;
use crate::log::{Appender, LogError};
use crate::model::{RoomName, Seq};
use crate::relay::Relay;

/// Pause between two attempts to learn what became of a lost commit.
pub const SETTLE_RETRY: Duration = Duration::from_millis(200);

/// How often one batch asks before it is given up, and its clients may try again.
const SETTLE_TRIES: usize = 5;

fn hint(relay: &Arc<Relay>, standing: Vec<(RoomName, Seq)>) {
    for (room, last_seq) in standing {
        relay.hint(&room, last_seq);
    }
}

/// Asks about each room of a batch by itself, because one of them is damaged. What is left of the
/// batch: the rooms that are still held. Those that are damaged are let go, as nothing will ever be
/// known of them here; whoever follows one is told so by the comparison with the log.
async fn ask_apart(
    rooms: &[RoomName],
    appender: &mut Appender,
    relay: &Arc<Relay>,
) -> (Vec<RoomName>, Result<(), LogError>) {
    let (mut left, mut asked) = (Vec::new(), Ok(()));
    for room in rooms {
        match appender.settle(std::slice::from_ref(room), None).await {
            Ok(Some(standing)) => hint(relay, standing),
            Ok(None) => left.push(room.clone()),
            Err(LogError::Damaged(_)) => {}
            Err(error) => {
                left.push(room.clone());
                asked = Err(error);
            }
        }
    }
    (left, asked)
}

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
        let mut asked = Ok(());
        for index in (0..self.batches.len()).rev() {
            let rooms = &self.batches[index];
            let wait_for = rooms.get(self.turn % rooms.len()).filter(|_| waits);
            match appender.settle(rooms, wait_for).await {
                Ok(Some(standing)) => {
                    hint(relay, standing);
                    self.batches.remove(index);
                }
                Ok(None) => {}
                Err(LogError::Damaged(_)) => {
                    let (left, error) = ask_apart(rooms, appender, relay).await;
                    asked = asked.and(error);
                    match left.is_empty() {
                        true => drop(self.batches.remove(index)),
                        false => self.batches[index] = left,
                    }
                }
                // Of the others it may be known all the same.
                Err(error) => asked = asked.and(Err(error)),
            }
        }
        asked
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
