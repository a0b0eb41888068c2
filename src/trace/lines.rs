//! Log lines on their way to stderr: a bounded queue, and one thread that writes.
//!
//! stderr is a pipe, a file or a terminal that belongs to somebody else. Its reader may be gone,
//! its disk may be full, or its reader may be alive and not reading, so that a write does not
//! return. None of this may fail or delay the code that logs. So only the thread here writes to
//! stderr, and lines that it cannot write are dropped and counted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::metrics::Counter;

/// Bytes of lines that wait for stderr: some 8,000 lines. Beyond it, lines are dropped.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// Pause between attempts at a non-blocking stderr. (Another process that shares it made it so.)
const WOULD_BLOCK_PAUSE: Duration = Duration::from_millis(10);

/// The way to stderr. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Lines {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Notified when a line has arrived, and when one has been written or given up.
    changed: Condvar,
    /// Lines that stderr did not accept, in part or at all.
    dropped: Counter,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Box<[u8]>>,
    /// The size of all `lines`: at most `QUEUE_BYTES_MAX`.
    bytes: usize,
    /// A line has left the queue and is not written yet.
    is_writing: bool,
}

impl Lines {
    /// Starts the thread that writes to `out`. `dropped` counts the lines that are lost.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        dropped: Counter,
    ) -> Result<Self, io::Error> {
        let shared = Shared { queue: Mutex::default(), changed: Condvar::new(), dropped };
        let lines = Self { shared: Arc::new(shared) };
        let writer = Arc::clone(&lines.shared);
        // Nobody waits for its end: it may be in a write that does not return.
        thread::Builder::new().name("log-lines".to_owned()).spawn(move || writer.write_to(out))?;
        Ok(lines)
    }

    /// Writes a line as it is, whatever `trace.level` is.
    pub fn say(&self, line: &str) {
        self.shared.push(format!("{line}\n").as_bytes());
    }

    /// Waits until everything is written, but no longer than `within`.
    pub fn flush(&self, within: Duration) {
        let waiting = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        let queue = self.shared.lock();
        // Whether the time was enough does not matter: there is no more.
        let _ = self.shared.changed.wait_timeout_while(queue, within, waiting);
    }
}

/// The subscriber writes each line in one call.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if queue.bytes + line.len() > QUEUE_BYTES_MAX {
            self.dropped.inc();
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.into());
        drop(queue);
        self.changed.notify_all();
    }

    /// Writes line by line, so that others who write to the same stderr come only between lines.
    fn write_to(&self, mut out: impl Write) {
        let mut told = 0;
        // The previous line was written only in part.
        let mut is_torn = false;
        loop {
            let mut line = self.take().into_vec();
            if is_torn {
                line.insert(0, b'\n');
            }
            let written = write_whole(&mut out, &line);
            match written {
                Ok(()) => is_torn = false,
                Err(bytes) => {
                    is_torn = bytes > 0 || is_torn;
                    self.dropped.inc();
                }
            }
            let dropped = self.dropped.get();
            if written.is_ok() && dropped > told {
                let lines = dropped - told;
                told = dropped;
                tracing::warn!(lines, "log lines are missing here: stderr did not accept them");
            }
            self.lock().is_writing = false;
            self.changed.notify_all();
        }
    }

    /// The next line, once there is one.
    fn take(&self) -> Box<[u8]> {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.is_writing = true;
                return line;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing under the lock can leave it in an inconsistent state.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error is the number of bytes that were written anyway.
fn write_whole(out: &mut impl Write, line: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < line.len() {
        match out.write(&line[written..]) {
            Ok(0) => return Err(written),
            Ok(bytes) => written += bytes,
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) if err.kind() == ErrorKind::WouldBlock => thread::sleep(WOULD_BLOCK_PAUSE),
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, SyncSender};

    use super::*;

    /// Time enough for a thread that is not blocked.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Asks the test about each write, and tells it what was written.
    struct Stderr {
        answers: Receiver<io::Result<usize>>,
        written: SyncSender<String>,
    }

    impl Write for Stderr {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A test that has ended needs nothing more.
            let answer = self.answers.recv().unwrap_or(Ok(bytes.len()))?.min(bytes.len());
            let _ = self.written.send(String::from_utf8(bytes[..answer].to_vec()).unwrap());
            Ok(answer)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (Lines, SyncSender<io::Result<usize>>, Receiver<String>, Counter) {
        let (answer, answers) = mpsc::sync_channel(16);
        let (written, seen) = mpsc::sync_channel(16);
        let dropped = Counter::default();
        let lines = Lines::start(Stderr { answers, written }, dropped.clone()).unwrap();
        (lines, answer, seen, dropped)
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_the_next_one_is_tried() {
        let (lines, answer, seen, dropped) = lines();
        for line in ["gone", "torn", "whole", "interrupted", "busy"] {
            lines.say(line);
        }
        let fail = |kind: ErrorKind| Err(io::Error::from(kind));
        answer.send(fail(ErrorKind::BrokenPipe)).unwrap();
        answer.send(Ok(2)).unwrap();
        answer.send(fail(ErrorKind::StorageFull)).unwrap();
        answer.send(Ok(99)).unwrap();
        answer.send(fail(ErrorKind::Interrupted)).unwrap();
        answer.send(Ok(99)).unwrap();
        answer.send(fail(ErrorKind::WouldBlock)).unwrap();
        answer.send(Ok(99)).unwrap();
        lines.flush(PATIENCE);
        let seen: Vec<_> = seen.try_iter().collect();
        assert_eq!(seen, ["to", "\nwhole\n", "interrupted\n", "busy\n"]);
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn a_stderr_that_takes_nothing_holds_up_nobody_and_costs_a_bounded_queue() {
        let (lines, answer, seen, dropped) = lines();
        let line = "x".repeat(QUEUE_BYTES_MAX / 4 - 1);
        // One is being written, four wait.
        lines.say("first");
        while !lines.shared.lock().is_writing {
            thread::yield_now();
        }
        for _ in 0..7 {
            lines.say(&line);
        }
        assert_eq!(dropped.get(), 3);
        assert_eq!(lines.shared.lock().bytes, QUEUE_BYTES_MAX);
        lines.flush(Duration::from_millis(1));
        for _ in 0..5 {
            answer.send(Ok(usize::MAX)).unwrap();
        }
        lines.flush(PATIENCE);
        assert_eq!(seen.try_iter().map(|line| line.len()).sum::<usize>(), 6 + QUEUE_BYTES_MAX);
        assert_eq!(lines.shared.lock().bytes, 0);
    }
}
