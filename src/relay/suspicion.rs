//! A log that goes back: PostgreSQL failed over to a standby that lacked commits, or was restored.
//! Some of what this node has shown is gone from it, and new events reuse those seqs.
//!
//! Many signs raise a suspicion, and none proves it: the log is below what this node has put in
//! order, or an event has a seq at which another one is known. So the room's recent events are
//! compared with the log, which is always right.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{REPAIR_RETRY, Relay};
use crate::hub::{self, BATCH_BYTES_MAX, Room};
use crate::log::LogError;
use crate::model::{RoomName, Seq};
use crate::protocol::frame::{self, Frame};

/// Time between log lines about this: a restore sets back all rooms.
const TOLD_EVERY: Duration = Duration::from_secs(10);

impl Relay {
    /// Has the room compared with the log.
    pub(crate) fn suspect(self: &Arc<Self>, room: &Arc<Room>) {
        match self.suspects().entry(room.name().clone()) {
            Entry::Occupied(mut again) => drop(again.insert(true)),
            Entry::Vacant(new) => {
                new.insert(false);
                self.tasks.spawn("suspicion", self.clone().look_into(room.name().clone()));
            }
        }
    }

    /// The room's edge on this node; for `verdict`.
    pub fn edge(&self, name: &RoomName) -> Option<Seq> {
        self.hub.room(name)?.edge()
    }

    /// For a caller that is about to follow a room. `last_seq` is what the log said; `before` is
    /// this node's edge from before the log was asked. If `before` is higher, the log went back,
    /// and the caller must not get what the ring has above `last_seq`. Waits until that is decided,
    /// and a new room can be opened in its place.
    pub async fn verdict(
        self: &Arc<Self>,
        name: &RoomName,
        before: Option<Seq>,
        last_seq: Seq,
    ) -> Result<(), LogError> {
        let Some(room) = self.hub.room(name) else { return Ok(()) };
        // The room may be another than the one whose edge was read.
        if before > Some(last_seq) && room.edge() >= before {
            room.freeze();
            self.suspect(&room);
        }
        loop {
            // Before the check, so that no change is missed.
            let moved = room.moved();
            if room.is_closed() || !room.is_frozen() {
                return Ok(());
            }
            moved.await;
        }
    }

    pub(super) fn suspects(&self) -> MutexGuard<'_, HashMap<RoomName, bool>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room with that name agrees with the log, or does not exist. `false`: there was another
    /// reason meanwhile, for which the comparison may have been too early.
    fn acquit(&self, name: &RoomName, room: Option<&Room>) -> bool {
        let mut suspects = self.suspects();
        if suspects.insert(name.clone(), false) == Some(true) {
            return false;
        }
        suspects.remove(name);
        // Under the lock: a later suspicion freezes the room again.
        room.into_iter().for_each(Room::thaw);
        true
    }

    /// Compares the room with that name with the log, until there is no reason left.
    ///
    /// The race that must not be lost:
    ///
    /// 1. The room is let go, because the log went back.
    /// 2. Somebody who had the old room suspects it once more, and a comparison begins.
    /// 3. The new room with that name is suspected, too, and frozen.
    ///
    /// A comparison of the old room would say nothing about the new one, and nobody would look at
    /// that. So this always compares the room that has the name now.
    async fn look_into(self: Arc<Self>, name: RoomName) {
        loop {
            // A failover makes all rooms suspect at once, while all clients come back.
            let turn = self.looks.acquire().await;
            let room = self.hub.room(&name);
            let verdict = match &room {
                Some(room) => self.went_back(room).await,
                None => Ok(None),
            };
            drop(turn);
            match (verdict, room) {
                (Ok(Some(to)), Some(room)) => {
                    if self.let_go(&room, || self.hub.went_back(&room, to)) {
                        self.metrics.log_went_back.inc();
                        self.tell(&name, room.edge().unwrap_or_default(), to);
                    }
                    // The new room is not suspected, or there is another reason.
                    if self.acquit(&name, None) {
                        return;
                    }
                }
                // Damaged: whoever reads it is told so.
                (Ok(_) | Err(LogError::Damaged(_)), room) => {
                    if self.acquit(&name, room.as_deref()) {
                        return;
                    }
                }
                (Err(err), _) => {
                    tracing::debug!(room = %name, %err, "a comparison waits for the log");
                    tokio::select! {
                        () = tokio::time::sleep(REPAIR_RETRY) => {}
                        () = self.tasks.stopping() => return,
                    }
                }
            }
        }
    }

    /// The seq up to which the log agrees with the room, if it does not agree with all of it. 0:
    /// unknown, because the log has none of the events in memory here. It may have gone back far
    /// beyond those, and grown since, so no returning client can be trusted to have what the log
    /// has.
    ///
    /// The edge is read first: the log had reached it by then, so a log below it now has gone back.
    async fn went_back(&self, room: &Room) -> Result<Option<Seq>, LogError> {
        let (Some(edge), recent) = (room.edge(), room.recent()) else { return Ok(None) };
        let last = self.log.last_seq(room.name()).await?.unwrap_or_default();
        let common = self.common(room.name(), &recent).await?;
        Ok(common.or((last < edge).then_some(Seq(0))))
    }

    /// The last of these events that is the same in the log; 0: none is. `None`: all are.
    async fn common(
        &self,
        name: &RoomName,
        recent: &[hub::Entry],
    ) -> Result<Option<Seq>, LogError> {
        let mut known = recent.iter().peekable();
        let mut common = Seq(0);
        while let Some(first) = known.peek() {
            let before = first.seq.prev();
            let page_len = self.config.page_len;
            let page = self.log.read_page(name, before, page_len, BATCH_BYTES_MAX).await?;
            if page.is_empty() {
                return Ok(Some(common));
            }
            for event in &page {
                let Some(entry) = known.next() else { return Ok(None) };
                if event.seq != entry.seq || !is_same(&frame::event(event), &entry.frame) {
                    return Ok(Some(common));
                }
                common = entry.seq;
            }
        }
        Ok(None)
    }

    /// Logs one line for many rooms: the log went back, not a room.
    fn tell(&self, room: &RoomName, had: Seq, to: Seq) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = told.is_none_or(|told| told.elapsed() >= TOLD_EVERY);
        if is_news {
            *told = Some(Instant::now());
            tracing::error!(
                %room,
                had = had.0,
                back_to = (to > Seq(0)).then_some(to.0),
                "the log went back: PostgreSQL failed over or was restored, and events that were \
                 shown are gone. Followers are told to start over (for other rooms see \
                 verbatim_log_went_back_total)"
            );
        }
    }
}

/// Whether both hold the same event, which two versions of verbatim may encode differently.
fn is_same(a: &Frame, b: &Frame) -> bool {
    let read = |frame: &Frame| serde_json::from_slice::<Value>(frame.payload()).ok();
    let is_alike = |a: Value, b: Value| {
        ["type", "user_id", "seq", "at", "message"].iter().all(|key| a.get(key) == b.get(key))
    };
    a.bytes() == b.bytes() || read(a).zip(read(b)).is_some_and(|(a, b)| is_alike(a, b))
}
