//! What somebody does to the database by SQL, as an operator or another program might.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client as Sql;

use super::LOOK_PAUSE;
use crate::fault::Table;
use crate::site::Site;

/// Ends the sessions of all nodes.
const TERMINATE: &str = "select pg_terminate_backend(pid) from pg_stat_activity
                         where datname = current_database() and application_name like 'verbatim %'";

/// What is locked.
pub enum Lock<'a> {
    Room(&'a str),
    Table(Table),
}

impl Lock<'_> {
    async fn take(&self, sql: &Sql) -> Result<(), tokio_postgres::Error> {
        let table = match self {
            Self::Room(room) => {
                let lock = "select from rooms where name = $1 for update";
                return sql.query(lock, &[room]).await.map(drop);
            }
            Self::Table(Table::Outbox) => "lock table outbox in access exclusive mode",
            Self::Table(Table::Events) => "lock table events in exclusive mode",
            Self::Table(Table::Rooms) => "lock table rooms in exclusive mode",
        };
        sql.batch_execute(table).await
    }
}

/// It hits when somebody waits for the lock.
pub async fn lock(site: &Site<'_>, lock: Lock<'_>, lasting: Duration) -> bool {
    let _held = site.postgres.lock().await;
    let (Some(holder), Some(watcher)) = (site.sql().await, site.sql().await) else { return false };
    if holder.batch_execute("begin").await.is_err() || lock.take(&holder).await.is_err() {
        return false;
    }
    let end = Instant::now() + lasting;
    let mut has_hit = false;
    while Instant::now() < end {
        has_hit |= waiters(&watcher).await > 0;
        sleep(LOOK_PAUSE).await;
    }
    // The lock ends with the transaction, whichever way that ends.
    let _ = holder.batch_execute("commit").await;
    has_hit
}

async fn waiters(sql: &Sql) -> i64 {
    let count = "select count(*) from pg_locks where not granted";
    sql.query_one(count, &[]).await.map_or(0, |row| row.get(0))
}

/// It hits when the nodes were there to be told.
pub async fn read_only(site: &Site<'_>, lasting: Duration) -> bool {
    let _held = site.postgres.lock().await;
    // What was open before may write.
    let Some(sql) = site.sql().await else { return false };
    let set = |value: &str| {
        format!(
            "do $$ begin execute format(
                 'alter database %I set default_transaction_read_only = {value}',
                 current_database());
             end $$"
        )
    };
    if sql.batch_execute(&set("on")).await.is_err() {
        return false;
    }
    let ended = sql.query(TERMINATE, &[]).await.map_or(0, |rows| rows.len());
    sleep(lasting).await;
    sql.batch_execute(&set("off")).await.expect("nobody else does anything to PostgreSQL now");
    let ended_again = sql.query(TERMINATE, &[]).await.map_or(0, |rows| rows.len());
    ended > 0 && ended_again > 0
}

/// It hits when the snapshot was there to the end.
pub async fn hold_snapshot(site: &Site<'_>, lasting: Duration) -> bool {
    let _held = site.postgres.lock().await;
    let Some(sql) = site.sql().await else { return false };
    let look = "begin isolation level repeatable read; select count(*) from events";
    if sql.batch_execute(look).await.is_err() {
        return false;
    }
    sleep(lasting).await;
    sql.batch_execute("select count(*) from rooms; commit").await.is_ok()
}
