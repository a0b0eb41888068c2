//! The real program, as an operator runs it: arguments, environment, signals, exit codes.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use super::sandbox::sandbox;

const PROGRAM: &str = env!("CARGO_BIN_EXE_verbatim");

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// A run that is over.
#[derive(Debug)]
pub struct Run {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

/// A run that serves.
pub struct Process {
    pub addr: SocketAddr,
    child: Child,
    pid: u32,
    /// What it wrote so far, stdout and stderr in the order of arrival.
    output: Arc<Mutex<String>>,
    /// They end with the pipes.
    collectors: Vec<JoinHandle<()>>,
    _folder: TempDir,
}

/// Runs the program to its end, in an empty folder with `files` in it.
pub async fn run(arguments: &[&str], environment: &[(&str, &str)], files: &[(&str, &str)]) -> Run {
    let folder = sandbox().folder("run");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    finish(command(&folder, environment.iter().copied(), PROGRAM).args(arguments)).await
}

/// As `run`, for what is not text.
pub async fn run_with(arguments: &[&str], environment: Vec<(OsString, OsString)>) -> Run {
    let folder = sandbox().folder("run");
    finish(command(&folder, environment, PROGRAM).args(arguments)).await
}

async fn finish(command: &mut Command) -> Run {
    let output = timeout(PATIENCE, command.output()).await;
    Run::of(output.expect("the program does not end").unwrap())
}

/// Runs the program to its end, in an empty folder; what it writes to stderr goes there.
pub async fn run_with_stderr(environment: &[(&str, &str)], stderr: impl Into<Stdio>) -> Exit {
    let folder = sandbox().folder("run");
    let mut command = command(&folder, environment.iter().copied(), PROGRAM);
    let status = timeout(PATIENCE, command.stdout(Stdio::null()).stderr(stderr).status()).await;
    exit(status.expect("the program does not end").unwrap())
}

/// Starts the program in an empty folder, sends it SIGTERM as soon as that is so, and waits for it.
pub async fn run_until(environment: Vec<(String, String)>, when: impl Future<Output = ()>) -> Run {
    signal_when(environment, when, Signal::TERM).await
}

/// As `run_until`, with SIGKILL.
pub async fn kill_when(environment: Vec<(String, String)>, when: impl Future<Output = ()>) -> Run {
    signal_when(environment, when, Signal::KILL).await
}

async fn signal_when(
    environment: Vec<(String, String)>,
    when: impl Future<Output = ()>,
    signal: Signal,
) -> Run {
    let folder = sandbox().folder("run");
    let mut command = command(&folder, environment, PROGRAM);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).unwrap();
    let output = tokio::spawn(child.wait_with_output());
    when.await;
    kill_process(pid, signal).expect("it is not running");
    let output = timeout(PATIENCE, output).await.expect("the program does not end").unwrap();
    Run::of(output.unwrap())
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            exit: exit(output.status),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Process {
    /// Serves on a free port with that environment, in an empty folder; waits until it is ready.
    pub async fn start(environment: Vec<(String, String)>) -> Self {
        let folder = sandbox().folder("process");
        Self::serve(command(&folder, environment, PROGRAM), folder).await
    }

    /// As `start`, for what is not text.
    pub async fn start_with(environment: Vec<(OsString, OsString)>) -> Self {
        let folder = sandbox().folder("process");
        Self::serve(command(&folder, environment, PROGRAM), folder).await
    }

    /// As `start`, and what it writes to stderr goes there.
    pub async fn start_with_stderr(
        environment: Vec<(String, String)>,
        stderr: impl Into<Stdio>,
    ) -> Self {
        let folder = sandbox().folder("process");
        let mut command = command(&folder, environment, PROGRAM);
        command.stderr(stderr);
        let served = Self::watch(command, folder).await;
        served.unwrap_or_else(|output| panic!("the program does not serve:\n{output}"))
    }

    /// As `start` or `start_after`, for when it may fail, because something that it needs is away:
    /// what it said.
    pub async fn try_start(
        script: Option<&str>,
        environment: Vec<(String, String)>,
    ) -> Result<Self, String> {
        let folder = sandbox().folder("process");
        let command = match script {
            None => command(&folder, environment, PROGRAM),
            Some(script) => shell(&folder, environment, script),
        };
        Self::try_serve(command, folder).await
    }

    /// As `start`, with so few open files, from which the program cannot raise itself.
    pub async fn start_with_files_max(files: u32, environment: Vec<(String, String)>) -> Self {
        Self::start_after(&format!("ulimit -n {files}"), environment).await
    }

    /// As `start`, by a shell that has done this first: `umask`, `trap`, `ulimit`.
    pub async fn start_after(script: &str, environment: Vec<(String, String)>) -> Self {
        let folder = sandbox().folder("process");
        Self::serve(shell(&folder, environment, script), folder).await
    }

    async fn serve(command: Command, folder: TempDir) -> Self {
        let served = Self::try_serve(command, folder).await;
        served.unwrap_or_else(|output| panic!("the program does not serve:\n{output}"))
    }

    async fn try_serve(mut command: Command, folder: TempDir) -> Result<Self, String> {
        command.stderr(Stdio::piped());
        Self::watch(command, folder).await
    }

    /// Starts it, gathers what it writes to the pipes that are ours, and waits until it is ready.
    async fn watch(mut command: Command, folder: TempDir) -> Result<Self, String> {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        // Else it would hold the other end of what the child was given for as long as it lives.
        drop(command);
        let pid = child.id().expect("it was just started");
        sandbox().watch(pid, "KILL");
        let output = Arc::new(Mutex::new(String::new()));
        let (ready_tx, ready_rx) = oneshot::channel();
        let stdout = child.stdout.take().unwrap();
        let mut collectors = vec![collect(stdout, Arc::clone(&output), Some(ready_tx))];
        if let Some(stderr) = child.stderr.take() {
            collectors.push(collect(stderr, Arc::clone(&output), None));
        }
        // An error inside: its pipes ended before it said where it listens.
        let Ok(Ok(addr)) = timeout(PATIENCE, ready_rx).await else {
            sandbox().forget(pid);
            return Err(output.lock().unwrap().clone());
        };
        Ok(Self { addr, child, pid, output, collectors, _folder: folder })
    }

    /// The memory that it has in use (RSS).
    #[cfg(target_os = "linux")]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// SIGKILL: no code of the program runs any more.
    pub fn kill9(&self) {
        self.signal(Signal::KILL);
    }

    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    pub fn sigint(&self) {
        self.signal(Signal::INT);
    }

    /// SIGSTOP and SIGCONT among others.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.as_pid(), signal).expect("it is not running");
    }

