//! Memory budgets: bytes that a node holds for its clients, counted over all of them, with a limit.
//!
//! Before holding much, wait for room ([`Budget::room`]). What must not wait (a live event, a small
//! answer) is held at once and counted all the same ([`Budget::hold`]), so the count is always
//! right, and may briefly exceed the limit. Everything held is a [`Held`], which gives the bytes
//! back when dropped. Shared bytes are counted once, by a `Held` that lives as long as they do
//! ([`Held::keep`]).
//!
//! While somebody waits, the connections that hold most and accept nothing are closed
//! ([`Budget::relieve`]).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::config::Config;
use crate::metrics::{Counter, Metrics};

/// A connection that has accepted nothing for this long may be closed for its memory. Shorter than
/// the time for a read (`log.read_timeout_ms`), so that those who wait are served in time.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two checks of who holds how much, while somebody waits.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Once connections are closed, it goes down to this many eighths of the limit, so that the next
/// one that needs room does not start it again.
const RELIEVED_EIGHTHS: usize = 6;

/// All budgets of a node. Cheap to clone; clones share the budgets.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Data that clients have not read: queues of sockets, answers, streams, and pages of the log
    /// on their way to them.
    pub unsent: Arc<Budget>,
    /// What clients have begun to send, and commands waiting to be carried out.
    pub inbound: Arc<Budget>,
    /// The recent events of all rooms in use.
    pub rings: Arc<Budget>,
    /// Events on their way to Redis. Beyond the limit, they are left to the outbox.
    pub to_mirror: Arc<Budget>,
    /// Events on their way from Redis. Beyond the limit, they are read from the stream later.
    pub from_mirror: Arc<Budget>,
}

impl Budgets {
    pub fn new(config: &Config) -> Self {
        Self {
            unsent: Budget::new(config.server.unsent_bytes_max),
            inbound: Budget::new(config.server.inbound_bytes_max),
            rings: Budget::new(config.hub.rings_bytes_max),
            to_mirror: Budget::new(config.mirror.queue_bytes_max),
            from_mirror: Budget::new(config.mirror.queue_bytes_max),
        }
    }

    /// Updates the metrics of each budget.
    pub fn tell(&self, metrics: &Metrics) {
        for (name, budget) in self.named() {
            metrics.budget(name, budget.bytes(), budget.bytes_max());
        }
    }

    /// The total of all budgets.
    pub fn bytes(&self) -> usize {
        self.named().iter().map(|(_, budget)| budget.bytes()).sum()
    }

    fn named(&self) -> [(&'static str, &Arc<Budget>); 5] {
        [
            ("unsent", &self.unsent),
            ("inbound", &self.inbound),
            ("rings", &self.rings),
            ("to_mirror", &self.to_mirror),
            ("from_mirror", &self.from_mirror),
        ]
    }
}

/// One per kind of bytes.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    /// The bytes left. Also the queue of those who wait, in order.
    room: Semaphore,
    /// Held beyond the limit.
    excess: AtomicUsize,
    /// The number of those who wait.
    waiting: AtomicUsize,
    /// Somebody has begun to wait, or something was held beyond the limit.
    pressed: Notify,
    holders: Mutex<Holders>,
}

/// Bytes held; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

/// A connection, as a budget sees it.
pub trait Holder: Send + Sync {
    /// The bytes that wait for it, and since when it has accepted none. `None`: nothing waits.
    fn waiting(&self) -> Option<(usize, Instant)>;
    /// Closes it.
    fn evict(&self);
}

/// The known connections, each in a slot.
#[derive(Default)]
struct Holders {
    slots: Vec<Option<Weak<dyn Holder>>>,
    free: Vec<u32>,
}

