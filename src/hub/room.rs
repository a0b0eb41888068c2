//! One room as this node sees it: its edge, its recent events, its followers.
//!
//! It does no I/O and spawns nothing. Everything here runs under the room's lock, for as long as a
//! few map operations take.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

use super::batch::{Batch, Entry};
use super::door::Door;
use super::follower::{Follower, State as Following};
use super::ring::Ring;
use crate::budget::Budgets;
use crate::config::HubConfig;
use crate::model::{RoomName, Seq};
use crate::protocol::frame::Frame;

/// How long clients are told that the log went back: those that were closed return in seconds.
const WENT_BACK_TOLD: Duration = Duration::from_secs(60);

/// A room that somebody on this node follows, or followed a moment ago.
pub struct Room {
    /// Its name, and whether anyone came or went.
    pub door: Arc<Door>,
    /// Set once the edge was read from the log. Concurrent callers share the query.
    pub activated: OnceCell<()>,
    /// The log recently went back to this seq: events above it differ from those that were shown.
    went_back: Option<(Seq, Instant)>,
    /// Wakes readers without a follower when the edge has moved.
    moved: Notify,
    /// Somebody followed, or read from the ring, since `yield_ring` last asked.
    is_used: AtomicBool,
    state: Mutex<RoomState>,
}

struct RoomState {
    /// The highest seq that this node has put in order; `None` until it was read from the log.
    edge: Option<Seq>,
    /// The newest events, consecutive and ending at `edge`.
    ring: Ring,
    /// Up to where the fan-out has taken events.
    fanned: Seq,
    /// Whether a fan-out is running. There is one at a time, to keep the order.
    fanning: bool,
    /// Copied only if the list changes while a fan-out holds it.
    followers: Arc<Vec<Arc<Follower>>>,
    /// Since when nobody follows.
    idle_since: Option<Instant>,
    /// The log may have gone back. Nothing new is taken until that is decided, so that nobody is
    /// shown later events before they are told.
    frozen: bool,
    /// The hub has let go of this room; whoever holds it must ask the hub for a new one.
    closed: bool,
}

/// What the room did with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// All are in the ring, or were there before. `fan_out`: start a fan-out.
    All { fan_out: bool },
    /// The entry at this index does not follow the edge; it and those after it were not taken.
    Gap { index: usize, fan_out: bool },
}

/// How entries at or below the edge compare with the room's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// There were none, or they are the same.
    Same,
    /// The room no longer has those events.
    Unknown,
    /// The room has other events at those seqs.
    Differs,
}

/// Where a follower that catches up, or a reader without a follower, gets the next events.
pub enum NextPage {
    /// It has everything (a follower is now live), or wants nothing more.
    Live,
    /// From the ring.
    Ring(Batch),
    /// The ring begins above its position: read the log.
    Log,
    /// The room was let go: follow anew.
    Closed,
}

impl Room {
    pub fn new(name: RoomName, now: Instant, budgets: &Budgets) -> Self {
        Self::after(name, None, now, budgets)
    }

    /// A room whose log went back.
    pub fn went_back(name: RoomName, to: Seq, now: Instant, budgets: &Budgets) -> Self {
        Self::after(name, Some((to, now)), now, budgets)
    }

    fn after(
        name: RoomName,
        went_back: Option<(Seq, Instant)>,
        now: Instant,
        budgets: &Budgets,
    ) -> Self {
        let state = RoomState {
            edge: None,
            ring: Ring::new(budgets),
            fanned: Seq(0),
            fanning: false,
            followers: Arc::default(),
            idle_since: Some(now),
            frozen: false,
            closed: false,
        };
        Self {
            door: Arc::new(Door::new(name)),
            activated: OnceCell::new(),
            went_back,
            moved: Notify::new(),
            is_used: AtomicBool::new(true),
            state: Mutex::new(state),
        }
    }

    pub fn name(&self) -> &RoomName {
        &self.door.name
    }

