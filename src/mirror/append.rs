//! From the lanes to Redis: puts the waiting batches into the stream and on the channel.
//!
//! It does not promise delivery: what it cannot put there stays in the log's outbox, and a sweep
//! finds it. So it makes nobody wait, retries nothing, and drops batches for which it has no space
//! or no Redis.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script};
use tokio::sync::{mpsc, oneshot, watch};

use super::Status;
use super::cluster::Cluster;
use super::connect::Connector;
use super::seal::Seal;
use crate::budget::{Budget, Held};
use crate::metrics::Metrics;
use crate::model::{RoomName, Seq};
use crate::protocol::frame::Frame;

/// Events in one call of the script, about 4 ms, during which Redis does nothing else.
const EVENTS_PER_CALL: usize = 512;
/// Bytes in one call, unless one event is longer. Redis buffers all of them for each listening
/// connection before it writes to any, and closes connections to which it owes 32 MB.
const BYTES_PER_CALL: usize = 4 * 1024 * 1024;
/// Bytes that a waiting event takes beyond its own: its struct and its room's name.
const EVENT_BYTES: usize = 64;
/// Pause after a failed connection. Batches that come meanwhile are left to the outbox.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// Committed events on their way to Redis.
pub struct Batch {
    pub events: Vec<(RoomName, Seq, Frame)>,
    /// The outbox rows that can be removed once the events are there.
    pub receipts: Vec<i64>,
    /// Told whether the events are there, for callers that must know (sweeps).
    pub done: Option<oneshot::Sender<bool>>,
}

/// A waiting batch, and its bytes in the budget.
pub(super) struct Queued {
    batch: Batch,
    _held: Held,
}

/// Owned by its task.
pub(super) struct Append {
    pub connector: Connector,
    /// The stream's key.
    pub key: String,
    pub channel: String,
    pub cluster: Cluster,
    pub seal: Seal,
    /// The follower's status, which says whether this Redis is ours.
    pub status: watch::Receiver<Status>,
    pub stream_len_max: usize,
    /// Limited by `mirror.queue_len_max` and `mirror.queue_bytes_max`. When it is full the lanes
    /// drop their batch, which stays in the outbox.
    pub batches: mpsc::Receiver<Queued>,
    /// Receipts of what is in Redis. When it is full they are dropped, and a sweep puts the events
    /// into Redis a second time, which "at least once" allows.
    pub mirrored: mpsc::Sender<Vec<i64>>,
    pub metrics: Arc<Metrics>,
}

impl Batch {
    fn bytes(&self) -> usize {
        let len = |(_, _, frame): &(RoomName, Seq, Frame)| frame.payload().len() + EVENT_BYTES;
        self.events.iter().map(len).sum()
    }
}

impl Queued {
    /// `None`: it does not fit.
    pub fn new(batch: Batch, budget: &Arc<Budget>) -> Option<Self> {
        let held = budget.hold_if_fits(batch.bytes())?;
        Some(Self { batch, _held: held })
    }

    /// Counts it even if it does not fit.
    pub fn beyond(batch: Batch, budget: &Arc<Budget>) -> Self {
        let held = budget.hold(batch.bytes());
        Self { batch, _held: held }
    }
}

impl Append {
    /// Runs until every lane has ended.
    pub async fn run(mut self) {
        let script = Script::new(include_str!("mirror.lua"));
        let mut redis: Option<MultiplexedConnection> = None;
        let mut not_before = Instant::now();
        let mut waiting = Vec::new();
        while self.batches.recv_many(&mut waiting, EVENTS_PER_CALL).await > 0 {
            // A stopping node does not wait for a Redis that is away; other nodes will sweep.
            let is_over = self.batches.is_closed();
            if redis.is_none() && !is_over && Instant::now() >= not_before {
                redis = self.connector.connect().await.ok();
                not_before = Instant::now() + RECONNECT_PAUSE;
            }
            let batches = std::mem::take(&mut waiting);
            let Some(connection) = &mut redis else {
                self.drop(batches);
                continue;
            };
            if let Err(err) = self.append(&script, connection, batches).await {
                tracing::debug!(%err, "events are left to the outbox");
                // Whatever the error: a new connection is cheap, and an old one may be broken.
                redis = None;
            }
        }
    }

