//! The program: arguments, settings, bind, signals, exit code. What a node does is the library's.

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use verbatim::config::{Config, ConfigError, Sources, Warning};
use verbatim::node::Node;
use verbatim::{health, probe, trace};

/// The node could not start, or `check` found something that does not work.
const EXIT_FAILED: u8 = 1;
/// Wrong arguments or settings (`EX_USAGE` of sysexits.h): starting again will not help.
const EXIT_USAGE: u8 = 64;
/// A part of the node died (`EX_SOFTWARE`): a bug. Starting again may help.
const EXIT_SOFTWARE: u8 = 70;
/// A process that ended because of signal n exits with this plus n, as shells have it.
const EXIT_SIGNAL: u8 = 128;

/// Verbatim: a self-hosted chat server. Every message, exactly once, in order, on every node.
///
/// Without a command it serves: WebSocket at /ws, and /healthz, /readyz and /metrics beside it.
#[derive(Parser)]
#[command(version, after_help = include_str!("help.txt"))]
struct Arguments {
    /// Read settings from FILE instead of config.toml in the working directory
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Print the effective settings, passwords masked, and try the log and the mirror
    Check,
    /// Ask the node that listens at server.listen whether it is alive: 0 yes, 1 no
    Health,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(err) => return answer_usage(&err),
    };
    let (config, warnings) = match settings(arguments.config) {
        Ok(settled) => settled,
        Err(err) => {
            eprintln!("verbatim: {err}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let run = || {
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        let code = match arguments.command {
            None => runtime.block_on(serve(config, warnings)),
            Some(Command::Check) => Ok(runtime.block_on(check(&config, &warnings))),
            Some(Command::Health) => Ok(runtime.block_on(ask_health(&config))),
        };
        // Whatever still runs was given its time: the process does not wait for it.
        runtime.shutdown_background();
        code
    };
    run().unwrap_or_else(|err: anyhow::Error| {
        eprintln!("verbatim: {err:#}");
        ExitCode::from(EXIT_FAILED)
    })
}

/// Help and version go to stdout and are a success; anything else is one line and exit 64.
fn answer_usage(err: &clap::Error) -> ExitCode {
    if matches!(err.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Nobody can be told that stdout is closed.
        let _ = err.print();
        return ExitCode::SUCCESS;
    }
    let text = err.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    eprintln!("verbatim: {line}; see verbatim --help");
    ExitCode::from(EXIT_USAGE)
}

fn settings(file: Option<PathBuf>) -> Result<(Config, Vec<Warning>), ConfigError> {
    let config = Config::load(Sources::of_process(file)?)?;
    let warnings = config.check()?;
    Ok((config, warnings))
}

async fn serve(config: Config, warnings: Vec<Warning>) -> anyhow::Result<ExitCode> {
    trace::init(&config.trace)?;
    for warning in warnings {
        tracing::warn!(setting = warning.setting, "{}", warning.text);
    }
    raise_files_limit(config.server.connections_max);
    let mut signals = Signals::listen()?;
    let stop_within = Duration::from_millis(config.server.shutdown_timeout_ms);
    let listen = &config.server.listen;
    let bound = TcpListener::bind(listen).await;
    let listener = bound.with_context(|| format!("cannot listen on {listen} (server.listen)"))?;
    let node = tokio::select! {
        node = Node::start(config, listener) => node?,
        (_, name) = signals.next() => {
            tracing::info!(signal = name, "stopped before it was ready");
            return Ok(ExitCode::SUCCESS);
        }
    };
    announce(&node);

    tokio::select! {
        (_, name) = signals.next() => tracing::info!(signal = name, "stopping"),
        task = node.failed() => {
            tracing::error!(%task, "a part of the node died; this is a bug");
            return Ok(ExitCode::from(EXIT_SOFTWARE));
        }
    }
    tokio::select! {
        stopped = tokio::time::timeout(stop_within, node.stop()) => match stopped {
            Ok(()) => tracing::info!("stopped"),
            Err(_) => tracing::warn!("stopped at server.shutdown_timeout_ms, goodbyes unsaid"),
        },
        (number, name) = signals.next() => {
            tracing::warn!(signal = name, "stopped at once");
            return Ok(ExitCode::from(EXIT_SIGNAL + number));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The one line on stdout: whoever started the process may wait for it and read the port from it.
fn announce(node: &Node) {
    let url = format!("ws://{}/ws", node.addr());
    let mut text = format!("listening on {url}\n");
    if stdout().is_terminal() {
        text.push_str(&format!("try it:  wscat -c {url}\n"));
        text.push_str("         {\"user_id\":\"1\",\"type\":\"create\",\"room\":\"general\"}\n");
    }
    let mut out = stdout().lock();
    // A closed stdout is no reason not to serve.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Every socket is a file, and the usual limit of 1,024 is far below `server.connections_max`.
fn raise_files_limit(connections_max: usize) {
    /// The log, the runtime, pools: generous.
    const FILES_BESIDE_SOCKETS: u64 = 256;
    let wanted = connections_max as u64 + FILES_BESIDE_SOCKETS;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit < wanted => {
            tracing::warn!(limit, wanted, "fewer connections than server.connections_max fit");
        }
        Ok(_) => {}
        Err(err) => tracing::warn!(%err, wanted, "cannot raise the limit of open files"),
    }
}

async fn check(config: &Config, warnings: &[Warning]) -> ExitCode {
    let mut text = format!("{}\n", config.effective());
    for warning in warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    let mut code = ExitCode::SUCCESS;
    for finding in probe::stores(config).await {
        match finding.state {
            Ok(state) => text.push_str(&format!("{}: {state}\n", finding.store)),
            Err(reason) => {
                text.push_str(&format!("{}: FAILED: {reason}\n", finding.store));
                code = ExitCode::from(EXIT_FAILED);
            }
        }
    }
    // The exit code tells the same to those who closed stdout.
    let _ = stdout().write_all(text.as_bytes());
    code
}

/// One line for whoever reads the container engine's records.
async fn ask_health(config: &Config) -> ExitCode {
    let (text, code) = match health::ask(&config.server.listen).await {
        Ok(()) => ("well".to_owned(), ExitCode::SUCCESS),
        Err(unhealthy) => (unhealthy.to_string(), ExitCode::from(EXIT_FAILED)),
    };
    // The exit code tells the same to those who closed stdout.
    let _ = writeln!(stdout(), "{text}");
    code
}

/// The two ways to be asked to stop: a supervisor's SIGTERM and a person's Ctrl-C.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Number and name of the next one. Cancel-safe, as `Signal::recv` is.
    async fn next(&mut self) -> (u8, &'static str) {
        tokio::select! {
            _ = self.terminate.recv() => (15, "SIGTERM"),
            _ = self.interrupt.recv() => (2, "SIGINT"),
        }
    }
}
