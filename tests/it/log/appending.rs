//! Appends for tests that do not care who else holds a room: they wait for it as a lane does.

use std::time::{Duration, Instant};

use verbatim::log::{Appender, LogError};
use verbatim::model::{RoomName, Seq};
use verbatim::rules::{Outcome, Write};

use crate::harness::PATIENCE;

/// How often a held room is waited for, a tenth of a second each time.
const TRIES: usize = 30;

pub trait Appending {
    /// Appends what can be appended at once, then the rest, room by room. It is `Unavailable` when
    /// somebody holds a room for very long.
    fn append_all(
        &mut self,
        writes: &[Write],
    ) -> impl Future<Output = Result<Vec<Outcome>, LogError>> + Send;

    /// Where rooms stand, once the transaction that held them has ended.
    fn settled(
        &mut self,
        rooms: &[RoomName],
    ) -> impl Future<Output = Result<Vec<(RoomName, Seq)>, LogError>> + Send;
}

impl Appending for Appender {
    async fn append_all(&mut self, writes: &[Write]) -> Result<Vec<Outcome>, LogError> {
        let mut outcomes: Vec<Option<Outcome>> = writes.iter().map(|_| None).collect();
        for _ in 0..TRIES {
            let is_left = |place: &usize| outcomes[*place].is_none();
            let left: Vec<usize> = (0..writes.len()).filter(is_left).collect();
            let Some(first) = left.first() else { break };
            let batch: Vec<Write> = left.iter().map(|place| writes[*place].clone()).collect();
            let room = writes[*first].room.clone();
            for (place, outcome) in left.iter().zip(self.append(&batch, Some(&room)).await?) {
                outcomes[*place] = outcome;
            }
        }
        let outcomes: Option<Vec<Outcome>> = outcomes.into_iter().collect();
        outcomes.ok_or_else(|| LogError::Unavailable("a room is held".into()))
    }

    async fn settled(&mut self, rooms: &[RoomName]) -> Result<Vec<(RoomName, Seq)>, LogError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(standing) = self.last_seqs_if_ended(rooms, None).await? {
                return Ok(standing);
            }
            assert!(Instant::now() < deadline, "some are held: {rooms:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
