//! What a node knows of its place in the stream, and what follows from what it reads. It is pure:
//! `follow` asks Redis, and hands on what comes out of here.
//!
//! Three places: *certain*, up to which everything was handed on, or the log was asked; *reached*,
//! up to which something was; and the stream's end. They are compared also by how many entries the
//! stream had been given there: that is how a message that was lost on the way shows.

use super::cursor::{Page, PageLen, Place};
use super::event::{Found, Mirrored, StreamId};
use super::strangers::Strangers;
use crate::metrics::Metrics;

/// Survives connections.
#[derive(Default)]
pub(super) struct Position {
    /// Up to here everything was handed on; `None` until the first connection.
    certain: Option<Place>,
    /// Up to here something was handed on.
    reached: Place,
    /// Whose stream it was. Another's may lack its end.
    origin: String,
    /// The stream cannot tell what was missed, and the log was not asked yet: what is known of one
    /// attempt to catch up must not be forgotten because the connection is lost before its end.
    is_doubtful: bool,
    pub page_len: PageLen,
    strangers: Strangers,
}

/// What Redis says before the stream is read.
pub(super) struct Standing {
    pub origin: String,
    /// The stream's end; `None`: there is no stream.
    pub end: Option<Place>,
    /// Where the node's group is; `None`: there is none.
    pub group: Option<Place>,
}

/// The stream is being read, up to its end.
pub(super) struct CatchUp {
    /// From where on; `None`: from the end.
    pub from: Option<Place>,
    /// Nobody here follows anything yet.
    pub is_first: bool,
    /// Entries that were read before, and since.
    read: u64,
}

/// How far a page came. It counts when what is in the page was handed on.
pub(super) struct Step {
    last: Option<Place>,
    end: Option<Place>,
}

/// Messages of the channel are being read.
pub(super) struct Hearing {
    /// The stream's end as it was said behind the last of them.
    end: Option<Place>,
    /// Whether place and count were the stream's when its end was reached.
    agreed: Option<bool>,
}

impl Position {
    /// Whether the node was at home here in this life.
    pub fn is_known(&self) -> bool {
        self.certain.is_some()
    }

    pub fn reached(&self) -> Place {
        self.reached
    }

    /// From where on the stream is to be read.
    pub fn begin(&mut self, standing: Standing) -> CatchUp {
        let Standing { origin, end, group } = standing;
        let is_other = self.origin != origin;
        let is_first = self.certain.is_none();
        let (from, lost) = match (end, group, self.certain) {
            // In this life the node's own memory is the place: Redis moves the group when it sends,
            // not when we have read.
            (Some(end), Some(_), Some(certain)) if certain.id <= end.id => {
                (Some(certain), is_other)
            }
            // In a new life it is the group's; what was lost on the way to an earlier attempt of
            // this life is behind it.
            (Some(_), Some(group), None) => (Some(group), true),
            // No stream or no group: a new node, or what there was is lost. Or the stream's IDs
            // went backwards, which only a lost stream does.
            //
            // The race that makes a new node doubt: it serves while Redis is away. Another node
            // commits an event, and mirrors it at once. Then Redis is back, and the new node's
            // place is behind that event, which it never saw.
            _ => (None, true),
        };
        // The race this closes: (1) Redis fails over, and the new master lacks the end of the
        // stream; (2) the node sees that it is another, and the connection breaks before the stream
        // is read; (3) it comes back to the same Redis as the last time, and would have no reason
        // to doubt. So the reason is kept together with the origin.
        self.origin = origin;
        self.is_doubtful |= lost;
        CatchUp { from, is_first, read: from.map_or(0, |from| from.read) }
    }

    /// Takes a page: what is to be handed on, and how far that is.
    pub fn on_page(
        &mut self,
        catch_up: &mut CatchUp,
        page: Page,
        metrics: &Metrics,
    ) -> (Vec<Mirrored>, Step) {
        let len = page.entries.len();
        catch_up.read += len as u64;
        metrics.mirror_drained.inc_by(len as u64);
        let last = page.entries.last().map(|(id, _)| Place { id: *id, read: catch_up.read });
        let mut events = Vec::with_capacity(len);
        for (_, found) in page.entries {
            events.extend(self.event(found, metrics));
        }
        // They may be of this log for all that: a node of another version wrote them.
        self.is_doubtful |= self.strangers.came;
        let bytes = events.iter().map(|event| event.frame.bytes().len()).sum();
        self.page_len.arrived(len, bytes);
        (events, Step { last, end: page.end })
    }

    /// What was in the page is handed on. Whether it was the last.
    pub fn go_on(&mut self, step: &Step) -> bool {
        let Some(end) = step.end else {
            // Should the next page be lost, it goes on behind this one. If entries were missing in
            // it, the count lacks them in the end, too.
            self.certain = step.last.or(self.certain);
            return false;
        };
        // What the channel brings up to this place has been read here already.
        self.reached = end;
        self.certain = Some(end);
        self.page_len = PageLen::default();
        true
    }

    /// The stream was read up to its end. Whether the log must be asked for what it did not tell.
    pub fn caught_up(&mut self, catch_up: &CatchUp) -> bool {
        // Entries that were trimmed or deleted before they were read, perhaps just now, while the
        // pages before them were.
        let is_whole = catch_up.from.is_some() && catch_up.read == self.reached.read;
        self.strangers.came = false;
        std::mem::take(&mut self.is_doubtful) || !is_whole
    }

    /// Messages came, and behind them Redis said where the stream ends, if it was asked.
    pub fn hear(&self, end: Option<Place>) -> Hearing {
        Hearing { end, agreed: None }
    }

    /// Takes one of them: what is to be handed on.
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
        self.reached = Place { id, read: self.reached.read + 1 };
        Some(event)
    }

    /// Whether place and count were those of the stream when its end was reached.
    pub fn agrees(&self, hearing: &Hearing) -> bool {
        hearing.agreed.unwrap_or_else(|| hearing.end.is_none_or(|end| self.reached == end))
    }

    /// They were: nothing is missing up to its end. Whether the log must be asked all the same.
    pub fn agreed(&mut self, end: Place) -> bool {
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
