//! The fault runner: real nodes, a real PostgreSQL and a real Redis, everything done to them that a
//! bad week may do, and in the end the checker's word on it.
//!
//! It is a program of its own and not part of the server. `make verify` runs it in release mode;
//! `cargo test` runs its short form, of two seeds. What is there to set is in the environment:
//! `SEEDS` (how many), `SEED` (that one only), `FIRST` (the first), `SECONDS` (of each), `KIND`
//! (`faults`, `crew` or `disk`, else all: a crew boards with every second seed, and every fourth is
//! also played by one node on a disk that fails), `DEED` and `FAULT` (those of a crew, or those
//! faults, only whose name has that in it).
//!
//! - `fault`: what goes wrong; `schedule`: when, by the seed; `crew`: clients that mean harm
//! - `site`: the servers; `inject`: what is done to them; `reading`: what they hold
//! - `bystander`: a socket of the runner's own
//! - `round`: one schedule; `report`: what came of all

#[path = "../it/harness/mod.rs"]
mod harness;

mod bystander;
mod crew;
mod fault;
mod inject;
mod reading;
mod report;
mod round;
mod schedule;
mod site;

use std::process::ExitCode;
use std::sync::Arc;

use crate::report::Totals;
use crate::round::{Kind, Live, play};
use crate::schedule::{SHORT_SECONDS, SHORT_SEEDS};
use crate::site::Server;

/// Of each schedule, unless told otherwise.
const SECONDS: u64 = 30;

fn main() -> ExitCode {
    // `cargo test NAME` gives NAME to this program as well, and `-- --list` asks what there is.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().find(|argument| !argument.starts_with('-')) {
        Some(word) if word == "report" => {
            Totals::of_all().tell();
            return ExitCode::SUCCESS;
        }
        Some(word) if !"verify".contains(word.as_str()) => return ExitCode::SUCCESS,
        _ if arguments.iter().any(|argument| argument == "--list") => return ExitCode::SUCCESS,
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run())
}

async fn run() -> ExitCode {
    let (seeds, seconds) = wanted();
    let mut server = Server::start().await;
    let schedules: Vec<_> = seeds.into_iter().flat_map(kinds).collect();
    let mut totals = Totals::new(schedules.len());
    for schedule in schedules {
        let live = Arc::new(Live::default());
        let progress = tokio::spawn(report::tell_progress(totals.line(), live.clone()));
        let outcome = play(&mut server, schedule, seconds, &live).await;
        progress.abort();
        totals.add(&outcome, seconds);
    }
    totals.tell();
    if totals.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is played with that seed.
fn kinds(seed: u64) -> Vec<(Kind, u64)> {
    let kinds = match std::env::var("KIND").unwrap_or_default().as_str() {
        "faults" => vec![Kind::Faults],
        "crew" => vec![Kind::Crew],
        "disk" => vec![Kind::Disk],
        "" if seed % 4 == 1 => vec![Kind::Faults, Kind::Disk],
        "" if seed.is_multiple_of(2) => vec![Kind::Faults, Kind::Crew],
        "" => vec![Kind::Faults],
        other => panic!("KIND is none of faults, crew and disk: {other:?}"),
    };
    kinds.into_iter().map(|kind| (kind, seed)).collect()
}

/// The seeds, and the seconds of each.
fn wanted() -> (Vec<u64>, u64) {
    let number = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")))
    };
    match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => (vec![seed], number("SECONDS").unwrap_or(SECONDS)),
        (None, Some(count)) => {
            let first = number("FIRST").unwrap_or(1);
            ((first..first + count).collect(), number("SECONDS").unwrap_or(SECONDS))
        }
        (None, None) => (SHORT_SEEDS.to_vec(), SHORT_SECONDS),
    }
}
