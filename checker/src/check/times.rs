//! Time: what was received before something was sent was there before it.
//!
//! No clock but the recorder's is asked, and nothing is inferred from how long something took.

use super::findings::{About, Findings};
use super::index::{Index, NEVER, RoomLog};
use crate::history::History;
use crate::names::Room;
use crate::record::{Nanos, Place, Read};
use crate::violation::Rule;

pub(super) fn judge(history: &History, index: &Index, findings: &mut Findings<'_>) {
    let mut reaches = Vec::with_capacity(index.log.len());
    for (number, log) in index.log.iter().enumerate() {
        judge_order(number.into(), log, index, findings);
        reaches.push(Reaches {
            acked: Reach::new(log, |line| line.acked_at),
            delivered: Reach::new(log, |line| line.delivered_at),
        });
    }
    for read in &history.reads {
        judge_read(read, &reaches[read.room.index()], findings);
    }
}

/// From the newest event to the oldest: none was sent after a later one was known.
fn judge_order(room: Room, log: &RoomLog, index: &Index, findings: &mut Findings<'_>) {
    let (mut known_at, mut known_seq) = (NEVER, 0);
    for line in log.lines.iter().rev() {
        let Some(event) = line.event else { continue };
        let facts = index.facts(event.command);
        let about = About::place(room, line.seq).of(event.command);
        // Nobody sent it, which is another rule's to say.
        let sent_at = if facts.attempts == 0 { 0 } else { facts.first_sent_at };
        if line.delivered_at < sent_at {
            findings.add(Rule::DeliveredBeforeSent, about, |history| {
                let shown = history.shown(line.frame);
                format!("shown at {} ns, sent at {sent_at} ns: {shown}", line.delivered_at)
            });
        }
        if known_at < sent_at {
            findings.add(Rule::OrderBroken, about.at(known_seq), |history| {
                let (said, room) = (history.said(event.command), history.room_name(room));
                let seq = line.seq;
                format!("{said} was sent when {known_seq} of {room:?} was known, and is {seq}")
            });
        }
        if line.known_at() < known_at {
            (known_at, known_seq) = (line.known_at(), line.seq);
        }
    }
}

/// How far somebody knew a room at each moment.
pub(super) struct Reach {
    /// For each line, when it or a later one was first known: ascending.
    times: Vec<Nanos>,
    seqs: Vec<u64>,
}

struct Reaches {
    acked: Reach,
    delivered: Reach,
}

impl Reach {
    pub fn new(log: &RoomLog, known_at: impl Fn(&super::index::Line) -> Nanos) -> Self {
        let mut times: Vec<Nanos> = log.lines.iter().map(known_at).collect();
        for at in (1..times.len()).rev() {
            times[at - 1] = times[at - 1].min(times[at]);
        }
        Self { times, seqs: log.lines.iter().map(|line| line.seq).collect() }
    }

    /// The highest seq that was known before this; 0 if none was.
    pub fn before(&self, at: Nanos) -> u64 {
        let known = self.times.partition_point(|time| *time < at);
        known.checked_sub(1).map_or(0, |index| self.seqs[index])
    }
}

fn judge_read(read: &Read, reaches: &Reaches, findings: &mut Findings<'_>) {
    let Read { place, room, asked_at, last_seq } = *read;
    let (acked, delivered) = (reaches.acked.before(asked_at), reaches.delivered.before(asked_at));
    let mut add = |rule, seq, what: &str| {
        findings.add(rule, About::place(room, seq), |history| {
            let room = history.room_name(room);
            format!(
                "{seq} of {room:?} was {what} before {} was asked, and it said {last_seq}",
                history.place_name(place)
            )
        });
    };
    match place {
        Place::Table => {
            if acked > last_seq {
                add(Rule::AckedBeforeCommit, acked, "acked");
            }
            if delivered > last_seq {
                add(Rule::DeliveredBeforeCommit, delivered, "shown");
            }
        }
        Place::Node(_) => {
            let known = acked.max(delivered);
            if known > last_seq {
                add(Rule::StaleRead, known, "known");
            }
        }
    }
}
