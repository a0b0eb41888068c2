//! Pages of a room's past, read from the log and encoded once for everyone who asks meanwhile.
//!
//! It keeps nothing: a page lives for as long as someone reads it. When a node's neighbours die,
//! thousands of clients ask for the same pages in the same second; they share one query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use crate::hub::{Batch, Entry};
use crate::log::{Log, LogError};
use crate::metrics::Metrics;
use crate::model::{RoomName, Seq};

/// Pause after a failed read.
const RETRY: Duration = Duration::from_millis(250);

type Key = (RoomName, Seq);
/// `None`: there is nothing above the place that was asked for.
type Page = OnceCell<Option<Arc<Batch>>>;

/// One to a node.
pub struct Replay {
    log: Log,
    /// Events in a page.
    page_len: usize,
    /// Reads under way. Bounded by the number of sessions, each of which reads one page at a time.
    reading: Mutex<HashMap<Key, Arc<Page>>>,
    metrics: Arc<Metrics>,
}

impl Replay {
    pub fn new(log: Log, page_len: usize, metrics: Arc<Metrics>) -> Self {
        Self { log, page_len, reading: Mutex::default(), metrics }
    }

    fn reading(&self) -> MutexGuard<'_, HashMap<Key, Arc<Page>>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events above `after`, at most a page of them; `None` if there are none.
    ///
    /// A caller may be given the page of a read that began a moment before it asked, which may lack
    /// the very newest events. So an empty page proves something only when it comes twice.
    ///
    /// Cancel-safe: if the one who reads goes away, the next in line reads.
    pub async fn page(&self, room: &RoomName, after: Seq) -> Result<Option<Arc<Batch>>, LogError> {
        let key = (room.clone(), after);
        let page = self.reading().entry(key.clone()).or_default().clone();
        let result = page.get_or_try_init(|| self.read(room, after)).await.cloned();
        let mut reading = self.reading();
        // Whoever comes first takes the finished page off; a later one may be another's.
        if reading.get(&key).is_some_and(|known| Arc::ptr_eq(known, &page)) {
            reading.remove(&key);
        }
        result
    }

    /// As `page`, and when the log is away, not before a moment has passed: for a reader that has
    /// nothing better to do than to ask again.
    pub async fn page_patiently(
        &self,
        room: &RoomName,
        after: Seq,
    ) -> Result<Option<Arc<Batch>>, LogError> {
        let page = self.page(room, after).await;
        if page.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        page
    }

    async fn read(&self, room: &RoomName, after: Seq) -> Result<Option<Arc<Batch>>, LogError> {
        self.metrics.catch_up("log");
        let events = self.log.read(room, after, self.page_len).await?;
        let now = Instant::now();
        let entries: Vec<Entry> = events.iter().map(|event| Entry::new(event, now)).collect();
        Ok(Batch::join(entries.iter()).map(Arc::new))
    }
}
