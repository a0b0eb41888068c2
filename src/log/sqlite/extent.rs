//! How long the file is, and how long its header says it must be.
//!
//! SQLite turns an empty file into a new database, and pads one that lacks its end with zeros. So
//! the file is checked before SQLite may write to it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER_LEN: usize = 100;
const WAL_HEADER_LEN: u64 = 32;
const FRAME_HEADER_LEN: u64 = 24;

/// The result of the check.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// It has no bytes.
    Empty,
    /// It does not begin like a SQLite database.
    Foreign,
    /// It is shorter than a header.
    Headless,
    PageSize(u32),
    Cut {
        is: u64,
        should_be: u64,
    },
    Whole,
}

/// Checks a file that nobody has open. (Closing it drops the locks that SQLite has on it.)
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
        // 65,536 does not fit into two bytes.
        1 => 65_536,
        size => u32::from(size),
    };
    if !page_size.is_power_of_two() || page_size < 512 {
        return Ok(Extent::PageSize(page_size));
    }
    // The page count is valid if the program that last changed the file wrote it. With a
    // write-ahead log the missing pages may be there: see `lacks`.
    let pages = number(&header, 28);
    let should_be = u64::from(pages) * u64::from(page_size);
    if number(&header, 24) == number(&header, 92) && !has_wal && is < should_be {
        return Ok(Extent::Cut { is, should_be });
    }
    Ok(Extent::Whole)
}

/// Whether the write-ahead log holds anything.
pub(super) fn has_frames(wal: &Path) -> io::Result<bool> {
    match std::fs::metadata(wal) {
        Ok(wal) => Ok(wal.len() > WAL_HEADER_LEN),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

/// Whether the write-ahead log lacks any of the pages from `first` to `last`.
///
/// It does not check checksums, so it may count a page that was not written completely. SQLite will
/// not.
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
    let mut offset = WAL_HEADER_LEN;
    let mut frame = [0; FRAME_HEADER_LEN as usize];
    while !missing.is_empty() && wal.read_exact_at(&mut frame, offset).is_ok() {
        // Compares both salts: a frame with others is from before the log was restarted.
        if frame[8..16] != header[16..24] {
            break;
        }
        missing.remove(&number(&frame, 0));
        offset += frame_len;
    }
    Ok(!missing.is_empty())
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| (number << 8) | u32::from(*byte))
}
