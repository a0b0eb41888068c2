//! The write path: everything that waits goes into one batch → log → relay → answers.
//!
//! It holds no rules (`rules` does) and knows no sockets. A node has a few lanes; a room always
//! hashes to the same lane, so that a node never competes with itself for a room's row, and
//! commands for one room are taken in the order they came. There is no timer that collects: a
//! batch is whatever arrived while the last one was being committed. It grows under load and is a
//! single command when idle.
//!
//! # One room's trouble is one room's
//!
//! A room whose lock somebody else holds leaves the batch and goes to the lane's *siding*: a second
//! lane with a connection of its own, which waits for such rooms, one at a time and each for a
//! moment, while everybody else goes on. The later commands of the room follow it there, until none
//! of them is left; so their order stays.
//!
//! A commit that was not confirmed leaves its rooms in doubt, and holds up nothing else: a lost
//! transaction that has not ended still holds the locks of its rooms, so their commands wait on the
//! siding. But two of them say that it is not the rooms, and to go on would leave one more backend
//! hanging each time: then the lane waits for their end.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::config::LaneConfig;
use crate::hub::Entry;
use crate::log::{Appender, Log, LogError};
use crate::metrics::Metrics;
use crate::mirror::{Batch, Mirror};
use crate::model::{Event, RoomName};
use crate::protocol::command::Verb;
use crate::relay::Relay;
use crate::rules::{Outcome, Write};
use crate::tasks::Tasks;

mod doubts;
mod siding;

use doubts::{Doubts, SETTLE_RETRY};
use siding::{Siding, nth_room, take_turns};

/// Bytes of text in one batch, unless one command is longer. It is sent, written and synced within
/// `log.append_timeout_ms` (1.5 s), for which 8 MiB take a way of 50 Mbit/s. A batch that cannot be
/// would fail, and be sent again by its clients, for ever.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Rooms that one batch may make: each takes a lock of its own in PostgreSQL, which has some
/// thousands for everybody.
const CREATES_MAX: usize = 64;
/// Commits in doubt beyond which nothing more is written before one of them is known.
const DOUBTS_MAX: usize = 2;
/// Pause on a siding when no room was to be had.
const SIDING_PAUSE: Duration = Duration::from_millis(20);

/// The lanes of a node. Cheap to clone; when the last clone is gone, the lanes finish what they
/// have taken and end.
#[derive(Clone)]
pub struct Lanes {
    lanes: Arc<[mpsc::Sender<Job>]>,
    /// The same for all clones: it decides which lane a room belongs to.
    hasher: std::hash::RandomState,
    answer_timeout: Duration,
}

/// What becomes of a write; never silence.
pub type Answer = Result<Outcome, Failure>;

/// Why there is no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The log did not answer in time, or did not say: written or not, the same id is safe.
    Unavailable,
    /// The log takes nothing just now: it was not written.
    Unwritten,
    /// What the write needs is damaged in the log. Nothing was written.
    Damaged,
    /// A bug of ours.
    Internal,
}

/// A write on its way, and who waits for it.
pub struct Job {
    write: Write,
    answer: oneshot::Sender<Answer>,
    /// When the answer is due, `unavailable` if need be.
    due: Instant,
    /// The most writes of a batch that it may be in: fewer than those of one that failed because of
    /// something in it.
    batch_len_max: usize,
    /// On a siding: counts as long as it lives.
    ticket: Option<Arc<()>>,
}