    async fn append(
        &self,
        script: &Script,
        redis: &mut MultiplexedConnection,
        mut batches: Vec<Queued>,
    ) -> Result<(), RedisError> {
        let begun = Instant::now();
        let mut owed = Owed::of(&mut batches);
        let events: Vec<_> = batches.iter().flat_map(|queued| &queued.batch.events).collect();
        let mut rest = events.as_slice();
        while !rest.is_empty() {
            let (call, later) = rest.split_at(call_len(rest));
            rest = later;
            let mut invocation = script.key(&self.key);
            invocation.key(&self.cluster.key).arg(&self.channel).arg(self.stream_len_max);
            // Only a node that was at home here may claim an emptied Redis: see `Follow::enter`.
            let is_live = *self.status.borrow() == Status::Live;
            invocation.arg(&self.cluster.log_id).arg(u8::from(is_live));
            for (room, seq, frame) in call {
                let event = frame.payload();
                invocation.arg(room.as_str()).arg(seq.0).arg(event).arg(self.seal.of(event));
            }
            if let Err(err) = invocation.invoke_async::<()>(redis).await {
                // Dropping the remaining senders tells their receivers.
                self.metrics.mirror_dropped.inc_by((call.len() + later.len()) as u64);
                return Err(err);
            }
            // Reports each batch as soon as it is there. The rest may take long, and a row that is
            // not removed by then is swept: its events would reach Redis a second time.
            self.metrics.mirror_appended.inc_by(call.len() as u64);
            owed.tell(events.len() - later.len(), &self.mirrored);
        }
        self.metrics.mirror_append_duration.observe(begun.elapsed().as_secs_f64());
        // The batches without events.
        owed.tell(events.len(), &self.mirrored);
        Ok(())
    }

    fn drop(&self, batches: Vec<Queued>) {
        for Queued { batch, .. } in batches {
            self.metrics.mirror_dropped.inc_by(batch.events.len() as u64);
            if let Some(done) = batch.done {
                // An error: the sweep has given up, and will try again.
                let _ = done.send(false);
            }
        }
    }
}

/// What to report about each batch of a call, in order.
struct Owed(VecDeque<OwedOf>);

struct OwedOf {
    /// The batch is in Redis when this many events are.
    len: usize,
    receipts: Vec<i64>,
    done: Option<oneshot::Sender<bool>>,
}

impl Owed {
    fn of(batches: &mut [Queued]) -> Self {
        let mut len = 0;
        let owed = |Queued { batch, .. }: &mut Queued| {
            len += batch.events.len();
            OwedOf { len, receipts: std::mem::take(&mut batch.receipts), done: batch.done.take() }
        };
        Self(batches.iter_mut().map(owed).collect())
    }

    /// This many of the events are in Redis.
    fn tell(&mut self, len: usize, mirrored: &mpsc::Sender<Vec<i64>>) {
        let mut receipts = Vec::new();
        while let Some(owed) = self.0.pop_front_if(|owed| owed.len <= len) {
            receipts.extend(owed.receipts);
            if let Some(done) = owed.done {
                // An error: the sweep has given up, and will try again.
                let _ = done.send(true);
            }
        }
        if !receipts.is_empty() {
            // Full: see `Append::mirrored`.
            let _ = mirrored.try_send(receipts);
        }
    }
}

/// How many of these events go into one call; at least one.
fn call_len(events: &[&(RoomName, Seq, Frame)]) -> usize {
    let mut bytes = 0;
    let fits = |(_, _, frame): &&&(RoomName, Seq, Frame)| {
        let is_first = bytes == 0;
        bytes += frame.payload().len();
        is_first || bytes <= BYTES_PER_CALL
    };
    events.iter().take(EVENTS_PER_CALL).take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, EventKind, Text, Timestamp, UserId};
    use crate::protocol::frame;

    /// The first call for messages of these lengths.
    fn call(lens: &[usize]) -> usize {
        let event = |len: &usize| {
            let event = Event {
                room: RoomName::stored("r"),
                seq: Seq(1),
                user: UserId::stored("1"),
                client_id: None,
                at: Timestamp(0),
                kind: EventKind::Message,
                text: Some(Text::stored(&"x".repeat(*len))),
                data: None,
            };
            (event.room.clone(), event.seq, frame::event(&event))
        };
        let events: Vec<_> = lens.iter().map(event).collect();
        call_len(&events.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_call_is_bounded_in_events_and_in_bytes_and_never_empty() {
        const MIB: usize = 1024 * 1024;
        assert_eq!(call(&[1; 3]), 3);
        assert_eq!(call(&[1; EVENTS_PER_CALL + 1]), EVENTS_PER_CALL);
        assert_eq!(call(&[MIB; 6]), 3);
        assert_eq!(call(&[9 * MIB, 1]), 1);
        assert_eq!(call(&[1, 9 * MIB, 1]), 1);
    }
}
