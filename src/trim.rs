//! When memory is given back to the system: some time after much of it was let go.
//!
//! It compares what the process takes with what clients make the node hold, and trims when the rest
//! has grown. The race this closes: looking only at what is held, now and then, it did not see what
//! came and went between two looks, and what that had taken was kept for ever.

use std::time::Duration;

use crate::budget::Budgets;
use crate::metrics::Metrics;

/// How often it is looked. Trimming often would take away what is about to be used again.
const PAUSE: Duration = Duration::from_secs(5);
/// So much more than after the last time is worth it.
const GROWN_BYTES: usize = 16 * 1024 * 1024;
/// What a connection takes, whatever it does.
const CONNECTION_BYTES: usize = 4 * 1024;

/// Looks, without end; where the system does not tell what a process takes, nothing is done.
pub async fn run(budgets: &Budgets, metrics: &Metrics) {
    let rest = || {
        let connections = usize::try_from(metrics.connections_admitted.get()).unwrap_or(0);
        let held = budgets.bytes() + connections * CONNECTION_BYTES;
        Some(resident_bytes()?.saturating_sub(held))
    };
    let Some(mut least) = rest() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = rest().unwrap_or(least);
        least = least.min(now);
        if now - least >= GROWN_BYTES {
            // It may take long for a runtime's thread. An error: the runtime ends.
            let _ = tokio::task::spawn_blocking(verbatim_heap::trim).await;
            // What is left is in use, by whatever is not counted here.
            least = rest().unwrap_or(now);
        }
    }
}

/// What the process has in use (RSS).
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok().map(|kib| kib * 1024)
}
