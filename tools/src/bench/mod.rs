//! `verbatim bench`: puts load on a server and measures what comes of it.
//!
//! It is a client and nothing else: it shares no state with a server, and measures others as well.
//! A run, from the top: `args` are checked into a `plan`; `setup` makes rooms and members; a
//! `crew` of threads holds a `line` for each client and reads; the `pacer` sends when a message is
//! due; each crew keeps a `tally`, all share a `board`; the `report` is made of both.

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
