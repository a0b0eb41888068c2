//! The log by itself: no hole, and events, counters and members that follow from each other.

use std::collections::HashSet;

use super::findings::{About, Findings};
use super::index::{Index, RoomLog};
use crate::event::Kind;
use crate::history::History;
use crate::names::{Room, User};
use crate::violation::Rule;

pub(super) fn judge(history: &History, index: &Index, findings: &mut Findings<'_>) {
    let mut members: Vec<HashSet<User>> = vec![HashSet::new(); index.log.len()];
    for row in &history.members {
        members[row.room.index()].insert(row.user);
    }
    for (number, log) in index.log.iter().enumerate() {
        let room = Room::from(number);
        judge_seqs(room, log, findings);
        judge_times(room, log, findings);
        let (messages, entered) = replay(history, room, log, findings);
        if history.table.is_some() {
            judge_counters(room, log, messages, entered.len(), findings);
            judge_members(room, &members[number], &entered, findings);
        }
    }
}

/// 1, 2, 3, … to the end.
fn judge_seqs(room: Room, log: &RoomLog, findings: &mut Findings<'_>) {
    let mut last = 0;
    for line in &log.lines {
        if line.seq > last + 1 {
            findings.add(Rule::HoleInLog, About::place(room, last + 1), |history| {
                let room = history.room_name(room);
                format!("in the log of {room:?}, {} follows on {last}", line.seq)
            });
        }
        last = line.seq;
        if line.event.is_none() {
            findings.add(Rule::RowIsNoEvent, About::place(room, line.seq), |history| {
                let (room, shown) = (history.room_name(room), history.shown(line.frame));
                format!("{room:?} has at {} {shown}", line.seq)
            });
        }
    }
}

/// Never earlier than what is before it.
fn judge_times(room: Room, log: &RoomLog, findings: &mut Findings<'_>) {
    let events: Vec<_> = log.lines.iter().filter_map(|line| line.event).collect();
    for two in events.windows(2) {
        let (before, event) = (two[0], two[1]);
        if event.at_ms < before.at_ms {
            findings.add(Rule::TimeWentBack, About::place(room, event.seq), |history| {
                let (room, back) = (history.room_name(room), before.at_ms - event.at_ms);
                format!("in the log of {room:?}, {} is {back} ms before {}", event.seq, before.seq)
            });
        }
    }
}

/// Plays the room again, as its events tell it: how many messages there are, and who is a member.
fn replay(
    history: &History,
    room: Room,
    log: &RoomLog,
    findings: &mut Findings<'_>,
) -> (u64, HashSet<User>) {
    let mut members = HashSet::new();
    let mut messages = 0;
    for line in &log.lines {
        let Some(event) = line.event else { continue };
        let user = history.commands[event.command.index()].user;
        let fits = match event.kind {
            Kind::Create => members.insert(user) && event.seq == 1,
            Kind::Join => members.insert(user) && event.seq > 1,
            Kind::Leave => members.remove(&user),
            Kind::Message => {
                messages += 1;
                members.contains(&user)
            }
            // What it may do, the version knows that wrote it.
            Kind::Other => event.seq > 1,
        };
        if !fits {
            findings.add(Rule::AgainstChatRules, About::place(room, event.seq), |history| {
                format!("after what is before it, this cannot be: {}", history.shown(line.frame))
            });
        }
    }
    (messages, members)
}

fn judge_counters(
    room: Room,
    log: &RoomLog,
    messages: u64,
    members: usize,
    findings: &mut Findings<'_>,
) {
    let facts = (log.last_seq(), messages, members as u64);
    let row = log.row.map(|row| (row.last_seq, row.message_count, row.member_count));
    // A room that nobody made has no row, and no events.
    if row.unwrap_or_default() != facts {
        findings.add(Rule::CountersDiffer, About::place(room, facts.0), |history| {
            let room = history.room_name(room);
            format!("(last_seq, messages, members) of {room:?}: {row:?}, by its events {facts:?}")
        });
    }
}

fn judge_members(
    room: Room,
    members: &HashSet<User>,
    entered: &HashSet<User>,
    findings: &mut Findings<'_>,
) {
    if members == entered {
        return;
    }
    findings.add(Rule::MembersDiffer, About::room(room), |history| {
        let names = |these: &HashSet<User>, those: &HashSet<User>| {
            let mut names: Vec<_> =
                these.difference(those).map(|user| history.users.text(user.index())).collect();
            names.sort_unstable();
            names.join(", ")
        };
        let (extra, missing) = (names(members, entered), names(entered, members));
        let room = history.room_name(room);
        format!("members of {room:?}: not by its events: [{extra}]; missing: [{missing}]")
    });
}
