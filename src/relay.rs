//! From commit to fan-out: puts each room's events in order before the hub gets them.
//!
//! It does not know followers or sockets. Events may come in early, late, twice or never; the hub
//! gets each seq once, in order, without a hole. An early event is held for a moment (`hold_ms`),
//! because the ones before it are usually on their way. Then the hole is repaired from the log,
//! which has everything below any seq that anyone has seen.

mod sick;
mod suspicion;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::budget::{Budget, Held};
use crate::config::HubConfig;
use crate::hub::{Accepted, BATCH_BYTES_MAX, Entry, Hub, NextPage, Overlap, Room};
use crate::log::{Apart, Log, LogError};
use crate::metrics::Metrics;
use crate::model::{RoomName, Seq};
use crate::tasks::Tasks;

pub use sick::Sick;

/// One per node.
pub struct Relay {
    hub: Arc<Hub>,
    log: Log,
    config: HubConfig,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    /// Rooms with a hole; usually there are none. Locked before any room, never after.
    holds: Mutex<HashMap<RoomName, Hold>>,
    /// `holds.len()`, so that the usual case need not take the lock.
    holds_len: AtomicUsize,
    /// Rooms that are being compared with the log, each by a task. `true`: compare once more,
    /// because there was another reason since the task began.
    suspects: Mutex<HashMap<RoomName, bool>>,
    /// Limits how many of them read at once.
    looks: Semaphore,
    /// When a log that went back was last logged.
    told: Mutex<Option<Instant>>,
    /// Rooms with an event that cannot be delivered, because the log cannot read it.
    pub sick: Sick,
}

/// What is known above a room's hole. A repair task runs exactly as long as this exists, and holds
/// the room: so the hub keeps the room until it is whole (a new one would not know of the hole),
/// and a name here means one room.
struct Hold {
    /// Events above the hole: at most `held_len_max`, with `ring_bytes_max` bytes, and none while
    /// the rings of all rooms are full. Of further ones only `wanted` is kept, because the repair
    /// reads them from the log anyway.
    early: BTreeMap<Seq, Entry>,
    /// Their bytes.
    held: Held,
    /// The highest seq that is known to be committed.
    wanted: Seq,
}

impl Hold {
    fn keep(&mut self, entry: &Entry, config: &HubConfig, rings: &Budget) {
        let bytes = self.held.bytes() + entry.frame.bytes().len();
        let fits = self.early.len() < config.held_len_max && bytes <= config.ring_bytes_max;
        if fits && !rings.is_full() && self.early.insert(entry.seq, entry.clone()).is_none() {
            self.held.set(bytes);
        }
    }

    /// Takes the events that follow the edge, and drops those at or below it.
    fn ready(&mut self, edge: Seq) -> Vec<Entry> {
        self.early = self.early.split_off(&edge.next());
        let mut next = edge.next();
        let mut ready = Vec::new();
        while let Some(entry) = self.early.remove(&next) {
            next = next.next();
            ready.push(entry);
        }
        self.held.set(self.early.values().map(|entry| entry.frame.bytes().len()).sum());
        ready
    }
}

/// Pause after a failed read in a repair; the log has its own timeouts in addition.
const REPAIR_RETRY: Duration = Duration::from_millis(250);
/// Reads of an event that must report damage before its followers are ended. Not one: a page that
/// is being written may look torn.
pub const DAMAGED_TRIES: usize = 3;

/// Rooms compared with the log at once.
const LOOKS: usize = 2;

