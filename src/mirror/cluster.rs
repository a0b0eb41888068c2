//! Whose Redis this is: `<prefix>:cluster` holds the id of the log whose nodes use that prefix.
//!
//! Two clusters under one prefix would take each other's places in the stream, leases and signs of
//! life. (Never each other's events, which are sealed.) So a node that finds another log's id there
//! takes nothing and puts nothing.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, cmd, pipe};
use tokio::time::sleep;

use crate::model::LogIdentity;

/// How long those who are at home pause before they connect again.
const AWAY_FOR: Duration = Duration::from_secs(1);

/// Who wants to come in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comer {
    AtHome,
    /// It was not there before in its life.
    New,
    /// It belonged to another log.
    TurnedAway,
}

/// The id of this node's log, and the key in Redis that must hold it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cluster {
    pub key: String,
    pub log_id: String,
}

impl Cluster {
    /// For nodes of that log under that prefix.
    pub fn of(prefix: &str, log: &LogIdentity) -> Self {
        Self { key: format!("{prefix}:cluster"), log_id: log.id.clone() }
    }

    /// The log that this Redis belongs to under this prefix; `None`: to none yet.
    pub async fn owner(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> Result<Option<String>, RedisError> {
        cmd("GET").arg(&self.key).query_async(redis).await
    }

    /// The same for a node that comes in, after taking it for this log if it belonged to none.
    ///
    /// The race that this closes: somebody empties a Redis (FLUSHALL), and a node of another log,
    /// which was turned away from it or has just been started, comes by just then and takes it. So
    /// who was not at home takes it only if it is still nobody's when those who are have had the
    /// time to say so: they do with every heartbeat, and with every event. Who comes first to a new
    /// Redis need not wait, nor those who come together: nobody listens to the nodes' channel yet.
    pub async fn enter(
        &self,
        redis: &mut MultiplexedConnection,
        comer: Comer,
        nodes_channel: &str,
        heartbeat: Duration,
    ) -> Result<Option<String>, RedisError> {
        if comer != Comer::AtHome && self.owner(redis).await?.is_none() {
            match comer {
                // They may be on their way back to it.
                Comer::TurnedAway => sleep(heartbeat * 2 + AWAY_FOR).await,
                _ if has_company(redis, nodes_channel).await => sleep(heartbeat * 2).await,
                _ => {}
            }
        }
        self.claim(redis).await
    }

    /// The same, after taking it for this log if it belonged to none. `None`: it was emptied in
    /// between.
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

/// Whether anybody listens to the nodes' channel: who does is at home.
async fn has_company(redis: &mut MultiplexedConnection, nodes_channel: &str) -> bool {
    let listening = cmd("PUBSUB").arg("NUMSUB").arg(nodes_channel).query_async(redis).await;
    // An error: nobody knows.
    listening.map_or(true, |(_, count): (Vec<u8>, u64)| count > 0)
}
