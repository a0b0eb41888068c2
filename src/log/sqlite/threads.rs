//! Threads that serve a bounded queue until its last sender is gone. SQLite blocks, so each of its
//! connections has its own thread, and no async code ever waits in SQLite.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use tokio_util::sync::CancellationToken;

/// The threads of one queue. They end when its last sender is gone. Dropping this does not wait for
/// them, because that may happen where nothing may block.
pub(super) struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// Cancelled when any of the threads ends, for any reason.
    ended: CancellationToken,
}

/// The thread that should have answered is gone.
#[derive(Debug, thiserror::Error)]
#[error("the thread {0} has ended")]
pub struct ThreadEnded(pub &'static str);

impl Threads {
    pub fn new() -> Self {
        Self { handles: Vec::new(), ended: CancellationToken::new() }
    }

    pub fn spawn(
        &mut self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let ended = self.ended.clone();
        let handle = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let ending = catch_unwind(AssertUnwindSafe(work));
            // Cancel first, log second: the node must end even if logging fails.
            ended.cancel();
            if ending.is_err() {
                tracing::error!(thread = name, "a thread of the log panicked");
            }
        })?;
        self.handles.push(handle);
        Ok(())
    }

    /// Cancelled when any of the threads has ended.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Blocks until all have ended.
    pub fn join(&mut self) {
        for handle in self.handles.drain(..) {
            // A thread that panicked has logged it.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::broken::Broken;

    #[test]
    fn a_panic_is_noticed_even_if_it_cannot_be_logged() {
        let mut threads = Threads::new();
        let work = || {
            // For as long as this thread lives.
            std::mem::forget(tracing::subscriber::set_default(Broken));
            panic!("on purpose");
        };
        threads.spawn("test", work).unwrap();
        threads.join();
        assert!(threads.ended().is_cancelled());
    }
}
