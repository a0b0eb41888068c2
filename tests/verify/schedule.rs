//! When what goes wrong in a schedule: everything of it that the seed decides.
//!
//! It is pure, and knows no process and no socket.

use std::ops::Range;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::fault::{DiskFault, Fault, Link, Mend, Table, To};

/// Nodes of the cluster.
pub const NODES: usize = 3;

/// Of the short form: the pair below 60,000 that has most kinds of faults in it, 26 of 38, with one
/// crew beside them. It has no time for more.
pub const SHORT_SEEDS: [u64; 2] = [7198, 16751];
pub const SHORT_SECONDS: u64 = 8;

/// Before the first fault, in milliseconds: everybody is there and talks.
const CALM_MS: u64 = 1000;
/// From the end of a fault to the next of the same track.
const GAP_MS: Range<u64> = 100..700;
/// The same where there is one fault at a time: what it did is over by then.
const SINGLE_GAP_MS: Range<u64> = 1500..2500;
/// Sequences of faults that go on side by side: never more than two at a time.
const TRACKS: usize = 2;
/// One of so many schedules has one fault at a time only.
const SINGLE: u32 = 4;
/// One of so many seeds is played without Redis.
const WITHOUT_REDIS: u64 = 5;
/// So many draws have every kind in them.
const DRAWS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Since the beginning of the schedule.
    pub at_ms: u64,
    pub lasting_ms: u64,
    pub fault: Fault,
}

/// Whether the nodes are told of a Redis.
pub fn has_redis(seed: u64) -> bool {
    !seed.is_multiple_of(WITHOUT_REDIS)
}

/// The tracks of a schedule, each in the order of time. `only`: those whose kind has that in it.
pub fn tracks(seed: u64, seconds: u64, only: &str) -> Vec<Vec<Planned>> {
    // Another stream of random numbers than the clients' plan.
    let mut rng = StdRng::seed_from_u64(seed ^ 0xFA17);
    let count = if rng.random_ratio(1, SINGLE) { 1 } else { TRACKS };
    let gap_ms = if count == 1 { SINGLE_GAP_MS } else { GAP_MS };
    let is_possible =
        |fault: &Fault| (has_redis(seed) || !fault.is_of_redis()) && fault.kind().contains(only);
    let draw = |rng: &mut StdRng| first(rng, fault, is_possible);
    let mut tracks: Vec<_> = (0..count).map(|_| track(&mut rng, seconds, &gap_ms, draw)).collect();
    // It costs what was acked, and a room is set back but once.
    let mut has_set_back = false;
    let mut is_first = |planned: &Planned| {
        !matches!(planned.fault, Fault::SetBack { .. })
            || !std::mem::replace(&mut has_set_back, true)
    };
    tracks.iter_mut().for_each(|track| track.retain(&mut is_first));
    tracks
}

fn track(
    rng: &mut StdRng,
    seconds: u64,
    gap_ms: &Range<u64>,
    draw: impl Fn(&mut StdRng) -> Fault,
) -> Vec<Planned> {
    let end_ms = seconds * 1000;
    let mut planned = Vec::new();
    let mut at_ms = CALM_MS + rng.random_range(GAP_MS);
    loop {
        let fault = draw(rng);
        let lasting_ms = fault.lasting_ms(rng, seconds);
        if at_ms + lasting_ms > end_ms {
            return planned;
        }
        planned.push(Planned { at_ms, lasting_ms, fault });
        at_ms += lasting_ms + rng.random_range(gap_ms.clone());
    }
}

/// The one track of a schedule with one node on an embedded log.
pub fn disk_track(seed: u64, seconds: u64, only: &str) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xD15C);
    let is_possible = |fault: &Fault| fault.kind().contains(only);
    track(&mut rng, seconds, &SINGLE_GAP_MS, |rng| first(rng, disk_fault, is_possible))
}

/// The first that is drawn and possible.
fn first(
    rng: &mut StdRng,
    draw: impl Fn(&mut StdRng) -> Fault,
    is_possible: impl Fn(&Fault) -> bool,
) -> Fault {
    let mut drawn = (0..DRAWS_MAX).map(|_| draw(rng));
    drawn.find(is_possible).expect("no kind of fault that can be here has that in its name")
}

fn disk_fault(rng: &mut StdRng) -> Fault {
    let link = Link { node: 0, to: To::Clients };
    match rng.random_range(0..100) {
        0..20 => Fault::Disk(DiskFault::Fail),
        20..40 => Fault::Disk(DiskFault::Hang),
        40..55 => Fault::Disk(DiskFault::Bad),
        55..70 => Fault::Disk(DiskFault::BadWal),
        70..78 => Fault::NodeKill(0),
        78..82 => Fault::NodeTerm(0),
        82..86 => Fault::NodeStop(0),
        86..91 => Fault::Cut(link),
        91..96 => Fault::Hole(link),
        _ => Fault::Delay(link, rng.random_range(20..400)),
    }
}

fn fault(rng: &mut StdRng) -> Fault {
    let node = rng.random_range(0..NODES);
    let to = [To::Redis, To::Postgres, To::Clients][rng.random_range(0..3)];
    let link = Link { node, to };
    match rng.random_range(0..150) {
        0..8 => Fault::NodeKill(node),
        8..12 => Fault::NodeTerm(node),
        12..19 => Fault::NodeStop(node),
        19..24 => Fault::RedisKill,
        24..28 => Fault::RedisStop,
        28..33 => Fault::RedisFlush,
        33..38 => Fault::RedisUnsubscribe,
        38..42 => Fault::RedisTrim(rng.random_range(0..50)),
        42..46 => Fault::RedisForget(node),
        46..50 => Fault::PostgresKill,
        50..53 => Fault::PostgresRestart,
        53..56 => Fault::PostgresStop,
        56..62 => Fault::PostgresTerminate(node),
        62..66 => Fault::PostgresLock(rng.random_range(0..usize::from(u8::MAX))),
        66..74 => Fault::Cut(link),
        74..82 => Fault::Hole(link),
        82..88 => Fault::Delay(link, rng.random_range(20..400)),
        88..100 => Fault::CommitCut { node, answer: rng.random_ratio(2, 3) },
        100..107 => Fault::BackendStop(node),
        107..110 => Fault::TableLock(Table::Outbox),
        110..113 => Fault::TableLock(Table::Events),
        113..116 => Fault::TableLock(Table::Rooms),
        116..120 => Fault::ReadOnly,
        120..122 => Fault::Snapshot,
        122..126 => Fault::RedisSlow,
        126..130 => Fault::UnreadableRow(Mend::MakeRight),
        130..132 => Fault::UnreadableRow(Mend::Remove),
        132..137 => Fault::DiskFull,
        137..140 => Fault::Stranger,
        140..146 => Fault::Newer,
        _ => Fault::SetBack {
            room: rng.random_range(0..usize::from(u8::MAX)),
            count: rng.random_range(1..150),
        },
    }
}
