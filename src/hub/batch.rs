//! Events on their way to followers: an `Entry` per event, and a `Batch` of consecutive ones as one
//! piece of bytes.
//!
//! It does no I/O. The bytes of a batch are joined once and shared by all followers; a follower
//! that already has the first events of a batch gets a slice of it.

use bytes::Bytes;
use tokio::time::Instant;

use crate::budget::Held;
use crate::model::{Event, Seq, UserId};
use crate::protocol::frame::{self, Frame};

/// One committed event, encoded.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: Seq,
    pub frame: Frame,
    /// The user who left, if the event is a `leave`: sockets that follow only as this user stop
    /// after it.
    pub left: Option<UserId>,
    /// When this node learned of the commit.
    pub committed: Instant,
}

impl Entry {
    pub fn new(event: &Event, committed: Instant) -> Self {
        let left = event.left().cloned();
        Self { seq: event.seq, frame: frame::event(event), left, committed }
    }
}

/// Events of one room with consecutive seqs, ready to be written.
#[derive(Clone, Debug)]
pub struct Batch {
    first: Seq,
    bytes: Bytes,
    /// Where each event ends in `bytes`.
    ends: Box<[usize]>,
    leaves: Box<[(Seq, UserId)]>,
    /// When this node learned of the oldest event's commit.
    pub committed: Instant,
}

impl Batch {
    /// Joins entries of a ring, whose seqs are consecutive. `None` if there are none. Usually it is
    /// one event, whose bytes are shared; others count on the budget that `hold` returns.
    pub fn join<'a>(
        entries: impl Iterator<Item = &'a Entry> + Clone,
        hold: impl FnOnce(usize) -> Held,
    ) -> Option<Self> {
        let mut rest = entries.clone();
        let only = rest.next().filter(|_| rest.next().is_none());
        let only = only.map(|entry| entry.frame.bytes().clone());
        Self::of(entries.clone(), |len| {
            only.unwrap_or_else(|| hold(len).keep(joined(entries, len)))
        })
    }

    /// Joins entries that were read for anyone who asks; they count on `held`.
    pub fn page<'a>(entries: impl Iterator<Item = &'a Entry> + Clone, held: Held) -> Option<Self> {
        Self::of(entries.clone(), |len| held.keep(joined(entries, len)))
    }

    /// `bytes` gets the length of all entries' bytes, and returns them.
    fn of<'a>(
        entries: impl Iterator<Item = &'a Entry> + Clone,
        bytes: impl FnOnce(usize) -> Bytes,
    ) -> Option<Self> {
        let oldest = entries.clone().next()?;
        let mut ends = Vec::new();
        let mut leaves = Vec::new();
        let mut len = 0;
        for entry in entries {
            debug_assert_eq!(entry.seq.0, oldest.seq.0 + ends.len() as u64);
            len += entry.frame.bytes().len();
            ends.push(len);
            leaves.extend(entry.left.clone().map(|user| (entry.seq, user)));
        }
        let bytes = bytes(len);
        let (first, committed) = (oldest.seq, oldest.committed);
        Some(Self { first, bytes, ends: ends.into(), leaves: leaves.into(), committed })
    }

    pub fn first(&self) -> Seq {
        self.first
    }

    pub fn last(&self) -> Seq {
        Seq(self.first.0 + self.ends.len() as u64 - 1)
    }

    /// The bytes of the events above `after`, up to and including `until`. `after` must be in the
    /// batch or just before it, `until` in it.
    pub fn slice(&self, after: Seq, until: Seq) -> Bytes {
        self.bytes.slice(self.end_of(after)..self.end_of(until))
    }

    /// Each event above `after` as JSON, for clients that do not use WebSocket.
    pub fn payloads_after(&self, after: Seq) -> impl Iterator<Item = (Seq, &[u8])> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let frames = begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end]);
        let seqs = (self.first.0..).map(Seq);
        seqs.zip(frames.map(frame::payload_of)).filter(move |(seq, _)| *seq > after)
    }

    /// The highest seq such that the events above `after` up to it have at most `bytes_max` bytes;
    /// at least the one after `after`.
    pub fn until(&self, after: Seq, bytes_max: usize) -> Seq {
        let end_max = self.end_of(after).saturating_add(bytes_max);
        let fit = self.ends.partition_point(|end| *end <= end_max) as u64;
        Seq(self.first.0 + fit).prev().max(after.next())
    }

    /// The leaves above `after`.
    pub fn leaves_after(&self, after: Seq) -> impl Iterator<Item = &(Seq, UserId)> {
        self.leaves.iter().filter(move |(seq, _)| *seq > after)
    }

    fn end_of(&self, seq: Seq) -> usize {
        match (seq.0 + 1).checked_sub(self.first.0) {
            None | Some(0) => 0,
            Some(count) => self.ends[count as usize - 1],
        }
    }
}

fn joined<'a>(entries: impl Iterator<Item = &'a Entry>, len: usize) -> Vec<u8> {
    let mut joined = Vec::with_capacity(len);
    entries.for_each(|entry| joined.extend_from_slice(entry.frame.bytes()));
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::model::{EventKind, RoomName, Text, Timestamp};

    /// Events 5 to 9; 7 is a leave.
    fn entries() -> Vec<Entry> {
        let content = |seq| match seq {
            7 => (EventKind::Leave, None),
            _ => (EventKind::Message, Some(Text::stored(&"x".repeat(seq as usize)))),
        };
        let event = |seq| Event {
            room: RoomName::stored("r"),
            seq: Seq(seq),
            user: UserId::stored("u"),
            client_id: None,
            at: Timestamp(0),
            kind: content(seq).0,
            text: content(seq).1,
            data: None,
        };
        (5..10).map(|seq| Entry::new(&event(seq), Instant::now())).collect()
    }

    fn join(entries: &[Entry]) -> Batch {
        let budget = Budget::new(0);
        Batch::join(entries.iter(), |len| budget.hold(len)).unwrap()
    }

    #[test]
    fn a_slice_is_exactly_the_frames_in_it() {
        let entries = entries();
        let batch = join(&entries);
        assert_eq!((batch.first(), batch.last()), (Seq(5), Seq(9)));
        for after in 4..9 {
            for until in after + 1..10 {
                let frames = &entries[after as usize - 4..until as usize - 4];
                let joined: Vec<u8> =
                    frames.iter().flat_map(|entry| entry.frame.bytes().to_vec()).collect();
                assert_eq!(batch.slice(Seq(after), Seq(until)), joined, "{after}..={until}");
            }
        }
        for after in 3..10 {
            let payloads: Vec<_> = batch.payloads_after(Seq(after)).collect();
            let above = entries.iter().filter(|entry| entry.seq > Seq(after));
            let wanted: Vec<_> = above.map(|entry| (entry.seq, entry.frame.payload())).collect();
            assert_eq!(payloads, wanted);
        }
        assert_eq!(batch.leaves_after(Seq(4)).count(), 1);
        assert_eq!(batch.leaves_after(Seq(7)).count(), 0);
    }

    #[test]
    fn as_much_as_fits_is_at_least_one_event() {
        let entries = entries();
        let batch = join(&entries);
        for after in 4..9 {
            for bytes_max in 0..600 {
                let until = batch.until(Seq(after), bytes_max);
                assert!(until > Seq(after) && until <= batch.last());
                let len = batch.slice(Seq(after), until).len();
                assert!(len <= bytes_max || until == Seq(after + 1));
                if until < batch.last() {
                    assert!(batch.slice(Seq(after), until.next()).len() > bytes_max);
                }
            }
        }
    }
}
