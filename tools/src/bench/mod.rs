//! `verbatim bench`: puts load on a server and measures how the server handles it.
//!
//! It is only a client: it shares no state with a server, and can measure other servers.
//!
//! A run, step by step: `args` are checked and become a `plan`. `setup` creates rooms and members.
//! Each `crew` is a thread that has a `line` for each of its clients, and reads. The `pacer` sends
//! each message when it is due. Each crew keeps a `tally`, and all share a `board`. The `report` is
//! made from both.

mod args;
mod board;
mod crew;
mod dial;
pub mod dialect;
mod line;
mod outlet;
mod pacer;
mod plan;
mod process;
mod progress;
mod report;
mod run;
mod script;
mod setup;
pub mod stamp;
mod tally;
pub mod wire;

pub use self::args::Args;
pub use self::plan::{Client, Rooms};
pub use self::run::{BenchError, run, run_in};
