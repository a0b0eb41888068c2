//! Events without this log's seal: counted, logged, and a reason to compare with the log.

use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::Metrics;

/// Time between two log lines about them.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Such events may be real all the same. So the log is asked with the next heartbeat, once, however
/// many there were.
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
                "ignored events from Redis without this log's seal: a node of another version or a \
                 stranger wrote them; comparing with the log instead"
            );
        }
    }
}
