//! A run, from its arguments to its report, in the order in which things happen.

use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::args::{Args, Shape};
use super::board::Board;
use super::crew::{Crew, Order};
use super::dialect::Dialect;
use super::dialect::verbatim::Verbatim;
use super::line::Line;
use super::outlet::Outlet;
use super::pacer::Pacer;
use super::plan::{Plan, Wrong};
use super::process::Usage;
use super::progress::Progress;
use super::report::{Measured, Report, Sample};
use super::script::Script;
use super::setup::{self, SetupError};
use super::tally::{Arrival, Latencies, Tally};

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Wrong(#[from] Wrong),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("cannot measure the server: {0}")]
    Process(std::io::Error),
    #[error("only {live} of {wanted} connections could be made{why}")]
    NotConnected { live: u64, wanted: u64, why: String },
    #[error("only {back} of {wanted} clients came back{why}")]
    NotBack { back: u64, wanted: u64, why: String },
    #[error("a thread of the generator failed: {0}")]
    Thread(String),
    #[error("cannot write {path}: {source}")]
    Write { path: String, source: std::io::Error },
}

/// The pause between two checks of the board.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Measures a Verbatim server, and prints the report. Returns whether nothing was missing.
pub fn run(args: &Args) -> Result<bool, BenchError> {
    run_in(args, Arc::new(Verbatim::default()))
}

/// Like `run`, for a server with this dialect.
pub fn run_in(args: &Args, dialect: Arc<dyn Dialect>) -> Result<bool, BenchError> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (name, has_acks) = (dialect.name(), dialect.is_numbered());
    let plan = Plan::new(args, &format!("{:x}", since_1970.as_millis()), has_acks)?;
    let mut run = Run::new(args, plan, dialect);
    let measured = run.measure()?;
    let report = Report::new(&run.plan, name, has_acks, !args.pids.is_empty(), &measured);
    run.progress.clear();
    print(args, &report)?;
    if let (Some(path), Some(arrivals)) = (&args.arrivals, &measured.tally.arrivals) {
        let written = write_arrivals(path, arrivals, &run.board);
        written.map_err(|source| BenchError::Write { path: path.display().to_string(), source })?;
    }
    Ok(report.is_whole())
}

struct Run<'a> {
    args: &'a Args,
    plan: Arc<Plan>,
    dialect: Arc<dyn Dialect>,
    board: Arc<Board>,
    script: Arc<Script>,
    /// By client.
    outlets: Arc<Vec<Arc<Outlet>>>,
    crews: Vec<Hired>,
    progress: Progress,
}

