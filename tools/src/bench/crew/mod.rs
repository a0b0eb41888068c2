//! A thread that connects, reads and counts for many lines: an event loop over plain sockets.
//!
//! The generator shares the machine with the server, so its own work takes CPU from what it
//! measures. It therefore has one buffer for all lines, reads all that has arrived at once, and
//! uses no task and no allocation per message.

mod reading;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Poll};

use super::board::Board;
use super::dialect::Dialect;
use super::line::{Line, Outcome, Stage};
use super::plan::Plan;
use super::script::Script;
use super::tally::Tally;

/// What the coordinator tells a crew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Every sender sends as many messages as it may have unanswered, and one more for each ack.
    Speak,
    /// Cut off all followers. They stay away.
    Cut,
    /// The followers that are away come back.
    Return,
    /// From now on, followers disconnect and come back, for the shape `jitter`.
    Roam,
    /// No more `Roam`, and slow followers read.
    Settle,
    /// The run is over.
    Stop,
}

pub struct Crew {
    pub plan: Arc<Plan>,
    pub dialect: Arc<dyn Dialect>,
    pub board: Arc<Board>,
    pub script: Arc<Script>,
    pub orders: Receiver<Order>,
    pub lines: Vec<Line>,
    /// Most connections that are being opened at the same time.
    pub opening_max: usize,
    /// How long a roaming client stays connected, and how long it is away.
    pub stay: Duration,
    pub away: Duration,
    pub tally: Tally,
}

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// How often orders are checked.
const ORDERS_EVERY: Duration = Duration::from_millis(5);
/// The pause before a line that lost its connection tries again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The crew at work.
struct Loop {
    crew: Crew,
    poll: Poll,
    buffer: Vec<u8>,
    /// By line: its connection, and the beginning of an incomplete frame.
    ports: Vec<Port>,
    /// By client: the indexes of its speeches in the plan.
    speeches: Vec<Vec<usize>>,
    /// Lines that wait to connect.
    queue: VecDeque<usize>,
    opening: usize,
    /// When to cut off or call back which line; times in nanoseconds.
    agenda: BinaryHeap<Reverse<(u64, usize)>>,
    is_roaming: bool,
    is_settled: bool,
    /// Acks bring new messages.
    is_speaking: bool,
}

#[derive(Default)]
struct Port {
    stream: Option<Arc<TcpStream>>,
    tail: Vec<u8>,
    /// Messages sent so far; decides which is next.
    said: usize,
}

impl Crew {
    /// Works until it is told to stop. Returns the tally and the lines.
    pub fn run(self) -> io::Result<(Tally, Vec<Line>)> {
        let count = self.lines.len();
        let mut speeches = vec![Vec::new(); self.plan.clients.len()];
        for (index, speech) in self.plan.speeches.iter().enumerate() {
            speeches[speech.client as usize].push(index);
        }
        let mut work = Loop {
            crew: self,
            poll: Poll::new()?,
            buffer: vec![0; reading::BUFFER_BYTES],
            ports: (0..count).map(|_| Port::default()).collect(),
            speeches,
            queue: (0..count).collect(),
            opening: 0,
            agenda: BinaryHeap::new(),
            is_roaming: false,
            is_settled: false,
            is_speaking: false,
        };
        work.run()?;
        Ok((work.crew.tally, work.crew.lines))
    }
}

