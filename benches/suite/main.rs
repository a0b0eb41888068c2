//! The measurements: every load on every server, round after round, and the page about it.
//!
//! ```text
//! make bench                                  all, and docs/performance.md
//! cargo bench --bench suite -- run [WORD…]    only loads whose names begin so, in target/bench
//! cargo bench --bench suite -- page           docs/performance.md again, from the last run of all
//! ```
//! `ROUNDS=3` is how often; `QUICK=1` is one short round that shows that everything works. Nothing
//! else should run on the machine.

mod cases;
mod chart;
mod commit;
mod generator;
#[path = "../../tests/it/harness/mod.rs"]
mod harness;
mod metrics;
mod page;
mod results;
mod rig;
mod targets;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use verbatim::model::Timestamp;

use crate::results::Results;

const ROUNDS: usize = 3;
/// Debian keeps it out of PATH.
const POSTGRES_VERSION: &str = "PATH=$PATH:$(printf '%s:' /usr/lib/postgresql/*/bin); \
                                postgres --version";

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo bench` puts its own `--bench` behind what it is given.
    let arguments: Vec<_> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["all"] => {
            let results = measure(&[]).await?;
            publish(&results)
        }
        ["page"] => publish(&Results::open(&file("results.jsonl"))?),
        ["run", ref loads @ ..] => {
            println!("\n{}", page::aims(&measure(loads).await?)?);
            Ok(())
        }
        _ => bail!("which of: all, run, page"),
    }
}

/// Everything, or the loads whose names begin with one of these words.
async fn measure(loads: &[&str]) -> Result<Results> {
    let is_quick = std::env::var_os("QUICK").is_some_and(|quick| !quick.is_empty());
    let rounds = match std::env::var("ROUNDS") {
        Ok(rounds) => rounds.parse().context("ROUNDS is a number")?,
        Err(_) => {
            if is_quick {
                1
            } else {
                ROUNDS
            }
        }
    };
    let name = if is_quick || !loads.is_empty() { "some.jsonl" } else { "results.jsonl" };
    let mut results = Results::create(&file(name), &about(rounds))?;
    let mut cases = cases::all(is_quick);
    cases.retain(|case| loads.is_empty() || loads.iter().any(|word| case.load.starts_with(word)));
    for round in 1..=rounds {
        for (place, case) in cases.iter().enumerate() {
            let load = generator::load();
            let report = case.run().await;
            let report = report.with_context(|| format!("{} {:?}", case.load, case.server))?;
            results.add(round, case, &report)?;
            println!(
                "round {round}/{rounds}, {:>3}/{}  {:<16} {:<28} {}  (load before {load:.1})",
                place + 1,
                cases.len(),
                case.load,
                case.server.name(),
                gist(&report),
            );
        }
    }
    Ok(results)
}

/// The figures that a reader of the log looks for.
fn gist(report: &Value) -> String {
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64);
    let figures = [
        ("us/delivery", "/server/cpu_us_per_delivery"),
        ("user", "/server/user_us_per_delivery"),
        ("deliveries/s", "/deliveries_per_s"),
        ("p50", "/delivery/p50"),
        ("p99", "/delivery/p99"),
        ("acks/s", "/acks_per_s"),
        ("ack p50", "/ack/p50"),
        ("p99", "/ack/p99"),
        ("commit near p50", "/commit_near/p50"),
        ("p99", "/commit_near/p99"),
        ("far p50", "/commit_far/p50"),
        ("p99", "/commit_far/p99"),
        ("metric p99", "/commit_metric/p99"),
        ("return p50", "/returns/p50"),
        ("last", "/returns/max"),
        ("s", "/seconds"),
        ("KiB/connection", "/server/kib_per_connection"),
        ("us/s", "/server/cpu_us_per_connection_s"),
    ];
    let shown = figures.iter().filter_map(|(name, path)| {
        let value = number(path).filter(|value| *value != 0.0)?;
        Some(format!("{name} {value:.2}"))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Prints the aims, and writes the page.
fn publish(results: &Results) -> Result<()> {
    println!("\n{}", page::aims(results)?);
    if std::env::var_os("QUICK").is_some_and(|quick| !quick.is_empty()) {
        println!("a quick run: docs/performance.md stays as it is");
        return Ok(());
    }
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
    page::write(results, &docs)?;
    println!("docs/performance.md is written");
    Ok(())
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench").join(name)
}

/// When, where and of what.
fn about(rounds: usize) -> Value {
    let first = |text: String| text.lines().next().unwrap_or("?").to_owned();
    let say = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        first(text.unwrap_or_default())
    };
    let field = |path: &str, name: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or("?").trim().to_owned()
    };
    let memory = field("/proc/meminfo", "MemTotal");
    let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let machine = format!(
        "{cores} cores of {}, {:.0} GiB, Linux",
        field("/proc/cpuinfo", "model name"),
        kib / 1024.0 / 1024.0
    );
    let changes = say("git", &["status", "--porcelain", "--", "src", "Cargo.lock"]);
    let versions = [
        say("rustc", &["--version"]),
        say("sh", &["-c", POSTGRES_VERSION]),
        say("redis-server", &["--version"]).split(" sha").next().unwrap_or("?").to_owned(),
        say("sh", &["-c", "PATH=$PATH:/usr/sbin; nats-server --version"]),
        format!("Node.js {}", say("node", &["--version"])),
        "Socket.IO as in benches/peers/socketio/package-lock.json".to_owned(),
    ];
    json!({
        "date": Timestamp::now().to_string()[..10],
        "commit": format!(
            "{}{}",
            say("git", &["rev-parse", "--short=12", "HEAD"]),
            if changes.is_empty() || changes == "?" { "" } else { ", with changes" }
        ),
        "machine": machine,
        "kernel": say("uname", &["-sr"]),
        "versions": versions.join("; "),
        "rounds": rounds.to_string(),
        "load": format!("{:.2}", generator::load()),
    })
}
