//! Threads that serve a bounded queue until its last sender is gone. Not a pool: SQLite blocks, so
//! each of its connections lives in a thread of its own, and nothing async ever waits in SQLite.

use std::io;
use std::thread::{self, JoinHandle};

use tokio_util::sync::CancellationToken;

/// The threads of one queue. They end when its last sender is gone; dropping this does not wait for
/// them, because it is dropped where nothing may block.
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
    ended: CancellationToken,
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
        let farewell = Farewell { name, ended: self.ended.clone() };
        let handle = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _farewell = farewell;
            work();
        })?;
        self.handles.push(handle);
        Ok(())
    }

    /// Cancelled when any of the threads has ended.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Blocks until all have ended: for a thread that may.
    pub fn join(&mut self) {
        for handle in self.handles.drain(..) {
            // A thread that panicked has said so itself.
            let _ = handle.join();
        }
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Known first, told second: whatever becomes of the line, the node ends.
        self.ended.cancel();
        if thread::panicking() {
            tracing::error!(thread = self.name, "a thread of the log ended by a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::{Arc, Mutex};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Notes of each log line whether the end of the thread was known by then.
    struct Listener {
        ended: CancellationToken,
        known: Arc<Mutex<Vec<bool>>>,
    }

    impl Subscriber for Listener {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.known.lock().unwrap().push(self.ended.is_cancelled());
        }
    }

    #[test]
    fn a_panic_is_known_before_it_is_told() {
        let ended = CancellationToken::new();
        let known = Arc::default();
        let listener = Listener { ended: ended.clone(), known: Arc::clone(&known) };
        let farewell = Farewell { name: "test", ended };
        let panicked = tracing::subscriber::with_default(listener, || {
            catch_unwind(move || {
                let _farewell = farewell;
                panic!("on purpose");
            })
        });
        assert!(panicked.is_err());
        assert_eq!(*known.lock().unwrap(), [true]);
    }
}
