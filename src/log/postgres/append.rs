//! The appends of one lane: keeps a connection, limits the time of each call, and retries what was
//! certainly not written.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::Shared;
use super::lane::Lane;
use super::rows::Rows;
use crate::log::LogError;
use crate::log::batch::Batch;
use crate::log::health::Health;
use crate::model::{RoomName, Seq, Timestamp};
use crate::rate::Backoff;
use crate::rules::{Outcome, Write};

/// The pause before another try, doubled each time up to the maximum. Short, because the commands
/// of a whole lane wait; not shorter, because every lane of every node hits a server that has just
/// started.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(320);

pub struct Appender {
    shared: Arc<Shared>,
    /// `None` before the first append and after a failure. Taken out while an append runs, so that
    /// one that fails or is dropped halfway leaves nothing behind.
    lane: Option<Box<Lane>>,
    /// The outbox rows of the last batch.
    receipts: Vec<i64>,
    /// The rooms that the last batch wrote to, if its commit is in doubt.
    doubtful: Vec<RoomName>,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct TooSlow(Duration);

impl Appender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, lane: None, receipts: Vec::new(), doubtful: Vec::new() }
    }

    pub(in crate::log) fn health(&self) -> &Health {
        &self.shared.health
    }

    pub async fn append(
        &mut self,
        writes: &[Write],
        wait_for: Option<&RoomName>,
    ) -> Result<Vec<Option<Outcome>>, LogError> {
        self.receipts.clear();
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let batch = Batch::new(writes);
        let wait_for = wait_for.and_then(|room| batch.index(room.as_str()));
        let mut patience = Patience::new(self.shared.append_timeout);
        loop {
            match self.try_append(&batch, wait_for, patience.deadline).await {
                Err(error) if self.does_without_outbox(&error, patience.deadline).await => {}
                Err(LogError::Unavailable(error)) => {
                    patience.after(error, &self.shared.health).await?;
                }
                result => return self.told(result),
            }
        }
    }

    async fn does_without_outbox(&self, error: &LogError, deadline: Instant) -> bool {
        self.shared.unannounced.met_lock(error, &self.shared, deadline).await
    }

    pub fn in_doubt(&mut self) -> Vec<RoomName> {
        std::mem::take(&mut self.doubtful)
    }

    pub async fn last_seqs_if_ended(
        &mut self,
        rooms: &[RoomName],
        wait_for: Option<&RoomName>,
    ) -> Result<Option<Vec<(RoomName, Seq)>>, LogError> {
        if rooms.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let mut names: Vec<&str> = rooms.iter().map(RoomName::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let mut patience = Patience::new(self.shared.append_timeout);
        loop {
            let room = wait_for.map(RoomName::as_str);
            match self.try_last_seqs(&names, room, patience.deadline).await {
                Err(LogError::Unavailable(error)) => {
                    patience.after(error, &self.shared.health).await?
                }
                result => return self.told(result),
            }
        }
    }

    pub fn receipts(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.receipts)
    }

    async fn try_append(
        &mut self,
        batch: &Batch<'_>,
        wait_for: Option<usize>,
        deadline: Instant,
    ) -> Result<Vec<Option<Outcome>>, LogError> {
        let kept = self.lane.take();
        let load = async {
            let lane = self.connected(kept).await?;
            let loaded = lane.load(batch, wait_for).await?;
            Ok((lane, loaded))
        };
        let (lane, loaded) = self.within(deadline, load, LogError::Unavailable).await?;
        let Some(loaded) = loaded else {
            self.lane = Some(lane);
            return Ok(batch.nothing());
        };
        // Read under the locks, so it is rarely earlier than the room's last event.
        let now = Timestamp::now();
        let decided = batch.decide(loaded.facts, now);
        if decided.writes_nothing() {
            // The outcomes rest on what was committed before, so nothing depends on this answer.
            if self.within(deadline, lane.rollback(), LogError::Unavailable).await.is_ok() {
                self.lane = Some(lane);
            }
            return Ok(decided.outcomes);
        }
        let rows = Rows::of(&loaded.ids, &decided);
        let unannounced = &self.shared.unannounced;
        let is_announced = self.shared.mirrored && lane.announces;
        let commit = lane.commit(&rows, now, is_announced);
        let receipts = self.within(deadline, commit, LogError::Unknown).await;
        // Also when the commit is in doubt: an outbox row for events that do not exist does no
        // harm.
        let may_be_there = matches!(receipts, Ok(_) | Err(LogError::Unknown(_)));
        if self.shared.mirrored && !is_announced && may_be_there {
            unannounced.remember(&rows);
        }
        if let Err(LogError::Unknown(_)) = receipts {
            let room = |index: usize| batch.rooms()[index].clone();
            self.doubtful = decided.changed().map(|changed| room(changed.index)).collect();
        }
        self.receipts = receipts?;
        self.lane = Some(lane);
        Ok(decided.outcomes)
    }

    async fn try_last_seqs(
        &mut self,
        names: &[&str],
        wait_for: Option<&str>,
        deadline: Instant,
    ) -> Result<Option<Vec<(RoomName, Seq)>>, LogError> {
        let kept = self.lane.take();
        let read = async {
            let lane = self.connected(kept).await?;
            let last_seqs = lane.last_seqs_if_ended(names, wait_for).await?;
            Ok((lane, last_seqs))
        };
        let (lane, last_seqs) = self.within(deadline, read, LogError::Unavailable).await?;
        self.lane = Some(lane);
        Ok(last_seqs)
    }

    /// Runs a step until the deadline; `late` makes the error if the deadline passes first.
    async fn within<T>(
        &self,
        deadline: Instant,
        step: impl Future<Output = Result<T, LogError>>,
        late: fn(Box<dyn Error + Send + Sync>) -> LogError,
    ) -> Result<T, LogError> {
        let late = || late(TooSlow(self.shared.append_timeout).into());
        timeout_at(deadline, step).await.unwrap_or_else(|_| Err(late()))
    }

    async fn connected(&self, kept: Option<Box<Lane>>) -> Result<Box<Lane>, LogError> {
        let announces = !self.shared.unannounced.is_locked();
        match kept.filter(|lane| !lane.is_closed() && lane.announces == announces) {
            Some(lane) => Ok(lane),
            None => Lane::connect(&self.shared.lane_connector, announces)
                .await
                .map(Box::new)
                .map_err(|error| LogError::Unavailable(error.into())),
        }
    }

    /// Reports a final result to the node's log. A refusal is an answer, too.
    fn told<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        match &result {
            Err(error @ LogError::Unknown(_)) => self.shared.health.failed(error),
            _ => self.shared.health.answered(),
        }
        result
    }
}

/// The time limit of one call, and the pauses in it.
struct Patience {
    deadline: Instant,
    backoff: Backoff,
}

impl Patience {
    fn new(timeout: Duration) -> Self {
        let backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        Self { deadline: Instant::now() + timeout, backoff }
    }

    /// Pauses before another try, or returns the error if there is no time for one.
    async fn after(
        &mut self,
        error: Box<dyn Error + Send + Sync>,
        health: &Health,
    ) -> Result<(), LogError> {
        health.failed(&*error);
        let pause = self.backoff.jittered();
        if Instant::now() + pause >= self.deadline {
            return Err(LogError::Unavailable(error));
        }
        sleep(pause).await;
        Ok(())
    }
}
