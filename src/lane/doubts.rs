//! Commits in doubt: were they committed?

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::DOUBTS_MAX;
use crate::log::{Appender, LogError};
use crate::model::{RoomName, Seq};
use crate::relay::Relay;

/// Pause between two questions about a lost commit.
pub const ASK_PAUSE: Duration = Duration::from_millis(200);

/// How often one batch asks before it fails, so that its clients may try again.
const ASKS_MAX: usize = 5;

fn hint(relay: &Arc<Relay>, standing: Vec<(RoomName, Seq)>) {
    for (room, last_seq) in standing {
        relay.hint(&room, last_seq);
    }
}

/// Asks about each room of a batch separately, because one of them is damaged. Returns the rooms
/// that are still held. Damaged rooms are dropped, because nothing will ever be known about them
/// here; their followers learn of it by the comparison with the log.
async fn ask_apart(
    rooms: &[RoomName],
    appender: &mut Appender,
    relay: &Arc<Relay>,
) -> (Vec<RoomName>, Result<(), LogError>) {
    let (mut left, mut asked) = (Vec::new(), Ok(()));
    for room in rooms {
        match appender.last_seqs_if_ended(std::slice::from_ref(room), None).await {
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
#[error("the outcome of the last {0} commits is still unknown")]
struct InDoubt(usize);

/// A batch that was not confirmed may be committed all the same. Its events would be missing from
/// this node's rooms until the next event shows the hole. So the lane asks until the lost
/// transaction has ended (it holds its rooms' locks until then), and tells the relay the rooms'
/// last seqs.
#[derive(Default)]
pub struct Doubts {
    /// The rooms of each such batch. At most `DOUBTS_MAX` batches, because nothing is appended
    /// until there are fewer.
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

    /// Asks about all of them, without waiting for any room.
    pub async fn ask_once(
        &mut self,
        appender: &mut Appender,
        relay: &Arc<Relay>,
    ) -> Result<(), LogError> {
        self.ask(appender, relay, false).await
    }

    /// `waits`: there is nothing else to do, so one room of each batch may be waited for. Otherwise
    /// a room that other nodes write to all the time might never be found free.
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
            match appender.last_seqs_if_ended(rooms, wait_for).await {
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
                // The others may still be answered.
                Err(error) => asked = asked.and(Err(error)),
            }
        }
        asked
    }

    /// Asks if the last question is some time ago. While there are too many doubts it asks again,
    /// up to `ASKS_MAX` times.
    pub async fn ask_until_few(
        &mut self,
        appender: &mut Appender,
        relay: &Arc<Relay>,
    ) -> Result<(), LogError> {
        if self.batches.is_empty() {
            return Ok(());
        }
        if self.asked.is_none_or(|asked| asked.elapsed() >= ASK_PAUSE) {
            let asked = self.ask_once(appender, relay).await;
            // A failed question stops nobody from writing: a single doubt is no outage.
            if self.batches.len() >= DOUBTS_MAX {
                asked?;
            }
        }
        for _ in 0..ASKS_MAX {
            if self.batches.len() < DOUBTS_MAX {
                return Ok(());
            }
            tokio::time::sleep(ASK_PAUSE).await;
            self.ask(appender, relay, true).await?;
        }
        match self.batches.len() {
            few if few < DOUBTS_MAX => Ok(()),
            many => Err(LogError::Unavailable(InDoubt(many).into())),
        }
    }
}