impl Lanes {
    pub fn start(
        config: &LaneConfig,
        log: &Log,
        relay: &Arc<Relay>,
        mirror: Option<&Mirror>,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> Self {
        let new_lane = |siding| {
            let (tx, inbox) = mpsc::channel(config.inbox_len_max);
            let lane = Lane {
                inbox,
                waiting: Vec::new(),
                appender: log.appender(),
                siding,
                turn: 0,
                doubts: Doubts::default(),
                batch_len_max: config.batch_len_max,
                relay: relay.clone(),
                mirror: mirror.cloned(),
                metrics: metrics.clone(),
            };
            (tx, lane)
        };
        let start = |_| {
            let (jobs, siding) = new_lane(None);
            tasks.spawn("siding", siding.run());
            let (tx, lane) = new_lane(Some(Siding::new(jobs)));
            tasks.spawn("lane", lane.run());
            tx
        };
        let lanes = (0..config.count).map(start).collect();
        let answer_timeout = Duration::from_millis(config.answer_timeout_ms);
        Self { lanes, hasher: std::hash::RandomState::new(), answer_timeout }
    }

    /// Hands a write to its room's lane. If that lane's inbox is full, gives back what must be
    /// sent with `Parked::send` before any other write of the same client.
    pub fn submit(&self, write: Write) -> (oneshot::Receiver<Answer>, Option<Parked>) {
        let index = self.hasher.hash_one(&write.room) as usize % self.lanes.len();
        let lane = &self.lanes[index];
        let (answer, answered) = oneshot::channel();
        let due = Instant::now() + self.answer_timeout;
        let job = Job { write, answer, due, batch_len_max: usize::MAX, ticket: None };
        match lane.try_send(job) {
            Ok(()) => (answered, None),
            Err(mpsc::error::TrySendError::Full(job)) => {
                (answered, Some(Parked { lane: lane.clone(), job }))
            }
            // The lane is gone: dropping the job answers its receiver with an error.
            Err(mpsc::error::TrySendError::Closed(_)) => (answered, None),
        }
    }
}

/// A write that found its lane's inbox full.
pub struct Parked {
    lane: mpsc::Sender<Job>,
    job: Job,
}

impl Parked {
    /// Waits for room. A lane that is gone drops the job, which its receiver notices.
    pub async fn send(self) {
        if let Ok(permit) = self.lane.reserve().await {
            permit.send(self.job);
        }
    }
}

/// One lane, or its siding; owned by its task alone.
struct Lane {
    /// Bounded by `inbox_len_max`; when it is full, sessions stop reading their sockets.
    inbox: mpsc::Receiver<Job>,
    /// Taken from the inbox and not yet in a batch, or in one that was refused. At most
    /// `inbox_len_max` more, and one batch.
    waiting: Vec<Job>,
    appender: Appender,
    /// `None`: this is one.
    siding: Option<Siding>,
    /// Which of the rooms of a siding's batch is waited for.
    turn: usize,
    doubts: Doubts,
    batch_len_max: usize,
    relay: Arc<Relay>,
    mirror: Option<Mirror>,
    metrics: Arc<Metrics>,
}

/// What one who waits for a batch is to be told.
struct Waiter {
    /// `None` once they have been told that it takes too long.
    answer: Option<oneshot::Sender<Answer>>,
    due: Instant,
    /// Held until the batch is done: what is told may still be under way.
    ticket: Option<Arc<()>>,
}

/// Those who wait for a batch.
struct Waiters(Vec<Waiter>);

impl Lane {
    async fn run(mut self) {
        while self.wait().await {
            // Rooms that wait on a siding may do so for long; others must not wait for them.
            take_more(&mut self.inbox, &mut self.waiting);
            let now = Instant::now();
            expire(&mut self.waiting, now);
            match &mut self.siding {
                Some(siding) => siding.divert(&mut self.waiting),
                None => take_turns(&mut self.waiting),
            }
            let len = batch_len(&self.waiting, self.batch_len_max);
            let (writes, waiters) = split(self.waiting.drain(..len));
            if !writes.is_empty() {
                self.commit(writes, waiters).await;
            }
        }
    }

    /// Waits for work; while there is none, settles what is in doubt. `false`: everyone who could
    /// send has gone.
    async fn wait(&mut self) -> bool {
        loop {
            if !self.waiting.is_empty() {
                return true;
            }
            tokio::select! {
                // What can be written comes first: an append asks about doubts as well.
                biased;
                len = self.inbox.recv_many(&mut self.waiting, self.batch_len_max) => return len > 0,
                () = tokio::time::sleep(SETTLE_RETRY), if !self.doubts.is_empty() => {}
            }
            // It fails while the log is away, and is tried again.
            let settled = self.doubts.settle(&mut self.appender, &self.relay).await;
            tracing::debug!(settled = settled.is_ok(), "asked what became of a lost commit");
        }
    }

    /// Commits one batch and answers everyone in it.
    async fn commit(&mut self, writes: Vec<Write>, mut waiters: Waiters) {
        let begun = Instant::now();
        let result = self.append(&writes, &mut waiters).await;
        self.metrics.commit_duration.observe(begun.elapsed().as_secs_f64());
        self.metrics.commit_batch_size.observe(writes.len() as f64);
        match result {
            Ok(outcomes) => self.committed(writes, outcomes, waiters).await,
            // Some of them are at fault: without those the others get what they asked for. They
            // wait for it as everyone waits, before all who came later.
            Err(LogError::Culprits(culprits)) => {
                let (len, failed) = (writes.len(), culprits.len());
                tracing::debug!(len, failed, "batch not committed; again without some of it");
                for (place, error) in &culprits {
                    self.metrics.log_error(error.kind());
                    waiters.fail_one(*place, failure(error));
                }
                self.waiting.splice(..0, again(writes, waiters, len - failed));
            }
            Err(error @ (LogError::Refused(_) | LogError::Damaged(_))) if writes.len() > 1 => {
                tracing::debug!(err = %error, len = writes.len(), "batch not committed; by halves");
                let half = writes.len().div_ceil(2);
                self.waiting.splice(..0, again(writes, waiters, half));
            }
            Err(error) => {
                self.metrics.log_error(error.kind());
                if let LogError::Unknown(cause) = &error {
                    tracing::warn!(err = %cause, len = writes.len(), "commit was not confirmed");
                    self.doubts.add(self.appender.in_doubt(&writes));
                } else {
                    tracing::debug!(err = %error, len = writes.len(), "batch not committed");
                }
                waiters.fail(failure(&error));
            }
        }
    }

