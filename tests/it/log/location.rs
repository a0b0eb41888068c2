//! Where the embedded log lies: one file has one lock, whatever it is called, and one owner.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use verbatim::config::LogConfig;
use verbatim::log::sqlite::{OpenError, Sqlite};

use super::sqlite::settings_of;
use crate::harness::World;
use crate::harness::process::{Exit, Process};

/// Without waiting for whoever has the file.
fn open(path: &Path) -> Result<Sqlite, OpenError> {
    Sqlite::open(&LogConfig { lock_timeout_ms: 0, ..settings_of(path) })
}

async fn close(log: Sqlite) {
    let closed = log.closed();
    drop(log);
    closed.cancelled().await;
}

fn refusal(path: &Path) -> String {
    open(path).err().expect("it must not be opened").to_string()
}

/// The names of what is in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// From the working directory, which all tests of this process share.
fn relative(path: &Path) -> PathBuf {
    let depth = std::env::current_dir().unwrap().components().count() - 1;
    let up: PathBuf = std::iter::repeat_n("..", depth).collect();
    up.join(path.strip_prefix("/").unwrap())
}

#[tokio::test]
async fn a_file_in_use_is_in_use_by_every_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("data/deep")).unwrap();
    symlink("data", at("folder")).unwrap();
    fs::create_dir(at("links")).unwrap();
    symlink("../data/log.db", at("links/relative.db")).unwrap();
    symlink(at("data/log.db"), at("links/absolute.db")).unwrap();
    symlink("absolute.db", at("links/twice.db")).unwrap();
    let names_of_it = [
        at("data/log.db"),
        at("data/deep/../log.db"),
        at("folder/log.db"),
        at("links/relative.db"),
        at("links/absolute.db"),
        at("links/twice.db"),
        at("folder/../links/twice.db"),
        relative(&at("data/log.db")),
        relative(&at("links/relative.db")),
    ];
    // The first name that is used may be any, also of a file that is not there yet.
    for name in [&names_of_it[3], &names_of_it[8], &names_of_it[0], &names_of_it[2]] {
        let log = open(name).unwrap();
        for other in &names_of_it {
            let refused = refusal(other);
            assert!(refused.contains("in use by another verbatim"), "{refused}");
            assert!(refused.contains(other.to_str().unwrap()), "{refused}");
        }
        assert_eq!(
            names(&at("data")),
            ["deep", "log.db", "log.db-shm", "log.db-wal", "log.db.lock"]
        );
        assert_eq!(names(&at("links")), ["absolute.db", "relative.db", "twice.db"]);
        close(log).await;
    }
}

#[tokio::test]
async fn a_file_with_two_names_is_refused_until_it_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("log.db"), folder.path().join("other.db"));
    close(open(&path).unwrap()).await;
    fs::hard_link(&path, &other).unwrap();
    for name in [&path, &other] {
        let refused = refusal(name);
        assert!(refused.contains("is a file with 2 names (hard links)"), "{refused}");
        assert!(refused.contains(&format!("-samefile {}`", name.display())), "{refused}");
    }
    fs::remove_file(other).unwrap();
    open(&path).unwrap();
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink("circle.db", at("circle.db")).unwrap();
    // Not made: more likely a disk that is not mounted than a wish.
    symlink(at("missing/log.db"), at("log.db")).unwrap();
    for name in ["circle.db", "log.db"] {
        let refused = refusal(&at(name));
        assert!(refused.contains("cannot be created or written"), "{refused}");
    }
    assert_eq!(names(folder.path()), ["circle.db", "log.db"]);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What everybody said is nobody else's on this machine, whatever the umask of whoever starts it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_makes_is_its_owners_alone() {
    for umask in ["000", "022", "077"] {
        let world = World::sqlite().await;
        let folder = Path::new(&world.config.log.path).with_file_name("made");
        let path = folder.join("on/the/way/log.db");
        let mut environment = world.environment();
        environment.push(("VERBATIM_LOG__PATH".to_owned(), path.to_str().unwrap().to_owned()));
        let mut process = Process::start_after(&format!("umask {umask}"), environment).await;
        let in_use = path.parent().unwrap();
        assert_eq!(names(in_use), ["log.db", "log.db-shm", "log.db-wal", "log.db.lock"]);
        for file in names(in_use) {
            assert_eq!(mode(&in_use.join(&file)), 0o600, "{file} with umask {umask}");
        }
        for made in ["", "on", "on/the", "on/the/way"] {
            assert_eq!(mode(&folder.join(made)), 0o700, "made/{made} with umask {umask}");
        }
        process.sigterm();
        assert_eq!(process.wait_exit().await, Exit::Code(0));
        assert!(!process.output().contains("can read the log"), "{}", process.output());
    }
}

/// What was there is left as it is; whoever may not know is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_others_can_read_is_warned_about_once() {
    let world = World::sqlite().await;
    let path = Path::new(&world.config.log.path);
    let folder = path.parent().unwrap();
    close(open(path).unwrap()).await;
    for (in_folder, file, readers) in [
        (0o755, 0o644, Some("everybody on this machine")),
        (0o711, 0o604, Some("everybody on this machine")),
        (0o750, 0o640, Some("the group of its file")),
        (0o744, 0o644, None),
        (0o700, 0o644, None),
        (0o755, 0o600, None),
    ] {
        fs::set_permissions(folder, PermissionsExt::from_mode(in_folder)).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(file)).unwrap();
        let mut process = Process::start(world.environment()).await;
        process.sigterm();
        assert_eq!(process.wait_exit().await, Exit::Code(0));
        let output = process.output();
        let told: Vec<_> =
            output.lines().filter(|line| line.contains("can read the log")).collect();
        assert_eq!(told.len(), usize::from(readers.is_some()), "{in_folder:o} {file:o}: {output}");
        if let (Some(readers), [told]) = (readers, &told[..]) {
            assert!(told.contains(&format!("{readers} can read the log")), "{told}");
            let (folder, path) = (folder.display(), path.display());
            let todo = format!("`chmod 700 {folder}` or `chmod 600 {path}*`");
            assert!(told.contains(&todo), "{told}");
        }
        assert_eq!((mode(folder), mode(path)), (in_folder, file), "it was changed");
    }
}
