//! A database server as a child process: started, stopped, killed, paused, with all its children.
//!
//! It knows processes and ports, not what the server is.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::sandbox::sandbox;

/// How long a server may take to come up or go down on a busy machine.
const SERVER_PATIENCE: Duration = Duration::from_secs(30);

pub struct Daemon {
    child: Child,
    /// The signal that stops it in order, for us and for the watchdog.
    stop: (Signal, &'static str),
    log: PathBuf,
}

/// Why a server did not come up.
pub struct NotReady {
    pub log: String,
}

impl Daemon {
    /// Starts it and waits until `is_ready`. Its output goes to the file `log`.
    pub fn start(
        mut command: Command,
        log: &Path,
        stop: (Signal, &'static str),
        is_ready: impl Fn(u32) -> bool,
    ) -> Result<Self, NotReady> {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let err = out.try_clone().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|err| panic!("cannot start {command:?}: {err}"));
        sandbox().watch(child.id(), stop.1);
        let mut daemon = Self { child, stop, log: log.to_owned() };
        let deadline = Instant::now() + SERVER_PATIENCE;
        while !is_ready(daemon.child.id()) {
            if daemon.has_exited() || Instant::now() > deadline {
                return Err(NotReady { log: daemon.log_end() });
            }
            poll_pause();
        }
        Ok(daemon)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL to it and to all its children, as a power cut has it.
    pub fn kill(mut self) {
        self.signal_tree(Signal::KILL);
        self.reap();
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal_tree(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal_tree(Signal::CONT);
    }

    /// The parent first, so that it cannot start children we do not know of.
    fn signal_tree(&self, signal: Signal) {
        let parent = self.child.id();
        if signal == Signal::STOP || signal == Signal::KILL {
            send(parent, Signal::STOP);
            // The signal is on its way, and meanwhile one more child may be born.
            while !has_stopped(parent) {
                std::thread::yield_now();
            }
        }
        for pid in children_of(parent) {
            send(pid, signal);
        }
        send(parent, signal);
    }

    fn has_exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn reap(&mut self) {
        self.child.wait().unwrap();
        sandbox().forget(self.child.id());
    }

    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Stops it in order; a server that does not go is killed.
impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.has_exited() {
            self.signal_tree(Signal::CONT);
            send(self.child.id(), self.stop.0);
            let deadline = Instant::now() + SERVER_PATIENCE;
            while !self.has_exited() {
                if Instant::now() > deadline {
                    self.signal_tree(Signal::KILL);
                }
                poll_pause();
            }
        }
        self.reap();
    }
}

/// A port that is free now, below the range that the kernel hands out by itself: a server that is
/// down for a moment must find its port free again.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The program of that name in PATH, or in the first of `folders` that has it.
pub fn find_program(name: &str, folders: &[PathBuf]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path);
    in_path
        .chain(folders.iter().cloned())
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run `make deps`"))
}

/// Between two looks at something outside that does not tell us when it changes.
fn poll_pause() {
    std::thread::sleep(Duration::from_millis(10));
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    // It may have ended by itself a moment ago.
    let _ = kill_process(pid, signal);
}

/// Or is gone; where there is no /proc nobody knows.
fn has_stopped(pid: u32) -> bool {
    state(pid).is_none_or(|state| matches!(state, 'T' | 'Z' | 'X'))
}

/// The letter for what a process does: `T`, it is stopped. `None`: there is none, or no /proc.
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `pid (any name) state …`
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// The direct children of a process: from /proc, or from ps where there is none.
fn children_of(parent: u32) -> Vec<u32> {
    let mut children = Vec::new();
    let mut add = |pid: &str, of: &str| {
        if let (Ok(pid), Ok(of)) = (pid.parse(), of.parse::<u32>())
            && of == parent
        {
            children.push(pid);
        }
    };
    if let Ok(processes) = std::fs::read_dir("/proc") {
        for process in processes.flatten() {
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            // `pid (any name) state parent …`
            let after_name = stat.rsplit(')').next().unwrap_or_default();
            let of = after_name.split_whitespace().nth(1).unwrap_or_default();
            add(&process.file_name().to_string_lossy(), of);
        }
    } else {
        let ps = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().expect("no ps");
        for line in String::from_utf8_lossy(&ps.stdout).lines() {
            let mut words = line.split_whitespace();
            add(words.next().unwrap_or_default(), words.next().unwrap_or_default());
        }
    }
    children
}
