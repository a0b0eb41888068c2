//! When memory is given back to the system: some time after much of it was let go.
//!
//! It counts what clients make a node hold, and trims when that has fallen. Trimming while it is
//! high would be in vain, and trimming often would take away what is about to be used again.

use std::time::Duration;

use crate::budget::Budgets;
use crate::metrics::Metrics;

/// How often it is looked.
const PAUSE: Duration = Duration::from_secs(5);
/// So much less than at the most since the last time is worth it.
const FALLEN_BYTES: usize = 16 * 1024 * 1024;
/// What a connection takes, whatever it does.
const CONNECTION_BYTES: usize = 4 * 1024;

/// Looks, without end.
pub async fn run(budgets: &Budgets, metrics: &Metrics) {
    let mut most = 0;
    loop {
        tokio::time::sleep(PAUSE).await;
        let connections = usize::try_from(metrics.connections_admitted.get()).unwrap_or(0);
        let held = budgets.bytes() + connections * CONNECTION_BYTES;
        most = most.max(held);
        if most - held >= FALLEN_BYTES {
            most = held;
            // It may take long for a runtime's thread. An error: the runtime ends.
            let _ = tokio::task::spawn_blocking(verbatim_heap::trim).await;
        }
    }
}
