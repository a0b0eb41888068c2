//! Whose Redis this is: `<prefix>:cluster` holds the id of the log whose nodes use that prefix.
//!
//! Two clusters under one prefix would take each other's places in the stream, leases and signs of
//! life. (Never each other's events, which are sealed.) So a node that finds another log's id there
//! takes nothing and puts nothing.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, cmd, pipe};

use crate::model::LogIdentity;

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
