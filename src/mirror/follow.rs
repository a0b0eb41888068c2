//! From Redis to this node: live through the channel, and through the stream after any absence.
//!
//! It does not know rooms or followers; what it reads goes to the other end of `incoming`. The
//! order at every (re)connect leaves no gap: first listen, then read the stream from the last
//! certain position to its end, then go live. What arrives twice is dropped by the relay.
//!
//! Silence does not mean that all is well. With every heartbeat the node
//! - publishes its heartbeat on the nodes' channel, and must hear it on the same connection;
//! - compares the stream's end, and the number of entries it was ever given, with its own position
//!   and count. The answer comes after every message that was published before it, on the same
//!   connection, so the comparison is exact: a single lost message shows.
//!
//! On any doubt it reads the stream again from the last certain position.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError, Value, cmd};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::cluster::{Cluster, Comer};
use super::connect::{Connector, is_forbidden, is_refused};
use super::cursor::{Cursor, StreamPosition, is_missing};
use super::event::Found;
use super::lease::Lease;
use super::listen::{Listener, Message};
use super::position::{CatchUp, Position, StreamState};
use super::{Incoming, OpenError, Status};
use crate::budget::Budget;
use crate::metrics::Metrics;
use crate::rate::Backoff;
use crate::tasks::Tasks;

/// The shortest and the longest pause before reconnecting.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Bytes of events handed on at once (and the event that passes the limit).
const BYTES_PER_PIECE: usize = 1024 * 1024;
/// After this many of its own heartbeats in a row that the node did not hear, the subscription
/// counts as dead. Not a number of seconds: a node that was slow, or asleep, has not heard anything
/// either.
const UNHEARD_MAX: u32 = 3;
/// Heartbeats between two searches for nodes that are long gone.
const BEATS_PER_SWEEP: u32 = 60;

/// Owned by its task.
pub(super) struct Follow {
    pub connector: Connector,
    pub cluster: Cluster,
    pub cursor: Cursor,
    pub lease: Lease,
    /// The channel of events.
    pub events_channel: String,
    /// The channel of heartbeats, and this node's own.
    pub nodes_channel: String,
    pub heartbeat_frame: String,
    pub node: String,
    pub heartbeat: Duration,
    /// Messages that may wait between the connection to Redis and this task.
    pub live_len_max: usize,
    pub live_budget: Arc<Budget>,
    pub incoming: mpsc::Sender<Incoming>,
    pub status: watch::Sender<Status>,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
    pub position: Position,
    /// This node was refused, because Redis belonged to another log, and was not let in since.
    pub is_foreign: bool,
}

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("the subscription is dead: the node's own heartbeat did not come back")]
    Unheard,
    #[error("the connection ended")]
    Ended,
    /// Nobody reads `incoming`: the node is stopping.
    #[error("the node stops")]
    Stopping,
    #[error("another live node has this name")]
    NameTaken,
    #[error("Redis was emptied just now")]
    Emptied,
    #[error("Redis belongs to the log {owner}")]
    Foreign { owner: String },
}

