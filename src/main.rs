//! The program: arguments, settings, listening socket, signals, exit code. The rest is in the
//! library.

use std::future::Future;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use socket2::SockRef;
use tokio::net::TcpListener;
use verbatim::config::{Config, ConfigError, Sources, Warning};
use verbatim::metrics::Metrics;
use verbatim::node::Node;
use verbatim::server::files;
use verbatim::shutdown::Signals;
use verbatim::{health, probe, trace};
use verbatim_checker::Limits;
use verbatim_tools::verify::plan::Shape;
use verbatim_tools::verify::{Settings, Target};
use verbatim_tools::{bench, verify};

/// The node could not start, or `check` found a problem.
const EXIT_FAILED: u8 = 1;
/// Wrong arguments or settings (`EX_USAGE` in sysexits.h). Starting again does not help.
const EXIT_USAGE: u8 = 64;
/// A task of the node died (`EX_SOFTWARE`): a bug. Starting again may help.
const EXIT_SOFTWARE: u8 = 70;
/// A process ended by signal n exits with this plus n, like a shell.
const EXIT_SIGNAL: u8 = 128;

/// Longest message that `verify` sends: the default limit of a server.
const VERIFY_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Verbatim: a self-hosted chat server. Every message, exactly once, in order, on every node.
///
/// Without a command it serves: /ws (WebSocket), /api, / (web page), /healthz, /readyz, /metrics.
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
    /// Print the effective settings with passwords masked, and test the log and the mirror
    Check,
    /// Check whether the node on this machine is alive; exits with 0 if so, else 1
    Health,
    /// Check that a cluster loses, repeats and reorders no message; exits with 0 if so, else 1
    Verify(VerifyArguments),
    Bench(Box<bench::Args>),
}

#[derive(clap::Args)]
struct VerifyArguments {
    /// WebSocket URL, e.g. ws://127.0.0.1:8080/ws; repeat it for each node
    #[arg(long = "url", value_name = "URL", required = true)]
    urls: Vec<String>,
    /// How long the clients send
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Approximate number of connections; a quarter of them send
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u16).range(24..))]
    clients: u16,
    /// Number of rooms
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rooms: u16,
    /// Messages per second, all clients together
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Makes the plan of clients and texts repeatable [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Prefix of the names of its rooms and users
    #[arg(long, default_value = "verify", value_parser = prefix)]
    prefix: String,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(err) => return answer_usage(&err),
    };
    let settings = || settings(arguments.config);
    let code = match arguments.command {
        None => settings().map(|(config, warnings)| serve(config, warnings)),
        Some(Command::Check) => settings()
            .map(|(config, warnings)| run(async move { Ok(check(&config, &warnings).await) })),
        Some(Command::Health) => {
            settings().map(|(config, _)| run(async move { Ok(ask_health(&config).await) }))
        }
        // The cluster may be elsewhere, so the settings of this machine do not apply.
        Some(Command::Verify(arguments)) => Ok(run(verify(arguments))),
        Some(Command::Bench(arguments)) => Ok(measure(&arguments)),
    };
    code.unwrap_or_else(|err| {
        tell(&format!("verbatim: {err}\n"));
        ExitCode::from(EXIT_USAGE)
    })
}

/// Prints to stderr for the person who started the program. (A node logs with `trace::Lines`.)
fn tell(text: &str) {
    // If stderr is closed, the exit code still says it.
    let _ = stderr().write_all(text.as_bytes());
}

fn run(job: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    in_runtime(job).unwrap_or_else(|err| {
        tell(&format!("verbatim: {err:#}\n"));
        ExitCode::from(EXIT_FAILED)
    })
}

fn in_runtime(job: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let code = runtime.block_on(job);
    // Tasks that still run have had their time. The process does not wait for them.
    runtime.shutdown_background();
    code
}

/// Help and version go to stdout and exit 0; anything else is one line on stderr and exit 64.
fn answer_usage(err: &clap::Error) -> ExitCode {
    if matches!(err.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // If stdout is closed, there is nobody to tell.
        let _ = err.print();
        return ExitCode::SUCCESS;
    }
    let text = err.to_string();
    let mut lines = text.lines();
    let mut line = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    // For a missing argument, clap puts its name on the next line.
    if line.ends_with(':') {
        line = format!("{line} {}", lines.next().unwrap_or_default().trim());
    }
    tell(&format!("verbatim: {line}; see verbatim --help\n"));
    ExitCode::from(EXIT_USAGE)
}

fn settings(file: Option<PathBuf>) -> Result<(Config, Vec<Warning>), ConfigError> {
    let sources = Sources::of_process(file)?;
    let ignored = sources.ignored();
    let config = Config::load(sources)?;
    let mut warnings = config.check()?;
    warnings.extend(ignored);
    Ok((config, warnings))
}

