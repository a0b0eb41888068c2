//! A private Redis: the shared one of `services`, or one that a test may kill.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::daemon::{Daemon, NotReady, find_program, free_port};
use super::sandbox::sandbox;

const TERM: (Signal, &str) = (Signal::TERM, "TERM");

/// How often a first start tries another port.
const STARTS_MAX: usize = 20;

pub struct Redis {
    folder: TempDir,
    port: u16,
    /// More arguments, such as `--appendonly yes`.
    settings: Vec<String>,
    daemon: Option<Daemon>,
}

impl Redis {
    pub async fn start(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        tokio::task::spawn_blocking(move || Self::start_blocking(settings)).await.unwrap()
    }

    pub fn start_blocking(settings: Vec<String>) -> Self {
        let folder = sandbox().folder("redis");
        let mut server = Self { folder, port: free_port(), settings, daemon: None };
        server.up(true);
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// kill -9. Without `--appendonly yes` it restarts empty.
    pub fn kill(&mut self) {
        self.daemon.take().expect("it is not running").kill();
    }

    /// Stops it if it runs, then starts it on the same port and folder.
    pub async fn restart(&mut self) {
        tokio::task::block_in_place(|| {
            self.daemon = None;
            self.up(false);
        });
    }

    /// Connections stay open and nothing answers, until `resume`.
    pub fn pause(&self) {
        self.daemon.as_ref().expect("it is not running").pause();
    }

    pub fn resume(&self) {
        self.daemon.as_ref().expect("it is not running").resume();
    }

    fn up(&mut self, may_move: bool) {
        for _ in 0..STARTS_MAX {
            match self.try_up() {
                Ok(daemon) => return self.daemon = Some(daemon),
                Err(NotReady { log }) if log.contains("Address already in use") && may_move => {
                    self.port = free_port();
                }
                Err(NotReady { log }) => panic!("Redis did not start:\n{log}"),
            }
        }
        panic!("Redis did not start in {STARTS_MAX} attempts");
    }

    fn try_up(&self) -> Result<Daemon, NotReady> {
        let log = self.folder.path().join("log");
        // Only what this attempt says counts.
        let _ = std::fs::remove_file(&log);
        let mut server = Command::new(find_program("redis-server", &[]));
        server
            .current_dir(self.folder.path())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
            .args(["--save", "", "--appendonly", "no"])
            .args(&self.settings);
        Daemon::start(server, &log, TERM, |pid| self.is_ready(pid))
    }

    /// Whether the process of that number, and not another that took the port, answers.
    fn is_ready(&self, pid: u32) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"INFO server\r\nQUIT\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains(&format!("process_id:{pid}\r\n")))
    }
}