    /// Nothing under this lock can panic; if it did, the rule of `Follower` would still hold.
    fn state(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest seq in order on this node; `None`: not read from the log yet.
    pub fn edge(&self) -> Option<Seq> {
        self.state().edge
    }

    /// Sets the room's edge, once. Events that arrive before that wait in the relay.
    pub fn set_edge(&self, edge: Seq) {
        let mut state = self.state();
        if state.edge.is_none() {
            state.edge = Some(edge);
            state.fanned = edge;
        }
    }

    /// The highest position that a returning client can be trusted with; the log reaches
    /// `last_seq`. For a while after the log went back nobody above that seq can be trusted: they
    /// may have seen the lost events, and the log may have grown beyond them since.
    pub fn known(&self, last_seq: Seq, now: Instant) -> Seq {
        match self.went_back {
            Some((to, at)) if now.saturating_duration_since(at) < WENT_BACK_TOLD => {
                to.min(last_seq)
            }
            _ => last_seq,
        }
    }

    /// Takes nothing new until `thaw`.
    pub fn freeze(&self) {
        self.state().frozen = true;
    }

    pub fn thaw(&self) {
        self.state().frozen = false;
        self.moved.notify_waiters();
    }

    pub fn is_frozen(&self) -> bool {
        self.state().frozen
    }

    /// Takes entries (ascending) above the edge. If the room has other events below it, it is
    /// frozen.
    pub fn accept(&self, entries: &[Entry], config: &HubConfig) -> (Accepted, Overlap) {
        let mut state = self.state();
        let Some(before) = state.edge else {
            return (Accepted::Gap { index: 0, fan_out: false }, Overlap::Same);
        };
        let (mut edge, mut gap, mut overlap) = (before, None, Overlap::Same);
        for (index, entry) in entries.iter().enumerate() {
            if entry.seq <= edge {
                overlap = match (state.ring.get(entry.seq), overlap) {
                    (_, Overlap::Differs) => Overlap::Differs,
                    (Some(known), _) if known.frame.bytes() != entry.frame.bytes() => {
                        Overlap::Differs
                    }
                    (Some(_), overlap) => overlap,
                    (None, _) => Overlap::Unknown,
                };
                continue;
            }
            state.frozen |= overlap == Overlap::Differs;
            if entry.seq != edge.next() || state.frozen {
                gap = Some(index);
                break;
            }
            edge = entry.seq;
            state.ring.push(entry);
        }
        state.frozen |= overlap == Overlap::Differs;
        state.edge = Some(edge);
        let fan_out = !state.fanning && edge > state.fanned && !state.followers.is_empty();
        if state.followers.is_empty() {
            state.fanned = edge;
        }
        state.fanning |= fan_out;
        state.ring.trim(config);
        drop(state);
        if edge > before {
            self.moved.notify_waiters();
        }
        let accepted = match gap {
            Some(index) => Accepted::Gap { index, fan_out },
            None => Accepted::All { fan_out },
        };
        (accepted, overlap)
    }

    /// The recent events, in order. They end at the edge.
    pub fn recent(&self) -> Vec<Entry> {
        self.state().ring.iter().cloned().collect()
    }

    /// The next batch of a fan-out, and the followers. `None`: the fan-out ends.
    pub fn next_fan_out(&self, bytes_max: usize) -> Option<(Batch, Arc<Vec<Arc<Follower>>>)> {
        let mut state = self.state();
        let batch = state.join_after(state.fanned, bytes_max);
        match batch {
            Some(batch) => {
                state.fanned = batch.last();
                Some((batch, state.followers.clone()))
            }
            None => {
                state.fanning = false;
                None
            }
        }
    }

    /// Adds a follower, which turns live here if it is at the edge. `false`: the room was let go.
    pub fn follow(&self, follower: Arc<Follower>) -> bool {
        let mut state = self.state();
        if state.closed {
            return false;
        }
        if let Some(edge) = state.edge {
            follower.go_live(edge);
        }
        state.idle_since = None;
        self.is_used.store(true, Relaxed);
        follower.index.store(state.followers.len(), Relaxed);
        Arc::make_mut(&mut state.followers).push(follower);
        self.door.pass();
        true
    }

    /// Removes a follower, if it is still there. It knows its index, because searching for each
    /// follower of a crowd that leaves at once would take quadratic time.
    pub fn unfollow(&self, follower: &Arc<Follower>, now: Instant) {
        follower.stop();
        let mut state = self.state();
        let index = follower.index.load(Relaxed);
        if !state.followers.get(index).is_some_and(|known| Arc::ptr_eq(known, follower)) {
            return;
        }
        let followers = Arc::make_mut(&mut state.followers);
        followers.swap_remove(index);
        if let Some(moved) = followers.get(index) {
            moved.index.store(index, Relaxed);
        }
        self.door.pass();
        if followers.is_empty() {
            // An empty room keeps its ring for a while, but not the list of a crowd.
            state.followers = Arc::default();
            state.idle_since = Some(now);
        }
    }

    /// What a follower that catches up gets next. If nothing is missing it turns live, under the
    /// room's lock, so that no event can slip in between.
    pub fn next_page(&self, follower: &Follower, bytes_max: usize) -> NextPage {
        let state = self.state();
        let goes_live = || {
            let edge = state.edge.unwrap_or_default();
            follower.go_live(edge) || follower.state() != Following::CatchingUp
        };
        if !state.closed && goes_live() {
            return NextPage::Live;
        }
        self.noted(state.page_after(follower.last(), bytes_max))
    }

    /// What comes above `last`, for a reader without a follower. Holding the room keeps it in use:
    /// it takes events, and `moved` reports them.
    pub fn page_after(&self, last: Seq, bytes_max: usize) -> NextPage {
        self.noted(self.state().page_after(last, bytes_max))
    }

    fn noted(&self, page: NextPage) -> NextPage {
        if matches!(page, NextPage::Ring(_)) {
            self.is_used.store(true, Relaxed);
        }
        page
    }

    /// Clears the ring, because its memory is needed, unless somebody used it since the last call.
    /// Events that a fan-out has not taken yet stay.
    pub fn yield_ring(&self) {
        if !self.is_used.swap(false, Relaxed) {
            let mut state = self.state();
            let fanned = state.fanned;
            state.ring.clear_up_to(fanned);
        }
    }

    /// Resolves when the edge has moved since this call. So call this first, then `page_after`,
    /// then wait: an event in between is not missed.
    pub fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// Searches the ring for an event above `after` that fits, and returns the seq up to which
    /// there is none. `None`: there is one, or the ring does not reach back to `after`.
    pub fn lacks(&self, after: Seq, fits: impl Fn(&Frame) -> bool) -> Option<Seq> {
        let state = self.state();
        let edge = state.edge.unwrap_or_default();
        let news = state.ring.iter().rev().take_while(|entry| entry.seq > after);
        let (mut lowest, mut found) = (edge.0.saturating_add(1), false);
        for entry in news {
            lowest = entry.seq.0;
            found |= fits(&entry.frame);
        }
        let is_whole = edge <= after || lowest == after.0.saturating_add(1);
        (is_whole && !found).then_some(edge.max(after))
    }

    /// Everyone who follows now.
    pub fn followers(&self) -> Arc<Vec<Arc<Follower>>> {
        self.state().followers.clone()
    }

    /// Somebody is about to follow: restarts the linger time.
    pub fn touch(&self, now: Instant) {
        let mut state = self.state();
        state.idle_since = state.idle_since.map(|_| now);
    }

    /// Whether the hub has let go of it.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Closes the room, and tells its followers' sessions.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let followers = state.followers.clone();
        drop(state);
        for follower in followers.iter() {
            follower.let_go();
        }
        self.moved.notify_waiters();
    }

