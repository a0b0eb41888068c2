//! The stream: every event once the outbox is empty, with the log's own bytes.
//!
//! It may have an event more than once, and events of a room in another order than their seqs: who
//! reads it puts them in order. It may not lack one, and not have one that the log does not have.

use super::findings::{About, Findings};
use super::index::{Index, RoomLog, Standing};
use crate::history::History;
use crate::names::Room;
use crate::record::Nanos;
use crate::violation::Rule;

pub(super) fn judge(history: &History, index: &Index, findings: &mut Findings<'_>) {
    let Some(end) = history.stream_end else { return };
    let mut has: Vec<Vec<bool>> =
        index.log.iter().map(|log| vec![false; log.lines.len()]).collect();
    for entry in &history.stream {
        match index.standing(entry.frame) {
            Standing::Stored(event, line) if (event.room, event.seq) == (entry.room, entry.seq) => {
                has[event.room.index()][line] = true;
            }
            // It was, until the log was set back.
            Standing::Gone(event) if (event.room, event.seq) == (entry.room, entry.seq) => {}
            _ => {
                let about = About::place(entry.room, entry.seq);
                findings.add(Rule::StreamDiffersFromLog, about, |history| {
                    let (room, (ms, number)) = (history.room_name(entry.room), entry.id);
                    let shown = history.shown(entry.frame);
                    format!("entry {ms}-{number} is {} of {room:?}: {shown}", entry.seq)
                });
            }
        }
    }
    if end.outbox_rows > 0 {
        findings.add(Rule::OutboxNotDrained, About::default(), |_| {
            format!("{} batches are not in the stream yet", end.outbox_rows)
        });
        return;
    }
    for (number, log) in index.log.iter().enumerate() {
        let from = owed_from(log, index, end.whole_since);
        for (line, _) in log.lines[from..].iter().zip(&has[number][from..]).filter(|it| !it.1) {
            let about = About::place(Room::from(number), line.seq);
            findings.add(Rule::StreamLacksEvent, about, |history| {
                format!("the stream never got {}", history.shown(line.frame))
            });
        }
    }
}

/// What was sent after the last loss was written after it, and whatever has a higher seq as well.
fn owed_from(log: &RoomLog, index: &Index, whole_since: Nanos) -> usize {
    if whole_since == 0 {
        return 0;
    }
    let is_later = |line: &super::index::Line| {
        let facts = line.event.map(|event| index.facts(event.command));
        facts.is_some_and(|it| it.attempts > 0 && it.first_sent_at >= whole_since)
    };
    log.lines.iter().position(is_later).unwrap_or(log.lines.len())
}
