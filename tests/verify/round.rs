//! One schedule, from empty servers to the verdict.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use verbatim_checker::{History, Limits, Nanos, Report, check};
use verbatim_tools::verify::plan::Shape;
use verbatim_tools::verify::{Run, Settings, Target};

use crate::crew::{Crew, Waits, furnish};
use crate::fault::{Fault, Table};
use crate::inject::inject;
use crate::reading;
use crate::schedule::{Planned, disk_track, has_redis, tracks};
use crate::site::{Server, Site};

/// Between two looks at the tables and at the nodes' memory.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Everybody goes on talking for so long after the last fault: what is new must work, too.
const AFTERMATH: Duration = Duration::from_millis(1000);
/// Until the outbox is empty: a row that nobody owns is swept after 2 s.
const OUTBOX_TIMEOUT: Duration = Duration::from_secs(15);
/// Without Redis a node asks the log what is new: that often, and a little later.
const POLL_NANOS: Nanos = 600_000_000;
/// Until a node has noticed that the outbox is free again, and has written what was to be in it.
const UNANNOUNCED_NANOS: Nanos = 3_000_000_000;
/// Resident memory of a node, which some 60 clients and a few thousand events must not reach,
/// whatever happens to it.
const MEMORY_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// The same with a crew on board, which may hold what the budgets of a node allow,
const CREW_MEMORY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// and what may be left of it a minute after they have gone.
const LEFT_BYTES_MAX: u64 = 120 * 1024 * 1024;
const LEFT_TIMEOUT: Duration = Duration::from_secs(60);
/// What the neighbours of a crew wait for a pong at most, but for one in a hundred.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// How fast a build for tests is says nothing of the one that is shipped.
const IS_TIMED: bool = cfg!(not(debug_assertions));

/// What is done to a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What `schedule` is about.
    #[default]
    Faults,
    /// Nothing fails, and a hostile crew is on board.
    Crew,
    /// One node on an embedded log, whose disk fails.
    Disk,
}

/// What one schedule came to.
pub struct Outcome {
    pub kind: Kind,
    pub seed: u64,
    /// Faults that hit, by kind.
    pub faults: BTreeMap<String, usize>,
    /// The longest from the end of a fault until everything flowed again, by kind, in milliseconds.
    pub heals: BTreeMap<String, u64>,
    /// Faults that met nothing.
    pub missed: usize,
    pub unavailable: u64,
    pub reconnects: u64,
    pub memory_bytes: u64,
    /// With a crew: how long its neighbours waited.
    pub waits: Option<Waits>,
    pub report: Report,
    pub history: History,
    /// What is wrong beside what the checker says: a node that died by itself.
    pub broken: Vec<String>,
    /// The nodes' logs.
    pub logs: Vec<(String, String)>,
}

/// What is known while it runs.
#[derive(Default)]
pub struct Live {
    pub faults: AtomicU64,
    pub deliveries: AtomicU64,
    /// The most that a node ever had.
    pub memory_bytes: AtomicU64,
}

/// Faults, as they are carried out.
#[derive(Default)]
struct Tally {
    /// All of them, in the order of their ends.
    felt: Vec<Felt>,
    /// What went wrong that the checker cannot see.
    broken: Vec<String>,
    hit: BTreeMap<String, usize>,
    missed: usize,
    /// Since when the stream lost nothing.
    whole_since: u64,
}

/// One fault, when it was felt, by the recorder's clock.
struct Felt {
    fault: Fault,
    begun_at: Nanos,
    ended_at: Nanos,
    has_hit: bool,
}

