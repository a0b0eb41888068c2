//! The program: arguments, settings, bind, signals, exit code. What a node does is the library's.

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

/// The node could not start, or `check` found something that does not work.
const EXIT_FAILED: u8 = 1;
/// Wrong arguments or settings (`EX_USAGE` of sysexits.h): starting again will not help.
const EXIT_USAGE: u8 = 64;
/// A part of the node died (`EX_SOFTWARE`): a bug. Starting again may help.
const EXIT_SOFTWARE: u8 = 70;
/// A process that ended because of signal n exits with this plus n, as shells have it.
const EXIT_SIGNAL: u8 = 128;

/// Longest message of `verify`: what a server with the default settings takes.
const VERIFY_MESSAGE_BYTES_MAX: usize = 16 * 1024;

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
    /// Ask the node on this machine whether it is alive: 0 yes, 1 no
    Health,
    /// Put a running cluster's promise to the test, in rooms of its own: 0 kept, 1 broken
    Verify(VerifyArguments),
    Bench(Box<bench::Args>),
}

#[derive(clap::Args)]
struct VerifyArguments {
    /// Where clients connect, e.g. ws://127.0.0.1:8080/ws; give each node's once, or a balancer's
    #[arg(long = "url", value_name = "URL", required = true)]
    urls: Vec<String>,
    /// How long the clients talk
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Connections, about; a quarter of them talks
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u16).range(24..))]
    clients: u16,
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rooms: u16,
    /// Messages a second, of all talkers together
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// The same seed is the same plan of clients and texts [default: any]
    #[arg(long)]
    seed: Option<u64>,
    /// What the names of its rooms and users begin with
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
        // It is about a cluster elsewhere: the settings of this machine are none of its business.
        Some(Command::Verify(arguments)) => Ok(run(verify(arguments))),
        Some(Command::Bench(arguments)) => Ok(measure(&arguments)),
    };
    code.unwrap_or_else(|err| {
        tell(&format!("verbatim: {err}\n"));
        ExitCode::from(EXIT_USAGE)
    })
}

/// For whoever started the program by hand. (A node has `trace::Lines` for it.)
fn tell(text: &str) {
    // The exit code says the same to those who closed stderr.
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
    // Whatever still runs was given its time: the process does not wait for it.
    runtime.shutdown_background();
    code
}