impl Relay {
    pub fn new(
        hub: Arc<Hub>,
        log: Log,
        config: HubConfig,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Arc<Self> {
        let (holds, holds_len) = (Mutex::default(), AtomicUsize::new(0));
        let (suspects, told) = (Mutex::default(), Mutex::default());
        let (sick, looks) = (Sick::default(), Semaphore::new(LOOKS));
        Arc::new(Self {
            hub,
            log,
            config,
            metrics,
            tasks,
            holds,
            holds_len,
            suspects,
            looks,
            told,
            sick,
        })
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<RoomName, Hold>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes events of one room that this node has just committed, in ascending order.
    pub fn deliver(self: &Arc<Self>, name: &RoomName, entries: &[Entry]) {
        let Some(room) = self.hub.room(name) else { return };
        let overlap = self.take(&room, entries);
        // New in the log, so it should be new here. But a repair may just have read it.
        if overlap != Overlap::Same {
            self.suspect(&room);
        }
    }

    /// Takes events that came through Redis, from any node. Many of them are known already.
    pub fn deliver_heard(self: &Arc<Self>, name: &RoomName, entries: &[Entry]) {
        let Some(room) = self.hub.room(name) else { return };
        if self.take(&room, entries) == Overlap::Differs {
            self.suspect(&room);
        }
    }

    fn take(self: &Arc<Self>, room: &Arc<Room>, entries: &[Entry]) -> Overlap {
        let (accepted, overlap) = self.hub.accept(room, entries);
        match accepted {
            Accepted::Gap { index, .. } => self.hold(room, &entries[index..]),
            // These very entries may have closed a hole. The race that this closes, with the edge
            // at 4:
            //
            // 1. A brings 5, and B brings 6. B finds a gap.
            // 2. A's 5 is accepted. A looks for a hold, and finds none.
            // 3. B makes the hold.
            //
            // So B, having made it under the lock, tries to drain it, and so does A if it sees one:
            // the second of them finds the hole closed.
            Accepted::All { .. } if self.holds_len.load(Ordering::SeqCst) > 0 => self.drain(room),
            Accepted::All { .. } => {}
        }
        overlap
    }

    /// Takes events that happened while this node was down. Nobody follows their rooms here yet,
    /// but clients that did are about to come back. So the room is opened and its ring filled, and
    /// they are served from memory.
    pub fn deliver_backlog(self: &Arc<Self>, name: &RoomName, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        // The edge may be below the log's. This does not activate the room: its first follower
        // still asks the log.
        self.hub.open(name).set_edge(first.seq.prev());
        self.deliver_heard(name, entries);
    }

    /// The log is known to reach `last_seq`: reads what is missing up to there.
    pub fn hint(self: &Arc<Self>, name: &RoomName, last_seq: Seq) {
        let Some(room) = self.hub.room(name) else { return };
        if room.edge().is_some_and(|edge| edge >= last_seq) {
            return;
        }
        let mut holds = self.holds();
        // The room was let go meanwhile: its next follower starts with what the log has by then.
        if room.is_closed() {
            return;
        }
        let hold = self.hold_of(&mut holds, &room);
        hold.wanted = hold.wanted.max(last_seq);
    }

    /// Whether a follower from `position` on can be given what comes next, as far as is known.
    /// Costs nothing unless somebody met damage in the room; then the log is asked again.
    pub async fn check(&self, room: &Room, position: Seq) -> Result<(), LogError> {
        let Some(after) = self.sick.ahead_of(room.name(), position) else { return Ok(()) };
        if let NextPage::Log = room.page_after(after, 1) {
            self.log.read_page(room.name(), after, 1, BATCH_BYTES_MAX).await?;
            self.sick.forget(room.name(), after);
        }
        Ok(())
    }

    /// Brings a room into use: when this returns its edge is known, and every later event will
    /// reach its followers. Concurrent callers share one query.
    ///
    /// The order prevents a gap: first the room is opened, so that events are held from here on;
    /// then the edge is read; then what was held above it is delivered.
    pub async fn activate(self: &Arc<Self>, name: &RoomName) -> Result<Arc<Room>, LogError> {
        let room = self.hub.open(name);
        room.activated
            .get_or_try_init(async || {
                let before = room.edge();
                let last_seq = self.log.last_seq(name).await?;
                self.begin(&room, before, last_seq.unwrap_or_default());
                Ok::<(), LogError>(())
            })
            .await?;
        Ok(room)
    }

    /// Like `activate`, for many rooms, in order, with one query for all that are not in use.
    pub async fn activate_all(
        self: &Arc<Self>,
        names: &[RoomName],
    ) -> Result<Apart<Arc<Room>>, LogError> {
        // Opened first, as in `activate`.
        let rooms: Vec<Arc<Room>> = names.iter().map(|name| self.hub.open(name)).collect();
        let is_new = |room: &&Arc<Room>| !room.activated.initialized();
        let new: Vec<RoomName> =
            rooms.iter().filter(is_new).map(|room| room.name().clone()).collect();
        if new.is_empty() {
            return Ok(rooms.into_iter().map(Ok).collect());
        }
        let edges: Vec<Option<Seq>> = rooms.iter().map(|room| room.edge()).collect();
        let last_seqs = self.log.last_seqs(&new).await?;
        let mut last_seqs: HashMap<_, _> = new.into_iter().zip(last_seqs).collect();
        let mut active = Vec::with_capacity(rooms.len());
        for (room, before) in rooms.into_iter().zip(edges) {
            let unknown = || Err(LogError::Unavailable("it was not asked about".into()));
            let last_seq = last_seqs.remove(room.name()).unwrap_or_else(unknown);
            // A room that became active meanwhile has its edge, and is left as it is.
            let begin = || async {
                self.begin(&room, before, last_seq?.unwrap_or_default());
                Ok(())
            };
            let begun = room.activated.get_or_try_init(begin).await.map(drop);
            active.push(begun.map(|()| room));
        }
        Ok(active)
    }

    /// The log had reached `last_seq` after the room was opened. `before` is the edge that the room
    /// had before the log was asked, from the stream's backlog. The log may not reach it, if it was
    /// restored while this node was down.
    fn begin(self: &Arc<Self>, room: &Arc<Room>, before: Option<Seq>, last_seq: Seq) {
        if before > Some(last_seq) {
            self.suspect(room);
        }
        room.set_edge(last_seq);
        self.drain(room);
        // A room that the stream's backlog opened already has an edge, which may be old.
        self.hint(room.name(), last_seq);
    }

    fn hold(self: &Arc<Self>, room: &Arc<Room>, entries: &[Entry]) {
        {
            let mut holds = self.holds();
            if room.is_closed() {
                return;
            }
            let hold = self.hold_of(&mut holds, room);
            for entry in entries {
                hold.wanted = hold.wanted.max(entry.seq);
                hold.keep(entry, &self.config, &self.hub.budgets().rings);
            }
        }
        self.drain(room);
    }

    /// The room's hold; a new one starts the task that will end it.
    fn hold_of<'a>(
        self: &Arc<Self>,
        holds: &'a mut HashMap<RoomName, Hold>,
        room: &Arc<Room>,
    ) -> &'a mut Hold {
        holds.entry(room.name().clone()).or_insert_with(|| {
            self.holds_len.fetch_add(1, Ordering::SeqCst);
            self.tasks.spawn("repair", self.clone().repair(room.clone()));
            let held = self.hub.budgets().rings.hold(0);
            Hold { early: BTreeMap::new(), held, wanted: Seq(0) }
        })
    }

