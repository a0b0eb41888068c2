//! A disk that hangs, fails or is full on demand, for processes whose calls go through `disk.c`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::PATIENCE;
use super::sandbox::sandbox;

const SOURCE: &str = include_str!("disk.c");

/// It is the disk of whoever is started with its `environment`.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    pub fn new() -> Self {
        Self { folder: sandbox().folder("disk") }
    }

    /// Where it is told what to do, and tells what it did: its processes write there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn environment(&self) -> Vec<(String, String)> {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let library = library().to_str().unwrap().to_owned();
        vec![("LD_PRELOAD".to_owned(), library), ("DISK_FOLDER".to_owned(), folder)]
    }

    /// From now on a sync of a file whose name ends so does not return, until `heal`.
    pub fn hang(&self, ending: &str) {
        self.fault(&format!("hang {ending}"));
    }

    /// From now on a sync of a file whose name ends so is an I/O error, until `heal`.
    pub fn fail(&self, ending: &str) {
        self.fault(&format!("fail {ending}"));
    }

    /// From now on a read of one page in eight of a file whose name ends so is an I/O error, until
    /// `heal`.
    pub fn spoil(&self, ending: &str) {
        self.fault(&format!("bad {ending}"));
    }

    /// From now on no file with this in its name can grow, until `heal`.
    pub fn fill(&self, part: &str) {
        self.fault(&format!("full {part}"));
    }

    pub fn heal(&self) {
        self.fault("");
    }

    fn fault(&self, fault: &str) {
        let path = |name: &str| self.folder.path().join(name);
        std::fs::write(path("next"), fault).unwrap();
        std::fs::rename(path("next"), path("fault")).unwrap();
    }

    /// What its processes synced since the last call, in order, and what they could not do:
    /// `synced`, `fails`, `hangs`, `bad` or `full`, and the path.
    pub fn take_syncs(&self) -> Vec<String> {
        let path = self.folder.path().join("syncs");
        let syncs = std::fs::read_to_string(&path).unwrap_or_default();
        // There may have been none.
        let _ = std::fs::remove_file(path);
        syncs.lines().map(str::to_owned).collect()
    }

    /// Resolves when a sync hangs.
    pub async fn hung(&self) {
        let deadline = Instant::now() + PATIENCE;
        let syncs = self.folder.path().join("syncs");
        let hangs = || std::fs::read_to_string(&syncs).unwrap_or_default().contains("hangs");
        while !hangs() {
            assert!(Instant::now() < deadline, "no sync hangs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Compiled on first use.
fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // The watchdog removes it with the sandbox.
        let folder = sandbox().folder("library").keep();
        // PostgreSQL runs as another user when we are root.
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        let (source, library) = (folder.join("disk.c"), folder.join("disk.so"));
        std::fs::write(&source, SOURCE).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let compiled = cc.output().expect("cannot start cc: run `make deps`");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        library
    })
}