/// From here on, write to stderr only through log lines: a stderr that nobody reads would block.
fn serve(config: Config, warnings: Vec<Warning>) -> ExitCode {
    /// Time to write the last lines: too short to notice, long enough for a pipe that is being
    /// read.
    const LAST_LINES: Duration = Duration::from_millis(500);
    let metrics = Arc::new(Metrics::new());
    let lines = match trace::init(&config.trace, metrics.log_lines_dropped.clone()) {
        Ok(lines) => lines,
        Err(err) => {
            tell(&format!("verbatim: {err}\n"));
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let code = in_runtime(serve_until_told(config, warnings, metrics)).unwrap_or_else(|err| {
        lines.say(&format!("verbatim: {err:#}"));
        ExitCode::from(EXIT_FAILED)
    });
    lines.flush(LAST_LINES);
    code
}

async fn serve_until_told(
    mut config: Config,
    warnings: Vec<Warning>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<ExitCode> {
    for warning in warnings {
        tracing::warn!(setting = warning.setting, "{}", warning.text);
    }
    fit_files(&mut config);
    let mut signals = Signals::listen().context("cannot handle signals")?;
    let stop_within = Duration::from_millis(config.server.shutdown_timeout_ms);
    let listen = &config.server.listen;
    let bound = bind(listen).await;
    let listener = bound.with_context(|| format!("cannot listen on {listen} (server.listen)"))?;
    let node = tokio::select! {
        node = Node::start(config, listener, metrics) => node?,
        stop = signals.stop() => {
            tracing::info!(signal = stop.name, "stopped before the node was ready");
            return Ok(ExitCode::SUCCESS);
        }
    };
    announce(&node);

    tokio::select! {
        stop = signals.stop() => tracing::info!(signal = stop.name, "stopping"),
        task = node.failed() => {
            tracing::error!(%task, "a task of the node died; this is a bug");
            return Ok(ExitCode::from(EXIT_SOFTWARE));
        }
    }
    tokio::select! {
        stopped = tokio::time::timeout(stop_within, node.stop()) => match stopped {
            Ok(()) => tracing::info!("stopped"),
            Err(_) => tracing::warn!(
                "stopped at server.shutdown_timeout_ms with work unfinished"
            ),
        },
        stop = signals.stop() => {
            tracing::warn!(signal = stop.name, "second signal: stopped at once");
            return Ok(ExitCode::from(EXIT_SIGNAL + stop.number));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Listens with a large backlog: after a restart, all clients reconnect in the same second. The
/// usual backlog of 128 would drop most of them, and a client whose first packet is dropped retries
/// only after one second, and then after three.
async fn bind(address: &str) -> std::io::Result<TcpListener> {
    /// Connections that the kernel completes before they are accepted. The kernel caps it at
    /// net.core.somaxconn, which is also 4096 on Linux. Clients beyond it retry as described above.
    const BACKLOG: i32 = 4096;
    let listener = TcpListener::bind(address).await?;
    // Calling listen again changes the backlog.
    SockRef::from(&listener).listen(BACKLOG)?;
    Ok(listener)
}

/// Prints the one line on stdout. The parent process may wait for it and read the port from it.
fn announce(node: &Node) {
    let url = format!("ws://{}/ws", node.addr());
    let mut text = format!("listening on {url}\n");
    if stdout().is_terminal() {
        text.push_str(&format!("try it:  wscat -c {url}\n"));
        text.push_str("         {\"user_id\":\"1\",\"type\":\"create\",\"room\":\"general\"}\n");
    }
    let announce = move || {
        let mut out = stdout().lock();
        // The node serves even if stdout is closed.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    // It also serves if stdout blocks, such as a pipe full of log lines that nobody reads: hence
    // the thread.
    if let Err(err) = thread::Builder::new().name("announce".to_owned()).spawn(announce) {
        tracing::warn!(%err, "cannot print the address to stdout");
    }
}

/// Every socket is an open file, and the usual limit of 1,024 is far below
/// `server.connections_max`. Raises the limit as far as allowed, and lowers `connections_max` if
/// that is too little.
fn fit_files(config: &mut Config) {
    /// From here on, a default `server.connections_max` that does not fit is not worth a warning.
    const PLENTY: usize = 10_000;
    let wanted = files::wanted(config);
    let limit = raise_files_limit(wanted as u64);
    let fit = files::connections_max(config, limit.try_into().unwrap_or(usize::MAX));
    let asked = std::mem::replace(&mut config.server.connections_max, fit);
    let is_default = asked == Config::from_defaults().server.connections_max;
    if fit < asked && (fit < PLENTY || !is_default) {
        tracing::warn!(
            "open-file limit is {limit}: at most {fit} connections (server.connections_max = \
             {asked} needs {wanted} files); raise it with `ulimit -n` or LimitNOFILE="
        );
    }
}

/// Returns the limit in effect afterwards.
fn raise_files_limit(wanted: u64) -> u64 {
    let raised = rlimit::increase_nofile_limit(wanted);
    // If it cannot be raised, it is what it was. If it cannot be read either, the kernel decides.
    let current = || rlimit::Resource::NOFILE.get().map_or(u64::MAX, |(soft, _)| soft);
    raised.unwrap_or_else(|_| current())
}

async fn check(config: &Config, warnings: &[Warning]) -> ExitCode {
    let mut text = format!("{}\n", config.effective());
    for warning in warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    let mut code = ExitCode::SUCCESS;
    let progress = |line: &str| tell(&format!("verbatim: {line}\n"));
    for finding in probe::stores(config, progress).await {
        match finding.state {
            Ok(state) => text.push_str(&format!("{}: {state}\n", finding.store)),
            Err(reason) => {
                text.push_str(&format!("{}: FAILED: {reason}\n", finding.store));
                code = ExitCode::from(EXIT_FAILED);
            }
        }
    }
    // If stdout is closed, the exit code still says it.
    let _ = stdout().write_all(text.as_bytes());
    code
}

/// Prints one line, which ends up in the container engine's records.
async fn ask_health(config: &Config) -> ExitCode {
    let (text, code) = match health::ask(&config.server).await {
        Ok(()) => ("healthy".to_owned(), ExitCode::SUCCESS),
        Err(unhealthy) => (unhealthy.to_string(), ExitCode::from(EXIT_FAILED)),
    };
    // If stdout is closed, the exit code still says it.
    let _ = writeln!(stdout(), "{text}");
    code
}

/// Needs neither settings nor a runtime: it is a client with threads of its own.
fn measure(arguments: &bench::Args) -> ExitCode {
    match bench::run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(err) => {
            tell(&format!("verbatim: {err}\n"));
            ExitCode::from(match err {
                bench::BenchError::Wrong(_) => EXIT_USAGE,
                _ => EXIT_FAILED,
            })
        }
    }
}

/// Runs the clients, then judges what they recorded.
async fn verify(arguments: VerifyArguments) -> anyhow::Result<ExitCode> {
    let targets: Result<Vec<_>, _> = arguments.urls.iter().map(|url| Target::parse(url)).collect();
    let targets = match targets {
        Ok(targets) => targets,
        Err(err) => {
            tell(&format!("verbatim: --url {err}\n"));
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    // A client has two sockets for a moment while it reconnects.
    let wanted = 2 * u64::from(arguments.clients) + 256;
    let limit = raise_files_limit(wanted);
    if limit < wanted {
        let text = "the open-file limit is too low for this many clients; raise it (ulimit -n)";
        tracing::warn!(limit, wanted, "{text}");
    }
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let nodes_len = targets.len();
    let shape = Shape {
        clients: arguments.clients.into(),
        rooms: arguments.rooms.into(),
        rate: arguments.rate,
        message_bytes_max: VERIFY_MESSAGE_BYTES_MAX,
    };
    // Not derived from the seed: the rooms of an earlier run still exist.
    let name = format!("{}-{:08x}", arguments.prefix, rand::random::<u32>());
    let planned = Duration::from_secs(arguments.seconds);
    let settings = Settings { targets, seed, shape, name: name.clone(), limits: Limits::default() };
    let is_terminal = stderr().is_terminal();
    let verified = verify::run(settings, planned, |line| {
        // On anything but a terminal this would print a line each second.
        if is_terminal {
            tell(&format!("\r\x1b[K{line}"));
        }
    });
    let verified = verified.await?;
    if is_terminal {
        tell("\r\x1b[K");
    }
    let mut text =
        format!("{nodes_len} URLs, {} s, seed {seed}, rooms {name}-*\n", planned.as_secs());
    text.push_str(&verified.table());
    // If stdout is closed, the exit code still says it.
    let _ = stdout().write_all(text.as_bytes());
    Ok(if verified.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

/// The prefix becomes part of names, which may have up to 128 bytes.
fn prefix(text: &str) -> Result<String, String> {
    const BYTES_MAX: usize = 64;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if !text.is_empty() && text.len() <= BYTES_MAX && text.chars().all(is_name) {
        return Ok(text.to_owned());
    }
    Err(format!("must be 1 to {BYTES_MAX} letters, digits or any of - _ . :"))
}
