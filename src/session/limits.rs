//! How fast one socket may speak, and how long it may speak nonsense. Pure: time is an argument.
//!
//! It does not close or answer anything; the session does.

use std::time::{Duration, Instant};

use crate::config::SessionConfig;
use crate::protocol::command::Request;
use crate::protocol::error::{Code, Problem};
use crate::rate::{Bucket, Rate};

/// So many bytes that nobody can understand count as one more refused frame.
const WASTE_BYTES: usize = 16 * 1024;

/// One socket's rate. Both rules together take 48 bytes and no timer.
#[derive(Clone, Debug)]
pub struct Limits {
    commands: Bucket,
    /// The second that refused frames are being counted in.
    second: Instant,
    /// Refused frames in that second.
    refused: u32,
    /// Seconds in a row, this one included, that had too many.
    bad_seconds: u32,
}

impl Limits {
    pub fn new(now: Instant) -> Self {
        Self { commands: Bucket::full(now), second: now, refused: 0, bad_seconds: 0 }
    }

    /// Whether one more command may come now; if not, in how many milliseconds.
    pub fn admit(&mut self, config: &SessionConfig, now: Instant) -> Result<(), u64> {
        let rate = Rate { per_second: config.commands_per_second, burst: config.commands_burst };
        self.commands.take(rate, now)
    }

    /// A frame of that length says nothing that can be understood. A long one counts for several:
    /// a client that sends nothing but those would else be heard for ever.
    pub fn waste(&mut self, config: &SessionConfig, bytes: usize, now: Instant) {
        let more = u32::try_from(bytes / WASTE_BYTES).unwrap_or(u32::MAX);
        self.count(config, more, now);
    }

    /// Counts a refused frame. `true`: too many for too long, close the socket.
    pub fn refuse(&mut self, config: &SessionConfig, now: Instant) -> bool {
        self.count(config, 1, now);
        self.bad_seconds >= config.refused_seconds_max
    }

    fn count(&mut self, config: &SessionConfig, more: u32, now: Instant) {
        const SECOND: Duration = Duration::from_secs(1);
        let since = now.saturating_duration_since(self.second);
        if since >= SECOND {
            // A quiet second, or one without a refused frame at all, ends the row.
            if since >= 2 * SECOND || self.refused <= config.refused_per_second_max {
                self.bad_seconds = 0;
            }
            let whole = Duration::from_secs(since.as_secs());
            self.second += whole;
            self.refused = 0;
        }
        let before = self.refused;
        self.refused = before.saturating_add(more);
        if before <= config.refused_per_second_max && self.refused > config.refused_per_second_max {
            self.bad_seconds += 1;
        }
    }
}

/// What a client is told whose command comes too early.
pub fn rate_limited(request: Result<Request, Problem>, retry_after_ms: u64) -> Problem {
    let (re, room, id) = match request {
        Ok(Request { id, command }) => (Some(command.name()), command.room().cloned(), id),
        Err(problem) => (problem.re, problem.room, problem.id),
    };
    let error = format!("too many commands: wait {retry_after_ms} ms");
    let retry_after_ms = Some(retry_after_ms);
    Problem { retry_after_ms, re, room, id, ..Problem::new(Code::RateLimited, error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config() -> SessionConfig {
        let mut config = Config::from_defaults().session;
        (config.refused_per_second_max, config.refused_seconds_max) = (3, 2);
        config
    }

    /// Whether sending this many refused frames in each second ends the socket.
    fn closes(per_second: &[u32]) -> bool {
        let (config, begin) = (config(), Instant::now());
        let mut limits = Limits::new(begin);
        let seconds = per_second.iter().zip(0..);
        let mut refuse = |second| limits.refuse(&config, begin + Duration::from_secs(second));
        seconds.fold(false, |ended, (count, second)| {
            (0..*count).fold(ended, |ended, _| refuse(second) || ended)
        })
    }

    #[test]
    fn only_a_row_of_bad_seconds_closes() {
        assert!(!closes(&[100]), "one burst");
        assert!(!closes(&[3, 3, 3, 3, 3, 3]), "at the limit for long");
        assert!(!closes(&[4, 3, 4, 3, 4]), "never two in a row");
        assert!(!closes(&[4, 0, 4, 0, 4]), "a silent second between");
        assert!(closes(&[4, 4]), "two in a row");
        assert!(closes(&[1, 2, 4, 100]), "two in a row, later");
    }

    #[test]
    fn a_long_frame_counts_for_several() {
        let (config, begin) = (config(), Instant::now());
        let mut limits = Limits::new(begin);
        let mut closes = |bytes, second| {
            let now = begin + Duration::from_secs(second);
            limits.waste(&config, bytes, now);
            limits.refuse(&config, now)
        };
        assert!(!closes(3 * WASTE_BYTES, 0), "as bad as four");
        assert!(!closes(3 * WASTE_BYTES - 1, 1), "as bad as three");
        assert!(!closes(3 * WASTE_BYTES, 2));
        assert!(closes(3 * WASTE_BYTES, 3), "two in a row");
    }
}
