//! Compares the node's clock with the log's, and warns if the node's is wrong.
//!
//! `at` is the time of the node that writes, and within a room it never goes back. So a clock that
//! is ahead stops a room's time, for all nodes, until their clocks have caught up.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::log::Log;
use crate::metrics::Metrics;
use crate::rate::Backoff;
use crate::tasks::Tasks;

/// How often the log is asked for the time.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// The pause after the start until an answer is conclusive; doubled each time, up to `ASK_EVERY`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A slower answer proves nothing: nobody knows in which direction it was delayed.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
/// A clock is wrong from `WRONG` seconds of difference, and right again below `RIGHT`.
const WRONG: f64 = 1.0;
const RIGHT: f64 = 0.5;

/// What is known about the node's clock.
#[derive(Default)]
struct Clock {
    is_wrong: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Wrong,
    Right,
}

/// Compares until the node stops. A log that is not shared has the node's own clock.
pub async fn run(log: Log, metrics: Arc<Metrics>, tasks: Tasks) {
    if log.is_shared() {
        tokio::select! {
            () = compare(&log, &metrics) => {}
            () = tasks.stopping() => {}
        }
    }
}

async fn compare(log: &Log, metrics: &Metrics) {
    let (mut clock, mut backoff) = (Clock::default(), Backoff::new(FIRST_PAUSE, ASK_EVERY));
    loop {
        let (sent, begun) = (SystemTime::now(), Instant::now());
        // An error: the log is away, which is logged elsewhere.
        let theirs = log.time().await.ok();
        if let Some(ahead) = theirs.and_then(|theirs| ahead(sent, begun.elapsed(), theirs)) {
            metrics.log_clock_difference.set(ahead);
            clock.tell(ahead);
            backoff.give_time();
        }
        sleep(backoff.pause()).await;
    }
}

/// How many seconds the node is ahead (negative: behind), assuming that the log said `theirs`
/// halfway between question and answer. `None`: the answer took too long.
fn ahead(sent: SystemTime, took: Duration, theirs: SystemTime) -> Option<f64> {
    let ours = sent + took / 2;
    let seconds = match ours.duration_since(theirs) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    };
    (took <= ANSWER_TIME_MAX).then_some(seconds)
}

impl Clock {
    fn tell(&mut self, ahead: f64) {
        match self.note(ahead) {
            Some(Turn::Wrong) => {
                let direction = if ahead > 0.0 { "ahead of" } else { "behind" };
                tracing::warn!(
                    "the clock of this node is {:.1} s {direction} PostgreSQL's: its messages have \
                     wrong times; synchronize both machines (NTP)",
                    ahead.abs()
                );
            }
            Some(Turn::Right) => tracing::info!("the clock of this node agrees with PostgreSQL's"),
            None => {}
        }
    }

    /// What has changed.
    fn note(&mut self, ahead: f64) -> Option<Turn> {
        let was_wrong = self.is_wrong;
        self.is_wrong = ahead.abs() > if was_wrong { RIGHT } else { WRONG };
        match (was_wrong, self.is_wrong) {
            (false, true) => Some(Turn::Wrong),
            (true, false) => Some(Turn::Right),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_taken_halfway_through_a_quick_answer() {
        let sent = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let ms = Duration::from_millis;
        assert_eq!(ahead(sent, ms(0), sent), Some(0.0));
        assert_eq!(ahead(sent, ms(400), sent + ms(200)), Some(0.0));
        assert_eq!(ahead(sent, ms(500), sent + ms(2250)), Some(-2.0));
        assert_eq!(ahead(sent, ms(500), sent - ms(2750)), Some(3.0));
        assert_eq!(ahead(sent, ms(501), sent - ms(2750)), None);
    }

    #[test]
    fn it_is_news_when_it_begins_and_when_it_ends() {
        let mut clock = Clock::default();
        let told: Vec<_> = [0.9, -1.0, 1.1, 5.0, 0.7, -0.7, 0.5, 0.9, -3.0, -0.4]
            .into_iter()
            .filter_map(|ahead| Some((ahead, clock.note(ahead)?)))
            .collect();
        let (wrong, right) = (Turn::Wrong, Turn::Right);
        assert_eq!(told, [(1.1, wrong), (0.5, right), (-3.0, Turn::Wrong), (-0.4, Turn::Right)]);
    }
}