    /// Closes the room if nobody has followed it since `before`.
    pub fn close_if_idle(&self, before: Instant) -> bool {
        let mut state = self.state();
        let is_told = self.went_back.is_none_or(|(_, at)| at.elapsed() >= WENT_BACK_TOLD);
        let idle = is_told && state.idle_since.is_some_and(|since| since < before);
        state.closed |= idle && state.followers.is_empty();
        state.closed
    }
}

impl RoomState {
    fn page_after(&self, last: Seq, bytes_max: usize) -> NextPage {
        if self.closed {
            return NextPage::Closed;
        }
        if last >= self.edge.unwrap_or_default() {
            return NextPage::Live;
        }
        match self.join_after(last, bytes_max) {
            Some(batch) if batch.first() == last.next() => NextPage::Ring(batch),
            _ => NextPage::Log,
        }
    }

    /// The ring's events above `after` (or from its beginning, if that is later), up to about
    /// `bytes_max`, at least one.
    fn join_after(&self, after: Seq, bytes_max: usize) -> Option<Batch> {
        let oldest = self.ring.first()?;
        let skip = (after.0 + 1).saturating_sub(oldest.0) as usize;
        let mut bytes = 0;
        let len = self
            .ring
            .iter()
            .skip(skip)
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += entry.frame.bytes().len();
                first || bytes <= bytes_max
            })
            .count();
        Batch::join(self.ring.iter().skip(skip).take(len), |len| self.ring.unsent().hold(len))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::net::{TcpListener, TcpStream};

    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;
    use crate::model::{Event, EventKind, Text, Timestamp, UserId};
    use crate::socket::Socket;

    fn budgets() -> Budgets {
        Budgets::new(&Config::from_defaults())
    }

    /// Each is found at once, wherever the others' removal has moved it.
    #[tokio::test]
    async fn followers_are_removed_in_any_order_and_no_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(client, listener.accept());
        let (stream, config) = (accepted.unwrap().0, Config::from_defaults().socket);
        let socket = Socket::new(stream, Bytes::new(), &config, &Arc::default());
        let now = Instant::now();
        let room = Room::new(RoomName::stored("r"), now, &budgets());
        let new = || {
            let (door, link, inbox) = (room.door.clone(), socket.link().clone(), Arc::default());
            let as_user = (UserId::stored("1"), Seq(1));
            Arc::new(Follower::new(door, link, inbox, Seq(1), as_user, &[]))
        };
        let stranger = new();
        let mut following: Vec<Arc<Follower>> = Vec::new();
        for step in 0_usize..2000 {
            // At first more come than go, then fewer.
            let comes = step * 7919 % 10 < if step < 1000 { 7 } else { 2 };
            if comes || following.is_empty() {
                following.push(new());
                assert!(room.follow(following.last().unwrap().clone()));
            } else {
                let gone = following.swap_remove(step * 104_729 % following.len());
                room.unfollow(&gone, now);
                room.unfollow(&gone, now);
                room.unfollow(&stranger, now);
            }
            let address = |follower: &Arc<Follower>| Arc::as_ptr(follower).addr();
            let known: BTreeSet<usize> = room.followers().iter().map(address).collect();
            assert_eq!(known.len(), room.followers().len());
            assert_eq!(known, following.iter().map(address).collect(), "step {step}");
        }
    }

    #[test]
    fn an_event_that_has_left_the_ring_may_fit() {
        let (name, now) = (RoomName::stored("r"), Instant::now());
        let frame = |seq| {
            let (room, user, at) = (name.clone(), UserId::stored("1"), Timestamp(0));
            let (kind, text) = (EventKind::Message, Some(Text::stored(&format!("of {seq}"))));
            let (seq, client_id) = (Seq(seq), None);
            Entry::new(&Event { room, seq, user, client_id, at, kind, text, data: None }, now)
        };
        let room = Room::new(name.clone(), now, &budgets());
        let nothing = |_: &Frame| false;
        // Without an edge the room has sent nothing.
        assert_eq!(room.lacks(Seq(7), nothing), Some(Seq(7)));
        room.set_edge(Seq(5));
        let config = HubConfig { ring_len_max: 3, ..Config::from_defaults().hub };
        room.accept(&[6, 7, 8, 9].map(frame), &config);
        let eight = frame(8).frame;
        let is_eight = |frame: &Frame| *frame == eight;
        for (after, without, but_eight) in [
            (5, None, None),
            (6, Some(9), None),
            (7, Some(9), None),
            (8, Some(9), Some(9)),
            (9, Some(9), Some(9)),
            (12, Some(12), Some(12)),
            (u64::MAX, Some(u64::MAX), Some(u64::MAX)),
        ] {
            assert_eq!(room.lacks(Seq(after), nothing), without.map(Seq), "{after}");
            assert_eq!(room.lacks(Seq(after), is_eight), but_eight.map(Seq), "{after}");
        }
    }
}
