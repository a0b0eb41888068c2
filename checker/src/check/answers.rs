//! Answers: each is of something that was sent before on that connection, in the order of sending.
//!
//! Only commands with an `id` are owed an answer that names them; a message without one may be
//! answered by its event alone, so those may be passed over.

use std::collections::HashMap;

use super::findings::{About, Findings};
use super::index::Index;
use crate::history::History;
use crate::names::{Command, Connection};
use crate::record::{Answer, Attempt};
use crate::violation::Rule;

/// One connection's attempts, and how far they are answered.
#[derive(Default)]
struct Line<'h> {
    attempts: Vec<&'h Attempt>,
    /// Attempts before this are answered, or passed over.
    next: usize,
}

pub(super) fn judge(history: &History, index: &Index, findings: &mut Findings<'_>) {
    let mut lines: Vec<Line<'_>> = Vec::new();
    lines.resize_with(history.connections.len(), Line::default);
    // Where a command was sent for the last time: without it, looking for what is not there would
    // take a look at everything that was sent.
    let mut last_places: HashMap<(Connection, Command), usize> = HashMap::new();
    for attempt in &history.attempts {
        let attempts = &mut lines[attempt.connection.index()].attempts;
        last_places.insert((attempt.connection, attempt.command), attempts.len());
        attempts.push(attempt);
    }
    for answer in &history.answers {
        let line = &mut lines[answer.connection().index()];
        let last_place = last_places.get(&(answer.connection(), answer.command())).copied();
        judge_answer(history, index, line, last_place, answer, findings);
    }
}

fn judge_answer(
    history: &History,
    index: &Index,
    line: &mut Line<'_>,
    last_place: Option<usize>,
    answer: &Answer,
    findings: &mut Findings<'_>,
) {
    let command = answer.command();
    let room = history.commands[command.index()].room;
    let about = About::command(room, command);
    let who = |history: &History| history.connection_name(answer.connection());
    let Some(last_place) = last_place else {
        findings.add(Rule::AnswerToNothing, about, |history| {
            format!("{} was answered {}, but never sent it", who(history), history.said(command))
        });
        return;
    };
    if last_place < line.next {
        findings.add(Rule::AnswerOutOfOrder, about, |history| {
            format!("{} was answered {} after a later one", who(history), history.said(command))
        });
        return;
    }
    while line.attempts[line.next].command != command {
        let passed = line.attempts[line.next].command;
        line.next += 1;
        if history.commands[passed.index()].id.is_some() {
            let about = About::command(room, passed);
            findings.add(Rule::AnswerSkipped, about, |history| {
                let (passed, said) = (history.said(passed), history.said(command));
                format!("{} was answered {said}, and never {passed}", who(history))
            });
        }
    }
    let attempt = line.attempts[line.next];
    line.next += 1;
    if answer.at() < attempt.at {
        findings.add(Rule::AnswerToNothing, about, |history| {
            format!("{} was answered {} before it was sent", who(history), history.said(command))
        });
    }
    judge_refusal(history, index, attempt, answer, findings);
}

/// The first outcome of an `id` stands: what was acked is not refused when it is sent again.
fn judge_refusal(
    history: &History,
    index: &Index,
    attempt: &Attempt,
    answer: &Answer,
    findings: &mut Findings<'_>,
) {
    let Answer::Refusal(refusal) = answer else { return };
    let command = &history.commands[attempt.command.index()];
    let Some((acked_at, seq)) = index.facts(attempt.command).acked else { return };
    // Sent before the ack came, it may have overtaken the attempt that was acked.
    if refusal.is_definite && command.id.is_some() && attempt.at > acked_at {
        let about = About::place(command.room, seq).of(attempt.command);
        findings.add(Rule::RefusedAfterAck, about, |history| {
            let said = history.said(attempt.command);
            let code = history.texts.text(refusal.code.index());
            format!("{said} was acked at {seq}, and refused ({code}) when it came again")
        });
    }
}
