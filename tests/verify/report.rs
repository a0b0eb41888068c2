//! What came of the schedules: a line while they run, a table at the end, a line of JSON for each,
//! and everything there is to know of one that failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use verbatim_tools::verify::thousands;

use crate::crew::Waits;
use crate::round::{Kind, Live, Outcome};

/// A line for each schedule that was ever run here.
const RUNS: &str = "runs.jsonl";
/// Violations that are shown with their context.
const SHOWN_MAX: usize = 5;

/// What one schedule came to, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    /// Lines of before there were crews have none.
    #[serde(default)]
    kind: Kind,
    seed: u64,
    seconds: u64,
    /// Faults that hit, by kind, and those that met nothing.
    faults: BTreeMap<String, usize>,
    /// The longest time to heal of each, in milliseconds.
    #[serde(default)]
    heals: BTreeMap<String, u64>,
    missed: usize,
    acked: usize,
    indeterminate: usize,
    unavailable: u64,
    events: usize,
    deliveries: usize,
    reconnects: u64,
    heal_ms: u64,
    memory_bytes: u64,
    /// Of the neighbours of a crew, for their pongs: one in a hundred waited longer.
    #[serde(default)]
    wait_us: u64,
    violations: usize,
}

/// All schedules so far.
pub struct Totals {
    schedules: usize,
    lines: Vec<Line>,
}

impl Totals {
    pub fn new(schedules: usize) -> Self {
        Self { schedules, lines: Vec::new() }
    }

    /// Those that were ever run here.
    pub fn of_all() -> Self {
        let text = std::fs::read_to_string(folder().join(RUNS)).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line of ours"));
        let lines: Vec<Line> = lines.collect();
        Self { schedules: lines.len(), lines }
    }

    pub fn is_clean(&self) -> bool {
        self.lines.iter().all(|line| line.violations == 0)
    }

    fn sum(&self, of: impl Fn(&Line) -> u64) -> u64 {
        self.lines.iter().map(of).sum()
    }

    /// What the line of progress tells, with what is live added to it.
    pub fn line(&self) -> impl Fn(&Live) -> String + use<> {
        let (schedules, place) = (self.schedules, self.lines.len() + 1);
        let faults = self.sum(|line| line.faults.values().sum::<usize>() as u64);
        let deliveries = self.sum(|line| line.deliveries as u64);
        let violations = self.sum(|line| line.violations as u64);
        move |live| {
            format!(
                "schedule {place} of {schedules}: {} faults, {} deliveries checked, {violations} \
                 violations",
                thousands(faults + live.faults.load(Ordering::Relaxed)),
                thousands(deliveries + live.deliveries.load(Ordering::Relaxed)),
            )
        }
    }

    pub fn add(&mut self, outcome: &Outcome, seconds: u64) {
        let counts = outcome.report.counts;
        let line = Line {
            kind: outcome.kind,
            seed: outcome.seed,
            seconds,
            faults: outcome.faults.clone(),
            heals: outcome.heals.clone(),
            missed: outcome.missed,
            acked: counts.acked,
            indeterminate: counts.indeterminate,
            unavailable: outcome.unavailable,
            events: counts.events,
            deliveries: counts.deliveries,
            reconnects: outcome.reconnects,
            heal_ms: counts.heal / 1_000_000,
            memory_bytes: outcome.memory_bytes,
            wait_us: outcome.waits.map_or(0, |waits| waits.p99.as_micros() as u64),
            violations: outcome.report.total() + outcome.broken.len(),
        };
        append_line(&serde_json::to_string(&line).expect("texts and numbers only"));
        let met = match line.kind {
            Kind::Faults | Kind::Disk => format!("{} faults", line.faults.values().sum::<usize>()),
            Kind::Crew => format!("a hostile crew, {}", told(outcome.waits.as_ref(), &line)),
        };
        println!(
            "{}seed {}: {met}, {} acked, {} deliveries, healed in {} ms, {} violations",
            clear_line(),
            line.seed,
            thousands(line.acked as u64),
            thousands(line.deliveries as u64),
            line.heal_ms,
            line.violations,
        );
        if line.violations > 0 {
            tell_failure(outcome, seconds);
        }
        self.lines.push(line);
    }

    pub fn tell(&self) {
        let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
        for (kind, count) in self.lines.iter().flat_map(|line| &line.faults) {
            *faults.entry(kind).or_default() += count;
        }
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            writeln!(text, "  {name:<40} {value:>12}").expect("a string takes everything");
        };
        let sum = |of: fn(&Line) -> u64| thousands(self.sum(of));
        let most = |of: fn(&Line) -> u64| self.lines.iter().map(of).max().unwrap_or_default();
        row("schedules", thousands(self.lines.len() as u64));
        let crews = self.lines.iter().filter(|line| line.kind == Kind::Crew).count();
        row("of which with a hostile crew", thousands(crews as u64));
        let disks = self.lines.iter().filter(|line| line.kind == Kind::Disk).count();
        row("of which one node on its own disk", thousands(disks as u64));
        row("faults", thousands(faults.values().sum::<usize>() as u64));
        for (kind, count) in faults {
            let heals = self.lines.iter().filter_map(|line| line.heals.get(kind));
            let healed = heals.max().map(|ms| format!("  healed in {ms} ms")).unwrap_or_default();
            row(&format!("  {kind}"), format!("{:>12}{healed}", thousands(count as u64)));
        }
        row("faults that met nothing (not counted)", sum(|line| line.missed as u64));
        row("commands acked", sum(|line| line.acked as u64));
        row("commands indeterminate", sum(|line| line.indeterminate as u64));
        row("answers unavailable", sum(|line| line.unavailable));
        row("events in the log", sum(|line| line.events as u64));
        row("deliveries checked", sum(|line| line.deliveries as u64));
        row("reconnects", sum(|line| line.reconnects));
        row("longest time to heal", format!("{} ms", most(|line| line.heal_ms)));
        row("most memory of a node", format!("{} MiB", most(|line| line.memory_bytes) >> 20));
        row(
            "p99 of a pong beside a crew",
            format!("{:.1} ms", most(|line| line.wait_us) as f64 / 1e3),
        );
        row("violations", sum(|line| line.violations as u64));
        println!("\n{text}");
        for line in self.lines.iter().filter(|line| line.violations > 0) {
            println!("  broken: {}", again(line.kind, line.seed, line.seconds));
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
    println!("once more: {}\n", again(outcome.kind, outcome.seed, seconds));
}

fn again(kind: Kind, seed: u64, seconds: u64) -> String {
    let kind = match kind {
        Kind::Faults => "faults",
        Kind::Crew => "crew",
        Kind::Disk => "disk",
    };
    format!("make verify KIND={kind} SEED={seed} SECONDS={seconds}")
}

/// How the others fared beside a crew.
fn told(waits: Option<&Waits>, line: &Line) -> String {
    let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
    let (median, p99, count) =
        waits.map_or((0.0, 0.0, 0), |it| (ms(it.median), ms(it.p99), it.count));
    let mib = line.memory_bytes >> 20;
    format!("{count} pongs in {median:.1} ms (p99 {p99:.1}), {mib} MiB at most")
}

fn append_line(line: &str) {
    std::fs::create_dir_all(folder()).expect("target/ can be written to");
    let mut options = std::fs::File::options();
    let runs = options.create(true).append(true).open(folder().join(RUNS));
    let written = runs.and_then(|mut runs| writeln!(runs, "{line}"));
    written.expect("target/ can be written to");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/verify")
}
