//! Sends each message when it is due, from its own thread: the load is an open loop.
//!
//! It does not read. So a server that answers late, or a crew that is behind with reading, does not
//! delay the next message. If a message cannot be sent in time, its wait is part of its latency.

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
    /// The server acks messages. Without acks, it is unknown how many are on their way, so their
    /// number is not limited.
    pub is_answered: bool,
}

/// The pause between two checks of a sender that may not have more unanswered messages.
const FULL_PAUSE: Duration = Duration::from_micros(200);

impl Pacer {
    /// Sends until the run is over, or `count_max` messages are sent. Returns how late they were
    /// sent: because the generator was late, or because the sender had too many unanswered
    /// messages.
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
            if self.is_answered {
                outlet.say(&frame, 1, due);
            } else {
                outlet.write(&frame);
            }
            if self.board.is_measured(due) {
                late.record(self.board.now().saturating_sub(due));
            }
        }
        late
    }

    /// Waits until the message is due and its sender may have one more unanswered. `false`: the run
    /// is over.
    fn wait(&self, due: u64, outlet: &Outlet) -> bool {
        loop {
            if self.board.is_over() {
                return false;
            }
            let now = self.board.now();
            if now < due {
                // Short enough to notice soon that the run is over.
                thread::sleep(Duration::from_nanos(due - now).min(Duration::from_millis(50)));
            } else if outlet.unanswered() >= self.plan.in_flight {
                thread::sleep(FULL_PAUSE);
            } else {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::Args;
    use super::super::dialect::verbatim::Verbatim;
    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    /// How many of a thousand messages are sent if none is answered and one may be unanswered.
    fn sent(is_answered: bool) -> u64 {
        let words = "bench fanout --senders 1 --in-flight 1 --rate 1000000 --url ws://127.0.0.1:9";
        let args = Program::parse_from(words.split_whitespace()).args;
        let plan = Arc::new(Plan::new(&args, "r", false).unwrap());
        let pacer = Pacer {
            script: Arc::new(Script::new(&plan, &Verbatim::default())),
            board: Arc::new(Board::new(plan.rooms.len())),
            outlets: Arc::new(plan.clients.iter().map(|_| Arc::default()).collect()),
            plan,
            is_answered,
        };
        let board = pacer.board.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(1));
            board.end();
        });
        pacer.run(1000);
        pacer.board.sent.load(Relaxed)
    }

    #[test]
    fn without_acks_the_number_of_messages_on_their_way_is_not_limited() {
        assert_eq!(sent(false), 1000);
        assert_eq!(sent(true), 1);
    }
}
