//! Where the log's file is: its folder, its one name, the lock beside it, and who else can read it.
//!
//! It knows nothing of what is in the file, and it is done before SQLite opens it: SQLite's own
//! locks are POSIX ones, which any close of the same file in this process would drop.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::file::OpenError;

/// Everybody's words are in it: nobody else on this machine may read it. The files that SQLite
/// makes beside it take its mode, whatever the umask.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Symbolic links followed before they are taken for a circle; Linux follows as many.
const LINKS_MAX: usize = 40;
/// Between two tries to lock the file.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Files that SQLite keeps beside the one that is made, if whoever made it was killed.
const BESIDE: [&str; 4] = ["", "-journal", "-wal", "-shm"];

/// The file, or where it will be, locked against any other process while this lives.
pub(super) struct Place {
    /// Absolute and without symbolic links.
    pub path: PathBuf,
    /// As the settings have it.
    pub shown: String,
    /// Keeps the lock until it is dropped; the kernel drops it for a process that was killed.
    _lock: File,
}

impl Place {
    /// Makes the folder where it is missing. Waits that long for another process that has the file,
    /// because it may be about to end.
    pub fn take(path: &Path, lock_timeout: Duration) -> Result<Self, OpenError> {
        let shown = path.display().to_string();
        let folder_error = |source| OpenError::Folder { path: shown.clone(), source };
        make_folder(path).map_err(folder_error)?;
        // The lock, the write-ahead log and what readers share go by the file's name. If it had
        // two, two processes could write it at once, each with a write-ahead log of its own.
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

    /// Whether there is a file already. There is none that was not made to its end: see `make`.
    pub fn is_taken(&self) -> io::Result<bool> {
        fs::exists(&self.path)
    }

    /// Makes the file: with another name, until it is written and on the disk. Whoever is killed
    /// meanwhile leaves nothing behind that looks like a log, and the next one removes it.
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

    /// As `sync`, of this file.
    pub fn sync(&self) -> io::Result<()> {
        sync(&self.path)
    }

    /// Where SQLite keeps what is not yet in the file itself.
    pub fn wal_path(&self) -> PathBuf {
        with_suffix(&self.path, "-wal")
    }

    /// What was there already is its owner's to close.
    pub fn warn_if_exposed(&self) {
        let folder = folder_of(&self.path);
        let (Ok(in_folder), Ok(file)) = (fs::metadata(folder), fs::metadata(&self.path)) else {
            return;
        };
        let Some(who) = readers(&in_folder, &file) else { return };
        let (folder, path) = (folder.display(), self.path.display());
        tracing::warn!(
            setting = "log.path",
            "{who} can read the log {}: type `chmod 700 {folder}` or `chmod 600 {path}*`",
            self.shown
        );
    }
}

/// Who beside its owner can read such a file in such a folder.
fn readers(folder: &Metadata, file: &Metadata) -> Option<&'static str> {
    // Whoever may search a folder gets at the files in it whose names they know.
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

/// Puts on the disk whatever is in the file as the system has it, before anything is read from it.
///
/// 1. A process writes a commit into the write-ahead log and is killed before its sync.
/// 2. The next one reads that commit, from the system's memory: to it, it happened.
/// 3. Its client sends the command again, and is told that it is a duplicate: an ack.
/// 4. The power goes, and takes the commit with it.
///
/// An error means that what can be read may not be on the disk: there is nothing to serve then. The
/// system tells such an error once, and takes the pages for written from then on, so this alone
/// would let the next start pass. That is why `LogFile::fold` writes them a second time.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    match File::open(with_suffix(path, "-wal")) {
        Ok(wal) => wal.sync_all()?,
        Err(err) if err.kind() == ErrorKind::NotFound => {}
        Err(err) => return Err(err),
    }
    // Their names.
    File::open(folder_of(path))?.sync_all()
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(FILE_MODE);
    options
}

/// The folder of a file; of a bare name it is the working directory.
fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// The one name of a file that may not be there yet, but whose folder is.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
        let folder = fs::canonicalize(folder_of(&path))?;
        let here = folder.join(name);
        match fs::read_link(&here) {
            // From the folder of the link, unless it is absolute.
            Ok(target) => path = folder.join(target),
            // Not a link, or not there.
            Err(err) if [ErrorKind::InvalidInput, ErrorKind::NotFound].contains(&err.kind()) => {
                return Ok(here);
            }
            Err(err) => return Err(err),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// `x.db` and `-wal` to `x.db-wal`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the folders that are missing, each known to its parent on the disk: a log that survives
/// the power going must not lie in a folder that does not.
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
