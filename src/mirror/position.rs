//! What a node knows of its position in the stream, and what follows from what it reads. Pure:
//! `follow` does the I/O.
//!
//! There are three positions: *certain*, up to which everything was handed on or the log was asked;
//! *reached*, up to which something was handed on; and the stream's end. Each includes the number
//! of entries that the stream had been given by then. Comparing those numbers shows a message that
//! was lost on the way.

use super::cursor::{PageLen, StreamPage, StreamPosition};
use super::event::{Found, Mirrored, StreamId};
use super::strangers::Strangers;
use crate::metrics::Metrics;

/// Survives connections.
#[derive(Default)]
pub(super) struct Position {
    /// Everything up to here was handed on; `None` until the first connection.
    certain: Option<StreamPosition>,
    /// Something was handed on up to here.
    reached: StreamPosition,
    /// Which Redis the stream is from. Another one's stream may lack the end.
    origin: String,
    /// The stream cannot show what was missed, and the log was not asked yet. Kept, because the
    /// connection may be lost before a catch-up ends.
    is_doubtful: bool,
    pub page_len: PageLen,
    strangers: Strangers,
}

/// What Redis says before the stream is read.
pub(super) struct StreamState {
    pub origin: String,
    /// The stream's end; `None`: there is no stream.
    pub end: Option<StreamPosition>,
    /// The position of the node's group; `None`: there is no group.
    pub group: Option<StreamPosition>,
}

/// State of one read-through of the stream up to its end.
pub(super) struct CatchUp {
    /// Where it starts; `None`: at the end.
    pub from: Option<StreamPosition>,
    /// Nobody here follows anything yet.
    pub is_first: bool,
    /// Entries read, before and since.
    read: u64,
}

/// How far a page reaches. It counts once the page's events are handed on.
pub(super) struct PageEnd {
    last: Option<StreamPosition>,
    end: Option<StreamPosition>,
}

/// State of one round of taking channel messages.
pub(super) struct Hearing {
    /// The stream's end, which Redis reported after the last of them.
    end: Option<StreamPosition>,
    /// Whether position and count were the stream's when its end was reached.
    agreed: Option<bool>,
}

impl Position {
    /// Whether the node was at home here since it started.
    pub fn is_known(&self) -> bool {
        self.certain.is_some()
    }

    pub fn reached(&self) -> StreamPosition {
        self.reached
    }

    /// Where to start reading the stream.
    pub fn begin(&mut self, state: StreamState) -> CatchUp {
        let StreamState { origin, end, group } = state;
        let is_other = self.origin != origin;
        let is_first = self.certain.is_none();
        let (from, lost) = match (end, group, self.certain) {
            // Since it started, the node's own memory has the position: Redis moves the group when
            // it sends, not when we have read.
            (Some(end), Some(_), Some(certain)) if certain.id <= end.id => {
                (Some(certain), is_other)
            }
            // After a start the group has it. What was lost in an earlier attempt of this process
            // is before it, so the log is asked.
            (Some(_), Some(group), None) => (Some(group), true),
            // No stream or no group: a new node, or they were lost. Or the stream's IDs went
            // backwards, which only happens to a lost stream.
            //
            // Why a new node asks the log, too: it serves while Redis is away. Another node commits
            // an event and mirrors it at once. Then Redis is back, and the new node starts after
            // that event, which it never saw.
            _ => (None, true),
        };
        // The race that this closes:
        //
        // 1. Redis fails over, and the new master lacks the end of the stream.
        // 2. The node sees that it is another Redis, and the connection breaks before the stream is
        //    read.
        // 3. The node reconnects to the same Redis, and sees no reason to doubt.
        //
        // So the reason is kept together with the origin.
        self.origin = origin;
        self.is_doubtful |= lost;
        CatchUp { from, is_first, read: from.map_or(0, |from| from.read) }
    }

    /// Takes a page. Returns the events to hand on, and how far they reach.
    pub fn on_page(
        &mut self,
        catch_up: &mut CatchUp,
        page: StreamPage,
        metrics: &Metrics,
    ) -> (Vec<Mirrored>, PageEnd) {
        let len = page.entries.len();
        catch_up.read += len as u64;
        metrics.mirror_drained.inc_by(len as u64);
        let last =
            page.entries.last().map(|(id, _)| StreamPosition { id: *id, read: catch_up.read });
        let mut events = Vec::with_capacity(len);
        for (_, found) in page.entries {
            events.extend(self.event(found, metrics));
        }
        // They may be events of this log, written by a node of another version.
        self.is_doubtful |= self.strangers.came;
        let bytes = events.iter().map(|event| event.frame.bytes().len()).sum();
        self.page_len.arrived(len, bytes);
        (events, PageEnd { last, end: page.end })
    }

    /// The page's events are handed on. Returns whether it was the last page.
    pub fn go_on(&mut self, page: &PageEnd) -> bool {
        let Some(end) = page.end else {
            // If the next page is lost, reading continues after this one. Entries missing in this
            // page will be missing in the final count, too.
            self.certain = page.last.or(self.certain);
            return false;
        };
        // What the channel brings up to here has been read already.
        self.reached = end;
        self.certain = Some(end);
        self.page_len = PageLen::default();
        true
    }

    /// The stream was read up to its end. Returns whether the log must be asked.
    pub fn caught_up(&mut self, catch_up: &CatchUp) -> bool {
        // Entries may have been trimmed or deleted before they were read, perhaps during this
        // catch-up.
        let is_whole = catch_up.from.is_some() && catch_up.read == self.reached.read;
        self.strangers.came = false;
        std::mem::take(&mut self.is_doubtful) || !is_whole
    }

    /// Begins to take messages. `end`: the stream's end after the last of them, if Redis was asked.
    pub fn hear(&self, end: Option<StreamPosition>) -> Hearing {
        Hearing { end, agreed: None }
    }

    /// Takes a message. Returns the event to hand on, if it is new.
    pub fn on_message(
        &mut self,
        hearing: &mut Hearing,
        id: StreamId,
        found: Found,
        metrics: &Metrics,
    ) -> Option<Mirrored> {
        let event = self.event(found, metrics)?;
        if id <= self.reached.id {
            return None;
        }
        if let Some(end) = hearing.end.filter(|end| id > end.id) {
            hearing.agreed.get_or_insert(self.reached == end);
        }
        self.reached = StreamPosition { id, read: self.reached.read + 1 };
        Some(event)
    }

    /// Whether position and count were the stream's when its end was reached.
    pub fn agrees(&self, hearing: &Hearing) -> bool {
        hearing.agreed.unwrap_or_else(|| hearing.end.is_none_or(|end| self.reached == end))
    }

    /// They were, so nothing is missing up to the end. Returns whether the log must be asked
    /// anyway.
    pub fn agreed(&mut self, end: StreamPosition) -> bool {
        self.certain = Some(end);
        std::mem::take(&mut self.strangers.came)
    }

    fn event(&mut self, found: Found, metrics: &Metrics) -> Option<Mirrored> {
        match found {
            Found::Event(event) => return Some(event),
            Found::Unsealed => self.strangers.meet(metrics),
            Found::Other => {}
        }
        None
    }
}

#[cfg(test)]
mod tests;