pub async fn play(
    server: &mut Server,
    (kind, seed): (Kind, u64),
    seconds: u64,
    live: &Live,
) -> Outcome {
    let has_redis = match kind {
        Kind::Faults => has_redis(seed),
        Kind::Crew => true,
        Kind::Disk => false,
    };
    let site = Site::new(server, kind, has_redis).await;
    site.start().await;
    let memory_bytes_max = match kind {
        Kind::Faults | Kind::Disk => MEMORY_BYTES_MAX,
        Kind::Crew => CREW_MEMORY_BYTES_MAX,
    };
    let urls = site.urls();
    let targets = urls.iter().map(|url| Target::parse(url).expect("a URL of ours"));
    let settings = Settings {
        targets: targets.collect(),
        seed,
        shape: Shape { clients: 60, rooms: 6, rate: 300, message_bytes_max: 16 * 1024 },
        name: format!("s{seed}"),
        limits: Limits {
            memory_bytes: Some(memory_bytes_max),
            heal: Limits::default().heal + if site.has_redis { 0 } else { POLL_NANOS },
        },
    };
    let mut run = Run::begin(settings).await.expect("nothing disturbs the beginning");
    let tally = Mutex::<Tally>::default();
    let mut broken = Vec::new();
    let mut waits = None;
    let addrs = site.addrs().await;
    if kind == Kind::Crew {
        furnish(addrs[0]).await;
    }
    let before = reading::memory(&site, run.recorder());
    let only = std::env::var("FAULT").unwrap_or_default();
    let tracks = match kind {
        Kind::Faults => tracks(seed, seconds, &only),
        Kind::Crew => Vec::new(),
        Kind::Disk => vec![disk_track(seed, seconds, &only)],
    };
    let is_single = tracks.len() == 1;
    {
        let (run, begun) = (&run, Instant::now());
        let tracks = tracks
            .into_iter()
            .map(|track| carry_out(&site, run, track, (begun, seconds, is_single), &tally, live));
        let end = begun + Duration::from_secs(seconds);
        let faults = async {
            if kind == Kind::Crew {
                let crew = Crew::board(&addrs, seed);
                sleep_until(end).await;
                waits = Some(crew.leave().await);
            }
            futures_util::future::join_all(tracks).await;
            sleep_until(end).await;
            run.recorder().note("the last fault has ended");
            run.healed();
            sleep(AFTERMATH).await;
        };
        tokio::select! {
            () = faults => {}
            () = look(&site, run, live, &mut broken) => {}
        }
    }
    run.hush().await;
    run.end().await;
    if let Some(waits) = waits {
        broken.extend(
            (waits.p99 > WAIT_MAX && IS_TIMED).then(|| format!("neighbours waited: {waits:?}")),
        );
        broken.extend(left(&site, &run, before).await);
    }
    broken.extend(run.troubles.iter().map(|trouble| (*trouble).to_owned()));
    let tally = tally.into_inner().expect("nobody panicked");
    broken.extend(tally.broken);
    if let Err(err) = read(&site, &run, tally.whole_since).await {
        broken.push(format!("the log or the stream could not be read: {err}"));
    }
    let counters = &run.recorder().counters;
    let unavailable = counters.unavailable.load(Ordering::Relaxed);
    let reconnects = counters.reconnects.load(Ordering::Relaxed);
    let history = run.over().await;
    let report = check(&history);
    let heals = heals(&tally.felt, &report.heals, is_single);
    let mut logs = Vec::new();
    for node in &site.nodes {
        logs.push((node.name.clone(), node.log().await));
    }
    Outcome {
        kind,
        seed,
        faults: tally.hit,
        heals,
        missed: tally.missed,
        unavailable,
        reconnects,
        memory_bytes: live.memory_bytes.load(Ordering::Relaxed),
        waits,
        report,
        history,
        broken,
        logs,
    }
}

/// Waits until the nodes have given back what they held for a crew; what is wrong if they do not.
async fn left(site: &Site<'_>, run: &Run, before: u64) -> Option<String> {
    let due = Instant::now() + LEFT_TIMEOUT;
    loop {
        let now = reading::memory(site, run.recorder());
        if now <= before + LEFT_BYTES_MAX {
            return None;
        }
        if Instant::now() > due {
            return Some(format!("{} MiB before the crew, {} MiB after", before >> 20, now >> 20));
        }
        sleep(LOOK_PAUSE).await;
    }
}

