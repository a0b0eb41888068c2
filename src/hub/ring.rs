//! The newest events of one room in memory, as part of the budget of all rings.
//!
//! It does not know who reads them. An event in a ring counts there. One that has left it but still
//! waits for a slow socket counts as unsent until the last socket has it: once, however many wait
//! for it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::Entry;
use crate::budget::{Budget, Budgets, Held};
use crate::config::HubConfig;
use crate::model::Seq;

/// Bytes that an event takes beyond its frame: its entry in the ring, and its allocations.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// One per room.
pub struct Ring {
    /// Consecutive, ending at the room's edge. Limited by `ring_len_max`, `ring_bytes_max` and the
    /// budget of all rings. The oldest are dropped first; whoever still needs them reads the log.
    entries: VecDeque<Entry>,
    /// Bytes of the frames.
    frames_bytes: usize,
    held: Held,
    unsent: Arc<Budget>,
}

impl Ring {
    pub fn new(budgets: &Budgets) -> Self {
        let Budgets { rings, unsent, .. } = budgets;
        let (entries, held) = (VecDeque::new(), rings.hold(0));
        Self { entries, frames_bytes: 0, held, unsent: unsent.clone() }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> + Clone {
        self.entries.iter()
    }

    pub fn get(&self, seq: Seq) -> Option<&Entry> {
        let index = seq.0.checked_sub(self.first()?.0)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    pub fn first(&self) -> Option<Seq> {
        self.entries.front().map(|entry| entry.seq)
    }

    /// The budget for bytes made from events for followers.
    pub fn unsent(&self) -> &Arc<Budget> {
        &self.unsent
    }

    pub fn push(&mut self, entry: &Entry) {
        let len = entry.frame.bytes().len();
        // Not counted as unsent while it is in here: see `pop`.
        let frame = entry.frame.clone().kept(self.unsent.owe(len));
        self.entries.push_back(Entry { frame, ..entry.clone() });
        self.frames_bytes += len;
        self.held.set(self.held.bytes() + len + ENTRY_OVERHEAD_BYTES);
    }

    /// Drops the oldest events until the room's limits are met, but keeps the newest: a fan-out may
    /// still need it, and a follower that is one behind finds it here.
    pub fn trim(&mut self, config: &HubConfig) {
        let is_too_large = |ring: &Self| {
            ring.entries.len() > config.ring_len_max || ring.frames_bytes > config.ring_bytes_max
        };
        while self.entries.len() > 1 && is_too_large(self) {
            self.pop();
        }
    }

    /// Drops all events up to `until`.
    pub fn clear_up_to(&mut self, until: Seq) {
        while self.first().is_some_and(|first| first <= until) {
            self.pop();
        }
        self.entries.shrink_to_fit();
    }

    fn pop(&mut self) {
        let Some(oldest) = self.entries.pop_front() else { return };
        let len = oldest.frame.bytes().len();
        self.frames_bytes -= len;
        self.held.set(self.held.bytes() - len - ENTRY_OVERHEAD_BYTES);
        // From here on it counts as unsent while a socket still has it.
        self.unsent.pay(len);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while !self.entries.is_empty() {
            self.pop();
        }
    }
}
