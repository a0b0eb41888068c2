//! Carrying out a fault: it begins, lasts, ends, and is over when what it hit works again.
//!
//! A fault counts only if it hit: if the process was killed, if bytes were held, if somebody waited
//! for the lock. Each returns whether it did.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client as Sql;

use crate::harness::process::Exit;
use crate::harness::proxy::{Fate, Proxy, Way};
use crate::schedule::{Fault, Link, Planned, To};
use crate::site::Site;

/// How long a trap may wait for its prey.
const TRAP_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at what does not tell when it changes.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// What a COMMIT looks like on its way to PostgreSQL: a simple query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bcommit\0";
/// The stream, by the nodes' default settings.
const STREAM: &str = "chat:events";

/// What came of a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effect {
    pub has_hit: bool,
    /// The stream may have lost what was written to it before now.
    pub took_from_stream: bool,
}

/// `room`: the name of the room with that number.
pub async fn inject(site: &Site<'_>, planned: &Planned, rooms: &[String]) -> Effect {
    let lasting = Duration::from_millis(planned.lasting_ms);
    let has_hit = match planned.fault {
        Fault::NodeKill(node) => restart_node(site, node, Signal::KILL, lasting).await,
        Fault::NodeTerm(node) => restart_node(site, node, Signal::TERM, lasting).await,
        Fault::NodeStop(node) => stop_node(site, node, lasting).await,
        Fault::RedisKill
        | Fault::RedisStop
        | Fault::RedisFlush
        | Fault::RedisUnsubscribe
        | Fault::RedisTrim(_)
        | Fault::RedisForget(_) => redis(site, planned.fault, lasting).await,
        Fault::PostgresKill | Fault::PostgresRestart | Fault::PostgresStop => {
            postgres(site, planned.fault, lasting).await
        }
        Fault::PostgresTerminate(node) => terminate(site, node).await,
        Fault::PostgresLock(room) => lock(site, &rooms[room % rooms.len()], lasting).await,
        Fault::Cut(link) => disturb(site, link, lasting, Proxy::cut, Proxy::cuts).await,
        Fault::Hole(link) => disturb(site, link, lasting, Proxy::swallow, Proxy::held).await,
        Fault::Delay(link, ms) => {
            let begin = |proxy: &Proxy| {
                proxy.delay(Way::ToServer, Duration::from_millis(ms));
                proxy.delay(Way::ToClient, Duration::from_millis(ms / 2));
            };
            disturb(site, link, lasting, begin, Proxy::delayed).await
        }
        Fault::CommitCut { node, answer } => cut_commit(site, node, answer).await,
    };
    let takes =
        matches!(planned.fault, Fault::RedisKill | Fault::RedisFlush | Fault::RedisTrim(_));
    Effect { has_hit, took_from_stream: takes }
}

async fn restart_node(site: &Site<'_>, node: usize, signal: Signal, lasting: Duration) -> bool {
    let node = &site.nodes[node];
    let _busy = node.busy.lock().await;
    if let Some(process) = &*node.process.lock().await {
        process.signal(signal);
    }
    let exit = node.ended().await;
    sleep(lasting).await;
    node.start().await;
    exit == Some(if signal == Signal::KILL { Exit::Signal(9) } else { Exit::Code(0) })
}

