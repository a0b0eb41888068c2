//! The writing half of a connection: the pacer sends through it while the crew reads the other
//! half.
//!
//! It remembers each message until it is answered. Answers keep the order of the commands, so a
//! queue of times is enough.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::net::TcpStream;

#[derive(Default)]
pub struct Outlet {
    voice: Mutex<Voice>,
    /// Unanswered messages: the length of `Voice::awaiting`, readable without the lock.
    unanswered: AtomicUsize,
}

#[derive(Default)]
struct Voice {
    /// `None` while there is no connection.
    stream: Option<Arc<TcpStream>>,
    /// What the kernel did not accept. Bounded by the messages in flight.
    backlog: Vec<u8>,
    /// When each unanswered message was due.
    awaiting: VecDeque<u64>,
}

impl Outlet {
    /// The connection is up. Messages unanswered on the last one stay unanswered.
    pub fn open(&self, stream: Arc<TcpStream>) {
        *self.lock() = Voice { stream: Some(stream), ..Voice::default() };
        self.unanswered.store(0, Relaxed);
    }

    pub fn close(&self) {
        let mut voice = self.lock();
        voice.stream = None;
        voice.backlog = Vec::new();
    }

    /// Writes whole frames after the backlog. If there is no connection, they are lost.
    pub fn write(&self, frames: &[u8]) {
        self.lock().write(frames);
    }

    /// Writes messages that will be answered, each due at `intended`.
    pub fn say(&self, frames: &[u8], count: usize, intended: u64) {
        let mut voice = self.lock();
        voice.awaiting.extend(std::iter::repeat_n(intended, count));
        self.unanswered.store(voice.awaiting.len(), Relaxed);
        voice.write(frames);
    }

    /// The oldest message was answered. Returns when it was due.
    pub fn answered(&self) -> Option<u64> {
        let mut voice = self.lock();
        let intended = voice.awaiting.pop_front();
        self.unanswered.store(voice.awaiting.len(), Relaxed);
        intended
    }

    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Relaxed)
    }

    /// Call this when the kernel may accept bytes again.
    pub fn flush(&self) {
        let mut voice = self.lock();
        if !voice.backlog.is_empty() {
            let backlog = std::mem::take(&mut voice.backlog);
            voice.write(&backlog);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Voice> {
        self.voice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Voice {
    fn write(&mut self, frames: &[u8]) {
        if !self.backlog.is_empty() {
            self.backlog.extend_from_slice(frames);
            return;
        }
        let Some(stream) = &self.stream else { return };
        let mut written = 0;
        while written < frames.len() {
            match (&**stream).write(&frames[written..]) {
                Ok(count) => written += count,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => break,
                // The reading half sees the error too, and handles it.
                Err(_) => return,
            }
        }
        self.backlog.extend_from_slice(&frames[written..]);
    }
}
