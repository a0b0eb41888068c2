//! What goes wrong in a schedule of `make verify`, by its seed. The schedules themselves are run by
//! `tests/verify`.

use std::collections::BTreeSet;

use proptest::prelude::*;

use self::fault::Fault;
use self::schedule::{Planned, SHORT_SECONDS, SHORT_SEEDS, disk_track, has_redis, tracks};

#[path = "../verify/fault.rs"]
mod fault;
#[path = "../verify/schedule.rs"]
mod schedule;

/// So many schedules have everything in them that can go wrong.
const MANY: u64 = 200;

/// Whether a node is stopped for longer than any other fault lasts.
fn is_long(planned: &Planned) -> bool {
    matches!(planned.fault, Fault::NodeStop(_)) && planned.lasting_ms > 4000
}

fn kinds(seeds: impl IntoIterator<Item = u64>, seconds: u64) -> BTreeSet<String> {
    let planned = seeds.into_iter().flat_map(|seed| tracks(seed, seconds, "")).flatten();
    planned.map(|planned| planned.fault.kind()).collect()
}

proptest! {
    #[test]
    fn the_same_seed_is_the_same_schedule_and_another_is_another(seed: u64, seconds in 10u64..100) {
        prop_assert_eq!(tracks(seed, seconds, ""), tracks(seed, seconds, ""));
        prop_assert_ne!(tracks(seed, seconds, ""), tracks(seed ^ 1, seconds, ""));
    }

    #[test]
    fn there_are_two_faults_at_a_time_at_most_and_all_are_over_in_the_end(
        seed: u64,
        seconds in 3u64..100,
    ) {
        let tracks = tracks(seed, seconds, "");
        prop_assert!((1..=2).contains(&tracks.len()));
        for track in tracks {
            let mut free_at_ms = 1;
            for Planned { at_ms, lasting_ms, .. } in track {
                prop_assert!(at_ms >= free_at_ms, "{} begins before {}", at_ms, free_at_ms);
                free_at_ms = at_ms + lasting_ms + 1;
            }
            prop_assert!(free_at_ms <= seconds * 1000 + 1);
        }
    }

    /// A node that was stopped for half a minute comes back into a cluster that has given it up.
    #[test]
    fn long_stops_are_in_long_schedules_only(seed: u64) {
        let has_long = |seconds| tracks(seed, seconds, "").concat().iter().any(is_long);
        prop_assert!(!has_long(89));
    }
}

#[test]
fn many_schedules_have_long_stops() {
    assert!((0..MANY).any(|seed| tracks(seed, 90, "").concat().iter().any(is_long)));
}

#[test]
fn the_short_form_has_most_kinds_of_faults() {
    let missing = &kinds(0..MANY, 30) - &kinds(SHORT_SEEDS, SHORT_SECONDS);
    assert!(missing.len() <= 12, "{missing:?}");
}

#[test]
fn a_log_is_set_back_once_in_a_schedule_at_most() {
    let is_set_back = |planned: &&Planned| matches!(planned.fault, Fault::SetBack { .. });
    let count = |seed| tracks(seed, 90, "log set back").concat().iter().filter(is_set_back).count();
    let counts: BTreeSet<usize> = (0..MANY).map(count).collect();
    assert_eq!(counts, BTreeSet::from([1]));
}

#[test]
fn a_schedule_without_redis_does_nothing_to_it() {
    let without: Vec<u64> = (0..MANY).filter(|seed| !has_redis(*seed)).collect();
    assert!(without.len() >= MANY as usize / 10);
    let of_redis = without.into_iter().flat_map(|seed| tracks(seed, 30, "").concat());
    assert!(of_redis.into_iter().all(|planned| !planned.fault.is_of_redis()));
}

#[test]
fn a_disk_does_everything_that_it_can_and_nothing_is_done_to_other_nodes() {
    let planned: Vec<_> = (0..MANY).flat_map(|seed| disk_track(seed, 30, "")).collect();
    let kinds: BTreeSet<_> = planned.iter().map(|planned| planned.fault.kind()).collect();
    assert_eq!(kinds.iter().filter(|kind| kind.starts_with("disk: ")).count(), 4, "{kinds:?}");
    assert!(planned.iter().all(|planned| !planned.fault.to_string().contains("(n2)")));
}
