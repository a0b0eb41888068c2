//! The arguments of `verbatim bench`, as typed. `plan` checks them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

/// Put load on a server and measure how it handles it
///
/// Messages are sent when they are due, whether or not the server keeps up, and latency is counted
/// from then. Exits with 1 if a single message is missing, duplicated, refused or unanswered.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = include_str!("help.txt"))]
pub struct Args {
    #[arg(value_enum)]
    pub shape: Shape,
    /// WebSocket URL; repeat it for several nodes, and the clients are spread over them
    #[arg(long = "url", value_name = "URL", default_value = "ws://127.0.0.1:8080/ws")]
    pub urls: Vec<String>,
    /// Connections, not counting those that only send
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
    /// Messages per second of all senders together; 0: each ack sends the next
    #[arg(long)]
    pub rate: Option<f64>,
    /// Size of a message's text in bytes
    #[arg(long, default_value_t = 150)]
    pub size: usize,
    /// Most unanswered messages of one sender
    #[arg(long)]
    pub in_flight: Option<usize>,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// How long to send before measuring
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub warm_up: Duration,
    /// Percentage of the followers that read nothing during the measurement
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub slow: f64,
    /// The server's process, to measure its CPU and memory; repeat it for several (Linux)
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Write the result as JSON to FILE, or to stdout instead of the table
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Reading threads
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Most connections that are being opened at the same time
    #[arg(long, default_value_t = 500)]
    pub opening: usize,
    /// Give up after this long without progress
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// storm: messages sent to each room while the clients are away
    #[arg(long, default_value_t = 100)]
    pub missed: u64,
    /// storm: instead of cutting off all clients, kill -9 this process, the node of the first URL
    #[arg(long, value_name = "PID")]
    pub kill: Option<u32>,
    /// jitter: how long a client stays connected
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)]
    pub stay: Duration,
    /// jitter: how long a client is away
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub away: Duration,
    /// Write to FILE when each message reached each follower, as lines of
    /// room,seq,from,to,sent_us,arrived_us
    #[arg(long, value_name = "FILE")]
    pub arrivals: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Few senders, many followers
    Fanout,
    /// Many small rooms in which every client sends
    Chatter,
    /// Senders without followers; messages have ids and are acked
    Write,
    /// Followers of rooms without messages
    Idle,
    /// All clients are cut off, miss messages, and reconnect at the same time
    Storm,
    /// Each client is cut off again and again, and reconnects
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
