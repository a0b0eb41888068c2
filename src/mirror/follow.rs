//! From Redis to this node: live by the channel, after any absence by the stream.
//!
//! It does not know rooms or followers; what it reads goes to whoever holds the other end of
//! `incoming`. The order at every (re)connect is what makes it whole: listen first, then read the
//! stream up to its end from the last place that is certain, then go live. What arrives twice is
//! dropped further on.
//!
//! Silence is not health. With every heartbeat the node
//! - publishes a sign on the nodes' channel, which it must hear itself, over the same connection;
//! - compares the stream's end, and how many entries it was ever given, with its own place and
//!   count. The answer comes behind every message that was published before it, on the same
//!   connection, so the comparison is exact: one message that was lost on the way shows.
//!
//! On any doubt it goes back to the last place that was certain, and reads the stream from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::Rng;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, PushInfo, PushKind, RedisError, Value, cmd};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::connect::{Connector, is_refused};
use super::cursor::{Cursor, Place, is_missing};
use super::event::Mirrored;
use super::lease::Lease;
use super::{Incoming, OpenError, Status};
use crate::metrics::Metrics;
use crate::tasks::Tasks;

/// Messages handed on in one piece.
const MESSAGES_PER_TURN: usize = 256;
/// The first pause before another connection, doubled each time up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Heartbeats without hearing the own one after which the subscription counts as dead.
const UNHEARD_MAX: u32 = 3;
/// Heartbeats between two looks for nodes that are long gone.
const BEATS_PER_SWEEP: u32 = 60;

/// Owned by its task.
pub(super) struct Follow {
    pub connector: Connector,
    pub cursor: Cursor,
    pub lease: Lease,
    /// The channel of signs of life, and what this node says on it.
    pub nodes_channel: String,
    pub sign: String,
    pub node: String,
    pub heartbeat: Duration,
    /// Messages that may wait between Redis' connection and this task. When it is full they are
    /// dropped and `gap` is set: the stream still has them.
    pub live_len_max: usize,
    pub incoming: mpsc::Sender<Incoming>,
    pub status: watch::Sender<Status>,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
    pub state: Position,
}

/// What the node knows of its place. Survives connections.
#[derive(Default)]
pub(super) struct Position {
    /// Up to here everything was handed on; `None` until the first connection.
    certain: Option<Place>,
    /// Up to here something was handed on.
    reached: Place,
    /// Which Redis process it was. Another one may have lost the end of the stream.
    run_id: String,
}

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("the subscription is dead: its own sign of life did not come back")]
    Unheard,
    #[error("the connection ended")]
    Ended,
    /// Nobody reads what comes in: the node is stopping.
    #[error("the node stops")]
    Stopping,
    #[error("another live node has this name")]
    NameTaken,
}

/// One connection and what comes over it.
struct Session {
    redis: MultiplexedConnection,
    live: mpsc::Receiver<PushInfo>,
    /// Messages were dropped because `live` was full.
    gap: Arc<AtomicBool>,
    heard: Instant,
}

impl Follow {
    /// Follows until the node stops. `started` hears once how the first attempt went: the node may
    /// serve while Redis is away, but not if it was refused.
    pub async fn run(mut self, started: oneshot::Sender<Result<(), OpenError>>) {
        let tasks = self.tasks.clone();
        let mut started = Some(started);
        let mut pause = PAUSE_MIN;
        loop {
            let Err(lost) = self.follow(&mut started, &mut pause).await;
            let refused = self.refused(&lost);
            let was_live = self.status.send_replace(Status::Away) == Status::Live;
            self.metrics.mirror_live.set(0);
            match (refused, started.take()) {
                (Some(refused), Some(started)) => {
                    // An error: the start was given up.
                    let _ = started.send(Err(refused));
                    return;
                }
                (Some(refused @ OpenError::NameTaken { .. }), None) => {
                    return tasks.fail(refused.to_string());
                }
                (_, started) => {
                    if (was_live || started.is_some()) && !tasks.is_stopping() {
                        tracing::warn!(err = %lost, "Redis is away; nodes hear through the log");
                    }
                    // An error: the start was given up.
                    let _ = started.map(|started| started.send(Ok(())));
                }
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = sleep(jittered) => pause = (pause * 2).min(PAUSE_MAX),
                () = tasks.stopping() => return,
            }
        }
    }

    /// What trying again will not change.
    fn refused(&self, lost: &Lost) -> Option<OpenError> {
        match lost {
            Lost::NameTaken => Some(OpenError::NameTaken { node: self.node.clone() }),
            Lost::Redis(err) if is_refused(err) => Some(OpenError::refused(err)),
            _ => None,
        }
    }

