//! The write path: everything that waits goes into one batch → log → relay → answers.
//!
//! It has no rules (see `rules`) and knows no sockets. A node has a few lanes. A room always hashes
//! to the same lane, so that a node never competes with itself for a room's row, and the commands
//! of a room keep their order. No timer collects commands: a batch is whatever arrived while the
//! previous one was committed. It grows under load, and is a single command on an idle node.
//!
//! # A locked room holds up nothing else
//!
//! A room whose lock somebody else holds leaves the batch and goes to the lane's *siding*: a second
//! lane with its own connection, which waits for such rooms in turn, each for a moment, while all
//! other rooms proceed. Later commands for the room follow it there until none are left, so their
//! order is kept.
//!
//! A commit that was not confirmed leaves its rooms in doubt, and holds up nothing else: a lost
//! transaction that has not ended still holds its rooms' locks, so their commands wait on the
//! siding. But two such commits mean that the rooms are not the cause, and each further commit
//! would leave one more backend hanging: then the lane waits until one is resolved.

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

use doubts::{ASK_PAUSE, Doubts};
use siding::{Siding, nth_room, take_turns};

/// Bytes of text in one batch, unless a single command is longer. A batch must be sent, written and
/// synced within `log.append_timeout_ms` (1.5 s); for 8 MiB that takes a network of 50 Mbit/s. A
/// larger one could fail, and be sent again by its clients, forever.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Rooms that one batch may create: each takes its own lock in PostgreSQL, which has some thousands
/// in all.
const CREATES_MAX: usize = 64;
/// With this many commits in doubt, nothing more is written until one of them is resolved.
const DOUBTS_MAX: usize = 2;
/// Pause on a siding when no room was free.
const SIDING_PAUSE: Duration = Duration::from_millis(20);

/// The lanes of a node. Cheap to clone. After the last clone is gone, the lanes finish what they
/// have taken and end.
#[derive(Clone)]
pub struct Lanes {
    lanes: Arc<[mpsc::Sender<Job>]>,
    /// The same for all clones: it decides which lane a room belongs to.
    hasher: std::hash::RandomState,
    answer_timeout: Duration,
}

/// The result of a write; every write gets one.
pub type Answer = Result<Outcome, Failure>;

/// Why there is no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The log did not answer in time, or did not say whether it committed. The same id may be sent
    /// again.
    Unavailable,
    /// The log accepts nothing at the moment. The write was not written.
    Unwritten,
    /// Something that the write needs is damaged in the log. It was not written.
    Damaged,
    /// A bug.
    Internal,
}

/// A write, and who waits for it.
pub struct Job {
    write: Write,
    answer: oneshot::Sender<Answer>,
    /// When it must be answered, with `unavailable` if necessary.
    due: Instant,
    /// The largest batch it may be in: smaller than one that failed because of one of its writes.
    batch_len_max: usize,
    /// On a siding: counts for its room until it is dropped.
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

    /// Hands a write to its room's lane. If the lane's inbox is full, returns a `Parked`, which
    /// must be sent before any other write of the same client.
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
            // The lane has ended. Dropping the job gives its receiver an error.
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
    /// Waits for room. If the lane has ended the job is dropped, which its receiver notices.
    pub async fn send(self) {
        if let Ok(permit) = self.lane.reserve().await {
            permit.send(self.job);
        }
    }
}

/// A lane or its siding, owned by its task.
struct Lane {
    /// Limited by `inbox_len_max`. When it is full, sessions stop reading their sockets.
    inbox: mpsc::Receiver<Job>,
    /// Taken from the inbox, and not yet in a batch or back from a failed one. At most
    /// `inbox_len_max` more, and one batch.
    waiting: Vec<Job>,
    appender: Appender,
    /// `None`: this is a siding.
    siding: Option<Siding>,
    /// Which room of a siding's batch is waited for.
    turn: usize,
    doubts: Doubts,
    batch_len_max: usize,
    relay: Arc<Relay>,
    mirror: Option<Mirror>,
    metrics: Arc<Metrics>,
}

/// Somebody who waits for a write of a batch.
struct Waiter {
    /// `None` after they were told that it takes too long.
    answer: Option<oneshot::Sender<Answer>>,
    due: Instant,
    /// Kept until the batch is done, because the write may still be committed.
    ticket: Option<Arc<()>>,
}

/// Those who wait for a batch.
struct Waiters(Vec<Waiter>);