/// Help and version go to stdout and are a success; anything else is one line and exit 64.
fn answer_usage(err: &clap::Error) -> ExitCode {
    if matches!(err.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Nobody can be told that stdout is closed.
        let _ = err.print();
        return ExitCode::SUCCESS;
    }
    let text = err.to_string();
    let mut lines = text.lines();
    let mut line = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    // What is missing stands on a line of its own.
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

/// Nothing here and below may write to stderr but by way of log lines: it may take nothing.
fn serve(config: Config, warnings: Vec<Warning>) -> ExitCode {
    /// For the last lines: less than anybody notices, and more than a pipe that is read needs.
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
            tracing::info!(signal = stop.name, "stopped before it was ready");
            return Ok(ExitCode::SUCCESS);
        }
    };
    announce(&node);

    tokio::select! {
        stop = signals.stop() => tracing::info!(signal = stop.name, "stopping"),
        task = node.failed() => {
            tracing::error!(%task, "a part of the node died; this is a bug");
            return Ok(ExitCode::from(EXIT_SOFTWARE));
        }
    }
    tokio::select! {
        stopped = tokio::time::timeout(stop_within, node.stop()) => match stopped {
            Ok(()) => tracing::info!("stopped"),
            Err(_) => tracing::warn!(
                "stopped at server.shutdown_timeout_ms, though not everything had ended"
            ),
        },
        stop = signals.stop() => {
            tracing::warn!(signal = stop.name, "stopped at once");
            return Ok(ExitCode::from(EXIT_SIGNAL + stop.number));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Listens, with room for a crowd: after a restart every client is back in the same second. The
/// usual backlog of 128 would turn most of them away, and a client whose first packet was dropped
/// comes again only after a whole second, and then after three.
async fn bind(address: &str) -> std::io::Result<TcpListener> {
    /// Connections that the kernel completes before they are accepted. It has a limit of its own
    /// (net.core.somaxconn), on Linux of as many. Beyond it, clients wait as said above.
    const BACKLOG: i32 = 4096;
    let listener = TcpListener::bind(address).await?;
    // To listen again is to change the backlog.
    SockRef::from(&listener).listen(BACKLOG)?;
    Ok(listener)
}

/// The one line on stdout: whoever started the process may wait for it and read the port from it.
fn announce(node: &Node) {
    let url = format!("ws://{}/ws", node.addr());
    let mut text = format!("listening on {url}\n");
    if stdout().is_terminal() {
        text.push_str(&format!("try it:  wscat -c {url}\n"));
        text.push_str("         {\"user_id\":\"1\",\"type\":\"create\",\"room\":\"general\"}\n");
    }
    let announce = move || {
        let mut out = stdout().lock();
        // A closed stdout is no reason not to serve.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    // Nor is one that takes nothing, such as a pipe which is full of log lines and not read.
    if let Err(err) = thread::Builder::new().name("announce".to_owned()).spawn(announce) {
        tracing::warn!(%err, "cannot say on stdout where the node listens");
    }
}

/// Every socket is a file, and the usual limit of 1,024 is far below `server.connections_max`. It
/// is raised as far as may be; if that is too little, fewer connections are let in.
fn fit_files(config: &mut Config) {
    /// With so many the default of `server.connections_max`, which nobody chose, needs no word.
    const PLENTY: usize = 10_000;
    let wanted = files::wanted(config);
    let limit = raise_files_limit(wanted as u64);
    let fit = files::connections_max(config, limit.try_into().unwrap_or(usize::MAX));
    let asked = std::mem::replace(&mut config.server.connections_max, fit);
    let is_default = asked == Config::from_defaults().server.connections_max;
    if fit < asked && (fit < PLENTY || !is_default) {
        tracing::warn!(
            "at most {fit} connections, not server.connections_max = {asked}: the limit of open \
             files is {limit}, and {wanted} would be needed"
        );
    }
}

/// The limit that there is then.
fn raise_files_limit(wanted: u64) -> u64 {
    let raised = rlimit::increase_nofile_limit(wanted);
    // One that cannot be raised is as it was; one that cannot be read is for the kernel to say.
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
    // The exit code tells the same to those who closed stdout.
    let _ = stdout().write_all(text.as_bytes());
    code
}

/// One line for whoever reads the container engine's records.
async fn ask_health(config: &Config) -> ExitCode {
    let (text, code) = match health::ask(&config.server).await {
        Ok(()) => ("well".to_owned(), ExitCode::SUCCESS),
        Err(unhealthy) => (unhealthy.to_string(), ExitCode::from(EXIT_FAILED)),
    };
    // The exit code tells the same to those who closed stdout.
    let _ = writeln!(stdout(), "{text}");
    code
}

/// Needs neither settings nor a runtime: it is a client, and has threads of its own.
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

/// Clients talk and follow; then everything is judged.
async fn verify(arguments: VerifyArguments) -> anyhow::Result<ExitCode> {
    let targets: Result<Vec<_>, _> = arguments.urls.iter().map(|url| Target::parse(url)).collect();
    let targets = match targets {
        Ok(targets) => targets,
        Err(err) => {
            tell(&format!("verbatim: --url {err}\n"));
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    // Each has two sockets at times.
    let wanted = 2 * u64::from(arguments.clients) + 256;
    let limit = raise_files_limit(wanted);
    if limit < wanted {
        tracing::warn!(limit, wanted, "the limit of open files is too low for so many clients");
    }
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let nodes_len = targets.len();
    let shape = Shape {
        clients: arguments.clients.into(),
        rooms: arguments.rooms.into(),
        rate: arguments.rate,
        message_bytes_max: VERIFY_MESSAGE_BYTES_MAX,
    };
    // Not by the seed: the rooms of an earlier run are still there.
    let name = format!("{}-{:08x}", arguments.prefix, rand::random::<u32>());
    let planned = Duration::from_secs(arguments.seconds);
    let settings = Settings { targets, seed, shape, name: name.clone(), limits: Limits::default() };
    let is_terminal = stderr().is_terminal();
    let verified = verify::run(settings, planned, |line| {
        // Elsewhere than on a terminal it would be a line each second.
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
    // The exit code tells the same to those who closed stdout.
    let _ = stdout().write_all(text.as_bytes());
    Ok(if verified.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

/// It becomes part of names, which may have 128 bytes with what is added.
fn prefix(text: &str) -> Result<String, String> {
    const BYTES_MAX: usize = 64;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if !text.is_empty() && text.len() <= BYTES_MAX && text.chars().all(is_name) {
        return Ok(text.to_owned());
    }
    Err(format!("it must be 1 to {BYTES_MAX} letters, digits or any of - _ . :"))
}
