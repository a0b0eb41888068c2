//! `verbatim bench` as a child process, or for a peer the generator of `benches/peers`, and its
//! report.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;

use crate::rig::{Running, example};

const PROGRAM: &str = env!("CARGO_BIN_EXE_verbatim");

/// Runs it on these nodes, and returns its report as `--json` has it. Fails if anything is missing.
pub async fn run(
    arguments: &str,
    dialect: &str,
    running: &Running,
    arrivals: Option<&Path>,
) -> Result<Value> {
    let mut command = if dialect == "verbatim" {
        let mut command = Command::new(PROGRAM);
        command.arg("bench");
        command
    } else {
        let mut command = Command::new(example("peers")?);
        command.args(["--dialect", dialect]);
        command
    };
    command.args(arguments.split_whitespace()).args(["--json", "-"]);
    for url in &running.urls {
        command.args(["--url", url]);
    }
    for pid in &running.pids {
        command.args(["--pid", &pid.to_string()]);
    }
    if let Some(path) = arrivals {
        command.arg("--arrivals").arg(path);
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("verbatim bench {arguments}: {}\n{said}{complaint}", output.status);
    }
    serde_json::from_str(&said).context("the report is not JSON")
}

/// The load average of the last minute: processes that ran or waited to.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}
