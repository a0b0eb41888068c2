//! How the process speaks to its operator: log lines on stderr, for people or for machines.
//!
//! What is worth a line is decided where it happens; this only chooses the form, and `lines` sees
//! to it that a line never fails or holds up who writes it. It is called once, by `main`: tests
//! install nothing, and the library never assumes that anyone listens.
//!
//! Only what our own code says gets here. Libraries that speak by way of the crate `log` are not
//! heard: at `debug` those of PostgreSQL and of WebSockets tell every message that passes through.

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

/// Why there are no log lines.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("the thread that writes log lines cannot be started")]
    Thread(#[from] io::Error),
    #[error("trace.level cannot be read")]
    Level(#[from] ParseError),
    #[error("log lines go elsewhere already")]
    Twice(#[from] TryInitError),
}

/// Makes the settings the process's one subscriber. From then on only what it gives back may write
/// to stderr. `dropped` counts the lines that stderr does not take.
pub fn init(config: &TraceConfig, dropped: Counter) -> Result<Lines, InitError> {
    // The lossy way to read the level would print what it does not understand.
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
        // https://no-color.org: any value that is not empty means no.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        subscriber.with_ansi(stderr().is_terminal() && !no_color).finish().try_init()?;
    }
    // The usual hook writes to stderr in the thread that panics, however long that takes.
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
