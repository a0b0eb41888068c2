//! Process signals: which stop the node, and which must not kill it.
//!
//! This only listens; `main` and the node do the stopping.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A file exceeds its size limit (`ulimit -f`). By default this kills the process. With a handler,
/// the write fails instead, which the log and the log lines handle like a full disk.
const FILE_TOO_LONG: i32 = rustix::process::Signal::XFSZ.as_raw();

/// The signals sent to the process. One exists for the whole life of the process.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    /// A closed terminal. `None` under `nohup`, whose point is to survive that.
    hangup: Option<Signal>,
    user_1: Signal,
    user_2: Signal,
    /// Never read: a log line about it might be what exceeds the limit.
    _file_too_long: Signal,
}

/// A signal that asks the process to stop.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    pub number: u8,
    pub name: &'static str,
}

impl Signals {
    pub fn listen() -> io::Result<Self> {
        let hangup = SignalKind::hangup();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: if is_ignored(hangup) { None } else { Some(signal(hangup)?) },
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            _file_too_long: signal(SignalKind::from_raw(FILE_TOO_LONG))?,
        })
    }

    /// The next signal to stop. Signals that mean nothing to a node are logged and ignored.
    /// Cancel-safe, as `Signal::recv` is.
    pub async fn stop(&mut self) -> Stop {
        loop {
            let ignored = tokio::select! {
                _ = self.terminate.recv() => return Stop { number: 15, name: "SIGTERM" },
                _ = self.interrupt.recv() => return Stop { number: 2, name: "SIGINT" },
                _ = self.quit.recv() => return Stop { number: 3, name: "SIGQUIT" },
                () = received(&mut self.hangup) => return Stop { number: 1, name: "SIGHUP" },
                _ = self.user_1.recv() => "SIGUSR1",
                _ = self.user_2.recv() => "SIGUSR2",
            };
            tracing::info!(signal = ignored, "signal ignored");
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the parent process set this signal to be ignored. `false` where the system does not say.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // Signal 1 is the lowest bit.
    (mask >> (kind.as_raw_value() - 1)) & 1 == 1
}
