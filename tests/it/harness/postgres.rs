//! A private PostgreSQL: the shared one of `services`, or one that a test may kill.
//!
//! It never touches a server of the system: own data folder, own port, no Unix socket.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use super::daemon::{Daemon, NotReady, find_program, free_port};
use super::sandbox::sandbox;

/// Immediate shutdown: whatever is not durable by then was not promised.
const QUIT: (Signal, &str) = (Signal::QUIT, "QUIT");

/// How often a first start tries another port, or a restart waits for the old server's last child.
const STARTS_MAX: usize = 20;

pub struct Postgres {
    program: PathBuf,
    /// Holds `data/` and `log`.
    folder: TempDir,
    port: u16,
    /// More `-c name=value`.
    settings: Vec<String>,
    environment: Vec<(String, String)>,
    daemon: Option<Daemon>,
    databases: AtomicU32,
}

impl Postgres {
    /// Makes and starts one, with settings such as `max_connections=20` over ours.
    pub async fn start(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        tokio::task::spawn_blocking(move || Self::start_blocking(settings)).await.unwrap()
    }

    /// As `start`, on that disk.
    #[cfg(target_os = "linux")]
    pub async fn start_on(disk: &super::disk::Disk, settings: &[&str]) -> Self {
        if let Some((uid, gid)) = unprivileged() {
            chown(disk.folder(), Some(uid), Some(gid)).unwrap();
        }
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let environment = disk.environment();
        let make = move || Self::make(settings, environment);
        tokio::task::spawn_blocking(make).await.unwrap()
    }

    pub fn start_blocking(settings: Vec<String>) -> Self {
        Self::make(settings, Vec::new())
    }

    fn make(settings: Vec<String>, environment: Vec<(String, String)>) -> Self {
        let (server, initdb) = (program("postgres"), program("initdb"));
        let folder = sandbox().folder("postgres");
        if let Some((uid, gid)) = unprivileged() {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let made = command(&initdb, folder.path())
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .args(["--no-sync", "--pgdata=data"])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let (port, databases) = (free_port(), AtomicU32::new(0));
        let (program, daemon) = (server, None);
        let mut server = Self { program, folder, port, settings, environment, daemon, databases };
        server.up(true);
        server
    }

    /// A new database from the pristine template, and its URL. Its own order of texts is not that
    /// of their bytes (where ICU is there), so that a query that forgot to ask for it is caught.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let (admin, connection) = tokio_postgres::connect(&self.url("postgres"), NoTls)
            .await
            .expect("cannot connect to the private PostgreSQL");
        let connection = tokio::spawn(connection);
        let create = format!("create database {name} template template0");
        let by_language = format!("{create} locale_provider icu icu_locale 'en-US'");
        if admin.batch_execute(&by_language).await.is_err() {
            admin.batch_execute(&create).await.unwrap();
        }
        drop(admin);
        connection.await.unwrap().unwrap();
        self.url(&name)
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// kill -9 of the server and all its children.
    pub fn kill(&mut self) {
        self.daemon.take().expect("it is not running").kill();
    }

    /// Immediate shutdown if it runs, then a start with the same data on the same port.
    pub async fn restart(&mut self) {
        tokio::task::block_in_place(|| {
            self.daemon = None;
            self.up(false);
        });
    }

    /// From the next start on it is a standby that never gets anything new.
    pub fn make_standby(&self) {
        let path = self.folder.path().join("data/standby.signal");
        std::fs::write(path, "").unwrap();
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
                // Someone took the port between our look and now.
                Err(NotReady { log }) if log.contains("Address already in use") && may_move => {
                    self.port = free_port();
                }
                // A child of the killed server has not noticed its death yet.
                Err(NotReady { log }) if log.contains("shared memory block") && !may_move => {}
                Err(NotReady { log }) => panic!("PostgreSQL did not start:\n{log}"),
            }
        }
        panic!("PostgreSQL did not start in {STARTS_MAX} attempts");
    }

    fn try_up(&self) -> Result<Daemon, NotReady> {
        let log = self.folder.path().join("log");
        // Only what this attempt says counts.
        let _ = std::fs::remove_file(&log);
        let mut server = command(&self.program, self.folder.path());
        server.envs(self.environment.iter().map(|(name, value)| (name, value)));
        server.args(["-D", "data", "-p", &self.port.to_string()]);
        let ours = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=300",
            "shared_buffers=32MB",
            // A killed process loses nothing by it; only a killed machine would.
            "fsync=off",
            "full_page_writes=off",
        ];
        for setting in ours.into_iter().chain(self.settings.iter().map(String::as_str)) {
            server.args(["-c", setting]);
        }
        let status = self.folder.path().join("data/postmaster.pid");
        Daemon::start(server, &log, QUIT, |pid| {
            // First line: whose file it is (a killed server leaves its own); eighth: how it is.
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let lines: Vec<_> = text.lines().map(str::trim).collect();
            lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
        })
    }
}

/// PostgreSQL refuses to run as root; it then runs as its own user, or as nobody.
pub fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |user: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
        let mut fields = line.split(':').skip(2).map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("no user to run PostgreSQL as"))
}

fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("LC_ALL", "C").env_remove("PGDATA").env_remove("PGOPTIONS");
    if let Some((uid, gid)) = unprivileged() {
        command.uid(uid).gid(gid);
    }
    command
}

/// One of PostgreSQL's programs: from PATH, so that `PATH=…/13/bin:$PATH make test` tests another
/// version, else the newest installed.
pub fn program(name: &str) -> PathBuf {
    find_program(name, &install_folders())
}

/// Where packages put the servers without putting them in PATH, newest version first.
fn install_folders() -> Vec<PathBuf> {
    let versioned = [
        ("/usr/lib/postgresql", ""),
        ("/opt/homebrew/opt", "postgresql"),
        ("/usr/local/opt", "postgresql"),
    ];
    let mut folders = Vec::new();
    for (parent, prefix) in versioned {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(version) = name.strip_prefix(prefix) {
                let version: u32 = version.trim_start_matches('@').parse().unwrap_or(0);
                folders.push((version, entry.path().join("bin")));
            }
        }
    }
    folders.sort();
    let newest_first = folders.into_iter().rev().map(|(_, folder)| folder);
    newest_first.chain([PathBuf::from("/usr/local/pgsql/bin")]).collect()
}
