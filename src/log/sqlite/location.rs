//! Where the log's file is: its folder, its one path, its lock, and who else can read it.
//!
//! It knows nothing about the file's content, and is done before SQLite opens the file: SQLite's
//! own locks are POSIX locks, which closing the same file anywhere in this process would drop.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::file::OpenError;

/// The file holds everybody's messages: no other user of this machine may read it. Files that
/// SQLite creates beside it get its mode, whatever the umask.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Symbolic links followed before they count as a cycle; Linux follows as many.
const LINKS_MAX: usize = 40;
/// Pause between two tries to lock the file.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Files that SQLite keeps beside a file under construction, and that a killed process may leave.
const BESIDE: [&str; 4] = ["", "-journal", "-wal", "-shm"];

/// The file, or where it will be, locked against other processes while this exists.
pub(super) struct Location {
    /// Absolute and without symbolic links.
    pub path: PathBuf,
    /// The path as configured.
    pub shown: String,
    /// Holds the lock until it is dropped. The kernel releases it when a process is killed.
    _lock: File,
}

impl Location {
    /// Creates the folder if it is missing. Waits up to `lock_timeout` for another process that has
    /// the file, because that may be about to end.
    pub fn take(path: &Path, lock_timeout: Duration) -> Result<Self, OpenError> {
        let shown = path.display().to_string();
        let folder_error = |source| OpenError::Folder { path: shown.clone(), source };
        make_folder(path).map_err(folder_error)?;
        // The lock, the write-ahead log and the readers' shared memory are named after the file. If
        // the file had two names, two processes could write to it, each with its own write-ahead
        // log.
        let path = resolve(path).map_err(folder_error)?;
        match fs::metadata(&path) {
            Ok(file) if !file.is_file() => return Err(OpenError::NotAFile { path: shown }),
            Ok(file) if file.nlink() > 1 => {
                return Err(OpenError::Linked { path: shown, names: file.nlink() });
            }
            Err(err) if err.kind() != ErrorKind::NotFound => return Err(folder_error(err)),
            _ => {}
        }
        let lock = private_file().create(true).truncate(false).open(with_suffix(&path, ".lock"));
        let lock = lock.map_err(folder_error)?;
        let deadline = Instant::now() + lock_timeout;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: shown }),
                Err(TryLockError::Error(source)) => return Err(folder_error(source)),
            }
        }
        Ok(Self { path, shown, _lock: lock })
    }

    /// Whether the file exists. An existing file is always complete: see `make`.
    pub fn is_taken(&self) -> io::Result<bool> {
        fs::exists(&self.path)
    }

    /// Creates the file, under another name until it is written and on the disk. A process killed
    /// meanwhile leaves nothing that looks like a log, and the next one removes the remains.
    pub fn make<E>(&self, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E>
    where
        E: From<io::Error>,
    {
        let draft = with_suffix(&self.path, ".unfinished");
        for suffix in BESIDE {
            match fs::remove_file(with_suffix(&draft, suffix)) {
                Err(err) if err.kind() != ErrorKind::NotFound => return Err(err.into()),
                _ => {}
            }
        }
        private_file().create_new(true).open(&draft)?;
        write(&draft)?;
        File::open(&draft)?.sync_all()?;
        fs::rename(&draft, &self.path)?;
        Ok(())
    }

    /// Like the function `sync`, for this file.
    pub fn sync(&self) -> io::Result<()> {
        sync(&self.path)
    }

    /// Where SQLite keeps what is not yet in the file itself.
    pub fn wal_path(&self) -> PathBuf {
        with_suffix(&self.path, "-wal")
    }

    /// Files that existed before are left as they are: their owner must restrict them.
    pub fn warn_if_exposed(&self) {
        let folder = folder_of(&self.path);
        let (Ok(in_folder), Ok(file)) = (fs::metadata(folder), fs::metadata(&self.path)) else {
            return;
        };
        let Some(who) = readers(&in_folder, &file) else { return };
        let (folder, path) = (folder.display(), self.path.display());
        tracing::warn!(
            setting = "log.path",
            "{who} can read the log {}; run `chmod 700 {folder}` or `chmod 600 {path}*`",
            self.shown
        );
    }
}

/// Who, besides the owner, can read such a file in such a folder.
fn readers(folder: &Metadata, file: &Metadata) -> Option<&'static str> {
    // Search permission on a folder gives access to the files in it whose names one knows.
    const SEARCH: u32 = 0o1;
    const READ: u32 = 0o4;
    let may =
        |shift: u32| (folder.mode() >> shift) & SEARCH != 0 && (file.mode() >> shift) & READ != 0;
    match (may(0), may(3)) {
        (true, _) => Some("everybody on this machine"),
        (false, true) => Some("the group of its file"),
        (false, false) => None,
    }
}

/// Syncs everything that the system has of the file, before anything is read from it. The race:
///
/// 1. A process writes a commit into the write-ahead log, and is killed before its sync.
/// 2. The next process reads that commit from the system's memory.
/// 3. The client sends the command again, and is told that it is a duplicate: an ack.
/// 4. The power fails, and the commit is lost.
///
/// After an error, what can be read may not be on the disk, so nothing may be served. The system
/// reports such an error once, and then considers the pages written, so this check alone would let
/// the next start pass. That is why `LogFile::fold` writes the pages again.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    match File::open(with_suffix(path, "-wal")) {
        Ok(wal) => wal.sync_all()?,
        Err(err) if err.kind() == ErrorKind::NotFound => {}
        Err(err) => return Err(err),
    }
    // The folder, for the files' names.
    File::open(folder_of(path))?.sync_all()
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(FILE_MODE);
    options
}

/// The folder of a file; the working directory for a bare name.
fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// The one path of a file that need not exist yet, but whose folder does.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
        let folder = fs::canonicalize(folder_of(&path))?;
        let here = folder.join(name);
        match fs::read_link(&here) {
            // Relative to the link's folder, unless it is absolute.
            Ok(target) => path = folder.join(target),
            // Not a link, or it does not exist.
            Err(err) if [ErrorKind::InvalidInput, ErrorKind::NotFound].contains(&err.kind()) => {
                return Ok(here);
            }
            Err(err) => return Err(err),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Appends to the file name: `x.db` and `-wal` give `x.db-wal`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Creates the missing folders and syncs each in its parent: a log that survives a power failure
/// must not be in a folder that does not.
fn make_folder(path: &Path) -> io::Result<()> {
    let folders = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    let missing: Vec<&Path> = folders.take_while(|folder| !folder.exists()).collect();
    for folder in missing.iter().rev() {
        match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
            Err(err) if err.kind() != ErrorKind::AlreadyExists => return Err(err),
            _ => {}
        }
        File::open(folder_of(folder))?.sync_all()?;
    }
    Ok(())
}
