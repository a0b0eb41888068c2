//! `chat:signals`: what nodes tell each other that may be lost.
//!
//! It does not know the content. It has its own connection, so that many signals cannot delay an
//! event, or push one out of its queue.

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

/// The shortest and the longest pause before reconnecting.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What happens on the channel.
#[derive(Debug)]
pub enum Signal {
    /// From now on this node hears the others, and they hear it.
    Connected,
    /// Nobody is heard until the next `Connected`.
    Away,
    /// A message of any node, including this one.
    Message(Vec<u8>),
}

/// Owned by its task.
pub(super) struct Signals {
    pub connector: Connector,
    pub cluster: Cluster,
    pub channel: String,
    pub heartbeat: Duration,
    /// Messages that may wait between the connection to Redis and this task, and between this task
    /// and its reader. More are dropped.
    pub queue_len_max: usize,
    /// For messages from the connection to Redis.
    pub budget: Arc<Budget>,
    /// This node's messages, with the same limit. Senders that find it full drop theirs.
    pub outgoing: mpsc::Receiver<Vec<u8>>,
    pub incoming: mpsc::Sender<Signal>,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
}

/// Why a connection ended.
enum Lost {
    Redis(RedisError),
    Ended,
    /// All senders are gone: the node has stopped.
    Stopped,
}

impl From<RedisError> for Lost {
    fn from(err: RedisError) -> Self {
        Self::Redis(err)
    }
}

impl Signals {
    /// Runs until all senders are gone.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        loop {
            let Err(lost) = self.listen(&mut backoff).await;
            match lost {
                Lost::Stopped => return,
                // The follower of events meets the same error, and logs it.
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

    /// Serves one connection until it is lost.
    async fn listen(&mut self, backoff: &mut Backoff) -> Result<Infallible, Lost> {
        let (channels, len_max) = ([self.channel.as_str()], self.queue_len_max);
        let connecting = Listener::connect(&self.connector, &channels, len_max, &self.budget);
        let mut listener = tokio::select! {
            listener = connecting => listener?,
            // A stopping node does not wait for a Redis that is away.
            () = self.tasks.stopping() => return Err(Lost::Ended),
        };
        // The follower of events finds out whose Redis it is, and logs it.
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
                // A silently dead connection does not answer.
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

    /// Whether this Redis belongs to this node's log or, with `or_nobodys`, to none: it was just
    /// emptied.
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
            // Full, or the reader is gone. Either way the loss does not last.
            self.metrics.signals_lost.inc();
        }
        Ok(())
    }

    /// Drops messages until all senders are gone.
    async fn drop_all(&mut self) {
        while self.outgoing.recv().await.is_some() {
            self.metrics.signals_lost.inc();
        }
    }
}
