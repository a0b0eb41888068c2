//! Which log a Redis belongs to: `<prefix>:cluster` holds the id of the log whose nodes use the
//! prefix.
//!
//! Two clusters under one prefix would overwrite each other's cursors, leases and signals. (But not
//! show each other's events, which are sealed.) So a node that finds another log's id there reads
//! nothing and writes nothing.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, cmd, pipe};
use tokio::time::sleep;

use crate::model::LogIdentity;

/// The longest pause of nodes that are at home before they reconnect.
const AWAY_FOR: Duration = Duration::from_secs(1);

/// The state of a node that enters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comer {
    AtHome,
    /// It has not been here since it started.
    New,
    /// It was refused, because Redis belonged to another log.
    TurnedAway,
}

/// This node's log id, and the key in Redis that must hold it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cluster {
    pub key: String,
    pub log_id: String,
}

impl Cluster {
    /// For the nodes of `log` under `prefix`.
    pub fn of(prefix: &str, log: &LogIdentity) -> Self {
        Self { key: format!("{prefix}:cluster"), log_id: log.id.clone() }
    }

    /// The log that owns this Redis under this prefix; `None`: none yet.
    pub async fn owner(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> Result<Option<String>, RedisError> {
        cmd("GET").arg(&self.key).query_async(redis).await
    }

    /// Returns the owner, after claiming a Redis without one for this node's log.
    ///
    /// The race that this closes: somebody empties a Redis (FLUSHALL), and a node of another log,
    /// which was refused there or has just started, arrives at that moment and claims it. So a node
    /// that was not at home claims it only if it still has no owner after those at home had time to
    /// claim it: they do with every heartbeat and every event. The first node at a new Redis need
    /// not wait, nor do several that arrive together: nobody listens to the nodes' channel yet.
    pub async fn enter(
        &self,
        redis: &mut MultiplexedConnection,
        comer: Comer,
        nodes_channel: &str,
        heartbeat: Duration,
    ) -> Result<Option<String>, RedisError> {
        if comer != Comer::AtHome && self.owner(redis).await?.is_none() {
            match comer {
                // Nodes at home may be about to reconnect.
                Comer::TurnedAway => sleep(heartbeat * 2 + AWAY_FOR).await,
                _ if has_company(redis, nodes_channel).await => sleep(heartbeat * 2).await,
                _ => {}
            }
        }
        self.claim(redis).await
    }

    /// Claims a Redis without an owner for this log, and returns the owner. `None`: it was emptied
    /// in between.
    pub async fn claim(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> Result<Option<String>, RedisError> {
        let mut claim = pipe();
        claim.cmd("SET").arg(&self.key).arg(&self.log_id).arg("NX").ignore();
        claim.cmd("GET").arg(&self.key);
        let (owner,) = claim.query_async(redis).await?;
        Ok(owner)
    }
}

/// Whether anybody listens to the nodes' channel: a node that does is at home.
async fn has_company(redis: &mut MultiplexedConnection, nodes_channel: &str) -> bool {
    let listening = cmd("PUBSUB").arg("NUMSUB").arg(nodes_channel).query_async(redis).await;
    // On an error, assume that somebody does.
    listening.map_or(true, |(_, count): (Vec<u8>, u64)| count > 0)
}
