//! Sends each message when it is due, from a thread of its own: the open loop.
//!
//! It does not read. So a server that answers late, or a crew that is behind with reading, does not
//! delay the next message; and the wait of one that could not leave in time is in its latency.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use super::board::Board;
use super::outlet::Outlet;
use super::plan::Plan;
use super::script::Script;
use super::tally::Latencies;

pub struct Pacer {
    pub plan: Arc<Plan>,
    pub board: Arc<Board>,
    pub script: Arc<Script>,
    /// By client.
    pub outlets: Arc<Vec<Arc<Outlet>>>,
}

/// Between two looks at a sender that has as many unanswered as it may.
const FULL_PAUSE: Duration = Duration::from_micros(200);

impl Pacer {
    /// Sends until the board says that it is over, or `count_max` are sent. Returns how late the
    /// messages left, which is the generator's own fault or that of a sender that was full.
    pub fn run(&self, count_max: u64) -> Latencies {
        let begun = self.board.now();
        let mut late = Latencies::default();
        let mut frame = Vec::new();
        for count in 0..count_max {
            let due = begun + (count as f64 * 1e9 / self.plan.rate) as u64;
            let turn = count as usize % self.plan.speeches.len();
            let speech = self.plan.speeches[turn];
            let outlet = &self.outlets[speech.client as usize];
            if !self.wait(due, outlet) {
                break;
            }
            frame.clear();
            self.script.put(&mut frame, turn, due);
            // Counted first: an ack must not be counted before its message.
            self.board.sent.fetch_add(1, Relaxed);
            self.board.rooms[speech.room as usize].sent.fetch_add(1, Relaxed);
            outlet.say(&frame, 1, due);
            if self.board.is_measured(due) {
                late.record(self.board.now().saturating_sub(due));
            }
        }
        late
    }

    /// Until the message is due and its sender may have one more unanswered. False: it is over.
    fn wait(&self, due: u64, outlet: &Outlet) -> bool {
        loop {
            if self.board.is_over() {
                return false;
            }
            let now = self.board.now();
            if now < due {
                // Not longer than until somebody looks whether it is over.
                thread::sleep(Duration::from_nanos(due - now).min(Duration::from_millis(50)));
            } else if outlet.unanswered() >= self.plan.in_flight {
                thread::sleep(FULL_PAUSE);
            } else {
                return true;
            }
        }
    }
}
