//! One connection that listens to channels, and the messages that came over it.
//!
//! It does not read them. Redis sends messages and answers over the same connection in one order,
//! so whoever has an answer also has, in here, every message that was published before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, RedisError, Value};
use tokio::sync::mpsc;

use super::connect::Connector;
use crate::budget::{Budget, Held};

/// Messages taken in one turn, and their bytes, unless it is one message.
const MESSAGES_PER_TURN: usize = 256;
const BYTES_PER_TURN: usize = 1024 * 1024;
/// Bytes that a waiting message takes beyond its own.
const MESSAGE_BYTES: usize = 160;

/// Owned by the follower's task; dropping it ends the connection.
pub(super) struct Listener {
    /// For small commands only: Redis ends a connection that listens when it owes it 32 MB.
    pub redis: MultiplexedConnection,
    /// Bounded in number and in bytes. When it is full, messages are dropped and `gap` is set: the
    /// stream still has them.
    messages: mpsc::Receiver<Message>,
    gap: Arc<AtomicBool>,
    /// How often the node has said that it lives since it last heard itself.
    pub unheard: u32,
}

/// A message of a channel, for as long as it waits.
pub(super) struct Message {
    pub push: PushInfo,
    held: Held,
}

impl Listener {
    /// Connects; when this returns, Redis sends everything that is published from then on.
    pub async fn connect(
        connector: &Connector,
        channels: &[&str],
        len_max: usize,
        budget: &Arc<Budget>,
    ) -> Result<Self, RedisError> {
        let (arrived, messages) = mpsc::channel(len_max);
        let gap = Arc::new(AtomicBool::new(false));
        let dropped = gap.clone();
        let budget = budget.clone();
        let push = move |push: PushInfo| {
            let held = budget.hold_if_fits(bytes_of(&push));
            let message = held.map(|held| Message { push, held });
            // Closed: this connection was given up, and is about to end.
            if message.is_none_or(|message| {
                matches!(arrived.try_send(message), Err(mpsc::error::TrySendError::Full(_)))
            }) {
                dropped.store(true, Ordering::SeqCst);
            }
            Ok(())
        };
        let mut redis = connector.listen(push).await?;
        redis.subscribe(channels).await?;
        Ok(Self { redis, messages, gap, unheard: 0 })
    }

    /// Waits for messages; none: the connection has ended. Cancel-safe.
    pub async fn next(&mut self) -> Vec<Message> {
        let first = self.messages.recv().await;
        let mut bytes = first.as_ref().map_or(0, |first| first.held.bytes());
        let mut messages: Vec<_> = first.into_iter().collect();
        while (1..MESSAGES_PER_TURN).contains(&messages.len()) && bytes < BYTES_PER_TURN {
            let Ok(message) = self.messages.try_recv() else { break };
            bytes += message.held.bytes();
            messages.push(message);
        }
        messages
    }

    /// What has arrived by now.
    pub fn arrived(&mut self) -> Vec<Message> {
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

/// What a message takes while it waits.
fn bytes_of(push: &PushInfo) -> usize {
    let bytes = |value: &Value| match value {
        Value::BulkString(bytes) => bytes.len(),
        // What Redis says of its own is short.
        _ => 0,
    };
    push.data.iter().map(bytes).sum::<usize>() + MESSAGE_BYTES
}
