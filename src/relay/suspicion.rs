//! A log that goes back: PostgreSQL failed over to a standby that had not everything, or was
//! restored. What this node has shown is not what happened then, and what happens now has seqs that
//! were given out before.
//!
//! Many signs raise a suspicion, and none of them is a proof: the log stands below what this node
//! has put in order, or an event comes at a seq where there is another. So the room's recent events
//! are compared with the log, which is always right.

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

/// Lines about rooms whose log went back, in one such time: a restore sets back all of them.
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

    /// Up to where this node has the room in order; for `verdict`.
    pub fn edge(&self, name: &RoomName) -> Option<Seq> {
        self.hub.room(name)?.edge()
    }

    /// For who is about to follow a room that stood at `last_seq` when the log was asked, `before`
    /// which this node had it up to there. If that is more, the log went back, and they must not be
    /// given what the ring has above it: waits until that is known of the room, and a new one can
    /// be opened in its place.
    pub async fn verdict(
        self: &Arc<Self>,
        name: &RoomName,
        before: Option<Seq>,
        last_seq: Seq,
    ) -> Result<(), LogError> {
        let Some(room) = self.hub.room(name) else { return Ok(()) };
        // It may be another than the one that had it.
        if before > Some(last_seq) && room.edge() >= before {
            room.freeze();
            self.suspect(&room);
        }
        loop {
            // First this, then the look.
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

    /// The room of that name is found to be as the log is, or there is none. `false`: there was
    /// another reason meanwhile, which the look may have been too early for.
    fn acquit(&self, name: &RoomName, room: Option<&Room>) -> bool {
        let mut suspects = self.suspects();
        if suspects.insert(name.clone(), false) == Some(true) {
            return false;
        }
        suspects.remove(name);
        // Under the lock: who has another reason from here on freezes it anew.
        room.into_iter().for_each(Room::thaw);
        true
    }

    /// Compares the room of that name with the log until there is no reason to any more.
    ///
    /// The race that this must not lose: (1) the room is let go, because the log went back; (2)
    /// somebody who had looked at it before suspects it once more, and a look at it begins; (3) the
    /// one that was opened in its place is suspected as well, and frozen. A look at the first would
    /// say nothing of the second, and nobody would look at that. So it is always the room that has
    /// the name now that is looked at.
    async fn look_into(self: Arc<Self>, name: RoomName) {
        loop {
            // A failover makes all rooms suspect at once, and everybody comes back meanwhile.
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
                    // The one in its place is not suspected, or there is another reason.
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
                    tracing::debug!(room = %name, %err, "a suspicion must wait for the log");
                    tokio::select! {
                        () = tokio::time::sleep(REPAIR_RETRY) => {}
                        () = self.tasks.stopping() => return,
                    }
                }
            }
        }
    }

    /// Up to where the log still has what the room has, if that is not all. 0: nobody knows, as it
    /// has none of the events that are in memory here. It may have gone back far beyond those, and
    /// have grown since; so nobody who comes back can be believed to have what it has.
    ///
    /// The edge is read first: the log had reached it by then, so one that stands below it now has
    /// gone back.
    async fn went_back(&self, room: &Room) -> Result<Option<Seq>, LogError> {
        let (Some(edge), recent) = (room.edge(), room.recent()) else { return Ok(None) };
        let last = self.log.last_seq(room.name()).await?.unwrap_or_default();
        let common = self.common(room.name(), &recent).await?;
        Ok(common.or((last < edge).then_some(Seq(0))))
    }

    /// The last of these events that is in the log as it is here; 0: none is. `None`: all are.
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

    /// One line for many rooms: it is the log that went back, not a room.
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
                 shown are gone. Followers are told to begin anew (other rooms: see \
                 verbatim_log_went_back_total)"
            );
        }
    }
}

/// Whether both tell the same event. Two versions of this program may not encode it alike.
fn is_same(a: &Frame, b: &Frame) -> bool {
    let read = |frame: &Frame| serde_json::from_slice::<Value>(frame.payload()).ok();
    let is_alike = |a: Value, b: Value| {
        ["type", "user_id", "seq", "at", "message"].iter().all(|key| a.get(key) == b.get(key))
    };
    a.bytes() == b.bytes() || read(a).zip(read(b)).is_some_and(|(a, b)| is_alike(a, b))
}