    /// One connection, from greeting to loss.
    async fn follow(
        &mut self,
        started: &mut Option<oneshot::Sender<Result<(), OpenError>>>,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, Lost> {
        let mut session = self.connect().await?;
        if !self.lease.take(&mut session.redis).await? {
            return Err(Lost::NameTaken);
        }
        self.lease.renew(&mut session.redis).await?;
        self.catch_up(&mut session).await?;
        if self.status.send_replace(Status::Live) == Status::Away && started.is_none() {
            tracing::info!("Redis is back");
        }
        self.metrics.mirror_live.set(1);
        *pause = PAUSE_MIN;
        if let Some(started) = started.take() {
            // An error: the start was given up.
            let _ = started.send(Ok(()));
        }
        self.live(&mut session).await
    }

    async fn connect(&self) -> Result<Session, Lost> {
        let (messages, live) = mpsc::channel(self.live_len_max);
        let gap = Arc::new(AtomicBool::new(false));
        let dropped = gap.clone();
        let push = move |info: PushInfo| match messages.try_send(info) {
            Err(mpsc::error::TrySendError::Full(_)) => {
                dropped.store(true, Ordering::SeqCst);
                Ok(())
            }
            // Closed: this connection was given up, and is about to end.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        };
        let mut redis = self.connector.listen(push).await?;
        redis.subscribe(&[&self.cursor.stream, &self.nodes_channel]).await?;
        Ok(Session { redis, live, gap, heard: Instant::now() })
    }

    /// Finds the place to go on from, and reads the stream up to its end.
    async fn catch_up(&mut self, session: &mut Session) -> Result<(), Lost> {
        let redis = &mut session.redis;
        let run_id = run_id(redis).await?;
        let (stream, group) = (self.cursor.stream(redis).await?, self.cursor.group(redis).await?);
        // Another process: a restart or a failover, either of which may have lost the end.
        let is_other = !self.state.run_id.is_empty() && self.state.run_id != run_id;
        self.state.run_id = run_id;
        let first = self.state.certain.is_none();
        let (from, doubt) = match (stream, group, self.state.certain) {
            // In this life the node's own memory is the place: Redis moves the group when it sends,
            // not when we have read.
            (Some(stream), Some(_), Some(certain)) if certain.id <= stream.end.id => {
                (Some(certain), is_other)
            }
            // In a new life it is the group's.
            (Some(_), Some(group), None) => (Some(group), false),
            // No stream or no group: a new node, or what there was is lost. Or the stream's IDs
            // went backwards, which only a lost stream does.
            _ => (None, !first),
        };
        let trimmed = match (stream, from) {
            (Some(stream), Some(from)) => {
                stream.end.read - stream.len.min(stream.end.read) > from.read
            }
            _ => false,
        };
        match from {
            Some(from) => self.cursor.set(redis, from).await?,
            None => {
                // At the end: destroyed first, if it stands at an ID of another life.
                self.cursor.destroy(redis, &self.cursor.group).await.or_else(missing_is_fine)?;
                self.cursor.create(redis).await?;
            }
        }
        self.drain(session, first).await?;
        if doubt || trimmed {
            tracing::info!(trimmed, "the stream cannot tell what was missed; asking the log");
            self.hand_on(Incoming::Doubt).await?;
        }
        Ok(())
    }

    /// Reads the stream from the group's place to its end, where everything is certain again.
    async fn drain(&mut self, session: &mut Session, backlog: bool) -> Result<(), Lost> {
        session.gap.store(false, Ordering::SeqCst);
        loop {
            let page = self.cursor.read(&mut session.redis).await?;
            self.metrics.mirror_drained.inc_by(page.entries.len() as u64);
            let events: Vec<_> = page.entries.into_iter().filter_map(|(_, event)| event).collect();
            if !events.is_empty() {
                self.hand_on(Incoming::Events { events, backlog }).await?;
            }
            // What the channel brings up to this place has been read here already.
            if let Some(end) = page.end {
                self.state.reached = end;
                self.state.certain = Some(end);
                return Ok(());
            }
        }
    }

    async fn live(&mut self, session: &mut Session) -> Result<std::convert::Infallible, Lost> {
        let tasks = self.tasks.clone();
        let mut stopping = std::pin::pin!(tasks.stopping());
        let mut beats = interval(self.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = 0_u32;
        let mut messages = Vec::new();
        loop {
            // Each arm only waits; what it leads to is not cancelled.
            let due = tokio::select! {
                len = session.live.recv_many(&mut messages, MESSAGES_PER_TURN) => {
                    if len == 0 {
                        return Err(Lost::Ended);
                    }
                    false
                }
                _ = beats.tick() => true,
                () = &mut stopping => return Err(self.leave(session).await),
            };
            self.on_messages(session, std::mem::take(&mut messages), None).await?;
            if due {
                self.on_beat(session, beat).await?;
                beat = beat.wrapping_add(1);
            }
            if session.gap.load(Ordering::SeqCst) {
                self.doubt(session, "messages came faster than they were read").await?;
            }
        }
    }

    /// Hands on messages of the channels. With `end`, also says whether the place and the count
    /// were those of the stream when it was reached.
    async fn on_messages(
        &mut self,
        session: &mut Session,
        messages: Vec<PushInfo>,
        end: Option<Place>,
    ) -> Result<bool, Lost> {
        let mut events = Vec::new();
        let mut agrees = None;
        for PushInfo { kind, data } in messages {
            if kind == PushKind::Disconnection {
                return Err(Lost::Ended);
            }
            let (PushKind::Message, [channel, payload]) = (kind, data.as_slice()) else { continue };
            let (Value::BulkString(channel), Value::BulkString(payload)) = (channel, payload)
            else {
                continue;
            };
            if channel == self.nodes_channel.as_bytes() {
                if payload == self.sign.as_bytes() {
                    session.heard = Instant::now();
                }
                continue;
            }
            let Some((id, event)) = Mirrored::parse_live(payload.clone()) else { continue };
            if id <= self.state.reached.id {
                continue;
            }
            if let Some(end) = end.filter(|end| id > end.id) {
                agrees.get_or_insert(self.state.reached == end);
            }
            self.state.reached = Place { id, read: self.state.reached.read + 1 };
            events.push(event);
        }
        if !events.is_empty() {
            self.hand_on(Incoming::Events { events, backlog: false }).await?;
        }
        Ok(agrees.unwrap_or_else(|| end.is_none_or(|end| self.state.reached == end)))
    }

    /// Heartbeat, lease, the group's place, and the comparison with the stream's end.
    async fn on_beat(&mut self, session: &mut Session, beat: u32) -> Result<(), Lost> {
        if session.heard.elapsed() > self.heartbeat * UNHEARD_MAX {
            return Err(Lost::Unheard);
        }
        let redis = &mut session.redis;
        cmd("PUBLISH").arg(&self.nodes_channel).arg(&self.sign).query_async::<()>(redis).await?;
        if !self.lease.renew(redis).await? {
            return Err(Lost::NameTaken);
        }
        if beat % BEATS_PER_SWEEP == BEATS_PER_SWEEP - 1 {
            self.lease.forget_the_gone(&self.cursor, redis).await?;
        }
        let moved = self.cursor.set(redis, self.state.reached).await;
        let lost = match moved {
            Err(err) if is_missing(&err) => true,
            moved => {
                moved?;
                false
            }
        };
        let stream = self.cursor.stream(redis).await?;
        let Some(stream) = stream.filter(|_| !lost) else {
            return self.doubt(session, "the stream or this node's group is gone").await;
        };
        // Everything that was published before the answer is in `live` by now: one connection.
        let mut messages = Vec::new();
        while let Ok(message) = session.live.try_recv() {
            messages.push(message);
        }
        let agrees = self.on_messages(session, messages, Some(stream.end)).await?;
        self.metrics.mirror_lag.set(i64::from(!agrees));
        if agrees {
            self.state.certain = Some(stream.end);
            Ok(())
        } else {
            self.doubt(session, "a message was lost on the way").await
        }
    }

    /// Reads the stream again from the last certain place, or, if it is not that stream any more,
    /// begins anew at its end and has the log asked.
    async fn doubt(&mut self, session: &mut Session, why: &str) -> Result<(), Lost> {
        tracing::info!(why, "reading the stream from the last certain place");
        self.metrics.mirror_doubts.inc();
        self.catch_up(session).await
    }

    /// The node stops: its place is written down, and its name is free at once.
    async fn leave(&mut self, session: &mut Session) -> Lost {
        let redis = &mut session.redis;
        // An error: the next life reads a little more, or waits for the lease to run out.
        let _ = self.cursor.set(redis, self.state.reached).await;
        let _ = self.lease.release(redis).await;
        Lost::Stopping
    }

    async fn hand_on(&self, incoming: Incoming) -> Result<(), Lost> {
        self.incoming.send(incoming).await.map_err(|_| Lost::Stopping)
    }
}

fn missing_is_fine(err: RedisError) -> Result<(), RedisError> {
    if is_missing(&err) { Ok(()) } else { Err(err) }
}

async fn run_id(redis: &mut MultiplexedConnection) -> Result<String, RedisError> {
    let info: Value = cmd("INFO").arg("server").query_async(redis).await?;
    let info = String::from_redis_value(info)?;
    let line = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    Ok(line.unwrap_or_default().trim().to_owned())
}
