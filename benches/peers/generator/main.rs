//! The load generator of `verbatim bench` for the servers beside ours: the same in all but what it
//! speaks. `make bench` runs it; it is not shipped.
//!
//! ```text
//! cargo run --release --example peers -- --dialect nats fanout --url ws://127.0.0.1:9000
//! ```

mod floor;
mod nats;
mod socketio;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use verbatim_tools::bench::dialect::Dialect;
use verbatim_tools::bench::{Args, run_in};

/// Only the shapes `fanout` and `idle`: these servers number nothing and ack nothing.
#[derive(Parser)]
struct Arguments {
    /// What the server speaks
    #[arg(long, value_enum)]
    dialect: Spoken,
    #[command(flatten)]
    args: Args,
}

#[derive(Clone, Copy, ValueEnum)]
enum Spoken {
    /// The bare broadcaster of benches/peers/floor
    Floor,
    /// nats-server over WebSocket
    Nats,
    /// Socket.IO 4, the server of benches/peers/socketio
    Socketio,
}

fn main() -> Result<ExitCode> {
    let Arguments { dialect, args } = Arguments::parse();
    let dialect: Arc<dyn Dialect> = match dialect {
        Spoken::Floor => Arc::new(floor::Floor::default()),
        Spoken::Nats => Arc::new(nats::Nats),
        Spoken::Socketio => Arc::new(socketio::SocketIo::default()),
    };
    let is_whole = run_in(&args, dialect)?;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
