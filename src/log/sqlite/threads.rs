//! Threads that serve a bounded queue until its last sender is gone. Not a pool: SQLite blocks, so
//! each of its connections lives in a thread of its own, and nothing async ever waits in SQLite.

use std::io;
use std::thread::{self, JoinHandle};

use tokio_util::sync::{CancellationToken, DropGuard};

/// The threads of one log. Dropping it waits for them, so whatever feeds them must be dropped
/// first.
pub(super) struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// Cancelled when any of the threads ends, for whatever reason.
    ended: CancellationToken,
}

/// The thread that would have answered is gone.
#[derive(Debug, thiserror::Error)]
#[error("the thread {0} has ended")]
pub struct ThreadEnded(pub &'static str);

/// Tells, when its thread ends, and loudly if it ends by a panic.
struct Farewell {
    name: &'static str,
    _ended: DropGuard,
}

impl Threads {
    pub fn new() -> Self {
        Self { handles: Vec::new(), ended: CancellationToken::new() }
    }

    pub fn spawn(
        &mut self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let farewell = Farewell { name, _ended: self.ended.clone().drop_guard() };
        let handle = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _farewell = farewell;
            work();
        })?;
        self.handles.push(handle);
        Ok(())
    }

    /// Cancelled when any of the threads has ended.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for handle in self.handles.drain(..) {
            // A thread that panicked has said so itself.
            let _ = handle.join();
        }
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(thread = self.name, "a thread of the log ended by a panic");
        }
    }
}
