//! From the log to Redis, and to this node, for events that did not get there by themselves.
//!
//! A batch's outbox row is written in the batch's own transaction. One task removes rows whose
//! events are in Redis and, for what Redis did not bring in time, tells the relay how far rooms
//! have come. Another sweeps: it puts into Redis what nobody did, because a node died between its
//! commit and the mirror, or because Redis was away. There are two tasks because sweeping waits for
//! Redis, which may hang, and that is when the first task is needed. Neither decides any order: the
//! relay does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::MirrorConfig;
use crate::doubt::Doubts;
use crate::log::{self, LogError};
use crate::metrics::Metrics;
use crate::mirror::{Batch, Mirror, Status};
use crate::protocol::frame;
use crate::relay::Relay;
use crate::tasks::Tasks;

/// While Redis is live, a batch of this age should have come through it: the usual way takes
/// milliseconds, and its row is removed with the next poll.
const LATE: Duration = Duration::from_millis(500);
/// How long Redis must refuse sweeps before that is logged.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Receipts kept while the log is away. Beyond that, events reach Redis twice.
const RECEIPTS_MAX: usize = 100_000;

/// Owned by its task.
pub struct Outbox {
    pub outbox: log::Outbox,
    /// Ids of rows whose events are in Redis, from the mirror.
    pub mirrored: mpsc::Receiver<Vec<i64>>,
    pub status: watch::Receiver<Status>,
    pub relay: Arc<Relay>,
    pub doubts: Doubts,
    pub poll: Duration,
    pub tasks: Tasks,
}

/// Owned by its task.
pub struct Sweeper {
    /// Not shared: a sweep keeps a transaction open for as long as Redis takes.
    pub outbox: log::Outbox,
    pub mirror: Mirror,
    pub config: MirrorConfig,
    pub metrics: Arc<Metrics>,
    pub refusals: Refusals,
    pub tasks: Tasks,
}

/// Sweeps that Redis refuses although it seems well: logs one line when that has lasted for a
/// while, and one when it is over.
#[derive(Default)]
pub struct Refusals {
    since: Option<Instant>,
    is_told: bool,
}

impl Outbox {
    /// Runs until the node has stopped and its mirrored rows are removed.
    pub async fn run(mut self) {
        let mut looks = interval(self.poll);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut receipts = Vec::new();
        // The newest row seen while Redis is away.
        let mut seen = 0;
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
                    let look = self.look(&mut receipts, &mut seen).await;
                    if look.is_err() != is_failing {
                        is_failing = look.is_err();
                        tracing::debug!(is_failing, "reading the outbox began or ceased to fail");
                    }
                }
            }
        }
        // An error: the rows stay, and another node puts their events into Redis a second time.
        let _ = self.outbox.forget(&receipts).await;
    }

    /// Waits only for the log.
    async fn look(&mut self, receipts: &mut Vec<i64>, seen: &mut i64) -> Result<(), LogError> {
        let status = *self.status.borrow();
        self.outbox.announce().await?;
        if !receipts.is_empty() {
            self.outbox.forget(receipts).await?;
            receipts.clear();
        }
        if self.tasks.is_stopping() {
            return Ok(());
        }
        let (after, age) = match status {
            Status::Live => (0, LATE),
            Status::Away | Status::Foreign => (*seen, Duration::ZERO),
        };
        let news = match self.outbox.news(after, age).await {
            // One of the rows cannot be read; the rooms can be compared all the same.
            Err(LogError::Damaged(_)) => None,
            news => Some(news?),
        };
        for batch in news.iter().flatten() {
            self.relay.hint(&batch.room, batch.last_seq);
        }
        // There are more rows, or some cannot be read.
        if news.as_ref().is_none_or(|news| news.len() >= log::Outbox::NEWS_LEN_MAX) {
            self.doubts.raise();
        }
        *seen = news.iter().flatten().last().map_or(after, |newest| newest.id);
        Ok(())
    }
}

impl Sweeper {
    /// Runs until the node stops. A sweep in progress then goes back, for another node.
    pub async fn run(mut self) {
        let tasks = self.tasks.clone();
        tokio::select! {
            () = self.sweep() => {}
            () = tasks.stopping() => {}
        }
    }

    async fn sweep(&mut self) {
        let mut looks = interval(Duration::from_millis(self.config.outbox_poll_ms));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if self.mirror.status() != Status::Live {
                // Logged elsewhere; Redis is given nothing.
                self.refusals.since = None;
            }
            // After a long outage there is much to do.
            let mut is_more = true;
            while is_more && self.mirror.status() == Status::Live {
                // An error: the log is away, which the other task logs; the rows stay.
                is_more = self.sweep_some().await.unwrap_or(false);
            }
        }
    }

    /// Puts the oldest events that Redis lacks into Redis. `false`: none of that age is left,
    /// another node is sweeping, or Redis refuses them.
    async fn sweep_some(&mut self) -> Result<bool, LogError> {
        let age = Duration::from_millis(self.config.outbox_age_ms);
        let sweep = self.outbox.sweep(age).await;
        self.metrics.outbox_damaged.set(self.outbox.aside_len() as i64);
        let Some(sweep) = sweep? else { return Ok(false) };
        let events = sweep.events.iter();
        let events: Vec<_> =
            events.map(|event| (event.room.clone(), event.seq, frame::event(event))).collect();
        let len = events.len() as u64;
        let (done, is_done) = oneshot::channel();
        // If it is not handed over, `done` is dropped.
        self.mirror.sweep(Batch { events, receipts: vec![], done: Some(done) });
        let is_taken = self.outbox.wait_for(&sweep, is_done).await?.unwrap_or(false);
        self.refusals.note(is_taken, Instant::now());
        if !is_taken {
            self.outbox.refused(sweep).await?;
            return Ok(false);
        }
        self.outbox.swept(sweep).await?;
        self.metrics.outbox_swept.inc_by(len);
        Ok(true)
    }
}

impl Refusals {
    fn note(&mut self, is_taken: bool, now: Instant) {
        if is_taken {
            if self.is_told {
                tracing::info!("Redis accepts events from the outbox again");
            }
            *self = Self::default();
            return;
        }
        let since = *self.since.get_or_insert(now);
        if !self.is_told && now.duration_since(since) >= REFUSED_FOR {
            self.is_told = true;
            tracing::warn!(
                "Redis does not accept events from the outbox within mirror.timeout_ms, though it \
                 answers otherwise: the stream lacks events, or has some of them several times. If \
                 Redis or the network is slow, raise mirror.timeout_ms"
            );
        }
    }
}
