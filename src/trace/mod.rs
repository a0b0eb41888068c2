//! Logging: log lines on stderr, for people or for machines.
//!
//! What to log is decided where it happens. This only chooses the format, and `lines` makes sure
//! that a line never fails or delays the code that writes it. `main` calls it once: tests install
//! nothing, and the library never assumes that anyone listens.
//!
//! Only our own code is logged. Libraries that use the crate `log` are ignored: at `debug`, those
//! for PostgreSQL and WebSockets log every message that passes through.

#[cfg(test)]
pub(crate) mod broken;
mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, stderr};
use std::panic::{self, PanicHookInfo};
use std::thread;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

pub use self::lines::Lines;
use crate::config::TraceConfig;
use crate::metrics::Counter;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("cannot start the thread that writes log lines")]
    Thread(#[from] io::Error),
    #[error("trace.level is not a valid filter")]
    Level(#[from] ParseError),
    #[error("logging is already set up")]
    Twice(#[from] TryInitError),
}

/// Installs the process's one subscriber. From then on, only the returned `Lines` may write to
/// stderr. `dropped` counts lines that stderr does not accept.
pub fn init(config: &TraceConfig, dropped: Counter) -> Result<Lines, InitError> {
    // The lossy parser would print errors to stderr.
    let filter = EnvFilter::builder().parse(&config.level)?;
    let lines = Lines::start(stderr(), dropped)?;
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        // It would print them, and panic where that is not possible.
        .log_internal_errors(false);
    if config.format == "json" {
        subscriber.json().flatten_event(true).with_current_span(false).finish().try_init()?;
    } else {
        // https://no-color.org: any non-empty value disables color.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        subscriber.with_ansi(stderr().is_terminal() && !no_color).finish().try_init()?;
    }
    // The default hook writes to stderr in the thread that panics, however long that blocks.
    panic::set_hook(Box::new(report));
    Ok(lines)
}

fn report(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let at = panic.location().map(tracing::field::display);
    // Only with RUST_BACKTRACE.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    let backtrace = backtrace.as_ref().map(tracing::field::display);
    let message = panic.payload_as_str().unwrap_or("no message");
    tracing::error!(thread = thread.name(), at, backtrace, "panicked: {message}");
}
