//! `history`: a page of a room's history, in pieces.
//!
//! Most pages are a single piece, which is read and answered as a whole. A longer page is never in
//! memory as a whole: its next piece is read when the client has taken the one before. So a client
//! that does not read costs one piece, however long its page is.
//!
//! A page ends at its limit, its bytes or the end of the room. Going forward, the end shows on the
//! way. Going back, the oldest event is found last but comes first on the wire. So the beginning is
//! found first, by walking back over the page piece by piece and keeping only the sizes of events.
//! Events do not change, so reading them a second time gives the same.

use std::sync::Arc;
use std::time::Duration;

use super::Desk;
use super::asked::Asked;
use super::pace::weight_of;
use super::reader::{CommandReader, Outage};
use super::reply::{Listed, Reply};
use crate::budget::Held;
use crate::hub::BATCH_BYTES_MAX;
use crate::model::{Event, Seq};
use crate::protocol::command::{self, HISTORY_LIMIT_MAX};
use crate::protocol::error::Problem;
use crate::protocol::frame::{self, Frame};
use crate::protocol::page;
use crate::replay::PAGE_HELD_BYTES;

/// Most events in a piece: the most that a page may have.
const PIECE_LEN: usize = HISTORY_LIMIT_MAX as usize;
/// Attempts to read a piece in the middle of a page. By then, no other answer is possible.
const TRIES: u32 = 8;
/// Pause between attempts.
const RETRY: Duration = Duration::from_millis(250);

/// A page of more than one piece, being sent.
pub struct Pages {
    desk: Arc<Desk>,
    asked: Asked,
    range: Range,
    /// The first piece, which was read to know that there is an answer.
    first: Option<Part>,
    /// The weight of finding where the page begins, before any of it is sent.
    pub weight: u32,
}

/// The next part of the answer.
pub struct Part {
    pub json: Vec<u8>,
    /// Counts it in the budget.
    pub held: Held,
    pub is_last: bool,
}

/// The log could not provide the rest of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log did not give the rest of the answer")]
pub struct Broken;

/// The events of a page that are still to come.
struct Range {
    after: Seq,
    /// The page goes no further than this, but may end before.
    until: Seq,
    len_left: usize,
    bytes_left: usize,
    /// Whether there are events before the page. Going forward it is `None`: whether there are
    /// events after it shows at its end.
    more_before: Option<bool>,
    /// The first event of the page.
    first: Option<Seq>,
    /// Bytes of events that were read to find where the page begins.
    walked: usize,
}

/// Consecutive events, as many as fit in a piece.
struct Piece {
    frames: Vec<(Seq, Frame)>,
    /// The page ends with this piece.
    is_last: bool,
}

pub async fn history(
    mut reader: CommandReader,
    asked: Asked,
    page: command::HistoryPage,
    limit: usize,
) -> Reply {
    reader.begin();
    let answer = async {
        let last_seq = reader.member(&asked).await?.last_seq;
        let held = reader.room(PAGE_HELD_BYTES).await.map_err(|problem| asked.problem(problem))?;
        let bytes_max = reader.desk.config.session.history_bytes_max;
        let mut range = Range {
            after: Seq(0),
            until: last_seq,
            len_left: limit,
            bytes_left: bytes_max,
            more_before: None,
            first: None,
            walked: 0,
        };
        let piece = match page {
            command::HistoryPage::After(seq) => {
                range.after = seq;
                range.read(&reader, &asked).await
            }
            command::HistoryPage::Newest => range.find(&reader, &asked, None).await,
            command::HistoryPage::Before(seq) => range.find(&reader, &asked, Some(seq)).await,
        };
        let piece = piece.map_err(|problem| asked.problem(problem))?;
        Ok::<_, Problem>((range, piece, held))
    };
    let (range, piece, held) = match answer.await {
        Ok(answer) => answer,
        Err(problem) => return Reply::Problem(problem),
    };
    if piece.is_last {
        let (items, more) = (piece.frames, range.more());
        return Reply::Page(asked, Listed { items, more, held });
    }
    let weight = weight_of(range.walked);
    let mut pages = Pages { desk: reader.desk, asked, range, first: None, weight };
    let json = pages.write(&piece, true);
    pages.first = Some(Part { json, held, is_last: false });
    Reply::Pages(Box::new(pages))
}

impl Range {
    /// The next piece, going forward.
    async fn read(&mut self, reader: &CommandReader, asked: &Asked) -> Result<Piece, Problem> {
        let (log, room) = (&reader.desk.log, &asked.room);
        let read = log.read_page(room, self.after, self.len_left.min(PIECE_LEN), BATCH_BYTES_MAX);
        let events = reader.read(read).await?;
        // As of the first read: events committed since then may not all be in the second.
        let known = events.iter().take_while(|event| event.seq <= self.until);
        let taken = take(known, self.bytes_left, self.first.is_none());
        self.len_left -= taken.frames.len().min(self.len_left);
        self.bytes_left -= taken.bytes.min(self.bytes_left);
        self.first = self.first.or(taken.frames.first().map(|(seq, _)| *seq));
        self.after = taken.frames.last().map_or(self.after, |(seq, _)| *seq);
        let is_last = taken.is_full
            || taken.frames.is_empty()
            || self.len_left == 0
            || self.after >= self.until;
        Ok(Piece { frames: taken.frames, is_last })
    }

