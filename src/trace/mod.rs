//! How the process speaks to its operator: log lines on stderr, for people or for machines.
//!
//! What is worth a line is decided where it happens; this only chooses the form. It is called once,
//! by `main`: tests install nothing, and the library never assumes that anyone listens.
//!
//! Only what our own code says gets here. Libraries that speak by way of the crate `log` are not
//! heard: at `debug` those of PostgreSQL and of WebSockets tell every message that passes through.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::TraceConfig;

/// Makes the settings the process's one subscriber. Fails if there is one already.
pub fn init(config: &TraceConfig) -> Result<(), TryInitError> {
    // `Config::check` has accepted the level; the lossy form cannot drop any of it.
    let filter = EnvFilter::builder().parse_lossy(&config.level);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    if config.format == "json" {
        return lines.json().flatten_event(true).with_current_span(false).finish().try_init();
    }
    // https://no-color.org: any value that is not empty means no.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    lines.with_ansi(stderr().is_terminal() && !no_color).finish().try_init()
}