    /// Appends; answers those who have waited too long meanwhile.
    async fn append(
        &mut self,
        writes: &[Write],
        waiters: &mut Waiters,
    ) -> Result<Vec<Option<Outcome>>, LogError> {
        // On a siding every second batch waits for nobody: one room that is held must not keep from
        // the others, which may have come free, what they would be given at once.
        let wait_for = match self.siding {
            None if self.turn.is_multiple_of(2) => nth_room(writes, self.turn / 2),
            _ => None,
        };
        let (appender, doubts, relay) = (&mut self.appender, &mut self.doubts, &self.relay);
        let append = async {
            doubts.settle_enough(appender, relay).await?;
            appender.append(writes, wait_for).await
        };
        tokio::pin!(append);
        let mut due = waiters.due();
        loop {
            let overdue = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What is known is told, in the last moment, too.
                biased;
                result = &mut append => return result,
                () = overdue => {}
                // Nobody waits any more, so there is no moment to look again: whoever comes sets
                // one. Both steps of an append together may outlast the time of one who came late.
                len = self.inbox.recv_many(&mut self.waiting, 1), if due.is_none() => {
                    if len == 0 {
                        // Nor will anyone come.
                        return append.await;
                    }
                }
            }
            // Also those who wait for their turn behind this batch.
            let now = Instant::now();
            waiters.expire(now);
            take_more(&mut self.inbox, &mut self.waiting);
            expire(&mut self.waiting, now);
            due = waiters.due().or_else(|| self.waiting.iter().map(|job| job.due).min());
        }
    }

    /// A batch was decided, but for what is in rooms that somebody else holds.
    async fn committed(
        &mut self,
        writes: Vec<Write>,
        outcomes: Vec<Option<Outcome>>,
        waiters: Waiters,
    ) {
        let receipts = self.appender.receipts();
        if outcomes.iter().all(Option::is_some) {
            self.publish(outcomes.into_iter().flatten().collect(), receipts, waiters);
            return;
        }
        let mut done = (Vec::new(), Vec::new());
        let mut held = (Vec::new(), Vec::new());
        for ((write, outcome), waiter) in writes.into_iter().zip(outcomes).zip(waiters.0) {
            match outcome {
                Some(outcome) => {
                    done.0.push(outcome);
                    done.1.push(waiter);
                }
                None => {
                    held.0.push(write);
                    held.1.push(waiter);
                }
            }
        }
        let is_nothing_done = done.0.is_empty();
        self.publish(done.0, receipts, Waiters(done.1));
        let held = again(held.0, Waiters(held.1), usize::MAX);
        match &mut self.siding {
            // Those behind them in `waiting` follow, before the next batch.
            Some(siding) => held.for_each(|job| siding.put(job)),
            None => {
                self.waiting.splice(..0, held);
                self.turn = self.turn.wrapping_add(1);
                if is_nothing_done {
                    tokio::time::sleep(SIDING_PAUSE).await;
                }
            }
        }
    }

    /// Everything of the batch exists now; nobody may see it before this point. The relay hears of
    /// it first, then the mirror, then the senders: all three only take it into memory.
    fn publish(&self, outcomes: Vec<Outcome>, receipts: Vec<i64>, waiters: Waiters) {
        let now = Instant::now();
        let mut events = Vec::new();
        for (room, entries) in entries_by_room(outcomes.iter().flat_map(Outcome::events), now) {
            self.relay.deliver(room, &entries);
            if self.mirror.is_some() {
                let event = |entry: Entry| (room.clone(), entry.seq, entry.frame);
                events.extend(entries.into_iter().map(event));
            }
        }
        if let Some(mirror) = self.mirror.as_ref().filter(|_| !events.is_empty()) {
            let len = events.len() as u64;
            if !mirror.append(Batch { events, receipts, done: None }) {
                // It has no room: the outbox has the batch.
                self.metrics.mirror_dropped.inc_by(len);
            }
        }
        for (outcome, waiter) in outcomes.into_iter().zip(waiters.0) {
            if let Some(answer) = waiter.answer {
                // An error: the client is gone, and does not want to know.
                let _ = answer.send(Ok(outcome));
            }
        }
    }
}