impl Follow {
    /// Follows until the node stops. `started` is told once how the first attempt went: a node may
    /// serve while Redis is away, but not if Redis refused it.
    pub async fn run(mut self, started: oneshot::Sender<Result<(), OpenError>>) {
        let tasks = self.tasks.clone();
        let mut started = Some(started);
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        // The refusal that was last logged.
        let mut told = None;
        loop {
            let Err(lost) = self.follow(&mut started, &mut backoff).await;
            let refused = self.refused(&lost);
            let is_foreign = matches!(lost, Lost::Foreign { .. });
            self.is_foreign |= is_foreign;
            // If it belongs to another log, an unanswered connection does not change that.
            let status = if self.is_foreign { Status::Foreign } else { Status::Away };
            let was = self.status.send_replace(status);
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
                (refused, started) => {
                    let is_news = was != status;
                    if (is_news || started.is_some()) && !tasks.is_stopping() {
                        self.tell(&lost);
                        told = None;
                    }
                    if let Some(refused) = refused.map(|refused| refused.to_string())
                        && told.as_ref() != Some(&refused)
                    {
                        tracing::error!("{refused}");
                        told = Some(refused);
                    }
                    // An error: the start was given up.
                    let _ = started.map(|started| started.send(Ok(())));
                }
            }
            if is_foreign {
                backoff.give_time();
            }
            tokio::select! {
                () = sleep(backoff.jittered()) => {}
                () = tasks.stopping() => return,
            }
        }
    }

    fn tell(&self, lost: &Lost) {
        match lost {
            Lost::Foreign { owner } => tracing::error!(
                key = self.cluster.key,
                %owner,
                log = self.cluster.log_id,
                "this Redis belongs to another log: this node does not use it, and is not ready; \
                 give one of the clusters another mirror.prefix, or delete the key if that log no \
                 longer exists"
            ),
            lost => tracing::warn!(err = %lost, "Redis is away; nodes get events from the log"),
        }
    }

    /// The error, if a retry will not change it.
    fn refused(&self, lost: &Lost) -> Option<OpenError> {
        match lost {
            Lost::NameTaken => Some(OpenError::NameTaken { node: self.node.clone() }),
            Lost::Redis(err) if is_refused(err) => Some(OpenError::refused(err)),
            _ => None,
        }
    }

    /// Serves one connection until it is lost.
    async fn follow(
        &mut self,
        started: &mut Option<oneshot::Sender<Result<(), OpenError>>>,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, Lost> {
        let channels = [&*self.events_channel];
        let (len_max, budget) = (self.live_len_max, &self.live_budget);
        let connecting = Listener::connect(&self.connector, &channels, len_max, budget);
        let mut listener = connecting.await?;
        self.enter(&mut listener).await?;
        // A node that listens here is at home.
        listener.redis.subscribe(&*self.nodes_channel).await?;
        if !self.lease.take(&mut listener.redis).await? {
            return Err(Lost::NameTaken);
        }
        self.lease.renew(&mut listener.redis).await?;
        self.catch_up(&mut listener, started.is_none()).await?;
        if self.status.send_replace(Status::Live) != Status::Live && started.is_none() {
            tracing::info!("Redis is back");
        }
        self.metrics.mirror_live.set(1);
        backoff.reset();
        if let Some(started) = started.take() {
            // An error: the start was given up.
            let _ = started.send(Ok(()));
        }
        self.live(&mut listener).await
    }

    /// Continues only if this Redis belongs to this node's log, or to none.
    async fn enter(&mut self, listener: &mut Listener) -> Result<(), Lost> {
        let comer = match self.position.is_known() {
            _ if self.is_foreign => Comer::TurnedAway,
            false => Comer::New,
            true => Comer::AtHome,
        };
        let channel = &self.nodes_channel;
        let owner = self.cluster.enter(&mut listener.redis, comer, channel, self.heartbeat).await?;
        let owner = owner.ok_or(Lost::Emptied)?;
        if owner != self.cluster.log_id {
            return Err(Lost::Foreign { owner });
        }
        self.is_foreign = false;
        Ok(())
    }

    /// Finds the position to continue from, and reads the stream up to its end. `serving`: there
    /// may be followers, so what the stream cannot show must come from the log.
    async fn catch_up(&mut self, listener: &mut Listener, serving: bool) -> Result<(), Lost> {
        let redis = &mut listener.redis;
        let origin = origin(redis).await?;
        let (end, group) = (self.cursor.end(redis).await?, self.cursor.group(redis).await?);
        let mut catch_up = self.position.begin(StreamState { origin, end, group });
        match catch_up.from {
            Some(from) => self.cursor.set(redis, from).await?,
            None => {
                // Starts at the end. Destroys the group first, because its ID may be from a lost
                // stream.
                self.cursor.destroy(redis, &self.cursor.group).await.or_else(missing_is_fine)?;
                self.cursor.create(redis).await?;
                // The race that this closes:
                //
                // 1. Redis is emptied, while a message with the ID 7-0 waits here.
                // 2. The stream is created again, and this node starts at its end, 0-0.
                // 3. It takes the message, and believes that it has reached 7-0.
                // 4. In the same millisecond another event gets the ID 7-0, and looks known, by ID
                //    and by count.
                //
                // So messages from before the new stream are taken before the node's position is
                // set.
                let messages = listener.arrived();
                self.on_messages(listener, messages, None).await?;
            }
        }
        self.drain(listener, &mut catch_up).await?;
        if self.position.caught_up(&catch_up) && serving {
            tracing::info!("the stream cannot show what was missed; comparing with the log");
            self.hand_on(Incoming::Doubt).await?;
        }
        Ok(())
    }

    /// Reads the stream from the group's position to its end, where everything is certain again.
    ///
    /// Pages come over their own connection. Redis closes a listening connection with more than
    /// 32 MB of unsent output. A page of long messages may be that large, and the node would retry
    /// forever.
    async fn drain(&mut self, listener: &Listener, catch_up: &mut CatchUp) -> Result<(), Lost> {
        let mut redis = self.connector.connect().await?;
        listener.forgive();
        loop {
            let page = self.cursor.read(&mut redis, self.position.page_len).await;
            let page = page.inspect_err(|_| self.position.page_len.was_lost())?;
            let (events, step) = self.position.on_page(catch_up, page, &self.metrics);
            if !events.is_empty() {
                self.hand_on(Incoming::Events { events, backlog: catch_up.is_first }).await?;
            }
            if self.position.go_on(&step) {
                return Ok(());
            }
        }
    }

    async fn live(&mut self, listener: &mut Listener) -> Result<std::convert::Infallible, Lost> {
        let tasks = self.tasks.clone();
        let mut stopping = std::pin::pin!(tasks.stopping());
        let mut beats = interval(self.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = 0_u32;
        loop {
            // The arms only wait; what follows from them is not cancelled.
            let messages = tokio::select! {
                messages = listener.next() => Some(messages),
                _ = beats.tick() => None,
                () = &mut stopping => return Err(self.leave(listener).await),
            };
            match messages {
                Some(messages) if messages.is_empty() => return Err(Lost::Ended),
                Some(messages) => drop(self.on_messages(listener, messages, None).await?),
                None => {
                    self.on_beat(listener, beat).await?;
                    beat = beat.wrapping_add(1);
                }
            }
            if listener.has_gap() {
                self.doubt(listener, "messages came faster than they were read").await?;
            }
        }
    }

    /// Hands on channel messages. Returns whether position and count were the stream's when `end`
    /// was reached, if it is given.
    async fn on_messages(
        &mut self,
        listener: &mut Listener,
        messages: Vec<Message>,
        end: Option<StreamPosition>,
    ) -> Result<bool, Lost> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        let mut hearing = self.position.hear(end);
        for message in messages {
            let PushInfo { kind, data } = message.push;
            if kind == PushKind::Disconnection {
                return Err(Lost::Ended);
            }
            let (PushKind::Message, Ok([Value::BulkString(channel), Value::BulkString(payload)])) =
                (kind, <[Value; 2]>::try_from(data))
            else {
                continue;
            };
            if channel == self.nodes_channel.as_bytes() {
                if payload == self.heartbeat_frame.as_bytes() {
                    listener.unheard = 0;
                }
                continue;
            }
            let (id, found) = Found::in_message(payload, &self.cursor.seal);
            let event = self.position.on_message(&mut hearing, id, found, &self.metrics);
            let Some(event) = event else { continue };
            bytes += event.frame.bytes().len();
            events.push(event);
            if bytes >= BYTES_PER_PIECE {
                bytes = 0;
                let events = std::mem::take(&mut events);
                self.hand_on(Incoming::Events { events, backlog: false }).await?;
            }
        }
        if !events.is_empty() {
            self.hand_on(Incoming::Events { events, backlog: false }).await?;
        }
        Ok(self.position.agrees(&hearing))
    }

    /// Heartbeat, lease, the group's position, and the comparison with the stream's end.
    async fn on_beat(&mut self, listener: &mut Listener, beat: u32) -> Result<(), Lost> {
        self.enter(listener).await?;
        let redis = &mut listener.redis;
        let mut publish = cmd("PUBLISH");
        publish.arg(&self.nodes_channel).arg(&self.heartbeat_frame);
        publish.query_async::<()>(redis).await?;
        listener.unheard += 1;
        if !self.lease.renew(redis).await? {
            return Err(Lost::NameTaken);
        }
        if beat % BEATS_PER_SWEEP == BEATS_PER_SWEEP - 1 {
            self.lease.forget_the_gone(&self.cursor, redis).await?;
        }
        let moved = self.cursor.set(redis, self.position.reached()).await;
        let lost = match moved {
            Err(err) if is_missing(&err) => true,
            moved => {
                moved?;
                false
            }
        };
        let end = self.cursor.end(redis).await?;
        let Some(end) = end.filter(|_| !lost) else {
            return self.doubt(listener, "the stream or this node's group is gone").await;
        };
        // One connection: everything that was published before the answer has arrived.
        let messages = listener.arrived();
        let agrees = self.on_messages(listener, messages, Some(end)).await?;
        if listener.unheard >= UNHEARD_MAX {
            return Err(Lost::Unheard);
        }
        self.metrics.mirror_behind.set(i64::from(!agrees));
        if agrees {
            if self.position.agreed(end) {
                self.hand_on(Incoming::Doubt).await?;
            }
            Ok(())
        } else {
            self.doubt(listener, "a message was lost on the way").await
        }
    }

    /// Reads the stream again from the last certain position. If it is another stream by now,
    /// starts at its end and has the log asked.
    async fn doubt(&mut self, listener: &mut Listener, why: &str) -> Result<(), Lost> {
        tracing::info!(why, "reading the stream again from the last certain position");
        self.metrics.mirror_doubts.inc();
        self.catch_up(listener, true).await
    }

    /// The node stops: stores its position and releases its name.
    async fn leave(&mut self, listener: &mut Listener) -> Lost {
        let redis = &mut listener.redis;
        // An error: the next start reads a little more, or waits for the lease to expire.
        let _ = self.cursor.set(redis, self.position.reached()).await;
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

/// Which Redis this is, and since when it has been the master. After a restart or a failover, even
/// there and back again, the stream may lack its end.
async fn origin(redis: &mut MultiplexedConnection) -> Result<String, RedisError> {
    let info = cmd("INFO").arg("server").arg("replication").query_async(redis).await;
    let info: String = match info {
        // Without permission, assume that it is another each time.
        Err(err) if is_forbidden(&err) => return Ok(format!("{:032x}", rand::random::<u128>())),
        info => info?,
    };
    let is_part = |line: &&str| line.starts_with("run_id:") || line.starts_with("master_replid:");
    Ok(info.lines().filter(is_part).collect())
}