impl Loop {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            while let Ok(order) = self.crew.orders.try_recv() {
                match order {
                    Order::Stop => return Ok(()),
                    Order::Speak => self.speak_up(),
                    Order::Cut => self.cut_all(),
                    Order::Return => self.call_back(),
                    Order::Roam => self.roam(),
                    Order::Settle => self.settle(),
                }
            }
            self.follow_the_agenda();
            while self.opening < self.crew.opening_max
                && let Some(line) = self.queue.pop_front()
            {
                self.open(line);
            }
            match self.poll.poll(&mut events, Some(ORDERS_EVERY)) {
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            let mut delivered = 0;
            for event in &events {
                let line = event.token().0;
                if event.is_writable() {
                    self.on_writable(line);
                }
                delivered += self.on_readable(line, event.is_read_closed());
            }
            if delivered > 0 {
                self.crew.board.delivered.fetch_add(delivered, Relaxed);
            }
        }
    }

    fn speak_up(&mut self) {
        self.is_speaking = true;
        for line in 0..self.ports.len() {
            self.speak(line, self.crew.plan.in_flight);
        }
    }

    fn cut_all(&mut self) {
        for line in 0..self.ports.len() {
            if self.follows(line) {
                self.cut(line);
            }
        }
    }

    fn call_back(&mut self) {
        let now = self.crew.board.now();
        for (index, line) in self.crew.lines.iter_mut().enumerate() {
            if line.stage == Stage::Away {
                line.since = Some(now);
                self.queue.push_back(index);
            }
        }
    }

    /// The lines leave one after the other, spread over the first stay.
    fn roam(&mut self) {
        self.is_roaming = true;
        let (now, count) = (self.crew.board.now(), self.ports.len() as u64);
        let stay = self.crew.stay.as_nanos() as u64;
        for line in 0..self.ports.len() {
            if self.follows(line) {
                self.agenda.push(Reverse((now + stay * line as u64 / count, line)));
            }
        }
    }

    fn settle(&mut self) {
        (self.is_roaming, self.is_settled) = (false, true);
        for line in 0..self.ports.len() {
            if self.is_slow(line) {
                // The kernel does not report again what already waits.
                let delivered = self.on_readable(line, true);
                self.crew.board.delivered.fetch_add(delivered, Relaxed);
            }
        }
    }

    fn follow_the_agenda(&mut self) {
        let now = self.crew.board.now();
        while self.agenda.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((_, line))) = self.agenda.pop() else { return };
            match self.crew.lines[line].stage {
                Stage::Away => {
                    self.crew.lines[line].since.get_or_insert(now);
                    self.queue.push_back(line);
                }
                Stage::Live if self.is_roaming => {
                    self.cut(line);
                    self.agenda.push(Reverse((now + self.crew.away.as_nanos() as u64, line)));
                }
                _ => {}
            }
        }
    }

    fn act(&mut self, index: usize, outcome: &Outcome) {
        if outcome.is_live {
            self.opening -= 1;
            let now = self.crew.board.now();
            if let Some(since) = self.crew.lines[index].since.take() {
                self.crew.tally.returns.record(now.saturating_sub(since));
            }
            if self.is_roaming && self.follows(index) {
                self.agenda.push(Reverse((now + self.crew.stay.as_nanos() as u64, index)));
            }
        }
        if self.is_speaking && outcome.answered > 0 && !self.crew.board.is_over() {
            self.speak(index, outcome.answered);
        }
        if outcome.is_over {
            self.fail(index, "the server closed the connection");
        }
    }

    /// Sends this many messages through the line, if it has any to send.
    fn speak(&mut self, index: usize, count: usize) {
        let line = &self.crew.lines[index];
        let speeches = &self.speeches[line.client];
        if speeches.is_empty() {
            return;
        }
        let now = self.crew.board.now();
        let mut frames = Vec::new();
        for _ in 0..count {
            let said = &mut self.ports[index].said;
            let speech = speeches[*said % speeches.len()];
            *said += 1;
            self.crew.script.put(&mut frames, speech, now);
            let room = self.crew.plan.speeches[speech].room;
            self.crew.board.rooms[room as usize].sent.fetch_add(1, Relaxed);
        }
        self.crew.board.sent.fetch_add(count as u64, Relaxed);
        line.outlet.say(&frames, count, now);
    }

    fn cut(&mut self, index: usize) {
        let line = &mut self.crew.lines[index];
        if !matches!(line.stage, Stage::Away | Stage::Live) {
            self.opening -= 1;
        }
        line.end(&self.crew.board);
        self.ports[index].stream = None;
        self.ports[index].tail = Vec::new();
    }

    /// The connection was ended from outside. It is made again if the plan allows that.
    fn fail(&mut self, index: usize, why: &str) {
        let was_live = self.is_live(index);
        self.cut(index);
        let now = self.crew.board.now();
        if self.crew.plan.resumes && self.follows(index) {
            let line = &mut self.crew.lines[index];
            if was_live {
                line.since = Some(now);
            }
            line.target = (line.target + 1) % self.crew.plan.targets.len();
            self.agenda.push(Reverse((now + RETRY_PAUSE.as_nanos() as u64, index)));
        } else if !self.crew.board.is_over() {
            self.crew.board.note_trouble(why.as_bytes());
            self.crew.board.lost.fetch_add(1, Relaxed);
        }
    }

    fn follows(&self, index: usize) -> bool {
        !self.crew.plan.clients[self.crew.lines[index].client].follows.is_empty()
    }

    fn is_slow(&self, index: usize) -> bool {
        self.crew.plan.clients[self.crew.lines[index].client].is_slow
    }

    fn is_live(&self, index: usize) -> bool {
        self.crew.lines[index].stage == Stage::Live
    }
}
