//! The folder of this test process, and the watchdog that leaves nothing behind.
//!
//! A test process can end in ways that run no code of ours (SIGKILL, abort), and then its databases
//! would live on. So a small shell reads a pipe that only this process holds open: when the pipe
//! ends, however that came, it stops what is listed in `pids/` and removes the folder. (The kernel
//! could do it with a parent-death signal, but that fires when the starting *thread* ends.)

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// One file `pids/<pid>` for each process, its content the signal that stops it in order. A server
/// that was killed on purpose and never restarted leaves a segment of shared memory, which its
/// postmaster.pid names.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
while read -r _; do :; done
cd "$1" || exit 0
alive() { for file in pids/*; do kill -0 "${file#pids/}" && return; done; return 1; }
for file in pids/*; do
    kill -CONT "${file#pids/}"
    kill -"$(cat "$file")" "${file#pids/}"
done
tries=60
while alive && [ "$tries" -gt 0 ]; do sleep 0.1; tries=$((tries - 1)); done
for file in pids/*; do kill -KILL "${file#pids/}"; done
for file in */data/postmaster.pid; do ipcrm -m "$(awk 'NR == 7 { print $2 }' "$file")"; done
cd / && rm -rf "$1"
"#;

pub struct Sandbox {
    root: PathBuf,
    /// Its stdin is never written to: that it is open is the message.
    _watchdog: Child,
}

/// This process's sandbox, made on first use.
pub fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(Sandbox::new)
}

impl Sandbox {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("verbatim-it-").tempdir().unwrap().keep();
        std::fs::create_dir(root.join("pids")).unwrap();
        // PostgreSQL runs as another user when we are root, and must be able to pass through.
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o711)).unwrap();
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C goes to the whole group, and the watchdog must outlive it.
            .process_group(0)
            .spawn()
            .expect("cannot start sh");
        Self { root, _watchdog: watchdog }
    }

    /// A new, empty folder, removed when dropped.
    pub fn folder(&self, name: &str) -> TempDir {
        tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&self.root).unwrap()
    }

    /// Has the process stopped with `signal` ("QUIT") should this one end before it.
    pub fn watch(&self, pid: u32, signal: &str) {
        std::fs::write(self.pid_file(pid), signal).unwrap();
    }

    /// To be called once the process has been waited for: its number may be given to another.
    pub fn forget(&self, pid: u32) {
        // Forgetting twice is fine.
        let _ = std::fs::remove_file(self.pid_file(pid));
    }

    fn pid_file(&self, pid: u32) -> PathBuf {
        self.root.join("pids").join(pid.to_string())
    }
}
