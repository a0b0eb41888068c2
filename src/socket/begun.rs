//! A message or frame that has begun and is not whole, and what it takes meanwhile.
//!
//! What is kept of it grows with what comes, a little at a time, and counts on what the node may
//! hold of what clients have begun to send. When that is full, a longer one waits, and those that
//! have been at it for longest with most may be given up.

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
use crate::budget::{Budget, Held, Holder, Place};

/// What every socket may keep of a frame that is not whole, however many do: nobody has to wait
/// with an ordinary message because others hold all that there is.
const SMALL_BYTES: usize = 2048;

type Room = Pin<Box<dyn Future<Output = Held> + Send>>;

/// Made when a frame does not come whole, which small ones rarely do.
pub(super) struct Begun {
    /// When it began, or was read on after a time in which it was not.
    pub since: Instant,
    /// What is kept of a frame until it is whole.
    bytes: Vec<u8>,
    /// Bytes of fragments that the codec has.
    message_len: usize,
    /// What is held for those bytes, and for the fragments that the codec has.
    held: Held,
    /// More of it is being waited for.
    room: Option<Room>,
    /// As those see it who look for who keeps most; only if it is worth looking at.
    known: Option<Known>,
}

struct Known {
    mark: Arc<Mark>,
    _place: Place,
}

struct Mark {
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

    /// Its time begins anew.
    pub fn renew(&mut self) {
        (self.since, self.known) = (Instant::now(), None);
    }

    /// Takes what came, of which that much is not whole at the end, and gives what is.
    pub fn keep(&mut self, came: &[u8], held_len: usize) -> Bytes {
        let whole_len = self.bytes.len() + came.len() - held_len;
        let Some(now) = whole_len.checked_sub(self.bytes.len()) else {
            // All of it belongs to what is kept.
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

    /// Counts what is kept here, and the fragments that the codec has.
    pub fn count(&mut self, message_len: usize) {
        self.message_len = message_len;
        let bytes = self.bytes.capacity() + message_len;
        // What was waited for beforehand counts until it is used.
        self.held.set(bytes.max(self.held.bytes().min(bytes + AHEAD_BYTES)));
        if let Some(known) = &self.known {
            known.mark.bytes.store(bytes, Ordering::Relaxed);
        } else if bytes > SMALL_BYTES {
            self.known = Some(Known::new(&self.held, self.since, bytes));
        }
    }

    /// Ready when as much as is read at once may be kept as well.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, inbound: &Arc<Budget>) -> Poll<()> {
        if let Some(known) = &self.known {
            known.mark.owner.register(cx.waker());
        }
        // Small ones do not wait: they are over before anybody could want their memory.
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
        known.is_some_and(|known| known.mark.is_evicted.load(Ordering::Relaxed))
    }
}

impl Known {
    fn new(held: &Held, since: Instant, bytes: usize) -> Self {
        let mark = Arc::new(Mark {
            since,
            bytes: AtomicUsize::new(bytes),
            is_evicted: AtomicBool::new(false),
            owner: AtomicWaker::new(),
        });
        let this: Weak<dyn Holder> = Arc::<Mark>::downgrade(&mark);
        Self { mark, _place: held.budget().enter(this) }
    }
}

impl Holder for Mark {
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
