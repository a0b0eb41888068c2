//! What came of the schedules: a line while they run, a table at the end, a line of JSON for each,
//! and everything there is to know of one that failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::round::{Live, Outcome};

/// Violations that are shown with their context.
const SHOWN_MAX: usize = 5;

/// Everything so far, over all schedules.
pub struct Totals {
    schedules: usize,
    done: usize,
    faults: BTreeMap<String, usize>,
    missed: usize,
    acked: usize,
    indeterminate: usize,
    unavailable: u64,
    events: usize,
    deliveries: usize,
    reconnects: u64,
    heal: Duration,
    memory_bytes: u64,
    violations: usize,
    failed: Vec<u64>,
    begun: Instant,
}

impl Totals {
    pub fn new(schedules: usize) -> Self {
        Self {
            schedules,
            done: 0,
            faults: BTreeMap::new(),
            missed: 0,
            acked: 0,
            indeterminate: 0,
            unavailable: 0,
            events: 0,
            deliveries: 0,
            reconnects: 0,
            heal: Duration::ZERO,
            memory_bytes: 0,
            violations: 0,
            failed: Vec::new(),
            begun: Instant::now(),
        }
    }

    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }

    /// What the line of progress tells, with what is live added to it.
    pub fn line(&self, place: usize) -> impl Fn(&Live) -> String + use<> {
        let (schedules, violations) = (self.schedules, self.violations);
        let (faults, deliveries) = (self.faults.values().sum::<usize>(), self.deliveries as u64);
        move |live| {
            format!(
                "schedule {} of {schedules}: {} faults, {} deliveries, {violations} violations",
                place + 1,
                faults + live.faults.load(Ordering::Relaxed),
                thousands(deliveries + live.deliveries.load(Ordering::Relaxed)),
            )
        }
    }

    pub fn add(&mut self, outcome: Outcome, seconds: u64) {
        let counts = outcome.report.counts;
        let violations = outcome.report.total() + outcome.broken.len();
        let heal = Duration::from_nanos(counts.heal);
        let faults: usize = outcome.faults.values().sum();
        let line = json!({
            "seed": outcome.seed, "seconds": seconds, "faults": faults, "by_kind": outcome.faults,
            "missed": outcome.missed, "acked": counts.acked,
            "indeterminate": counts.indeterminate, "unavailable": outcome.unavailable,
            "events": counts.events, "deliveries": counts.deliveries,
            "reconnects": outcome.reconnects, "heal_ms": heal.as_millis(),
            "memory_bytes": outcome.memory_bytes, "violations": violations,
        });
        append_line(&line.to_string());
        self.done += 1;
        self.missed += outcome.missed;
        self.acked += counts.acked;
        self.indeterminate += counts.indeterminate;
        self.unavailable += outcome.unavailable;
        self.events += counts.events;
        self.deliveries += counts.deliveries;
        self.reconnects += outcome.reconnects;
        self.heal = self.heal.max(heal);
        self.memory_bytes = self.memory_bytes.max(outcome.memory_bytes);
        self.violations += violations;
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
        let text = format!(
            "seed {}: {faults} faults, {} acked, {} deliveries, healed in {} ms, {violations} \
             violations",
            outcome.seed,
            thousands(counts.acked as u64),
            thousands(counts.deliveries as u64),
            heal.as_millis(),
        );
        println!("{}{text}", clear_line());
        if violations > 0 {
            self.failed.push(outcome.seed);
            tell_failure(&outcome, seconds);
        }
    }

    pub fn tell(&self) {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            writeln!(text, "  {name:<40} {value:>12}").expect("a string takes everything");
        };
        row("schedules", format!("{}", self.done));
        row("faults", thousands(self.faults.values().sum::<usize>() as u64));
        for (kind, count) in &self.faults {
            row(&format!("  {kind}"), thousands(*count as u64));
        }
        row("faults that met nothing (not counted)", thousands(self.missed as u64));
        row("commands acked", thousands(self.acked as u64));
        row("commands indeterminate", thousands(self.indeterminate as u64));
        row("answers unavailable", thousands(self.unavailable));
        row("events in the log", thousands(self.events as u64));
        row("deliveries checked", thousands(self.deliveries as u64));
        row("reconnects", thousands(self.reconnects));
        row("longest time to heal", format!("{} ms", self.heal.as_millis()));
        row("most memory of a node", format!("{} MiB", self.memory_bytes >> 20));
        row("violations", thousands(self.violations as u64));
        println!("\n{text}  after {} s", self.begun.elapsed().as_secs());
        for seed in &self.failed {
            println!("  failed: make verify SEED={seed}");
        }
    }
}

/// On a terminal a line that changes, elsewhere nothing: each schedule ends with a line of its own.
pub async fn tell_progress(line: impl Fn(&Live) -> String, live: Arc<Live>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    loop {
        eprint!("{}{}", clear_line(), line(&live));
        // It is shown with the next, if not now.
        let _ = std::io::stderr().flush();
        sleep(Duration::from_millis(250)).await;
    }
}

fn clear_line() -> &'static str {
    if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" }
}

fn tell_failure(outcome: &Outcome, seconds: u64) {
    let folder = folder().join(format!("seed-{}", outcome.seed));
    std::fs::create_dir_all(&folder).expect("target/ can be written to");
    let mut text = format!("seed {} is broken\n", outcome.seed);
    for (rule, count) in &outcome.report.totals {
        text += &format!("  {rule}: {count}\n");
    }
    for broken in &outcome.broken {
        text += &format!("  {broken}\n");
    }
    let (shown, more) = {
        let all = &outcome.report.violations;
        all.split_at(all.len().min(SHOWN_MAX))
    };
    for violation in shown {
        text += &format!("\n{}", violation.context(&outcome.history));
    }
    println!("{text}");
    for violation in more {
        text += &format!("\n{}", violation.context(&outcome.history));
    }
    for (name, log) in &outcome.logs {
        std::fs::write(folder.join(format!("{name}.log")), log).expect("it can be written");
    }
    std::fs::write(folder.join("report.txt"), text).expect("it can be written");
    println!("everything there is to know: {}", folder.display());
    println!("once more: make verify SEED={} SECONDS={seconds}\n", outcome.seed);
}

fn append_line(line: &str) {
    std::fs::create_dir_all(folder()).expect("target/ can be written to");
    let runs = std::fs::File::options().create(true).append(true).open(folder().join("runs.jsonl"));
    let written = runs.and_then(|mut runs| writeln!(runs, "{line}"));
    written.expect("target/ can be written to");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/verify")
}

/// 1234567 as 1,234,567.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