/// The slot of a holder; given back when dropped.
#[derive(Debug)]
pub struct Registered {
    budget: Arc<Budget>,
    index: u32,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            room: Semaphore::new(bytes_max),
            excess: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            pressed: Notify::new(),
            holders: Mutex::default(),
        })
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        let excess = self.excess.load(Ordering::Relaxed);
        (self.bytes_max + excess).saturating_sub(self.room.available_permits())
    }

    /// Whether the limit is reached.
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.bytes_max
    }

    /// Holds bytes at once, whether or not they fit.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.add(bytes);
        Held { budget: self.clone(), bytes }
    }

    /// Holds bytes at once if they fit. More than the whole budget counts as the whole budget.
    pub fn hold_if_fits(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let count = self.count(bytes);
        self.room.try_acquire_many(count).ok()?.forget();
        Some(Held { budget: self.clone(), bytes: count as usize })
    }

    fn count(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX)
    }

    /// Holds bytes as soon as they fit, first come first served. More than the whole budget counts
    /// as the whole budget. Cancel-safe.
    pub async fn room(self: &Arc<Self>, bytes: usize) -> Held {
        let count = self.count(bytes);
        let permit = match self.room.try_acquire_many(count) {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::new(self);
                let permit = self.room.acquire_many(count).await;
                permit.expect("the semaphore is never closed")
            }
        };
        permit.forget();
        Held { budget: self.clone(), bytes: count as usize }
    }

    /// As `hold`, for bytes that count only when `pay` is called.
    pub fn owe(self: &Arc<Self>, bytes: usize) -> Held {
        Held { budget: self.clone(), bytes }
    }

    /// From now on, bytes that were owed count.
    pub fn pay(&self, bytes: usize) {
        self.add(bytes);
    }

    fn add(&self, bytes: usize) {
        let taken = self.room.forget_permits(bytes);
        if taken < bytes {
            self.excess.fetch_add(bytes - taken, Ordering::SeqCst);
            // Bytes given back meanwhile pay for it.
            let back = self.room.forget_permits(bytes - taken);
            if back > 0 {
                self.sub(back);
            }
            self.pressed.notify_one();
        }
    }

    fn sub(&self, bytes: usize) {
        let paid = |excess: usize| Some(excess.saturating_sub(bytes));
        let excess = self.excess.fetch_update(Ordering::SeqCst, Ordering::SeqCst, paid);
        let excess = excess.unwrap_or_else(|excess| excess);
        let left = bytes.saturating_sub(excess);
        if left > 0 {
            self.room.add_permits(left);
        }
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection while the slot is kept.
    pub fn enter(self: &Arc<Self>, holder: Weak<dyn Holder>) -> Registered {
        let mut holders = self.holders();
        let index = holders.free.pop().unwrap_or_else(|| {
            holders.slots.push(None);
            u32::try_from(holders.slots.len() - 1).expect("there are never so many connections")
        });
        holders.slots[index as usize] = Some(holder);
        Registered { budget: self.clone(), index }
    }

    /// Closes connections while somebody waits for room or the limit is exceeded, then waits for
    /// the next such time. Never returns. `evicted` counts them.
    pub async fn relieve(&self, evicted: Counter) {
        loop {
            self.pressed.notified().await;
            while self.is_full() || self.waiting.load(Ordering::SeqCst) > 0 {
                let ended = self.evict(Instant::now());
                if ended > 0 {
                    evicted.inc_by(ended as u64);
                    let (bytes, max) = (self.bytes(), self.bytes_max);
                    tracing::info!(ended, bytes, max, "closed stuck connections to free memory");
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
    }

    /// Closes those that hold most and have accepted nothing for a while, until enough should be
    /// free. Returns how many.
    fn evict(&self, now: Instant) -> usize {
        // Holders are kept only while they are asked: the owner of a connection may need the only
        // reference to it.
        let known: Vec<_> = self.holders().slots.iter().flatten().cloned().collect();
        let waiting = |holder: Weak<dyn Holder>| {
            let (bytes, since) = holder.upgrade()?.waiting()?;
            (now.saturating_duration_since(since) >= PATIENCE).then_some((bytes, holder))
        };
        let mut stuck: Vec<_> = known.into_iter().filter_map(waiting).collect();
        stuck.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut excess = self.bytes().saturating_sub(self.bytes_max / 8 * RELIEVED_EIGHTHS);
        let mut ended = 0;
        for (bytes, holder) in stuck {
            if excess == 0 {
                break;
            }
            let Some(holder) = holder.upgrade() else { continue };
            holder.evict();
            excess = excess.saturating_sub(bytes);
            ended += 1;
        }
        ended
    }
}

impl Held {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Merges both, which must be of the same budget.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Changes how many bytes are held, whether or not they fit.
    pub fn set(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(0) => return,
            Some(more) => self.budget.add(more),
            None => self.budget.sub(self.bytes - bytes),
        }
        self.bytes = bytes;
    }

    /// Makes this count these bytes, the only copy: they are held while any part of them lives,
    /// whoever shares it.
    pub fn keep<T: AsRef<[u8]> + Send + 'static>(mut self, bytes: T) -> Bytes {
        self.set(bytes.as_ref().len());
        Bytes::from_owner(Kept { bytes, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.sub(self.bytes);
        }
    }
}

/// Somebody who waits for room.
struct Waiting<'a>(&'a Budget);

impl<'a> Waiting<'a> {
    fn new(budget: &'a Budget) -> Self {
        budget.waiting.fetch_add(1, Ordering::SeqCst);
        budget.pressed.notify_one();
        Self(budget)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Bytes with their count.
struct Kept<T> {
    bytes: T,
    _held: Held,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut holders = self.budget.holders();
        holders.slots[self.index as usize] = None;
        holders.free.push(self.index);
    }
}

impl std::fmt::Debug for Holders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Holders({})", self.slots.len() - self.free.len())
    }
}
