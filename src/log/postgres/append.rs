//! One lane's way to append: it keeps a connection, bounds every call in time, and retries what was
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

/// The first pause before another try, doubled each time up to the longest: short, because the
/// commands of a whole lane wait; not shorter, because a server that has just started is met by
/// every lane of every node.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(320);

pub struct Appender {
    shared: Arc<Shared>,
    /// `None` before the first append and after any failure. Taken out while an append runs, so
    /// that one which fails, or is dropped halfway, leaves nothing behind.
    lane: Option<Box<Lane>>,
    /// The outbox rows of the last batch.
    receipts: Vec<i64>,
    /// The rooms that the last batch wrote to, if nobody knows whether it did.
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
        let wait_for = wait_for.and_then(|room| batch.place(room.as_str()));
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

    pub async fn settle(
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
            match self.try_settle(&names, wait_for.map(RoomName::as_str), patience.deadline).await {
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
        // Read under the locks, so that within a room it is seldom behind the last event's.
        let now = Timestamp::now();
        let decided = batch.decide(loaded.facts, now);
        if decided.writes_nothing() {
            // The outcomes rest on what others committed before; nothing hangs on this answer.
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
        // Also what nobody knows: a row for what is not there does no harm.
        let may_be_there = matches!(receipts, Ok(_) | Err(LogError::Unknown(_)));
        if self.shared.mirrored && !is_announced && may_be_there {
            unannounced.remember(&rows);
        }
        if let Err(LogError::Unknown(_)) = receipts {
            let room = |place: usize| batch.rooms()[place].clone();
            self.doubtful = decided.changed().map(|changed| room(changed.place)).collect();
        }
        self.receipts = receipts?;
        self.lane = Some(lane);
        Ok(decided.outcomes)
    }

    async fn try_settle(
        &mut self,
        names: &[&str],
        wait_for: Option<&str>,
        deadline: Instant,
    ) -> Result<Option<Vec<(RoomName, Seq)>>, LogError> {
        let kept = self.lane.take();
        let settle = async {
            let lane = self.connected(kept).await?;
            let settled = lane.settle(names, wait_for).await?;
            Ok((lane, settled))
        };
        let (lane, settled) = self.within(deadline, settle, LogError::Unavailable).await?;
        self.lane = Some(lane);
        Ok(settled)
    }

    /// Runs a step until the deadline; `late` is what it means when that passes first.
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

    /// Notes a final result for the node's log of itself. A refusal is an answer, too.
    fn told<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        match &result {
            Err(error @ LogError::Unknown(_)) => self.shared.health.failed(error),
            _ => self.shared.health.answered(),
        }
        result
    }
}

/// The time budget of one call, and the pauses in it.
struct Patience {
    deadline: Instant,
    backoff: Backoff,
}

impl Patience {
    fn new(timeout: Duration) -> Self {
        let backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        Self { deadline: Instant::now() + timeout, backoff }
    }

    /// Pauses before another try, or gives the error back when there is no time for one.
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
