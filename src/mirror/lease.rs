//! A node's identity among its peers: a lease on its name, a record that it was alive, and the
//! removal of nodes that are long gone.
//!
//! Two live nodes with one name would share one cursor, and each would miss half of the events. So
//! a name is leased in Redis for a few seconds at a time. After a crash the lease remains for a
//! moment; the next process watches it, and takes it over if nobody renews it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script, cmd};
use tokio::time::Instant;

use super::cursor::Cursor;

/// How often a lease is checked whose holder may be dead.
const WATCH: Duration = Duration::from_millis(100);

pub(super) struct Lease {
    /// `<prefix>:node:<id>`: holds the token of the live node with that name.
    key: String,
    /// `<prefix>:seen:`, then a node's id: exists while the node is remembered.
    seen: String,
    node: String,
    /// Identifies this process.
    token: String,
    /// Renewed with every heartbeat; a holder that misses four is dead.
    ttl: Duration,
    heartbeat: Duration,
    /// How long the cursor of a node that is gone is kept.
    forget_after: Duration,
    script: Script,
}

impl Lease {
    pub fn new(
        prefix: &str,
        node: &str,
        token: String,
        heartbeat: Duration,
        forget_after: Duration,
    ) -> Self {
        Self {
            key: format!("{prefix}:node:{node}"),
            seen: format!("{prefix}:seen:"),
            node: node.to_owned(),
            token,
            ttl: heartbeat * 5,
            heartbeat,
            forget_after,
            script: Script::new(include_str!("lease.lua")),
        }
    }

    /// Takes the lease. `false`: another live node has it.
    pub async fn take(&self, redis: &mut MultiplexedConnection) -> Result<bool, RedisError> {
        let holder = self.keep(redis, "").await?;
        if holder == self.token {
            return Ok(true);
        }
        // A live holder renews with every heartbeat, which increases the lease's remaining time.
        let until = Instant::now() + self.heartbeat * 5 / 2;
        let mut left = self.left(redis).await?;
        while Instant::now() < until {
            tokio::time::sleep(WATCH).await;
            let now = self.left(redis).await?;
            if now > left {
                return Ok(false);
            }
            left = now;
        }
        Ok(self.keep(redis, &holder).await? == self.token)
    }

    /// Renews the lease. `false`: another node has it now.
    pub async fn renew(&self, redis: &mut MultiplexedConnection) -> Result<bool, RedisError> {
        let seen = format!("{}{}", self.seen, self.node);
        let mut set = cmd("SET");
        set.arg(seen).arg(&self.token).arg("EX").arg(self.forget_after.as_secs().max(1));
        set.query_async::<()>(redis).await?;
        Ok(self.keep(redis, "").await? == self.token)
    }

    /// Releases the name, if it is still ours, so that the next process need not wait.
    pub async fn release(&self, redis: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let holder: Option<String> = cmd("GET").arg(&self.key).query_async(redis).await?;
        if holder.as_deref() == Some(&self.token) {
            cmd("DEL").arg(&self.key).query_async::<()>(redis).await?;
        }
        Ok(())
    }

    /// Removes the cursors of nodes that nobody has seen for `forget_after`. Any node may do this,
    /// also several at once.
    pub async fn forget_the_gone(
        &self,
        cursor: &Cursor,
        redis: &mut MultiplexedConnection,
    ) -> Result<(), RedisError> {
        for (group, _) in cursor.groups(redis).await? {
            let Some(node) = group.strip_prefix(super::GROUP_PREFIX) else { continue };
            let seen = format!("{}{node}", self.seen);
            if node != self.node && !cmd("EXISTS").arg(seen).query_async::<bool>(redis).await? {
                cursor.destroy(redis, &group).await?;
                tracing::info!(node, "removed the cursor of a node that is long gone");
            }
        }
        Ok(())
    }

    /// Tries to keep or take the lease, and returns the token that holds it.
    async fn keep(
        &self,
        redis: &mut MultiplexedConnection,
        dead: &str,
    ) -> Result<String, RedisError> {
        let mut keep = self.script.key(&self.key);
        keep.arg(&self.token).arg(self.ttl.as_millis() as u64).arg(dead);
        keep.invoke_async(redis).await
    }

    async fn left(&self, redis: &mut MultiplexedConnection) -> Result<i64, RedisError> {
        cmd("PTTL").arg(&self.key).query_async(redis).await
    }
}