impl Lane {
    async fn run(mut self) {
        while self.wait().await {
            // Commands on a siding may wait there for long; others must not wait behind them.
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

    /// Waits for work. While there is none, asks about commits in doubt. `false`: all senders are
    /// gone.
    async fn wait(&mut self) -> bool {
        loop {
            if !self.waiting.is_empty() {
                return true;
            }
            tokio::select! {
                // Work comes first: an append asks about doubts as well.
                biased;
                len = self.inbox.recv_many(&mut self.waiting, self.batch_len_max) => return len > 0,
                () = tokio::time::sleep(ASK_PAUSE), if !self.doubts.is_empty() => {}
            }
            // Fails while the log is away, and is tried again.
            let asked = self.doubts.ask_once(&mut self.appender, &self.relay).await;
            tracing::debug!(answered = asked.is_ok(), "asked about a commit in doubt");
        }
    }

    /// Commits one batch, and answers everyone in it.
    async fn commit(&mut self, writes: Vec<Write>, mut waiters: Waiters) {
        let begun = Instant::now();
        let result = self.append(&writes, &mut waiters).await;
        self.metrics.commit_duration.observe(begun.elapsed().as_secs_f64());
        self.metrics.commit_batch_size.observe(writes.len() as f64);
        match result {
            Ok(outcomes) => self.committed(writes, outcomes, waiters).await,
            // Some of the commands are at fault; the others are tried again without them, before
            // all that came later.
            Err(LogError::Culprits(culprits)) => {
                let (len, failed) = (writes.len(), culprits.len());
                tracing::debug!(len, failed, "batch not committed; retrying without its culprits");
                for (index, error) in &culprits {
                    self.metrics.log_error(error.kind());
                    waiters.fail_one(*index, failure(error));
                }
                self.waiting.splice(..0, again(writes, waiters, len - failed));
            }
            Err(error @ (LogError::Refused(_) | LogError::Damaged(_))) if writes.len() > 1 => {
                tracing::debug!(err = %error, len = writes.len(), "batch failed; trying halves");
                let half = writes.len().div_ceil(2);
                self.waiting.splice(..0, again(writes, waiters, half));
            }
            Err(error) => {
                self.metrics.log_error(error.kind());
                if let LogError::Unknown(cause) = &error {
                    tracing::warn!(err = %cause, len = writes.len(), "a commit was not confirmed");
                    self.doubts.add(self.appender.in_doubt(&writes));
                } else {
                    tracing::debug!(err = %error, len = writes.len(), "batch not committed");
                }
                waiters.fail(failure(&error));
            }
        }
    }

    /// Appends, and meanwhile answers those who have waited too long.
    async fn append(
        &mut self,
        writes: &[Write],
        waiters: &mut Waiters,
    ) -> Result<Vec<Option<Outcome>>, LogError> {
        // On a siding every second batch waits for no room: a room that stays locked must not delay
        // the others, which may be free by now.
        let wait_for = match self.siding {
            None if self.turn.is_multiple_of(2) => nth_room(writes, self.turn / 2),
            _ => None,
        };
        let (appender, doubts, relay) = (&mut self.appender, &mut self.doubts, &self.relay);
        let append = async {
            doubts.ask_until_few(appender, relay).await?;
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
                // A result wins over a deadline that passes at the same moment.
                biased;
                result = &mut append => return result,
                () = overdue => {}
                // All have been answered, so no deadline is left to wake up for, until somebody
                // else comes. The two steps of an append may together outlast the deadline of a
                // late command.
                len = self.inbox.recv_many(&mut self.waiting, 1), if due.is_none() => {
                    if len == 0 {
                        // Nobody will come.
                        return append.await;
                    }
                }
            }
            // Includes those that wait behind this batch.
            let now = Instant::now();
            waiters.expire(now);
            take_more(&mut self.inbox, &mut self.waiting);
            expire(&mut self.waiting, now);
            due = waiters.due().or_else(|| self.waiting.iter().map(|job| job.due).min());
        }
    }

    /// A batch was decided, except for rooms that somebody else holds.
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
            // Their later commands in `waiting` follow before the next batch.
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

    /// The batch is committed; nobody may see it before this point. The relay gets it first, then
    /// the mirror, then the senders; all three only take it into memory.
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
                // The queue is full: the outbox has the batch.
                self.metrics.mirror_dropped.inc_by(len);
            }
        }
        for (outcome, waiter) in outcomes.into_iter().zip(waiters.0) {
            if let Some(answer) = waiter.answer {
                // An error: the client is gone.
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
                // An error: the client is gone.
                let _ = answer.send(Err(Failure::Unavailable));
            }
        }
    }

    fn fail_one(&mut self, index: usize, failure: Failure) {
        if let Some(answer) = self.0.get_mut(index).and_then(|waiter| waiter.answer.take()) {
            // An error: the client is gone.
            let _ = answer.send(Err(failure));
        }
    }

    fn fail(self, failure: Failure) {
        for answer in self.0.into_iter().filter_map(|waiter| waiter.answer) {
            // An error: the client is gone.
            let _ = answer.send(Err(failure));
        }
    }
}

/// Takes from the inbox what is there, up to the limit of what may wait here.
fn take_more(inbox: &mut mpsc::Receiver<Job>, waiting: &mut Vec<Job>) {
    let room = inbox.max_capacity().saturating_sub(waiting.len());
    for _ in 0..room {
        let Ok(job) = inbox.try_recv() else { break };
        waiting.push(job);
    }
}

/// Answers and drops jobs that are too old to be written.
fn expire(jobs: &mut Vec<Job>, now: Instant) {
    for job in jobs.extract_if(.., |job| job.due <= now) {
        // An error: the client is gone.
        let _ = job.answer.send(Err(Failure::Unavailable));
    }
}

/// How many jobs go into the next batch; at least one, if there is one.
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

/// The jobs of a batch that still wait, for batches of at most `batch_len_max`.
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

/// What is answered when a write fails with this error.
fn failure(error: &LogError) -> Failure {
    match error {
        LogError::Refused(_) => Failure::Internal,
        // Not a bug, and an operator may restore it.
        LogError::Damaged(_) | LogError::Culprits(_) => Failure::Damaged,
        LogError::Unavailable(_) => Failure::Unwritten,
        LogError::Unknown(_) => Failure::Unavailable,
    }
}

/// Encodes each event once. Each room's events keep their order; the rooms are sorted by name, as
/// in the log's batch.
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
