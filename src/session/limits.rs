//! The rate limits of one socket. Pure: time is an argument.
//!
//! The session closes and answers. Commands beyond the rate are answered, so that a client can
//! learn. Frames without an answer (control frames, fragments) are charged, and reading pauses
//! until they are paid for. In either case, a client that continues for too many seconds is closed.
//! Work done for a client has the same rate, and only makes it wait: it asked for no more than it
//! may, and could not know the cost.

use std::time::{Duration, Instant};

use crate::config::SessionConfig;
use crate::protocol::command::Request;
use crate::protocol::error::{Code, Problem};
use crate::rate::{Bucket, Rate};

/// This many unparsable bytes count as one more refused frame.
const WASTE_BYTES: usize = 16 * 1024;
/// Most refused frames answered in one second; beyond it, reading pauses. Answering is work too,
/// and a client that waits for its answers never has so many.
const REFUSED_ANSWERED_MAX: u32 = 1000;
const SECOND: Duration = Duration::from_secs(1);

/// The rates of one socket. All together take 72 bytes and no timer.
#[derive(Clone, Debug)]
pub struct Limits {
    commands: Bucket,
    /// Frames without an answer.
    frames: Bucket,
    /// Work done for the client.
    work: Bucket,
    /// The second in which refused frames are being counted.
    second: Instant,
    /// Refused frames in that second.
    refused: u32,
    /// Seconds in a row with too many, including this one.
    bad_seconds: u32,
}

/// What to do about a frame that is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// Read nothing for this long.
    Rest(Duration),
    /// Too much for too long: close the socket.
    Close,
}

impl Limits {
    pub fn new(now: Instant) -> Self {
        let full = Bucket::full(now);
        let (commands, frames, work) = (full, full, full);
        Self { commands, frames, work, second: now, refused: 0, bad_seconds: 0 }
    }

    /// Takes one command, or returns in how many milliseconds to try again.
    pub fn admit(&mut self, config: &SessionConfig, now: Instant) -> Result<(), u64> {
        self.commands.take(rate(config), 1, now)
    }

    /// Charges for work of this weight.
    pub fn charge(&mut self, config: &SessionConfig, weight: u32, now: Instant) {
        if weight > 0 {
            self.work.charge(rate(config), weight, now);
        }
    }

    /// How long until work of weight 1 may be done.
    pub fn wait(&self, config: &SessionConfig, now: Instant) -> Duration {
        self.work.wait(rate(config), 1, now)
    }

    /// How long until the work done so far is paid for; `None`: it is.
    pub fn debt(&self, config: &SessionConfig, now: Instant) -> Option<Duration> {
        let wait = self.work.wait(rate(config), 0, now);
        (!wait.is_zero()).then_some(wait)
    }

    /// Frames without an answer arrived.
    pub fn frames(&mut self, config: &SessionConfig, count: u32, now: Instant) -> Verdict {
        self.frames.charge(rate(config), count, now);
        let wait = self.frames.wait(rate(config), 1, now);
        if wait.is_zero() {
            return Verdict::Go;
        }
        // As bad as a second of refused commands.
        self.count(config, config.refused_per_second_max.saturating_add(1), now);
        let is_long = wait >= SECOND * config.refused_seconds_max;
        if is_long || self.bad_seconds >= config.refused_seconds_max {
            return Verdict::Close;
        }
        Verdict::Rest(wait)
    }

    /// An unparsable frame of this length. A long one counts for several: otherwise a client that
    /// sends nothing else would never be closed.
    pub fn waste(&mut self, config: &SessionConfig, bytes: usize, now: Instant) {
        let more = u32::try_from(bytes / WASTE_BYTES).unwrap_or(u32::MAX);
        self.count(config, more, now);
    }

    /// Counts a refused frame.
    pub fn refuse(&mut self, config: &SessionConfig, now: Instant) -> Verdict {
        self.count(config, 1, now);
        if self.bad_seconds >= config.refused_seconds_max {
            Verdict::Close
        } else if self.refused > REFUSED_ANSWERED_MAX {
            Verdict::Rest((self.second + SECOND).saturating_duration_since(now))
        } else {
            Verdict::Go
        }
    }

    fn count(&mut self, config: &SessionConfig, more: u32, now: Instant) {
        let since = now.saturating_duration_since(self.second);
        if since >= SECOND {
            // A second with few refused frames, or none, ends the row.
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

fn rate(config: &SessionConfig) -> Rate {
    Rate { per_second: config.commands_per_second, burst: config.commands_burst }
}

/// The error for a command that comes too early.
pub fn rate_limited(request: Result<Request, Problem>, retry_after_ms: u64) -> Problem {
    let (re, room, id) = match request {
        Ok(Request { id, command }) => (Some(command.kind()), command.room().cloned(), id),
        Err(problem) => (problem.re, problem.room, problem.id),
    };
    let error = format!("too many commands; wait {retry_after_ms} ms");
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

    /// Whether this many refused frames in each second end the socket.
    fn closes(per_second: &[u32]) -> bool {
        let (config, begin) = (config(), Instant::now());
        let mut limits = Limits::new(begin);
        let seconds = per_second.iter().zip(0..);
        let mut refuse =
            |second| limits.refuse(&config, begin + Duration::from_secs(second)) == Verdict::Close;
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
            limits.refuse(&config, now) == Verdict::Close
        };
        assert!(!closes(3 * WASTE_BYTES, 0), "as bad as four");
        assert!(!closes(3 * WASTE_BYTES - 1, 1), "as bad as three");
        assert!(!closes(3 * WASTE_BYTES, 2));
        assert!(closes(3 * WASTE_BYTES, 3), "two in a row");
    }

    #[test]
    fn a_flood_of_refused_commands_is_answered_in_part_of_each_second() {
        let (mut config, begin) = (config(), Instant::now());
        config.refused_seconds_max = 100;
        let mut limits = Limits::new(begin);
        let now = begin + Duration::from_millis(300);
        let verdicts: Vec<_> = (0..=1000).map(|_| limits.refuse(&config, now)).collect();
        assert!(verdicts[..1000].iter().all(|verdict| *verdict == Verdict::Go));
        assert_eq!(verdicts[1000], Verdict::Rest(Duration::from_millis(700)));
        assert_eq!(limits.refuse(&config, begin + SECOND), Verdict::Go);
    }

    /// Endless pongs, as fast as they are read: reading stays within the rate, and the socket is
    /// closed after some seconds.
    #[test]
    fn frames_without_an_answer_are_read_at_the_rate_and_not_for_long() {
        let (mut config, begin) = (config(), Instant::now());
        (config.commands_per_second, config.commands_burst) = (1000, 2000);
        config.refused_seconds_max = 5;
        let mut limits = Limits::new(begin);
        let (mut now, mut read) = (begin, 0);
        loop {
            read += 100;
            match limits.frames(&config, 100, now) {
                Verdict::Go => now += Duration::from_micros(100),
                Verdict::Rest(wait) => now += wait,
                Verdict::Close => break,
            }
        }
        let seconds = (now - begin).as_secs_f64();
        assert!((4.0..6.0).contains(&seconds), "after {seconds} s");
        assert!((5_000..9_000).contains(&read), "{read} frames");
        // A client that answers pings comes nowhere near the limit.
        let mut limits = Limits::new(begin);
        for second in 0..100 {
            let verdict = limits.frames(&config, 10, begin + SECOND * second);
            assert_eq!(verdict, Verdict::Go);
        }
    }
}
