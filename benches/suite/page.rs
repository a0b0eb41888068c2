//! docs/performance.md and its plots, from the results: the aims, every load with every server, and
//! what it was measured on. Figures come from there and nowhere else.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use crate::cases::{CONNECTIONS, FANOUT_RATES, PEERS};
use crate::chart::{Chart, Series};
use crate::results::Results;
use crate::rig::Server::{self, Embedded, Postgres};
use crate::targets::{self, Target};

const INTRODUCTION: &str = include_str!("introduction.md");
const ENDING: &str = include_str!("ending.md");

/// A column of a table: its head, the value's path in the report, digits behind the point.
type Column = (&'static str, &'static str, usize);

const FANOUT: &[Column] = &[
    ("deliveries/s", "/deliveries_per_s", 0),
    ("CPU, µs a delivery", "/server/cpu_us_per_delivery", 2),
    ("of it user", "/server/user_us_per_delivery", 2),
    ("p50, ms", "/delivery/p50", 1),
    ("p99, ms", "/delivery/p99", 1),
    ("p99.9, ms", "/delivery/p99_9", 1),
];
const IDLE: &[Column] = &[
    ("KiB a connection", "/server/kib_per_connection", 2),
    ("resident, KiB", "/server/resident_kib", 0),
];
const PINGS: &[Column] = &[
    ("CPU, µs/s a connection", "/server/cpu_us_per_connection_s", 2),
    ("KiB a connection", "/server/kib_per_connection", 2),
];
const WRITE: &[Column] = &[
    ("acks/s", "/acks_per_s", 0),
    ("CPU, µs a command", "/server/cpu_us_per_command", 1),
    ("ack p50, ms", "/ack/p50", 2),
    ("p99, ms", "/ack/p99", 2),
    ("p99.9, ms", "/ack/p99_9", 2),
];
const CROSS: &[Column] = &[
    ("own node p50, ms", "/commit_near/p50", 2),
    ("p99", "/commit_near/p99", 2),
    ("other nodes p50, ms", "/commit_far/p50", 2),
    ("p99", "/commit_far/p99", 2),
    ("nodes' metric p50, at most", "/commit_metric/p50", 2),
    ("p99, at most", "/commit_metric/p99", 2),
    ("intended send to delivery p50, ms", "/delivery/p50", 2),
    ("p99", "/delivery/p99", 2),
];
const RETURN: &[Column] = &[
    ("all back and whole, s", "/seconds", 2),
    ("one client p50, ms", "/returns/p50", 0),
    ("p99, ms", "/returns/p99", 0),
    ("the last, ms", "/returns/max", 0),
];
const JITTER: &[Column] = &[
    ("delivery p50, ms", "/delivery/p50", 2),
    ("p99, ms", "/delivery/p99", 2),
    ("return p50, ms", "/returns/p50", 2),
    ("p99, ms", "/returns/p99", 2),
    ("replayed", "/replayed", 0),
];

pub fn write(results: &Results, docs: &Path) -> Result<()> {
    std::fs::create_dir_all(docs.join("performance"))?;
    for (name, chart) in charts(results) {
        std::fs::write(docs.join(format!("performance/{name}.svg")), chart.svg())?;
    }
    std::fs::write(docs.join("performance.md"), page(results)?)?;
    Ok(())
}

/// The table of the aims, as Markdown, which is also what a terminal is shown.
pub fn aims(results: &Results) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "| what | measured | target | stretch | |")?;
    writeln!(out, "|---|---:|---:|---:|---|")?;
    for target in targets::all(results) {
        let sign = if target.is_at_most { "≤" } else { "≥" };
        let limit = |value: f64| format!("{sign} {}{}", short(value), target.unit);
        writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            target.what,
            target.value.map_or("–".to_owned(), |value| format!(
                "{}{}",
                short(value),
                target.unit
            )),
            limit(target.target),
            target.stretch.map_or(String::new(), limit),
            target.verdict()
        )?;
    }
    Ok(out)
}

