//! What all threads of a run share: the clock, the counts, and the measured time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Any thread may read the counts at any time, and may see them a moment late. Nothing depends on
/// their order.
pub struct Board {
    begun: Instant,
    begun_at: SystemTime,
    /// Followers that receive their rooms' messages, and senders that may send.
    pub live: AtomicU64,
    pub sent: AtomicU64,
    /// Messages that were acked.
    pub acked: AtomicU64,
    /// Messages that were refused with an error.
    pub refused: AtomicU64,
    /// Messages that reached a follower.
    pub delivered: AtomicU64,
    /// Connections that ended unexpectedly.
    pub lost: AtomicU64,
    pub rooms: Vec<Room>,
    /// Messages due in this time are measured. Nanoseconds since the beginning.
    from: AtomicU64,
    until: AtomicU64,
    is_over: AtomicBool,
    /// The first thing that went wrong.
    trouble: Mutex<Option<String>>,
}

/// Counts of the messages to one room.
#[derive(Default)]
pub struct Room {
    pub sent: AtomicU64,
    pub acked: AtomicU64,
    /// The highest seq that was acked.
    pub top: AtomicU64,
}

/// How much of an unexpected answer is shown, in bytes.
const TROUBLE_BYTES_MAX: usize = 300;

impl Board {
    pub fn new(rooms: usize) -> Self {
        Self {
            begun: Instant::now(),
            begun_at: SystemTime::now(),
            live: AtomicU64::default(),
            sent: AtomicU64::default(),
            acked: AtomicU64::default(),
            refused: AtomicU64::default(),
            delivered: AtomicU64::default(),
            lost: AtomicU64::default(),
            rooms: (0..rooms).map(|_| Room::default()).collect(),
            from: AtomicU64::new(u64::MAX),
            until: AtomicU64::new(u64::MAX),
            is_over: AtomicBool::default(),
            trouble: Mutex::default(),
        }
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// The wall clock's time, in microseconds since 1970.
    pub fn wall_us(&self, nanos: u64) -> u64 {
        let begun = self.begun_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        (begun + Duration::from_nanos(nanos)).as_micros() as u64
    }

    pub fn open_window(&self) {
        self.from.store(self.now(), Relaxed);
    }

    pub fn close_window(&self) {
        self.until.store(self.now(), Relaxed);
    }

    pub fn is_measured(&self, nanos: u64) -> bool {
        (self.from.load(Relaxed)..self.until.load(Relaxed)).contains(&nanos)
    }

    /// No more messages are sent from now on.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    pub fn note_trouble(&self, what: &[u8]) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.get_or_insert_with(|| {
            String::from_utf8_lossy(&what[..what.len().min(TROUBLE_BYTES_MAX)]).into_owned()
        });
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
