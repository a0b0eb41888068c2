//! Events that bear no seal of this log: counted, told, and a reason to ask the log.

use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::Metrics;

/// Between two lines about them.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What is known of them. They may have happened all the same: so the log is asked with the next
/// heartbeat, once, however many there were.
#[derive(Default)]
pub(super) struct Strangers {
    /// Some came since the log was last asked.
    pub came: bool,
    told: Option<Instant>,
}

impl Strangers {
    pub fn meet(&mut self, metrics: &Metrics) {
        metrics.mirror_unsealed.inc();
        self.came = true;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(
                "events came from Redis that bear no seal of this log: from a node of another \
                 version, or from somebody who should not write there; the log is asked instead"
            );
        }
    }
}