    /// Finds the beginning of a page that goes back from `before`, and returns its first piece.
    async fn find(
        &mut self,
        reader: &CommandReader,
        asked: &Asked,
        before: Option<Seq>,
    ) -> Result<Piece, Problem> {
        let (mut before, mut newest, mut first) = (before, None, true);
        loop {
            let (log, room) = (&reader.desk.log, &asked.room);
            let read = log.read_before(room, before, self.len_left, BATCH_BYTES_MAX);
            let events = reader.read(read).await?;
            let mut taken = take(events.iter().rev(), self.bytes_left, first);
            self.len_left -= taken.frames.len().min(self.len_left);
            self.bytes_left -= taken.bytes.min(self.bytes_left);
            self.walked += taken.bytes;
            newest = newest.or(taken.frames.first().map(|(seq, _)| *seq));
            let oldest = taken.frames.last().map(|(seq, _)| *seq);
            before = oldest.or(before);
            let begins =
                taken.is_full || oldest.is_none_or(|seq| seq <= Seq(1)) || self.len_left == 0;
            if begins {
                self.more_before = Some(before.is_some_and(|seq| seq > Seq(1)) && newest.is_some());
                if first {
                    taken.frames.reverse();
                    self.first = oldest;
                    return Ok(Piece { frames: taken.frames, is_last: true });
                }
                break;
            }
            first = false;
        }
        // The page is now known and bounded by its seqs, not by length or bytes.
        self.after = before.unwrap_or_default().prev();
        self.until = newest.unwrap_or_default();
        (self.len_left, self.bytes_left) = (usize::MAX, usize::MAX);
        self.read(reader, asked).await
    }

    /// Whether there are more events in the requested direction. Seqs have no holes, so this
    /// follows from where the page ends, whatever ended it.
    fn more(&self) -> bool {
        self.more_before.unwrap_or(self.first.is_some() && self.after < self.until)
    }
}

/// Events as frames, in the order of the input.
struct Taken {
    frames: Vec<(Seq, Frame)>,
    bytes: usize,
    /// The next event does not fit on the page.
    is_full: bool,
}

/// The first events that fit in a piece and in `bytes_max`; at least one if `one_fits`. Their
/// frames are counted, because JSON may take six bytes for one.
fn take<'e>(events: impl Iterator<Item = &'e Event>, bytes_max: usize, one_fits: bool) -> Taken {
    let mut taken = Taken { frames: Vec::new(), bytes: 0, is_full: false };
    for event in events {
        let frame = frame::event(event);
        let bytes = taken.bytes + frame.payload().len();
        let is_first = taken.frames.is_empty();
        if bytes > bytes_max && !(is_first && one_fits) {
            taken.is_full = true;
            break;
        }
        if bytes > BATCH_BYTES_MAX && !is_first {
            break;
        }
        taken.bytes = bytes;
        taken.frames.push((event.seq, frame));
    }
    taken
}

impl Pages {
    /// The next piece of the answer's JSON. Must not be called after the last.
    pub async fn next(&mut self) -> Result<Part, Broken> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let held = self.desk.budgets.unsent.room(PAGE_HELD_BYTES).await;
        for tries in 1.. {
            // Failures here do not affect other commands: this answer has no other way to end well.
            let reader = CommandReader::new(self.desk.clone(), Outage::default());
            match self.range.read(&reader, &self.asked).await {
                Ok(piece) => {
                    let json = self.write(&piece, false);
                    return Ok(Part { json, held, is_last: piece.is_last });
                }
                Err(_) if tries < TRIES => tokio::time::sleep(RETRY).await,
                Err(_) => break,
            }
        }
        Err(Broken)
    }

    fn write(&self, piece: &Piece, is_first: bool) -> Vec<u8> {
        let len: usize = piece.frames.iter().map(|(_, frame)| frame.payload().len() + 1).sum();
        let mut json = Vec::with_capacity(len + page::ENVELOPE_BYTES);
        match is_first {
            true => page::begin(&mut json, &self.asked.room),
            false if !piece.frames.is_empty() => json.push(b','),
            false => {}
        }
        page::put(&mut json, &piece.frames);
        if piece.is_last {
            let ends = (self.range.first, Some(self.range.after));
            page::end(&mut json, ends, self.range.more(), self.asked.id.as_ref());
        }
        json
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({})", self.asked.room)
    }
}