fn page(results: &Results) -> Result<String> {
    let mut out = String::from(INTRODUCTION);
    for (name, what) in [
        ("date", "Date"),
        ("commit", "Commit"),
        ("machine", "Machine"),
        ("kernel", "Kernel"),
        ("versions", "Versions"),
        ("rounds", "Rounds"),
        ("load", "Load average before the first run"),
    ] {
        writeln!(out, "- {what}: {}", results.about(name))?;
    }
    writeln!(out, "\n## The aims\n\n{}", aims(results)?)?;
    behind(results, &mut out)?;
    tables(results, &mut out)?;
    out.push_str(ENDING);
    Ok(out)
}

/// What is missed, target or stretch, and by how much.
fn behind(results: &Results, out: &mut String) -> Result<()> {
    let all = targets::all(results);
    let off = |target: &Target, limit: f64| {
        let value = target.value.unwrap_or(f64::NAN);
        short(if target.is_at_most { value / limit } else { limit / value })
    };
    let missed: Vec<_> = all.iter().filter(|target| target.is_met() == Some(false)).collect();
    if missed.is_empty() {
        writeln!(out, "No target that was measured is missed.\n")?;
    } else {
        writeln!(out, "Behind its target:\n")?;
        for target in missed {
            writeln!(out, "- {}: {} times it.", target.what, off(target, target.target))?;
        }
        writeln!(out)?;
    }
    let is_behind = |target: &&Target| target.is_stretch_met() == Some(false);
    let mut what = String::new();
    for target in all.iter().filter(is_behind) {
        let stretch = target.stretch.unwrap_or(f64::NAN);
        writeln!(what, "- {}: {} times it.", target.what, off(target, stretch))?;
    }
    if !what.is_empty() {
        writeln!(out, "Behind the stretch:\n\n{what}")?;
    }
    Ok(())
}

/// At every rate, also at those that no target names.
fn ratios(results: &Results, out: &mut String) -> Result<()> {
    writeln!(out, "### CPU a delivery, ours (SQLite) divided by theirs\n")?;
    let names: Vec<_> = PEERS.iter().map(|peer| peer.name()).collect();
    writeln!(out, "| messages/s | {} |", names.join(" | "))?;
    writeln!(out, "|---:|{}", "---:|".repeat(names.len()))?;
    for rate in FANOUT_RATES {
        let load = &*format!("fanout-{rate}");
        let ratio = |peer| results.ratio((load, Embedded), (load, peer), targets::CPU);
        let values = PEERS.map(|peer| ratio(peer).map_or("–".to_owned(), short));
        writeln!(out, "| {rate} | {} |", values.join(" | "))?;
    }
    writeln!(out)?;
    Ok(())
}

fn tables(results: &Results, out: &mut String) -> Result<()> {
    writeln!(out, "## One room, 1,000 followers\n")?;
    writeln!(out, "![CPU a delivery](performance/cpu.svg)\n")?;
    writeln!(out, "![Latency against rate](performance/latency.svg)\n")?;
    ratios(results, out)?;
    for rate in FANOUT_RATES {
        table(results, out, &format!("fanout-{rate}"), &format!("{rate} messages/s"), FANOUT)?;
    }
    writeln!(out, "## Idle connections\n")?;
    writeln!(out, "![Memory against connections](performance/memory.svg)\n")?;
    for count in CONNECTIONS {
        table(results, out, &format!("idle-{count}"), &format!("{count} connections"), IDLE)?;
    }
    table(results, out, "idle-pings", "15,000 connections, pings every 25 s", PINGS)?;
    writeln!(out, "## Durable messages\n")?;
    table(results, out, "write-64", "As fast as they are acked, 64 rooms", WRITE)?;
    table(results, out, "write-1", "As fast as they are acked, one room", WRITE)?;
    table(results, out, "ack-500", "500 messages/s", WRITE)?;
    writeln!(out, "## From commit to delivery\n")?;
    table(results, out, "cross-500", "500 messages/s, 10 rooms of 10 followers", CROSS)?;
    table(results, out, "cross-1000", "1,000 messages/s, 10 rooms of 10 followers", CROSS)?;
    table(results, out, "cross-1000-all", "1,000 messages/s, 1 room of 100 followers", CROSS)?;
    writeln!(out, "## Coming back\n")?;
    let storm = "10,000 clients are cut off, miss 100 messages each and come back at once";
    table(results, out, "storm", storm, RETURN)?;
    let kill = "kill -9 of one of three nodes with 5,000 clients on all of them";
    table(results, out, "kill", kill, RETURN)?;
    table(results, out, "jitter", "1,000 clients, each there for 15 s and away for 2 s", JITTER)?;
    writeln!(out, "## Others\n")?;
    table(results, out, "chatter", "100 rooms of 10, 500 messages/s, everybody speaks", FANOUT)?;
    table(results, out, "slow-0", "200 messages/s to 1,000 followers", FANOUT)?;
    table(results, out, "slow-1", "The same, and 10 of them read nothing", FANOUT)
}

