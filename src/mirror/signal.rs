//! `chat:signals`: what nodes say to each other that may be lost.
//!
//! It does not know what it is. It has a connection of its own, so that no crowd of signals can
//! push an event out of its queue, or delay one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::{PushInfo, PushKind, RedisError, Value, cmd};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::cluster::Cluster;
use super::connect::Connector;
use super::listen::Listener;
use crate::budget::Budget;
use crate::metrics::Metrics;
use crate::rate::Backoff;
use crate::tasks::Tasks;

/// The first and the longest pause before another connection.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What happens on the channel.
#[derive(Debug)]
pub enum Signal {
    /// From now on the others are heard, and hear this node.
    Connected,
    /// Until the next `Connected` nobody is heard.
    Away,
    /// Somebody's message; this node's own come back, too.
    Message(Vec<u8>),
}

/// Owned by its task.
pub(super) struct Signals {
    pub connector: Connector,
    pub cluster: Cluster,
    pub channel: String,
    pub heartbeat: Duration,
    /// Messages that may wait between Redis' connection and this task, and between it and its
    /// reader. More are dropped.
    pub queue_len_max: usize,
    /// Of those from Redis' connection.
    pub budget: Arc<Budget>,
    /// What this node says. Bounded by the same number; who finds it full drops what they say.
    pub outgoing: mpsc::Receiver<Vec<u8>>,
    pub incoming: mpsc::Sender<Signal>,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
}

/// Why a connection is no more.
enum Lost {
    Redis(RedisError),
    Ended,
    /// Nobody says anything any more: the node has stopped.
    Stopped,
}

impl From<RedisError> for Lost {
    fn from(err: RedisError) -> Self {
        Self::Redis(err)
    }
}

impl Signals {
    /// Runs until nobody can say anything any more.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        loop {
            let Err(lost) = self.listen(&mut backoff).await;
            match lost {
                Lost::Stopped => return,
                // The follower of the events meets the same, and tells it.
                Lost::Redis(err) => tracing::debug!(%err, "signals are away"),
                Lost::Ended => tracing::debug!("signals are away"),
            }
            if self.incoming.send(Signal::Away).await.is_err() {
                return self.drop_all().await;
            }
            let mut rest = std::pin::pin!(sleep(backoff.jittered()));
            loop {
                tokio::select! {
                    () = &mut rest => break,
                    () = self.tasks.stopping() => return self.drop_all().await,
                    said = self.outgoing.recv() => match said {
                        Some(_) => {
                            self.metrics.signals_lost.inc();
                        }
                        None => return,
                    },
                }
            }
        }
    }

    /// One connection, from greeting to loss.
    async fn listen(&mut self, backoff: &mut Backoff) -> Result<Infallible, Lost> {
        let (channels, len_max) = ([self.channel.as_str()], self.queue_len_max);
        let connecting = Listener::connect(&self.connector, &channels, len_max, &self.budget);
        let mut listener = tokio::select! {
            listener = connecting => listener?,
            // A node that stops does not wait for a Redis that is away.
            () = self.tasks.stopping() => return Err(Lost::Ended),
        };
        // Whom it belongs to is for the follower of the events to find out, and to tell.
        if !self.is_ours(&mut listener, false).await? {
            return Err(Lost::Ended);
        }
        backoff.reset();
        self.incoming.send(Signal::Connected).await.map_err(|_| Lost::Stopped)?;
        let mut beats = interval(self.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                messages = listener.next() => {
                    if messages.is_empty() {
                        return Err(Lost::Ended);
                    }
                    for message in messages {
                        self.hand_on(message.push)?;
                    }
                }
                said = self.outgoing.recv() => {
                    let said = said.ok_or(Lost::Stopped)?;
                    let mut publish = cmd("PUBLISH");
                    let publish = publish.arg(&self.channel).arg(said);
                    publish.query_async::<()>(&mut listener.redis).await?;
                }
                // A connection that is silently dead does not answer.
                _ = beats.tick() => if !self.is_ours(&mut listener, true).await? {
                    return Err(Lost::Ended);
                },
            }
            if listener.has_gap() {
                listener.forgive();
                self.metrics.signals_lost.inc();
            }
        }
    }

    /// Whether this Redis is that of this node's log; or, if that will do, nobody's: it was emptied
    /// just now.
    async fn is_ours(&self, listener: &mut Listener, or_nobodys: bool) -> Result<bool, Lost> {
        let owner = self.cluster.owner(&mut listener.redis).await?;
        Ok(owner.map_or(or_nobodys, |owner| owner == self.cluster.log_id))
    }

    fn hand_on(&self, PushInfo { kind, data }: PushInfo) -> Result<(), Lost> {
        if kind == PushKind::Disconnection {
            return Err(Lost::Ended);
        }
        let mut data = data.into_iter();
        let (PushKind::Message, Some(_), Some(Value::BulkString(message))) =
            (kind, data.next(), data.next())
        else {
            return Ok(());
        };
        if self.incoming.try_send(Signal::Message(message)).is_err() {
            // Full, or its reader is gone; either way nobody misses it for long.
            self.metrics.signals_lost.inc();
        }
        Ok(())
    }

    /// Until nobody says anything any more.
    async fn drop_all(&mut self) {
        while self.outgoing.recv().await.is_some() {
            self.metrics.signals_lost.inc();
        }
    }
}
