//! A connection that listens to channels, and the messages that arrived on it.
//!
//! It does not interpret them. Redis sends messages and answers over one connection, in one order:
//! when an answer has arrived, so has every message that was published before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, RedisError, Value};
use tokio::sync::mpsc;

use super::connect::Connector;
use crate::budget::{Budget, Held};

/// Messages taken at once, and their bytes (unless a single message is longer).
const MESSAGES_PER_TURN: usize = 256;
const BYTES_PER_TURN: usize = 1024 * 1024;
/// Bytes that a waiting message takes beyond its own.
const MESSAGE_BYTES: usize = 160;

/// Owned by the follower's task; dropping it ends the connection.
pub(super) struct Listener {
    /// For short commands only: Redis closes a listening connection to which it owes 32 MB.
    pub redis: MultiplexedConnection,
    /// Limited in number and bytes. When it is full, messages are dropped and `gap` is set: the
    /// stream still has them.
    messages: mpsc::Receiver<Message>,
    gap: Arc<AtomicBool>,
    /// Heartbeats sent since the node last heard one of its own.
    pub unheard: u32,
}

/// A channel message, while it waits.
pub(super) struct Message {
    pub push: PushInfo,
    held: Held,
}

impl Listener {
    /// Connects. When this returns, Redis sends everything that is published from then on.
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
            // `Closed`: this connection was given up, and is about to end.
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

    /// All messages that have arrived.
    pub fn arrived(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.messages.try_recv().ok()).collect()
    }

    /// Whether messages were dropped because they came faster than they were taken.
    pub fn has_gap(&self) -> bool {
        self.gap.load(Ordering::SeqCst)
    }

    /// Clears the gap: what was dropped is about to be read from the stream.
    pub fn forgive(&self) {
        self.gap.store(false, Ordering::SeqCst);
    }
}

/// The memory that a waiting message takes.
fn bytes_of(push: &PushInfo) -> usize {
    let bytes = |value: &Value| match value {
        Value::BulkString(bytes) => bytes.len(),
        // Redis's own messages are short.
        _ => 0,
    };
    push.data.iter().map(bytes).sum::<usize>() + MESSAGE_BYTES
}