impl Waiters {
    /// When the first of those who still wait must be answered.
    fn due(&self) -> Option<Instant> {
        self.0.iter().filter(|waiter| waiter.answer.is_some()).map(|waiter| waiter.due).min()
    }

    fn expire(&mut self, now: Instant) {
        for waiter in &mut self.0 {
            if let Some(answer) = waiter.answer.take_if(|_| waiter.due <= now) {
                // An error: the client is gone, and does not want to know.
                let _ = answer.send(Err(Failure::Unavailable));
            }
        }
    }

    fn fail_one(&mut self, place: usize, failure: Failure) {
        if let Some(answer) = self.0.get_mut(place).and_then(|waiter| waiter.answer.take()) {
            // An error: the client is gone, and does not want to know.
            let _ = answer.send(Err(failure));
        }
    }

    fn fail(self, failure: Failure) {
        for answer in self.0.into_iter().filter_map(|waiter| waiter.answer) {
            // An error: the client is gone, and does not want to know.
            let _ = answer.send(Err(failure));
        }
    }
}

/// Takes from the inbox what is there and may wait here.
fn take_more(inbox: &mut mpsc::Receiver<Job>, waiting: &mut Vec<Job>) {
    let room = inbox.max_capacity().saturating_sub(waiting.len());
    for _ in 0..room {
        let Ok(job) = inbox.try_recv() else { break };
        waiting.push(job);
    }
}

/// Answers and drops the jobs that have waited too long to be written any more.
fn expire(jobs: &mut Vec<Job>, now: Instant) {
    for job in jobs.extract_if(.., |job| job.due <= now) {
        // An error: the client is gone, and does not want to know.
        let _ = job.answer.send(Err(Failure::Unavailable));
    }
}

/// How many of those who wait go into the next batch: one at least, if there is one.
fn batch_len(jobs: &[Job], len_max: usize) -> usize {
    let (mut bytes, mut creates, mut len_max) = (0, 0, len_max);
    let fits = |(len, job): &(usize, &Job)| {
        match &job.write.verb {
            Verb::Message(text) => bytes += text.as_str().len(),
            Verb::Create => creates += 1,
            _ => {}
        }
        len_max = len_max.min(job.batch_len_max);
        bytes <= BATCH_BYTES_MAX && creates <= CREATES_MAX && *len < len_max
    };
    let len = jobs.iter().enumerate().take_while(fits).count();
    len.max(1).min(jobs.len())
}

/// Those of a batch who still wait, in batches of at most so many.
fn again(writes: Vec<Write>, waiters: Waiters, batch_len_max: usize) -> impl Iterator<Item = Job> {
    let job = move |(write, waiter): (Write, Waiter)| {
        let Waiter { answer, due, ticket } = waiter;
        Some(Job { write, answer: answer?, due, batch_len_max, ticket })
    };
    writes.into_iter().zip(waiters.0).filter_map(job)
}

fn split(jobs: impl Iterator<Item = Job>) -> (Vec<Write>, Waiters) {
    let waiter = |job: Job| {
        let Job { write, answer, due, ticket, .. } = job;
        (write, Waiter { answer: Some(answer), due, ticket })
    };
    let (writes, waiters) = jobs.map(waiter).unzip();
    (writes, Waiters(waiters))
}

/// What those are told whose write failed.
fn failure(error: &LogError) -> Failure {
    match error {
        LogError::Refused(_) => Failure::Internal,
        // Not a bug of ours, and it may be restored.
        LogError::Damaged(_) | LogError::Culprits(_) => Failure::Damaged,
        LogError::Unavailable(_) => Failure::Unwritten,
        LogError::Unknown(_) => Failure::Unavailable,
    }
}

/// Encodes each event once; within a room their order is kept. The rooms are in the order of their
/// names, as they are in the log's batch.
fn entries_by_room<'a>(
    events: impl Iterator<Item = &'a Event>,
    now: Instant,
) -> BTreeMap<&'a RoomName, Vec<Entry>> {
    let mut rooms: BTreeMap<&RoomName, Vec<Entry>> = BTreeMap::new();
    for event in events {
        rooms.entry(&event.room).or_default().push(Entry::new(event, now));
    }
    rooms
}

#[cfg(test)]
mod tests;
