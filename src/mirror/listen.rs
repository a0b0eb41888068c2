//! One connection that listens to channels, and the messages that came over it.
//!
//! It does not read them. Redis sends messages and answers over the same connection in one order,
//! so whoever has an answer also has, in here, every message that was published before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, RedisError};
use tokio::sync::mpsc;

use super::connect::Connector;

/// Messages taken in one turn.
const MESSAGES_PER_TURN: usize = 256;

/// Owned by the follower's task; dropping it ends the connection.
pub(super) struct Listener {
    /// For small commands only: Redis ends a connection that listens when it owes it 32 MB.
    pub redis: MultiplexedConnection,
    /// Bounded by `mirror.live_len_max`. When it is full, messages are dropped and `gap` is set:
    /// the stream still has them.
    messages: mpsc::Receiver<PushInfo>,
    gap: Arc<AtomicBool>,
    /// How often the node has said that it lives since it last heard itself.
    pub unheard: u32,
}

impl Listener {
    /// Connects; when this returns, Redis sends everything that is published from then on.
    pub async fn connect(
        connector: &Connector,
        channels: &[&str],
        len_max: usize,
    ) -> Result<Self, RedisError> {
        let (arrived, messages) = mpsc::channel(len_max);
        let gap = Arc::new(AtomicBool::new(false));
        let dropped = gap.clone();
        let push = move |message: PushInfo| match arrived.try_send(message) {
            Err(mpsc::error::TrySendError::Full(_)) => {
                dropped.store(true, Ordering::SeqCst);
                Ok(())
            }
            // Closed: this connection was given up, and is about to end.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        };
        let mut redis = connector.listen(push).await?;
        redis.subscribe(channels).await?;
        Ok(Self { redis, messages, gap, unheard: 0 })
    }

    /// Waits for messages; none: the connection has ended. Cancel-safe.
    pub async fn next(&mut self) -> Vec<PushInfo> {
        let mut messages = Vec::new();
        self.messages.recv_many(&mut messages, MESSAGES_PER_TURN).await;
        messages
    }

    /// What has arrived by now.
    pub fn arrived(&mut self) -> Vec<PushInfo> {
        std::iter::from_fn(|| self.messages.try_recv().ok()).collect()
    }

    /// Whether messages were dropped because they came faster than they were taken.
    pub fn has_gap(&self) -> bool {
        self.gap.load(Ordering::SeqCst)
    }

    /// What was dropped up to here is about to be read from the stream.
    pub fn forgive(&self) {
        self.gap.store(false, Ordering::SeqCst);
    }
}