/// One fault after the other.
async fn carry_out(
    site: &Site<'_>,
    run: &Run,
    track: Vec<Planned>,
    (begun, seconds, is_single): (Instant, u64, bool),
    tally: &Mutex<Tally>,
    live: &Live,
) {
    for planned in track {
        // Faults take their time to be over, and those behind them begin later than planned.
        if begun.elapsed() > Duration::from_secs(seconds) {
            return;
        }
        sleep_until(begun + Duration::from_millis(planned.at_ms)).await;
        let Planned { fault, lasting_ms, .. } = planned;
        run.recorder().note(&format!("{fault} begins, for {lasting_ms} ms"));
        let begun_at = run.recorder().now();
        let effect = inject(site, &planned, run).await;
        let now = run.recorder().now();
        let is_hit = if effect.has_hit { "over" } else { "over, and met nothing" };
        run.recorder().note(&format!("{fault} is {is_hit}"));
        let mut tally = tally.lock().expect("nobody panicked");
        let (ended_at, has_hit) = (effect.ended_at.unwrap_or(now), effect.has_hit);
        run.recorder().history().fault_ended(ended_at);
        tally.felt.push(Felt { fault, begun_at, ended_at, has_hit });
        tally.broken.extend(effect.broken);
        // While the outbox is locked, what a node commits is in its memory alone until it is in
        // Redis: a node that dies just then, by another fault, takes it along.
        let is_unannounced = fault == Fault::TableLock(Table::Outbox) && !is_single;
        if is_unannounced {
            tally.whole_since = tally.whole_since.max(now + UNANNOUNCED_NANOS);
        }
        if effect.took_from_stream {
            tally.whole_since = tally.whole_since.max(now);
        }
        if effect.has_hit {
            *tally.hit.entry(fault.kind()).or_default() += 1;
            live.faults.fetch_add(1, Ordering::Relaxed);
        } else {
            tally.missed += 1;
        }
    }
}

/// The longest time to heal of each kind. Where faults go on side by side, one that another came
/// upon before it was healed says nothing: nobody knows which of them it was.
fn heals(felt: &[Felt], heals: &[Nanos], is_single: bool) -> BTreeMap<String, u64> {
    let mut by_kind = BTreeMap::new();
    for (one, heal) in felt.iter().zip(heals) {
        let is_apart =
            |other: &Felt| other.ended_at < one.begun_at || other.begun_at > one.ended_at + heal;
        let mut others = felt.iter().filter(|other| !std::ptr::eq(*other, one));
        if one.has_hit && (is_single || others.all(is_apart)) {
            let longest: &mut u64 = by_kind.entry(one.fault.kind()).or_default();
            *longest = (*longest).max(heal / 1_000_000);
        }
    }
    by_kind
}

/// Looks at the tables, the memory and the processes, without end.
async fn look(site: &Site<'_>, run: &Run, live: &Live, broken: &mut Vec<String>) {
    let mut sql = None;
    loop {
        sleep(LOOK_PAUSE).await;
        let recorder = run.recorder();
        live.deliveries
            .store(recorder.counters.deliveries.load(Ordering::Relaxed), Ordering::Relaxed);
        let bytes = reading::memory(site, recorder);
        live.memory_bytes.fetch_max(bytes, Ordering::Relaxed);
        for node in &site.nodes {
            // Busy: somebody is doing something to it.
            let Ok(_busy) = node.busy.try_lock() else { continue };
            let Ok(mut process) = node.process.try_lock() else { continue };
            let Some(exit) = process.as_mut().and_then(|process| process.has_ended()) else {
                continue;
            };
            drop(process);
            broken.push(format!("{} ended by itself: {exit:?}", node.name));
            node.ended().await;
            node.start().await;
        }
        if sql.is_none() && site.embedded.is_none() {
            sql = site.sql().await;
        }
        if let Some(client) = &sql {
            let read = timeout(LOOK_PAUSE * 4, reading::positions(client, recorder)).await;
            if !matches!(read, Ok(Ok(()))) {
                sql = None;
            }
        }
    }
}

/// Everything that is there in the end.
async fn read(site: &Site<'_>, run: &Run, whole_since: u64) -> anyhow::Result<()> {
    if let Some(embedded) = &site.embedded {
        reading::file(&embedded.path(), run.recorder())?;
        return Ok(());
    }
    let sql = site.sql().await.ok_or_else(|| anyhow::anyhow!("PostgreSQL is away"))?;
    let drained = async {
        while reading::outbox_len(&sql).await? > 0 {
            sleep(Duration::from_millis(50)).await;
        }
        Ok::<(), tokio_postgres::Error>(())
    };
    // Late is for the checker to say.
    let _ = timeout(OUTBOX_TIMEOUT, drained).await;
    let outbox_len = reading::outbox_len(&sql).await?;
    reading::table(&sql, run.recorder()).await?;
    if !site.has_redis {
        return Ok(());
    }
    reading::stream(site, run.recorder()).await?;
    run.recorder().history().stream_end(outbox_len, whole_since);
    Ok(())
}
