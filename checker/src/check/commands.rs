//! Commands: each `id` names one, at most once; what is stored was sent, and not refused.

use std::collections::{HashMap, HashSet};

use super::findings::{About, Findings};
use super::index::Index;
use crate::history::History;
use crate::names::{Command, Room, Text, User};
use crate::record::{Ack, Answer};
use crate::violation::Rule;

pub(super) fn judge(history: &History, index: &Index, findings: &mut Findings<'_>) {
    judge_rows(history, index, findings);
    judge_acks(history, index, findings);
    judge_commands(history, index, findings);
}

/// Every row is of a command that somebody sent, says what it said, and is the only one that its
/// `id` names.
fn judge_rows(history: &History, index: &Index, findings: &mut Findings<'_>) {
    let mut named: HashMap<(Room, User, Text), (Command, u64)> = HashMap::new();
    for (number, log) in index.log.iter().enumerate() {
        let room = Room::from(number);
        for line in &log.lines {
            let Some(event) = line.event else { continue };
            let command = &history.commands[event.command.index()];
            let about = About::place(room, line.seq).of(event.command);
            match command.sent_as {
                None => findings.add(Rule::StoredNeverSent, about, |history| {
                    format!("nobody sent this: {}", history.shown(line.frame))
                }),
                Some(sent_as) if sent_as != (event.kind, event.message) => {
                    findings.add(Rule::StoredOtherwiseThanSent, about, |history| {
                        let said = history.said(event.command);
                        format!("sent was {said}, stored is {}", history.shown(line.frame))
                    });
                }
                Some(_) => {}
            }
            // Twice the same command is found where commands are judged.
            let Some(id) = command.id else { continue };
            let new = (event.command, line.seq);
            let (first, seq) = *named.entry((room, command.user, id)).or_insert(new);
            if first != event.command {
                findings.add(Rule::IdStoredTwice, about.at(seq), |history| {
                    let (one, other) = (history.said(first), history.said(event.command));
                    format!("{one} is in the log at {seq}, and {other} at {}", line.seq)
                });
            }
        }
    }
}

/// Every ack is of a row, at its seq, with its time; one ack of each row is the first.
fn judge_acks(history: &History, index: &Index, findings: &mut Findings<'_>) {
    let mut firsts: HashSet<(Room, u64, bool)> = HashSet::new();
    for answer in &history.answers {
        let Answer::Ack(ack) = answer else { continue };
        let command = &history.commands[ack.command.index()];
        let is_gone = index.is_of_gone(history, ack);
        if !is_gone {
            judge_ack(command.room, command.id.is_some(), ack, index, findings);
        }
        if !ack.duplicate && !firsts.insert((command.room, ack.seq, is_gone)) {
            let about = About::place(command.room, ack.seq).of(ack.command);
            findings.add(Rule::TwoFirstAcks, about, |history| {
                let (said, room) = (history.said(ack.command), history.room_name(command.room));
                format!("{said} is not the first to be told that it is {} of {room:?}", ack.seq)
            });
        }
    }
}

fn judge_ack(room: Room, is_keyed: bool, ack: &Ack, index: &Index, findings: &mut Findings<'_>) {
    let about = About::place(room, ack.seq).of(ack.command);
    let facts = index.facts(ack.command);
    let line = index.room(room).line(ack.seq);
    let event = line.and_then(|line| line.event);
    match (event.filter(|event| event.command == ack.command), facts.stored_at) {
        (Some(event), _) if (event.kind, event.at_ms) == (ack.re, ack.event_at_ms) => {}
        (Some(event), _) => findings.add(Rule::AckDiffersFromRow, about, |history| {
            let (said, re) = (history.said(ack.command), ack.re.name());
            let (kind, acked, stored) = (event.kind.name(), ack.event_at_ms, event.at_ms);
            format!("{said} was acked as {re} at {acked} ms, and is a {kind} at {stored} ms")
        }),
        (None, Some(seq)) => findings.add(Rule::AckedAtWrongSeq, about.at(seq), |history| {
            format!("{} was acked at {} and is stored at {seq}", history.said(ack.command), ack.seq)
        }),
        (None, None) => findings.add(Rule::AckedNotStored, about, |history| {
            format!("{} was acked at {} and is not in the log", history.said(ack.command), ack.seq)
        }),
    }
    // Without an id, each attempt may have a row of its own.
    let acked_at = facts.acked.map_or(ack.seq, |(_, seq)| seq);
    if is_keyed && acked_at != ack.seq {
        findings.add(Rule::AcksDisagree, about.at(acked_at), |history| {
            let said = history.said(ack.command);
            format!("{said} was acked at {acked_at} and at {}", ack.seq)
        });
    }
}

/// Each command for itself, over all its attempts.
fn judge_commands(history: &History, index: &Index, findings: &mut Findings<'_>) {
    for (number, command) in history.commands.iter().enumerate() {
        let (number, facts) = (Command::from(number), index.facts(number.into()));
        let about = About::command(command.room, number);
        let about = facts.stored_at.map_or(about, |seq| about.at(seq));
        let is_keyed = command.id.is_some();
        if is_keyed && facts.stored_times > 1 {
            findings.add(Rule::IdStoredTwice, about, |history| {
                let seqs = index.room(command.room).lines.iter();
                let seqs = seqs.filter(|line| line.event.is_some_and(|it| it.command == number));
                let seqs: Vec<u64> = seqs.map(|line| line.seq).collect();
                format!("{} is in the log at {seqs:?}", history.said(number))
            });
        }
        let was_sent = command.sent_as.is_some();
        if !is_keyed && was_sent && facts.stored_times > facts.attempts {
            findings.add(Rule::StoredMoreThanSent, about, |history| {
                let (said, attempts, stored) =
                    (history.said(number), facts.attempts, facts.stored_times);
                format!("{said} was sent {attempts} times and is in the log {stored} times")
            });
        }
        if facts.attempts > 0 && facts.refusals >= facts.attempts && facts.stored_times > 0 {
            findings.add(Rule::RefusedButStored, about, |history| {
                format!("{} was refused and is in the log", history.said(number))
            });
        }
        let has_answer = facts.was_acked() || facts.refusals > 0;
        if is_keyed && facts.attempts > 0 && !has_answer && !command.abandoned {
            findings.add(Rule::NeverAnswered, about, |history| {
                format!("{} was never answered", history.said(number))
            });
        }
    }
}
