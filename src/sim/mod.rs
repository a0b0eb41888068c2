//! The middle of a node under schedules that a test on sockets would rarely meet: lanes, relay,
//! hub, desk, followers, replays and doubts, on one thread in virtual time. A seed determines a
//! schedule completely.
//!
//! The log is in memory (`log::memory`), sockets end in pipes (`socket::pipe`), and `carrier` plays
//! Redis. Everything else is what a node runs, except the loop of a session (`session`). In a
//! schedule clients come, go, join, leave and stop reading (`schedule`). The log is slow, away,
//! damaged or goes back, and events of other nodes arrive late, twice, in any order or never
//! (`plan`). Every event is checked against last + 1 (`client`, `truth`). At the end everything
//! works again: every client must get everything, and nothing may be left over (`end`).
//!
//! ```text
//! SIM_SCHEDULES=100000 cargo test --lib sim             more of them
//! SIM_SEED=7 cargo test --lib sim_every -- --nocapture  one of them, step by step
//! ```

mod carrier;
pub mod chance;
mod client;
mod end;
mod node;
mod plan;
mod schedule;
mod session;
mod truth;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures_util::FutureExt;

use self::chance::Chance;
use self::node::Node;
use self::plan::Plan;
use self::schedule::Schedule;
use crate::config::Config;
use crate::metrics::Metrics;

/// Schedules in an ordinary run.
const SCHEDULES: u64 = 2_000;

/// What all schedules of one thread share.
struct Bench {
    config: Config,
    metrics: Arc<Metrics>,
    /// Events that clients were shown, in all schedules.
    shown: AtomicU64,
}

impl Bench {
    fn new() -> Self {
        let (config, metrics) = (Config::from_defaults(), Arc::new(Metrics::new()));
        Self { config, metrics, shown: AtomicU64::new(0) }
    }

    /// Runs one schedule. Returns its digest, or the promise that was broken.
    fn run(&self, seed: u64, is_told: bool) -> Result<u64, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        let run = AssertUnwindSafe(|| runtime.block_on(self.schedule(seed, is_told)));
        catch_unwind(run).unwrap_or_else(|_| Err("a panic, see above".into()))
    }

    async fn schedule(&self, seed: u64, is_told: bool) -> Result<u64, String> {
        let chance = Chance::new(seed, is_told);
        let plan = Plan::of(&chance);
        chance.tell(|| format!("{plan:#?}"));
        chance.set_slow(plan.slow);
        let redis = plan.redis;
        let (node, committed) = Node::start(&chance, plan, &self.config, &self.metrics);
        let (truth, tasks) = (node.truth.clone(), node.desk.tasks.clone());
        let carry = carrier::carry(chance.clone(), redis, committed, node.feed.clone());
        let carrier = tokio::spawn(carry);
        let mut schedule = Schedule::new(Arc::new(node));
        schedule.run().await;
        let ended = schedule.end(carrier).await;
        if let Some(failed) = tasks.failed().now_or_never() {
            return Err(failed);
        }
        truth.broken().map_or(ended, Err)?;
        self.shown.fetch_add(truth.shown_len(), Relaxed);
        Ok(chance.digest())
    }
}

/// A setting of this test, from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Events that clients are shown in a schedule, on average: a good half of what it is. If members
/// were refused, or nobody came back, nothing else would be wrong.
const SHOWN_MIN: u64 = 15;

/// Runs seeds on all processors, until one of them fails.
fn run_all(seeds: std::ops::Range<u64>) {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let shown = AtomicU64::new(0);
    let work = || {
        let bench = Bench::new();
        while failed.load(Relaxed) == u64::MAX {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds.end {
                break;
            }
            if let Err(broken) = bench.run(seed, false) {
                failed.store(seed, Relaxed);
                eprintln!("after {} schedules: SIM_SEED={seed}: {broken}", seed - seeds.start);
            }
        }
        shown.fetch_add(bench.shown.into_inner(), Relaxed);
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, Into::into);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let failed = failed.into_inner();
    assert_eq!(failed, u64::MAX, "a promise was broken; SIM_SEED={failed} shows how");
    let (shown, schedules) = (shown.into_inner(), seeds.end - seeds.start);
    assert!(shown >= SHOWN_MIN * schedules, "only {shown} events shown in {schedules} schedules");
}

#[test]
fn sim_every_follower_is_shown_last_plus_one_whatever_happens() {
    if let Some(seed) = setting("SIM_SEED") {
        assert_eq!(Bench::new().run(seed, true).map(drop), Ok(()));
        return;
    }
    let schedules = setting("SIM_SCHEDULES").unwrap_or(SCHEDULES);
    run_all(0..schedules);
    // And some new ones.
    let first = rand::random::<u64>() >> 1;
    println!("random schedules from SIM_SEED={first}");
    run_all(first..first + schedules / 10);
}

/// A failure that cannot be reproduced is worth little.
#[test]
fn sim_the_same_seed_is_the_same_schedule() {
    for seed in 0..200 {
        let run = || Bench::new().run(seed, false);
        assert_eq!(run(), run(), "seed {seed}");
    }
}