/// A crew at work.
struct Hired {
    orders: Sender<Order>,
    thread: JoinHandle<std::io::Result<(Tally, Vec<Line>)>>,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args, plan: Plan, dialect: Arc<dyn Dialect>) -> Self {
        // Every connection is a file. If the limit cannot be raised, connections fail with an
        // error.
        let _ = rlimit::increase_nofile_limit(plan.clients.len() as u64 + 64);
        let outlets = plan.clients.iter().map(|_| Arc::default()).collect();
        Self {
            args,
            board: Arc::new(Board::new(plan.rooms.len())),
            script: Arc::new(Script::new(&plan, &*dialect)),
            plan: Arc::new(plan),
            dialect,
            outlets: Arc::new(outlets),
            crews: Vec::new(),
            progress: Progress::new(),
        }
    }

    fn measure(&mut self) -> Result<Measured, BenchError> {
        // First, because what a server keeps for a member is part of a connection's cost.
        let empty = self.usage()?;
        if self.dialect.is_numbered() {
            let progress = &mut self.progress;
            setup::prepare(&self.plan, &mut |share| progress.show("preparing", share, ""))?;
        }
        self.assemble();
        self.connect()?;
        let full = self.usage()?;
        let (from, until, late) = match self.args.shape {
            Shape::Storm => self.storm()?,
            _ => self.flow()?,
        };
        self.order(Order::Settle);
        self.drain();
        let tally = self.dismiss()?;
        Ok(Measured {
            empty,
            full,
            from,
            until,
            late,
            tally,
            sent: self.board.sent.load(Relaxed),
            acked: self.board.acked.load(Relaxed),
            delivered: self.board.delivered.load(Relaxed),
            refused: self.board.refused.load(Relaxed),
            lost: self.board.lost.load(Relaxed),
            trouble: self.board.trouble(),
        })
    }

    /// Starts the crews, and distributes the clients among them.
    fn assemble(&mut self) {
        for index in 0..self.args.threads {
            let (sender, orders) = channel();
            let line = |client: usize| {
                let target = self.plan.clients[client].target;
                Line::new(client, target, self.outlets[client].clone())
            };
            let clients = (index..self.plan.clients.len()).step_by(self.args.threads);
            let arrivals = self.args.arrivals.is_some().then(Vec::new);
            let crew = Crew {
                plan: self.plan.clone(),
                dialect: self.dialect.clone(),
                board: self.board.clone(),
                script: self.script.clone(),
                orders,
                lines: clients.map(line).collect(),
                opening_max: self.args.opening.div_ceil(self.args.threads),
                stay: self.args.stay,
                away: self.args.away,
                tally: Tally { arrivals, ..Tally::default() },
            };
            let thread = thread::spawn(move || crew.run());
            self.crews.push(Hired { orders: sender, thread });
        }
    }

    fn connect(&mut self) -> Result<(), BenchError> {
        let wanted = self.plan.clients.len() as u64;
        let live = self.wait_for_live("connecting", wanted);
        if live < wanted || self.is_lost() {
            return Err(BenchError::NotConnected { live, wanted, why: self.why() });
        }
        Ok(())
    }

    /// Measures a steady flow of messages (or none) for the requested duration.
    fn flow(&mut self) -> Result<(Sample, Sample, Latencies), BenchError> {
        let pacer = (self.plan.rate > 0.0).then(|| self.pace(u64::MAX));
        match self.plan.shape {
            Shape::Write if self.plan.rate == 0.0 => self.order(Order::Speak),
            Shape::Jitter => self.order(Order::Roam),
            _ => {}
        }
        self.pass("warming up", self.plan.warm_up);
        self.board.open_window();
        let from = self.sample()?;
        self.pass("measuring", self.plan.duration);
        let until = self.sample()?;
        self.board.close_window();
        self.board.end();
        let late = pacer.map_or_else(|| Ok(Latencies::default()), join)?;
        Ok((from, until, late))
    }

    /// All followers are cut off, messages are sent, and all come back at once. With `--kill`: a
    /// node is killed, messages are sent, and its clients come back to other nodes.
    fn storm(&mut self) -> Result<(Sample, Sample, Latencies), BenchError> {
        let count = self.args.missed * self.plan.rooms.len() as u64;
        let wanted = self.plan.clients.len() as u64;
        if let Some(pid) = self.args.kill {
            self.board.open_window();
            let from = self.sample()?;
            kill(pid).map_err(BenchError::Process)?;
            let late = join(self.pace(count))?;
            return Ok((from, self.await_return(wanted)?, late));
        }
        self.order(Order::Cut);
        let senders = wanted - self.followers();
        while self.board.live.load(Relaxed) > senders {
            thread::sleep(LOOK_EVERY);
        }
        let late = join(self.pace(count))?;
        self.drain_acks();
        let from = self.sample()?;
        self.order(Order::Return);
        Ok((from, self.await_return(wanted)?, late))
    }

    /// Waits until all clients are live again and have everything.
    fn await_return(&mut self, wanted: u64) -> Result<Sample, BenchError> {
        let back = self.wait_for_live("returning", wanted);
        if back < wanted {
            return Err(BenchError::NotBack { back, wanted, why: self.why() });
        }
        self.drain();
        self.sample()
    }

    fn followers(&self) -> u64 {
        self.plan.clients.iter().filter(|client| !client.follows.is_empty()).count() as u64
    }

    fn pace(&self, count: u64) -> JoinHandle<Latencies> {
        let pacer = Pacer {
            plan: self.plan.clone(),
            board: self.board.clone(),
            script: self.script.clone(),
            outlets: self.outlets.clone(),
            is_answered: self.dialect.is_numbered(),
        };
        thread::spawn(move || pacer.run(count))
    }

    fn order(&self, order: Order) {
        for crew in &self.crews {
            // An error: the crew has ended, which `dismiss` reports.
            let _ = crew.orders.send(order);
        }
    }

    fn pass(&mut self, what: &str, time: Duration) {
        let begun = self.board.now();
        let until = begun + time.as_nanos() as u64;
        let mut now = begun;
        while now < until && !self.is_lost() {
            let share = (now - begun) as f64 / time.as_nanos() as f64;
            let (acked, delivered) =
                (self.board.acked.load(Relaxed), self.board.delivered.load(Relaxed));
            self.progress.show(what, share, &format!("{acked} acked, {delivered} delivered"));
            // Rarely enough not to disturb the measurement.
            let pause = Duration::from_millis(200).min(Duration::from_nanos(until - now));
            thread::sleep(pause);
            now = self.board.now();
        }
    }

    /// Waits until this many are live, or nothing has changed for `--patience`.
    fn wait_for_live(&mut self, what: &str, wanted: u64) -> u64 {
        let mut last = (0, self.board.now());
        loop {
            let live = self.board.live.load(Relaxed);
            let now = self.board.now();
            if live != last.0 {
                last = (live, now);
            }
            let is_stuck = now - last.1 > self.args.patience.as_nanos() as u64;
            if live >= wanted || is_stuck || self.is_lost() {
                return live;
            }
            self.progress.show(what, live as f64 / wanted as f64, &format!("{live} live"));
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until every message is answered and delivered, or nothing has changed for
    /// `--patience`.
    fn drain(&mut self) {
        self.drain_acks();
        let followers = self.plan.followers();
        let expected = || -> u64 {
            let count = |room: &super::board::Room| match self.dialect.is_numbered() {
                true => room.acked.load(Relaxed),
                false => room.sent.load(Relaxed),
            };
            self.board.rooms.iter().zip(&followers).map(|(room, n)| count(room) * n).sum()
        };
        let expected = expected();
        self.wait_while(|board| board.delivered.load(Relaxed) < expected);
    }

    fn drain_acks(&self) {
        if self.dialect.is_numbered() {
            let answered = |board: &Board| board.acked.load(Relaxed) + board.refused.load(Relaxed);
            self.wait_while(|board| answered(board) < board.sent.load(Relaxed));
        }
    }

    fn wait_while(&self, is_waiting: impl Fn(&Board) -> bool) {
        let board = &self.board;
        let counts = || board.acked.load(Relaxed) + board.delivered.load(Relaxed);
        let mut last = (counts(), board.now());
        while is_waiting(board) && !self.is_lost() {
            thread::sleep(LOOK_EVERY);
            if counts() != last.0 {
                last = (counts(), board.now());
            } else if board.now() - last.1 > self.args.patience.as_nanos() as u64 {
                return;
            }
        }
    }

    /// A connection ended unexpectedly, so the run cannot succeed any more.
    fn is_lost(&self) -> bool {
        self.board.lost.load(Relaxed) > 0
    }

    /// Ends the crews. Events that followers do not have now count as missing.
    fn dismiss(&mut self) -> Result<Tally, BenchError> {
        self.board.end();
        self.order(Order::Stop);
        let tops: Vec<u64> = match self.dialect.is_numbered() {
            true => self.board.rooms.iter().map(|room| room.top.load(Relaxed)).collect(),
            false => self.board.rooms.iter().map(|room| room.sent.load(Relaxed)).collect(),
        };
        let mut all = Tally::default();
        for crew in self.crews.drain(..) {
            let ended = join(crew.thread)?;
            let (mut tally, lines) = ended.map_err(|err| BenchError::Thread(err.to_string()))?;
            tally.short = lines.iter().map(|line| line.short(&tops)).sum();
            all.add(tally);
        }
        Ok(all)
    }

    /// The usage of the server's processes, without the one that `--kill` kills.
    fn usage(&self) -> Result<Usage, BenchError> {
        let pids = self.args.pids.iter().copied().filter(|pid| Some(*pid) != self.args.kill);
        Usage::of(&pids.collect::<Vec<_>>()).map_err(BenchError::Process)
    }

    fn sample(&self) -> Result<Sample, BenchError> {
        Ok(Sample {
            nanos: self.board.now(),
            acked: self.board.acked.load(Relaxed),
            delivered: self.board.delivered.load(Relaxed),
            usage: self.usage()?,
        })
    }

    fn why(&self) -> String {
        self.board.trouble().map(|trouble| format!(": {trouble}")).unwrap_or_default()
    }
}

fn join<T>(thread: JoinHandle<T>) -> Result<T, BenchError> {
    thread.join().map_err(|_| BenchError::Thread("it panicked".to_owned()))
}

fn kill(pid: u32) -> std::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or(std::io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

fn print(args: &Args, report: &Report) -> Result<(), BenchError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| BenchError::Write { path, source }
    };
    let json = serde_json::to_string_pretty(report).map_err(std::io::Error::from);
    match &args.json {
        Some(path) if path == Path::new("-") => {
            json.and_then(|json| writeln!(stdout(), "{json}")).map_err(failed(path))
        }
        Some(path) => {
            json.and_then(|json| std::fs::write(path, json + "\n")).map_err(failed(path))?;
            write!(stdout(), "{}", report.table()).map_err(failed(Path::new("stdout")))
        }
        None => write!(stdout(), "{}", report.table()).map_err(failed(Path::new("stdout"))),
    }
}

fn write_arrivals(path: &Path, arrivals: &[Arrival], board: &Board) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for arrival in arrivals {
        let Arrival { room, seq, from, to, sent, arrived } = *arrival;
        let (sent, arrived) = (board.wall_us(sent), board.wall_us(arrived));
        writeln!(out, "{room},{seq},{from},{to},{sent},{arrived}")?;
    }
    out.flush()
}