    fn as_pid(&self) -> Pid {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw).unwrap()
    }

    /// From now on it may have so many open files; how many it might have until now.
    #[cfg(target_os = "linux")]
    pub fn limit_files(&self, files: u64) -> u64 {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        // The hard limit, which only root could raise again, stays what it has from us.
        let limit = Rlimit { current: Some(files), ..getrlimit(Resource::Nofile) };
        let before =
            prlimit(Some(self.as_pid()), Resource::Nofile, limit).expect("it is not running");
        before.current.expect("its files are limited")
    }

    pub async fn wait_exit(&mut self) -> Exit {
        match timeout(PATIENCE * 2, self.child.wait()).await {
            Ok(status) => {
                // What it wrote last may still be in the pipes.
                for collector in self.collectors.drain(..) {
                    collector.await.unwrap();
                }
                exit(status.unwrap())
            }
            Err(_) => panic!("the program does not end:\n{}", self.output()),
        }
    }

    /// How it ended, if it did.
    pub fn has_ended(&mut self) -> Option<Exit> {
        self.child.try_wait().unwrap().map(exit)
    }

    /// All it has written so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended; `kill_on_drop` does the waiting.
        let _ = self.child.start_kill();
        sandbox().forget(self.pid);
    }
}

/// A shell that does that and then becomes the program.
fn shell(folder: &TempDir, environment: Vec<(String, String)>, script: &str) -> Command {
    let mut shell = command(folder, environment, "sh");
    shell.args(["-c", &format!("{script} && exec \"$0\""), PROGRAM]);
    shell
}

/// Nothing of our own environment and folder may leak into the settings.
fn command(
    folder: &TempDir,
    environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    program: &str,
) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("VERBATIM_SERVER__LISTEN", "127.0.0.1:0")
        .envs(environment)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Gathers lines, and tells the address of the one that says where it listens.
fn collect(
    pipe: impl AsyncRead + Send + Unpin + 'static,
    output: Arc<Mutex<String>>,
    mut ready: Option<oneshot::Sender<SocketAddr>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let url = line.strip_prefix("listening on ws://");
            let addr = url.and_then(|url| url.strip_suffix("/ws")?.parse().ok());
            {
                let mut output = output.lock().unwrap();
                output.push_str(&line);
                output.push('\n');
            }
            if let Some(addr) = addr
                && let Some(ready) = ready.take()
            {
                // The test may have given up already.
                let _ = ready.send(addr);
            }
        }
    })
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => panic!("{status:?} is neither"),
    }
}
