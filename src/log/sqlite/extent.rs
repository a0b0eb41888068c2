//! How long the file is, and how long it says that it must be.
//!
//! SQLite makes a file of no bytes into a new database, and one that lacks its end into a longer
//! one with zeros. So it is looked at before SQLite may write to it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER_LEN: usize = 100;
const WAL_HEADER_LEN: u64 = 32;
const FRAME_HEADER_LEN: u64 = 24;

/// What the beginning of the file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// It has no bytes at all.
    Empty,
    /// It does not begin as a SQLite database.
    Foreign,
    /// It is too short for its own header.
    Headless,
    PageSize(u32),
    Cut {
        is: u64,
        should_be: u64,
    },
    Whole,
}

/// Looks at a file that nobody has open: closing it drops the locks that SQLite has on it.
pub(super) fn of_file(path: &Path, has_wal: bool) -> io::Result<Extent> {
    let file = File::open(path)?;
    let is = file.metadata()?.len();
    if is == 0 {
        return Ok(Extent::Empty);
    }
    let mut header = [0; HEADER_LEN];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(err) if err.kind() == ErrorKind::UnexpectedEof => {
            let mut begin = [0; MAGIC.len()];
            let is_ours = file.read_exact_at(&mut begin, 0).is_ok() && begin == *MAGIC;
            return Ok(if is_ours { Extent::Headless } else { Extent::Foreign });
        }
        Err(err) => return Err(err),
    }
    if header[..MAGIC.len()] != *MAGIC {
        return Ok(Extent::Foreign);
    }
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        // It does not fit into two bytes.
        1 => 65_536,
        size => u32::from(size),
    };
    if !page_size.is_power_of_two() || page_size < 512 {
        return Ok(Extent::PageSize(page_size));
    }
    // The number of pages counts if whoever changed the file last wrote it. While there is a
    // write-ahead log the pages may be there: see `lacks`.
    let pages = number(&header, 28);
    let should_be = u64::from(pages) * u64::from(page_size);
    if number(&header, 24) == number(&header, 92) && !has_wal && is < should_be {
        return Ok(Extent::Cut { is, should_be });
    }
    Ok(Extent::Whole)
}

/// Whether there is anything in the write-ahead log.
pub(super) fn has_frames(wal: &Path) -> io::Result<bool> {
    match std::fs::metadata(wal) {
        Ok(wal) => Ok(wal.len() > WAL_HEADER_LEN),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

/// Whether the pages from `first` to `last` are not all in the write-ahead log.
///
/// It does not look at checksums, and so may take a page that was not written to its end for one
/// that was. SQLite does not.
pub(super) fn lacks(wal: &Path, first: u32, last: u32) -> io::Result<bool> {
    let wal = match File::open(wal) {
        Ok(wal) => wal,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(true),
        Err(err) => return Err(err),
    };
    let mut header = [0; WAL_HEADER_LEN as usize];
    if wal.read_exact_at(&mut header, 0).is_err() {
        return Ok(true);
    }
    let frame_len = FRAME_HEADER_LEN + u64::from(number(&header, 8));
    let mut missing: BTreeSet<u32> = (first..=last).collect();
    let mut place = WAL_HEADER_LEN;
    let mut frame = [0; FRAME_HEADER_LEN as usize];
    while !missing.is_empty() && wal.read_exact_at(&mut frame, place).is_ok() {
        // Both salts: else it is a frame of the time before the log was begun anew.
        if frame[8..16] != header[16..24] {
            break;
        }
        missing.remove(&number(&frame, 0));
        place += frame_len;
    }
    Ok(!missing.is_empty())
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| (number << 8) | u32::from(*byte))
}
