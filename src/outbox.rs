//! From the log to Redis and to this node, for what did not get there by itself.
//!
//! A batch's row in the outbox is written in the batch's own transaction. This task removes the
//! rows whose events are in Redis; puts those into Redis that nobody did (a node died between its
//! commit and the mirror, or Redis was away); and, for what Redis did not bring in time, tells the
//! relay how far rooms have come. It decides no order: the relay does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::MirrorConfig;
use crate::hub::Hub;
use crate::log::{self, Log, LogError};
use crate::metrics::Metrics;
use crate::mirror::{Batch, Mirror, Status};
use crate::protocol::frame;
use crate::relay::Relay;
use crate::tasks::Tasks;

/// While Redis is live, a batch of this age should have come by way of it: the fast path takes
/// milliseconds, and its row is gone after the next look.
const LATE: Duration = Duration::from_millis(500);
/// While Redis is away, or takes nothing: how often all rooms in use are compared with the log.
/// Looking at the newest rows only, as is done in between, misses a batch that was given its row
/// earlier than another and committed later, and one whose row is gone already, because its node
/// does reach Redis. With a look's interval on top it is below the second that is promised.
const COMPARE_EVERY: Duration = Duration::from_millis(600);
/// Rooms compared in one query.
const ROOMS_PER_QUERY: usize = 1000;
/// Receipts kept while the log is away; beyond that their events reach Redis twice.
const RECEIPTS_MAX: usize = 100_000;

/// Owned by its task.
pub struct Outbox {
    pub outbox: log::Outbox,
    pub log: Log,
    /// `None` once the node stops: as long as somebody could append, the mirror waits for it.
    pub mirror: Option<Mirror>,
    /// Rows whose events are in Redis, from the mirror.
    pub mirrored: mpsc::Receiver<Vec<i64>>,
    pub hub: Arc<Hub>,
    pub relay: Arc<Relay>,
    pub config: MirrorConfig,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
}

impl Outbox {
    /// Runs until the node stops and what it mirrored is forgotten.
    pub async fn run(mut self) {
        let tasks = self.tasks.clone();
        let mut stopping = std::pin::pin!(tasks.stopping());
        let mut looks = interval(Duration::from_millis(self.config.outbox_poll_ms));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut receipts = Vec::new();
        // The newest row seen while Redis is away.
        let mut seen = 0;
        let mut compared: Option<Instant> = None;
        let mut is_failing = false;
        loop {
            tokio::select! {
                batch = self.mirrored.recv() => match batch {
                    Some(batch) if receipts.len() < RECEIPTS_MAX => receipts.extend(batch),
                    Some(_) => {}
                    // The lanes have ended, and with them the mirror's append.
                    None => break,
                },
                _ = looks.tick() => {
                    let look = self.look(&mut receipts, &mut seen, &mut compared).await;
                    if look.is_err() != is_failing {
                        is_failing = look.is_err();
                        tracing::debug!(is_failing, "the outbox is in the log, which is away");
                    }
                }
                // From here on it only hears what the lanes still put into Redis.
                () = &mut stopping, if self.mirror.is_some() => self.mirror = None,
            }
        }
        // An error: the rows stay, and another node puts their events into Redis a second time.
        let _ = self.outbox.forget(&receipts).await;
    }

    async fn look(
        &mut self,
        receipts: &mut Vec<i64>,
        seen: &mut i64,
        compared: &mut Option<Instant>,
    ) -> Result<(), LogError> {
        if !receipts.is_empty() {
            self.outbox.forget(receipts).await?;
            receipts.clear();
        }
        let Some(mirror) = self.mirror.clone() else { return Ok(()) };
        let flows = match mirror.status() {
            Status::Live => {
                self.hint_news(0, LATE).await?;
                self.sweep(&mirror).await?
            }
            Status::Away => {
                *seen = self.hint_news(*seen, Duration::ZERO).await?;
                false
            }
        };
        if flows {
            *compared = None;
        } else if compared.is_none_or(|at| at.elapsed() >= COMPARE_EVERY) {
            compare(&self.log, &self.hub, &self.relay).await?;
            *compared = Some(Instant::now());
        }
        Ok(())
    }

    /// Tells the relay what was committed behind that row, and how far it looked.
    async fn hint_news(&mut self, after: i64, age: Duration) -> Result<i64, LogError> {
        let news = self.outbox.news(after, age).await?;
        for batch in &news {
            self.relay.hint(&batch.room, batch.last_seq);
        }
        Ok(news.last().map_or(after, |newest| newest.id))
    }

    /// Puts into Redis what has not been put there, until nothing of that age is left. `false`:
    /// Redis does not take it.
    async fn sweep(&mut self, mirror: &Mirror) -> Result<bool, LogError> {
        let age = Duration::from_millis(self.config.outbox_age_ms);
        // After a long outage there is much to do; a node that stops leaves the rest to others.
        while !self.tasks.is_stopping() {
            let Some(sweep) = self.outbox.sweep(age).await? else { break };
            let events = sweep.events.iter();
            let events: Vec<_> =
                events.map(|event| (event.room.clone(), event.seq, frame::event(event))).collect();
            let len = events.len() as u64;
            let (done, is_done) = oneshot::channel();
            let handed = mirror.append(Batch { events, receipts: vec![], done: Some(done) });
            // Not handed over, not done, or given up: the rows go back, for the next look.
            if !handed || !is_done.await.unwrap_or(false) {
                return Ok(false);
            }
            self.outbox.swept(sweep).await?;
            self.metrics.outbox_swept.inc_by(len);
        }
        Ok(true)
    }
}

/// Compares all rooms in use with the log, and has the relay repair those that are behind.
pub async fn compare(log: &Log, hub: &Hub, relay: &Arc<Relay>) -> Result<(), LogError> {
    for rooms in hub.room_names().chunks(ROOMS_PER_QUERY) {
        for (room, last_seq) in log.last_seqs(rooms).await? {
            relay.hint(&room, last_seq);
        }
    }
    Ok(())
}
