//! Carrying out a fault: it begins, lasts, ends, and is over when what it hit works again.
//!
//! A fault counts only if it hit: if the process was killed, if bytes were held, if somebody waited
//! for the lock. Each returns whether it did.
//!
//! - here: the nodes, and the network between them and the others
//! - `redis`, `postgres`: the servers; `disk`: that of an embedded log
//! - `sessions`: what somebody does to a database by SQL
//! - `unreadable`: an event that no node can read; `set_back`: events that are gone
//! - `newer`: a node of a later version beside them
//! - `stranger`: a node of another cluster

mod disk;
mod newer;
mod postgres;
mod redis;
mod sessions;
mod set_back;
mod stranger;
mod unreadable;

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use verbatim_checker::Nanos;
use verbatim_tools::verify::Run;

use self::sessions::Lock;
use crate::fault::{Fault, Link, To};
use crate::harness::daemon::state;
use crate::harness::process::Exit;
use crate::harness::proxy::{Fate, Proxy, Way};
use crate::schedule::Planned;
use crate::site::Site;

/// How long a trap may wait for its prey.
const TRAP_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at what does not tell when it changes.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// What a COMMIT looks like on its way to PostgreSQL: a simple query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bcommit\0";

/// What came of a fault.
#[derive(Debug, Default)]
pub struct Effect {
    pub has_hit: bool,
    /// The stream may have lost what was written to it before now.
    pub took_from_stream: bool,
    /// `None`: now.
    pub ended_at: Option<Nanos>,
    /// What went wrong that the checker cannot see.
    pub broken: Option<String>,
}

impl From<bool> for Effect {
    fn from(has_hit: bool) -> Self {
        Self { has_hit, ..Self::default() }
    }
}

pub async fn inject(site: &Site<'_>, planned: &Planned, run: &Run) -> Effect {
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
        | Fault::RedisForget(_) => redis::inject(site, planned.fault, lasting).await,
        Fault::RedisSlow => redis::slow(site, lasting).await,
        Fault::Stranger => return stranger::inject(site, run, lasting).await,
        Fault::PostgresKill | Fault::PostgresRestart | Fault::PostgresStop => {
            postgres::inject(site, planned.fault, lasting).await
        }
        Fault::PostgresTerminate(node) => postgres::terminate(site, node).await,
        Fault::PostgresLock(room) => {
            let room = &run.rooms()[room % run.rooms().len()];
            sessions::lock(site, Lock::Room(room), lasting).await
        }
        Fault::TableLock(table) => sessions::lock(site, Lock::Table(table), lasting).await,
        Fault::BackendStop(node) => postgres::stop_backend(site, node, lasting).await,
        Fault::ReadOnly => sessions::read_only(site, lasting).await,
        Fault::Snapshot => sessions::hold_snapshot(site, lasting).await,
        Fault::DiskFull => postgres::fill_disk(site, lasting).await,
        Fault::UnreadableRow(mend) => return unreadable::inject(site, run, mend, lasting).await,
        Fault::Newer => return newer::inject(site, run, lasting).await,
        Fault::SetBack { room, count } => {
            set_back::inject(site, run, &run.rooms()[room % run.rooms().len()], count).await
        }
        Fault::Disk(fault) => disk::inject(site, fault, lasting).await,
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
    let took_from_stream =
        matches!(planned.fault, Fault::RedisKill | Fault::RedisFlush | Fault::RedisTrim(_));
    Effect { took_from_stream, ..Effect::from(has_hit) }
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
    let has_hit = is_stopped(process.pid());
    process.signal(Signal::CONT);
    has_hit
}

fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
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