/// One load with every server it was put on. Nothing, if it was not.
fn table(
    results: &Results,
    out: &mut String,
    load: &str,
    title: &str,
    columns: &[Column],
) -> Result<()> {
    let Some(arguments) = results.arguments(load) else { return Ok(()) };
    writeln!(out, "### {title}\n\n`verbatim bench {arguments}`\n")?;
    let heads: Vec<_> = columns.iter().map(|(head, ..)| *head).collect();
    writeln!(out, "| server | {} |", heads.join(" | "))?;
    writeln!(out, "|---|{}", "---:|".repeat(columns.len()))?;
    let servers = [Embedded, Postgres(1), Postgres(3)].into_iter().chain(PEERS);
    for server in servers {
        let values: Vec<_> = columns
            .iter()
            .map(|(_, path, digits)| match results.median(load, server, path) {
                Some(value) => format!("{value:.digits$}"),
                None => "–".to_owned(),
            })
            .collect();
        if values.iter().any(|value| value != "–") {
            let mark = if server.is_durable() { "" } else { " \\*" };
            writeln!(out, "| {}{mark} | {} |", server.name(), values.join(" | "))?;
        }
    }
    writeln!(out)?;
    Ok(())
}

fn charts(results: &Results) -> Vec<(&'static str, Chart)> {
    let line = |server: Server, loads: &[u32], load: &str, path: &str| {
        let point =
            |x: &u32| Some((f64::from(*x), results.median(&format!("{load}-{x}"), server, path)?));
        loads.iter().filter_map(point).collect::<Vec<_>>()
    };
    let lines = |servers: &[Server], loads: &[u32], load: &str, path: &str, what: &str| {
        let series = |(colour, server): (usize, &Server)| Series {
            name: format!("{}{what}", server.name()),
            points: line(*server, loads, load, path),
            colour,
            is_dashed: !server.is_durable() || what.contains("p99"),
        };
        servers
            .iter()
            .enumerate()
            .map(series)
            .filter(|series| !series.points.is_empty())
            .collect::<Vec<_>>()
    };
    let servers: Vec<_> = [Embedded, Postgres(1)].into_iter().chain(PEERS).collect();
    let mut latency = lines(&servers, &FANOUT_RATES, "fanout", "/delivery/p50", ", p50");
    latency.truncate(2);
    latency.extend(lines(&servers, &FANOUT_RATES, "fanout", "/delivery/p99", ", p99"));
    vec![
        (
            "cpu",
            Chart {
                title: "CPU a delivery, 1 room, 1,000 followers".to_owned(),
                x: "messages/s",
                y: "server's CPU, µs a delivery",
                series: lines(&servers, &FANOUT_RATES, "fanout", "/server/cpu_us_per_delivery", ""),
                is_log: false,
            },
        ),
        (
            "latency",
            Chart {
                title: "Latency against rate, 1 room, 1,000 followers".to_owned(),
                x: "messages/s",
                y: "from the intended send to delivery, ms",
                series: latency,
                is_log: true,
            },
        ),
        (
            "memory",
            Chart {
                title: "Memory against connections".to_owned(),
                x: "idle connections that follow a room",
                y: "resident memory of the server, MiB",
                series: lines(&servers, &CONNECTIONS, "idle", "/server/resident_kib", "")
                    .into_iter()
                    .map(in_mib)
                    .collect(),
                is_log: false,
            },
        ),
    ]
}

fn in_mib(mut series: Series) -> Series {
    for (_, kib) in &mut series.points {
        *kib /= 1024.0;
    }
    series
}

/// With as many digits as mean something.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{},{:03}", value as u64 / 1000, value as u64 % 1000),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
