//! An unfinished message or frame, and the memory that it takes.
//!
//! Its memory grows with what arrives, a little at a time, and counts on the node's budget for
//! unfinished messages. When that is full, longer ones wait, and those that have held most for
//! longest may be given up.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::duplex::AHEAD_BYTES;
use crate::budget::{Budget, Held, Holder, Registered};

/// What every socket may keep of an unfinished frame, however many do: nobody waits with an
/// ordinary message because others use up the budget.
const SMALL_BYTES: usize = 2048;

type Reservation = Pin<Box<dyn Future<Output = Held> + Send>>;

/// Created when a frame does not arrive whole, which is rare for small ones.
pub(super) struct Begun {
    /// When it began, or was last read on after a pause in reading.
    pub since: Instant,
    /// What is kept of a frame until it is whole.
    bytes: Vec<u8>,
    /// Bytes of fragments that the codec has.
    message_len: usize,
    /// The budget held for those bytes, and for the fragments in the codec.
    held: Held,
    /// A request for more, while it waits.
    room: Option<Reservation>,
    /// Makes it known to the budget, which looks for the largest holders. Only if it is large
    /// enough.
    known: Option<Registration>,
}

struct Registration {
    holder: Arc<BegunHolder>,
    _registered: Registered,
}

struct BegunHolder {
    since: Instant,
    bytes: AtomicUsize,
    is_evicted: AtomicBool,
    owner: AtomicWaker,
}

impl Begun {
    pub fn new(inbound: &Arc<Budget>) -> Self {
        let (since, held) = (Instant::now(), inbound.hold(0));
        Self { since, bytes: Vec::new(), message_len: 0, held, room: None, known: None }
    }

    /// Restarts its time.
    pub fn renew(&mut self) {
        (self.since, self.known) = (Instant::now(), None);
    }

    /// Takes what came, of which `held_len` bytes at the end are not whole. Returns what is whole.
    pub fn keep(&mut self, came: &[u8], held_len: usize) -> Bytes {
        let whole_len = self.bytes.len() + came.len() - held_len;
        let Some(now) = whole_len.checked_sub(self.bytes.len()) else {
            // All of it belongs to the unfinished frame.
            self.put(came);
            return Bytes::new();
        };
        let (now, rest) = came.split_at(now);
        let whole = match self.bytes.is_empty() {
            true => Bytes::copy_from_slice(now),
            false => {
                self.put(now);
                Bytes::from(std::mem::take(&mut self.bytes))
            }
        };
        self.put(rest);
        whole
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.reserve_exact(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Counts what is kept here, and the fragments in the codec.
    pub fn count(&mut self, message_len: usize) {
        self.message_len = message_len;
        let bytes = self.bytes.capacity() + message_len;
        // Budget that was reserved in advance counts until it is used.
        self.held.set(bytes.max(self.held.bytes().min(bytes + AHEAD_BYTES)));
        if let Some(known) = &self.known {
            known.holder.bytes.store(bytes, Ordering::Relaxed);
        } else if bytes > SMALL_BYTES {
            self.known = Some(Registration::new(&self.held, self.since, bytes));
        }
    }

    /// Ready when the budget has room for another read.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, inbound: &Arc<Budget>) -> Poll<()> {
        if let Some(known) = &self.known {
            known.holder.owner.register(cx.waker());
        }
        // Small ones do not wait: they end before anybody could want their memory.
        let kept = self.bytes.len() + self.message_len;
        if kept <= SMALL_BYTES || self.held.bytes() >= kept + AHEAD_BYTES {
            return Poll::Ready(());
        }
        let room = self.room.get_or_insert_with(|| {
            let inbound = inbound.clone();
            Box::pin(async move { inbound.room(2 * AHEAD_BYTES).await })
        });
        let more = ready!(room.as_mut().poll(cx));
        self.room = None;
        self.held.join(more);
        Poll::Ready(())
    }

    pub fn is_evicted(&self) -> bool {
        let known = self.known.as_ref();
        known.is_some_and(|known| known.holder.is_evicted.load(Ordering::Relaxed))
    }
}

impl Registration {
    fn new(held: &Held, since: Instant, bytes: usize) -> Self {
        let holder = Arc::new(BegunHolder {
            since,
            bytes: AtomicUsize::new(bytes),
            is_evicted: AtomicBool::new(false),
            owner: AtomicWaker::new(),
        });
        let this: Weak<dyn Holder> = Arc::<BegunHolder>::downgrade(&holder);
        Self { holder, _registered: held.budget().enter(this) }
    }
}

impl Holder for BegunHolder {
    fn waiting(&self) -> Option<(usize, Instant)> {
        let is_evicted = self.is_evicted.load(Ordering::Relaxed);
        (!is_evicted).then(|| (self.bytes.load(Ordering::Relaxed), self.since))
    }

    fn evict(&self) {
        self.is_evicted.store(true, Ordering::Relaxed);
        self.owner.wake();
    }
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Begun({} bytes)", self.bytes.len())
    }
}
