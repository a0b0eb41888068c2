//! The arguments of `verbatim bench`, as they are typed. What they come to is `plan`'s.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

/// Puts load on a server and measures what comes of it
///
/// Messages leave when they are due, whether or not the server keeps up, and latency is counted
/// from then. It exits with 1 if a single message is missing, doubled, refused or not answered.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = include_str!("help.txt"))]
pub struct Args {
    #[arg(value_enum)]
    pub shape: Shape,
    /// Where to connect; repeat it for several nodes, over which the clients are spread
    #[arg(long = "url", value_name = "URL", default_value = "ws://127.0.0.1:8080/ws")]
    pub urls: Vec<String>,
    /// Connections, beside the few that only send
    #[arg(long)]
    pub clients: Option<usize>,
    #[arg(long)]
    pub rooms: Option<usize>,
    /// Rooms that each client follows
    #[arg(long)]
    pub follows: Option<usize>,
    /// Connections that only send
    #[arg(long)]
    pub senders: Option<usize>,
    /// Messages a second, all senders together; 0: as fast as they are acked
    #[arg(long)]
    pub rate: Option<f64>,
    /// Bytes of a message's text
    #[arg(long, default_value_t = 150)]
    pub size: usize,
    /// Messages that one sender may have unanswered
    #[arg(long)]
    pub in_flight: Option<usize>,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// How long to send before measuring
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub warm_up: Duration,
    /// Percent of the followers that read nothing while it is measured
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub slow: f64,
    /// The server's process, whose CPU and memory to measure; repeat it for several (Linux)
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Write the result as JSON to FILE, or to stdout instead of the table
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Threads that read
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Connections that may be opening at the same time
    #[arg(long, default_value_t = 500)]
    pub opening: usize,
    /// Give up when nothing has moved for this long
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// storm: messages that each room gets while everybody is away
    #[arg(long, default_value_t = 100)]
    pub missed: u64,
    /// storm: instead of cutting all clients off, kill -9 this process, the node of the first URL
    #[arg(long, value_name = "PID")]
    pub kill: Option<u32>,
    /// jitter: how long a client stays connected
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)]
    pub stay: Duration,
    /// jitter: how long it is away
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub away: Duration,
    /// Write when each message reached each follower to FILE, as lines of
    /// room,seq,from,to,sent_us,arrived_us
    #[arg(long, value_name = "FILE")]
    pub arrivals: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Few senders, many followers
    Fanout,
    /// Many small rooms in which everybody speaks
    Chatter,
    /// Senders whose messages have ids and are acked, and no followers
    Write,
    /// Followers of rooms in which nothing is said
    Idle,
    /// All clients are cut off, miss something, and come back at once
    Storm,
    /// Each client is cut off again and again, and comes back
    Jitter,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Chatter => "chatter",
            Self::Write => "write",
            Self::Idle => "idle",
            Self::Storm => "storm",
            Self::Jitter => "jitter",
        }
    }
}
