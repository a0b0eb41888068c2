//! Pages of a room's past, read from the log and encoded once for everyone who asks meanwhile.
//!
//! Nothing is cached: a page lives for as long as somebody reads it. When a neighboring node dies,
//! thousands of clients ask for the same pages in the same second; they share one query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::budget::Budget;
use crate::hub::{BATCH_BYTES_MAX, Batch, Entry};
use crate::log::{Log, LogError};
use crate::metrics::Metrics;
use crate::model::{RoomName, Seq};
use crate::relay::DAMAGED_TRIES;

/// The memory of a page while it is read: its rows, and the same events as frames.
pub const PAGE_HELD_BYTES: usize = 2 * BATCH_BYTES_MAX;
/// Pause after a failed read.
const RETRY: Duration = Duration::from_millis(250);

type Key = (RoomName, Seq);
/// `None`: there is nothing above the requested seq.
type PageCell = OnceCell<Option<Arc<Batch>>>;

/// One per node.
pub struct Replay {
    log: Log,
    /// Events in a page.
    page_len: usize,
    /// The budget for pages; while it is full none is read.
    unsent: Arc<Budget>,
    /// Reads in progress. Limited by the number of sessions, each of which reads one page at a
    /// time.
    reading: Mutex<HashMap<Key, Arc<PageCell>>>,
    metrics: Arc<Metrics>,
}

impl Replay {
    pub fn new(log: Log, page_len: usize, unsent: Arc<Budget>, metrics: Arc<Metrics>) -> Self {
        Self { log, page_len, unsent, reading: Mutex::default(), metrics }
    }

    fn reading(&self) -> MutexGuard<'_, HashMap<Key, Arc<PageCell>>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events above `after`, at most a page; `None` if there are none.
    ///
    /// A caller may get the page of a read that began before it asked, which may lack the newest
    /// events. So an empty page only proves something when it comes twice.
    ///
    /// Cancel-safe: if the caller that reads goes away, the next one reads.
    pub async fn page(&self, room: &RoomName, after: Seq) -> Result<Option<Arc<Batch>>, LogError> {
        let key = (room.clone(), after);
        let page = self.reading().entry(key.clone()).or_default().clone();
        let waiter = PageWaiter { replay: self, key, page };
        waiter.page.get_or_try_init(|| self.read(room, after)).await.cloned()
    }

    /// Like `page`, but returns an error only after a pause: for readers that can only ask again.
    /// `Damaged` is returned only after several reads of the very next event failed, so that asking
    /// again is pointless.
    pub async fn page_patiently(
        &self,
        room: &RoomName,
        after: Seq,
    ) -> Result<Option<Arc<Batch>>, LogError> {
        let mut damaged = 0;
        loop {
            let page = self.page(room, after).await;
            let is_damaged = matches!(page, Err(LogError::Damaged(_)));
            damaged += usize::from(is_damaged);
            if page.is_ok() || damaged >= DAMAGED_TRIES {
                return page;
            }
            tokio::time::sleep(RETRY).await;
            if !is_damaged {
                return page;
            }
        }
    }

    /// Whether nobody reads or waits.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.reading().is_empty()
    }

    /// Reads the log once, and encodes. A page's bytes are limited, because a slow reader keeps the
    /// whole page in memory while a slice of it waits in its socket's queue. Waits until the budget
    /// has room.
    async fn read(&self, room: &RoomName, after: Seq) -> Result<Option<Arc<Batch>>, LogError> {
        let held = self.unsent.room(PAGE_HELD_BYTES).await;
        self.metrics.catch_up("log");
        let page = self.log.read_to_damage(room, after, self.page_len, BATCH_BYTES_MAX).await;
        let events = page.inspect_err(|error| self.metrics.log_error(error.kind()))?;
        let now = Instant::now();
        let mut bytes = 0;
        let fits = |entry: &Entry| {
            let is_first = bytes == 0;
            bytes += entry.frame.bytes().len();
            is_first || bytes <= BATCH_BYTES_MAX
        };
        let entries: Vec<Entry> =
            events.iter().map(|event| Entry::new(event, now)).take_while(fits).collect();
        Ok(Batch::page(entries.iter(), held).map(Arc::new))
    }
}

/// A caller that waits for a page, or reads it.
struct PageWaiter<'a> {
    replay: &'a Replay,
    key: Key,
    page: Arc<PageCell>,
}

/// A finished page is removed by the first caller that ends, an unfinished one by the last, also
/// when callers are cancelled. The entry may by then belong to a later read of the same page.
impl Drop for PageWaiter<'_> {
    fn drop(&mut self) {
        let mut reading = self.replay.reading();
        let Some(known) = reading.get(&self.key) else { return };
        if !Arc::ptr_eq(known, &self.page) {
            return;
        }
        // Dropped under the lock: if two end at once, the later one sees that it is the last.
        drop(std::mem::take(&mut self.page));
        if known.initialized() || Arc::strong_count(known) == 1 {
            reading.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn readers_that_go_away_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::from_defaults();
        config.log.path = folder.path().join("verbatim.db").display().to_string();
        let log = Log::open(&config).await.unwrap();
        let replay = Replay::new(log, 200, Budget::new(1 << 20), Arc::new(Metrics::new()));
        let room = RoomName::stored("r");
        for seq in 0..100 {
            let mut first = Box::pin(replay.page(&room, Seq(seq)));
            let mut second = Box::pin(replay.page(&room, Seq(seq)));
            // Both have begun. The first reads, and goes away unless it is done.
            let is_done = futures_util::poll!(&mut first).is_ready();
            let both = futures_util::poll!(&mut second).is_ready();
            drop(first);
            if !both {
                assert!(second.await.unwrap().is_none());
            }
            assert!(is_done || replay.reading().is_empty());
        }
        assert_eq!(replay.reading().len(), 0);
    }
}