async fn stop_node(site: &Site<'_>, node: usize, lasting: Duration) -> bool {
    let node = &site.nodes[node];
    let _busy = node.busy.lock().await;
    let process = node.process.lock().await;
    let Some(process) = &*process else { return false };
    process.signal(Signal::STOP);
    sleep(lasting).await;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
    process.signal(Signal::CONT);
    // `pid (any name) state …`
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

async fn redis(site: &Site<'_>, fault: Fault, lasting: Duration) -> bool {
    let mut server = site.redis.lock().await;
    match fault {
        Fault::RedisKill => {
            server.kill();
            sleep(lasting).await;
            server.restart().await;
            return true;
        }
        Fault::RedisStop => {
            server.pause();
            sleep(lasting).await;
            server.resume();
            return true;
        }
        _ => {}
    }
    let Some(mut redis) = site.redis().await else { return false };
    let ask = async |redis: &mut MultiplexedConnection, command: &str| {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        for word in words {
            command.arg(word);
        }
        command.query_async::<i64>(redis).await.is_ok_and(|count| count > 0)
    };
    match fault {
        Fault::RedisFlush => {
            let had_stream = ask(&mut redis, &format!("EXISTS {STREAM}")).await;
            redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.is_ok() && had_stream
        }
        Fault::RedisUnsubscribe => ask(&mut redis, "CLIENT KILL TYPE pubsub").await,
        Fault::RedisTrim(len) => ask(&mut redis, &format!("XTRIM {STREAM} MAXLEN {len}")).await,
        Fault::RedisForget(node) => {
            let name = &site.nodes[node].name;
            ask(&mut redis, &format!("XGROUP DESTROY {STREAM} node:{name}")).await
        }
        other => unreachable!("{other} is not of Redis"),
    }
}

async fn postgres(site: &Site<'_>, fault: Fault, lasting: Duration) -> bool {
    let mut server = site.postgres.lock().await;
    match fault {
        Fault::PostgresKill => {
            server.kill();
            sleep(lasting).await;
            server.restart().await;
        }
        Fault::PostgresRestart => server.restart().await,
        _ => {
            server.pause();
            sleep(lasting).await;
            server.resume();
        }
    }
    true
}

async fn terminate(site: &Site<'_>, node: usize) -> bool {
    let _held = site.postgres.lock().await;
    let Some(sql) = site.sql().await else { return false };
    let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where application_name = $1";
    let name = format!("verbatim {}", site.nodes[node].name);
    let ended = sql.query_one(terminate, &[&name]).await;
    ended.is_ok_and(|row| row.get::<_, i64>(0) > 0)
}

/// It hits when somebody waits for the lock.
async fn lock(site: &Site<'_>, room: &str, lasting: Duration) -> bool {
    let _held = site.postgres.lock().await;
    let (Some(holder), Some(watcher)) = (site.sql().await, site.sql().await) else { return false };
    let begun = holder.batch_execute("begin").await;
    let locked = holder.query("select from rooms where name = $1 for update", &[&room]).await;
    if begun.is_err() || locked.is_err() {
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

/// It hits when the proxy has met something to disturb.
async fn disturb(
    site: &Site<'_>,
    link: Link,
    lasting: Duration,
    begin: impl Fn(&Proxy),
    hits: impl Fn(&Proxy) -> usize,
) -> bool {
    let proxy = site.proxy(link);
    let _busy = site.nodes[link.node].links[link.to as usize].lock().await;
    let before = hits(proxy);
    begin(proxy);
    sleep(lasting).await;
    // Connections that were cut say so when their tasks run.
    tokio::task::yield_now().await;
    let has_hit = hits(proxy) > before;
    proxy.delay(Way::ToServer, Duration::ZERO);
    proxy.delay(Way::ToClient, Duration::ZERO);
    proxy.heal();
    has_hit
}

async fn cut_commit(site: &Site<'_>, node: usize, answer: bool) -> bool {
    let link = Link { node, to: To::Postgres };
    let proxy = site.proxy(link);
    let _busy = site.nodes[node].links[link.to as usize].lock().await;
    let before = proxy.cuts();
    let mut is_set = true;
    proxy.rule(move |way, piece| {
        let is_commit =
            way == Way::ToServer && piece.windows(COMMIT.len()).any(|part| part == COMMIT);
        match is_commit && std::mem::take(&mut is_set) {
            false => Fate::Pass,
            true if answer => Fate::CutAnswer,
            true => Fate::Cut,
        }
    });
    let caught = async {
        while proxy.cuts() == before {
            sleep(LOOK_PAUSE).await;
        }
    };
    let has_hit = timeout(TRAP_TIMEOUT, caught).await.is_ok();
    proxy.no_rule();
    has_hit
}