    /// Delivers held events that now follow the edge.
    fn drain(self: &Arc<Self>, room: &Arc<Room>) {
        let mut holds = self.holds();
        let Some(hold) = holds.get_mut(room.name()) else { return };
        let is_closed = room.is_closed() || room.is_frozen();
        let Some(edge) = room.edge().filter(|_| !is_closed) else { return };
        let ready = hold.ready(edge);
        if !ready.is_empty() && self.hub.accept(room, &ready).1 == Overlap::Differs {
            self.suspect(room);
        }
    }

    /// The highest seq that the room still lacks. If it lacks nothing, the hold ends.
    fn wanted(&self, room: &Room) -> Option<Seq> {
        let mut holds = self.holds();
        if room.is_closed() {
            return None;
        }
        let wanted = holds.get(room.name())?.wanted;
        if room.edge().is_none_or(|edge| edge < wanted) {
            return Some(wanted);
        }
        self.end(&mut holds, room);
        None
    }

    fn end(&self, holds: &mut HashMap<RoomName, Hold>, room: &Room) {
        if holds.remove(room.name()).is_some() {
            self.holds_len.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The log was asked, and lacks what is wanted: it was restored to an older state, or changed
    /// by hand, or somebody else writes to Redis. Asking again would not help. `false`: more is
    /// wanted by now, so the repair goes on.
    fn give_up(&self, room: &Room, wanted: Seq) -> bool {
        let mut holds = self.holds();
        let is_more = holds.get(room.name()).is_none_or(|hold| hold.wanted != wanted);
        if room.is_closed() || is_more {
            return false;
        }
        tracing::warn!(room = %room.name(), seq = wanted.0, "an event is missing from the log");
        self.end(&mut holds, room);
        true
    }

    /// The missing events cannot be read. The room's followers would wait for them silently, so
    /// they are ended and the room is let go: the next follower starts after the hole.
    fn abandon(&self, room: &Arc<Room>) {
        self.let_go(room, || {
            if let Some(edge) = room.edge() {
                self.sick.note(room.name(), edge);
            }
            self.hub.abandon(room)
        });
    }

    /// Has the hub let go of a room; `false`: it already had.
    ///
    /// Runs under the lock of the holds, and a room with a hold is only closed here. So a hold
    /// always belongs to the room in use, a new room of the same name cannot get an old hold, and
    /// nobody makes a hold for a closed room.
    fn let_go(&self, room: &Arc<Room>, close: impl FnOnce() -> bool) -> bool {
        let mut holds = self.holds();
        let is_ours = !room.is_closed() && close();
        if is_ours {
            self.end(&mut holds, room);
        }
        is_ours
    }

    /// Waits a moment for what is missing, then reads it from the log until the room is whole.
    async fn repair(self: Arc<Self>, room: Arc<Room>) {
        let mut pause = Duration::from_millis(self.config.hold_ms);
        let mut damaged = 0;
        // The first read includes the event at the edge: if the log went back, and has grown beyond
        // the edge since, nothing else shows it.
        let mut overlaps = true;
        while damaged < DAMAGED_TRIES {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.tasks.stopping() => return,
            }
            self.drain(&room);
            let Some(wanted) = self.wanted(&room) else { return };
            if room.is_frozen() {
                pause = REPAIR_RETRY;
                continue;
            }
            let Some(edge) = room.edge() else {
                // There is no edge to read from yet. Whoever brings the room into use is asking the
                // log, and this shares the answer. If the log failed them, this must retry:
                // otherwise the room, and this task, would stay like this forever.
                let activated = self.activate(room.name()).await;
                damaged += usize::from(matches!(activated, Err(LogError::Damaged(_))));
                pause = if activated.is_ok() { Duration::ZERO } else { REPAIR_RETRY };
                continue;
            };
            let (after, page_len) = match overlaps {
                true => (edge.prev(), self.config.page_len + 1),
                false => (edge, self.config.page_len),
            };
            let page = self.log.read_to_damage(room.name(), after, page_len, BATCH_BYTES_MAX);
            let overlapped = std::mem::replace(&mut overlaps, false);
            pause = match page.await {
                Ok(events) => {
                    damaged = 0;
                    self.metrics.repairs.inc();
                    let now = Instant::now();
                    let entries: Vec<_> = events.iter().map(|e| Entry::new(e, now)).collect();
                    let (known, new) = entries.split_at(usize::from(overlapped).min(entries.len()));
                    if self.hub.accept(&room, known).1 == Overlap::Differs {
                        // The rest can wait for the verdict.
                        self.suspect(&room);
                        pause = REPAIR_RETRY;
                        continue;
                    }
                    if self.hub.accept(&room, new).1 == Overlap::Differs {
                        self.suspect(&room);
                    }
                    let gained = room.edge() > Some(edge);
                    if overlapped {
                        // The page may have held only the event at the edge.
                        pause = Duration::ZERO;
                        continue;
                    }
                    if !gained && !room.is_frozen() && self.give_up(&room, wanted) {
                        self.suspect(&room);
                        return;
                    }
                    if gained { Duration::ZERO } else { REPAIR_RETRY }
                }
                Err(err) => {
                    self.metrics.log_error(err.kind());
                    damaged += usize::from(matches!(err, LogError::Damaged(_)));
                    tracing::debug!(room = %room.name(), %err, "a repair waits for the log");
                    REPAIR_RETRY
                }
            };
        }
        self.abandon(&room);
    }
}

#[cfg(test)]
mod tests;
