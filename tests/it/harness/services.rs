//! The PostgreSQL and the Redis that all tests of this process share, started on first use.
//!
//! Tests share the servers and nothing in them: each has its own database and its own key prefix.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::postgres::Postgres;
use super::redis::Redis;

/// The shared PostgreSQL. Not to be killed: a test that wants to starts its own.
pub async fn postgres() -> &'static Postgres {
    static POSTGRES: OnceLock<Postgres> = OnceLock::new();
    let start = || POSTGRES.get_or_init(|| Postgres::start_blocking(Vec::new()));
    tokio::task::spawn_blocking(start).await.expect("the shared PostgreSQL did not start")
}

/// The URL of a new, empty database on the shared PostgreSQL.
pub async fn database() -> String {
    postgres().await.database().await
}

/// The URL of the shared Redis.
pub async fn redis_url() -> String {
    static REDIS: OnceLock<Redis> = OnceLock::new();
    let start = || REDIS.get_or_init(|| Redis::start_blocking(Vec::new()));
    tokio::task::spawn_blocking(start).await.expect("the shared Redis did not start").url()
}

/// A prefix for keys and channels that no other test has.
pub fn key_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
