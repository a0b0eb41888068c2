//! The signals of the process: which stop it in order, and which must not end it.
//!
//! It only listens; what stopping means is `main`'s and the node's.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A file that grows beyond its limit (`ulimit -f`). The usual end of that is death; with a handler
/// the write fails instead, which the log and the log lines know from a full disk.
const FILE_TOO_LONG: i32 = rustix::process::Signal::XFSZ.as_raw();

/// What the process is sent. There is one of these for all of its life.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    /// A terminal that is closed. `None` under `nohup`, whose very point is to outlive that.
    hangup: Option<Signal>,
    user_1: Signal,
    user_2: Signal,
    /// Never looked at: a log line about it might be what grows a file beyond its limit.
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

    /// The next word to stop. What means nothing to us is told, and else ignored. Cancel-safe, as
    /// `Signal::recv` is.
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
            tracing::info!(signal = ignored, "ignored: it means nothing to a node");
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether whoever started the process has it ignore that signal. Where the system does not say,
/// nobody has.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // Signal 1 is the lowest bit.
    (mask >> (kind.as_raw_value() - 1)) & 1 == 1
}
