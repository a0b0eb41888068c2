//! A PostgreSQL of a test's own: made in a temporary folder, reached through a socket file in it,
//! stopped and deleted when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use verbatim::config::{LogConfig, Secret};

use crate::harness::postgres::program as program_of;

pub const PASSWORD: &str = "s3cret-word";

pub struct PrivatePostgres {
    folder: TempDir,
}

impl PrivatePostgres {
    pub fn start() -> Self {
        let server = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(server.path("password"), PASSWORD).unwrap();
        if is_root() {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").args(["-R", "postgres"]).arg(server.folder.path()));
        }
        let data = server.path("data");
        let password = format!("--pwfile={}", server.path("password").display());
        run(server
            .command("initdb")
            .args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8"])
            .args(["--no-sync", "--locale=C.UTF-8", &password, "-D"])
            .arg(data));
        server.pg_ctl("start");
        server
    }

    pub fn restart(&self) {
        self.pg_ctl("restart");
    }

    pub fn stop(&self) {
        self.pg_ctl("stop");
    }

    pub fn start_again(&self) {
        self.pg_ctl("start");
    }

    /// `-m immediate` is a crash: nothing is finished, and the next start recovers.
    fn pg_ctl(&self, verb: &str) {
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c max_connections=50",
            self.folder.path().display()
        );
        let mut command = self.command("pg_ctl");
        command.args([verb, "-w", "-s", "-D"]).arg(self.path("data"));
        if verb != "start" {
            command.args(["-m", "immediate"]);
        }
        if verb != "stop" {
            command.args(["-o", &options, "-l"]).arg(self.path("log"));
        }
        run(&mut command);
    }

    pub fn socket_file(&self) -> PathBuf {
        self.path(".s.PGSQL.5432")
    }

    pub fn url(&self, database: &str) -> String {
        url_of(self.folder.path(), database)
    }

    /// A new, empty database; settings that reach it.
    pub async fn database(&self, name: &str) -> LogConfig {
        let admin = client(&self.url("postgres")).await;
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        settings(&self.url(name))
    }

    fn command(&self, program: &str) -> Command {
        let program = program_of(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.folder.path());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let mut command = self.command("pg_ctl");
        command.args(["stop", "-s", "-m", "immediate", "-D"]).arg(self.path("data"));
        // It may be stopped already.
        let _ = command.output();
    }
}

/// A URL for a server whose socket file lies in `folder`.
pub fn url_of(folder: &Path, database: &str) -> String {
    let host = folder.display().to_string().replace('/', "%2F");
    format!("postgres://postgres:{PASSWORD}@{host}/{database}")
}

pub fn settings(url: &str) -> LogConfig {
    LogConfig {
        path: String::new(),
        readers: 4,
        url: Secret(url.to_owned()),
        // Longer than a machine stands still.
        connect_timeout_ms: 20_000,
        statement_timeout_ms: 20_000,
        lock_timeout_ms: 20_000,
        append_timeout_ms: 20_000,
        read_timeout_ms: 20_000,
    }
}

/// A plain connection, to look behind the log's back.
pub async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|err| panic!("{command:?}: {err}; make deps"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}
