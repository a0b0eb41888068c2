//! What is done to PostgreSQL as a program.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client as Sql;

use super::{TRAP_TIMEOUT, is_stopped};
use crate::fault::Fault;
use crate::site::Site;

/// Between two looks for a backend in a transaction, which is there for a millisecond.
const SNAP_PAUSE: Duration = Duration::from_millis(2);
/// A backend that was stopped may hold what every question needs.
const ASK_TIMEOUT: Duration = Duration::from_millis(300);

pub async fn inject(site: &Site<'_>, fault: Fault, lasting: Duration) -> bool {
    let mut server = site.postgres.lock().await;
    match fault {
        Fault::PostgresKill => {
            server.postgres.kill();
            sleep(lasting).await;
            server.postgres.restart().await;
        }
        Fault::PostgresRestart => server.postgres.restart().await,
        _ => {
            server.postgres.pause();
            sleep(lasting).await;
            server.postgres.resume();
        }
    }
    true
}

pub async fn terminate(site: &Site<'_>, node: usize) -> bool {
    let _held = site.postgres.lock().await;
    let Some(sql) = site.sql().await else { return false };
    let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where application_name = $1";
    let name = format!("verbatim {}", site.nodes[node].name);
    let ended = sql.query_one(terminate, &[&name]).await;
    ended.is_ok_and(|row| row.get::<_, i64>(0) > 0)
}

/// Stops one backend of a node while it is in a transaction: what the node sends next, a COMMIT for
/// the most part, has no answer. It hits when such a one was met.
pub async fn stop_backend(site: &Site<'_>, node: usize, lasting: Duration) -> bool {
    let _held = site.postgres.lock().await;
    let Some(sql) = site.sql().await else { return false };
    let name = format!("verbatim {}", site.nodes[node].name);
    let until = Instant::now() + TRAP_TIMEOUT;
    while Instant::now() < until {
        sleep(SNAP_PAUSE).await;
        let Some(pid) = in_transaction(&sql, &name).await else { continue };
        signal(pid, Signal::STOP);
        let is_caught = timeout(ASK_TIMEOUT, is_in_transaction(&sql, pid)).await;
        // Without an answer it is stopped where it holds what the question needs.
        let is_caught = is_caught.unwrap_or(true) && is_stopped(pid);
        if is_caught {
            sleep(lasting).await;
        }
        signal(pid, Signal::CONT);
        if is_caught {
            return true;
        }
    }
    false
}

const IS_IN_TRANSACTION: &str = "(state = 'idle in transaction' or state = 'active')";

/// One that is at its COMMIT rather than another.
async fn in_transaction(sql: &Sql, name: &str) -> Option<u32> {
    let one = format!(
        "select pid from pg_stat_activity
         where application_name = $1 and {IS_IN_TRANSACTION} and xact_start is not null
         order by (query = 'commit') desc, state desc limit 1"
    );
    let row = sql.query_opt(&one, &[&name]).await.ok()??;
    u32::try_from(row.get::<_, i32>(0)).ok()
}

async fn is_in_transaction(sql: &Sql, pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    let is_one = format!("select from pg_stat_activity where pid = $1 and {IS_IN_TRANSACTION}");
    sql.query_opt(&is_one, &[&pid]).await.is_ok_and(|row| row.is_some())
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// It hits when a file was to grow and could not.
#[cfg(target_os = "linux")]
pub async fn fill_disk(site: &Site<'_>, lasting: Duration) -> bool {
    let server = site.postgres.lock().await;
    server.disk.take_syncs();
    // Tables and indexes; the write-ahead log is on another disk, as it should be.
    server.disk.fill("/base/");
    sleep(lasting).await;
    server.disk.heal();
    server.disk.take_syncs().iter().any(|line| line.starts_with("full "))
}

#[cfg(not(target_os = "linux"))]
pub async fn fill_disk(_: &Site<'_>, _: Duration) -> bool {
    false
}
