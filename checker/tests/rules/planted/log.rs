//! Faults of the log: its rows, its counters, its members.

use verbatim_checker::Rule;

use super::Planted;
use super::soil::ROOM;
use crate::tale::{CommandTale, RowTale};

pub(super) const PLANTED: &[Planted] = &[
    (
        "a row in the middle is gone",
        |tale| {
            let ack = tale.only_ack();
            let id = tale.commands[tale.answers[ack].command].id.clone();
            tale.rows.retain(|row| row.client_id != id);
        },
        &[
            Rule::HoleInLog,
            Rule::CountersDiffer,
            Rule::AckedNotStored,
            Rule::DeliveredNotStored,
            Rule::PageDiffersFromLog,
            Rule::StreamDiffersFromLog,
            Rule::DeliveredWithHole,
        ],
    ),
    (
        "the last row was taken back after all had seen it, counters and all",
        |tale| {
            let command = tale.message(Some("new"));
            let line = tale.line();
            tale.send(command, line);
            let seq = tale.store(command);
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            tale.show();
            tale.rows.pop();
            tale.stream.pop();
            let room = tale.rooms.iter_mut().find(|room| room.name == ROOM).unwrap();
            (room.last_seq, room.message_count) = (room.last_seq - 1, room.message_count - 1);
        },
        &[Rule::AckedNotStored, Rule::DeliveredNotStored],
    ),
    (
        "two rows have one seq",
        |tale| {
            let command = tale.message(None);
            let line = tale.line();
            tale.send(command, line);
            let seq = tale.store(command);
            let row = RowTale { body: Some("other".to_owned()), ..tale.row(ROOM, seq).clone() };
            tale.show();
            tale.rows.push(row);
        },
        &[Rule::SeqTwice],
    ),
    (
        "a message is older than the one before it",
        |tale| {
            let command = tale.message(Some("new"));
            let line = tale.line();
            tale.send(command, line);
            let last = tale.last_seq(ROOM);
            let at_ms = tale.row(ROOM, last).at_ms - 1;
            let seq = tale.store_at(command, at_ms);
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            tale.show();
        },
        &[Rule::TimeWentBack],
    ),
    (
        "a row whose data cannot stand in a frame",
        |tale| {
            let last = tale.last_seq(ROOM);
            let command = tale.message(None);
            let line = tale.line();
            tale.send(command, line);
            tale.store(command);
            tale.row(ROOM, last + 1).data = Some("shout".to_owned());
            tale.stream.pop();
        },
        &[Rule::RowIsNoEvent, Rule::CountersDiffer, Rule::StoppedShort, Rule::StreamLacksEvent],
    ),
    (
        "a message of somebody who is not a member",
        |tale| {
            let command = tale.message(Some("new"));
            tale.commands[command].user = "stranger".to_owned();
            let line = tale.line();
            tale.send(command, line);
            let seq = tale.store(command);
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            tale.show();
        },
        &[Rule::AgainstChatRules],
    ),
    ("last_seq is one too high", |tale| tale.rooms[0].last_seq += 1, &[Rule::CountersDiffer]),
    (
        "message_count is one too low",
        |tale| tale.rooms[0].message_count -= 1,
        &[Rule::CountersDiffer],
    ),
    (
        "member_count is one too high",
        |tale| tale.rooms[1].member_count += 1,
        &[Rule::CountersDiffer],
    ),
    ("a member is forgotten", |tale| drop(tale.members.pop()), &[Rule::MembersDiffer]),
    (
        "one who left is a member still",
        |tale| tale.members.push((ROOM.to_owned(), "ghost".to_owned())),
        &[Rule::MembersDiffer],
    ),
    (
        "an id without an ack is in the log twice",
        |tale| {
            let command = tale.message(Some("new"));
            tale.commands[command].abandoned = true;
            let line = tale.line();
            tale.send(command, line);
            tale.send(command, line);
            tale.store(command);
            tale.store(command);
            tale.show();
        },
        &[Rule::IdStoredTwice],
    ),
    (
        "an id is in the log for two commands",
        |tale| {
            let (message, line) = (tale.message(Some("new")), tale.line());
            let leave = tale.leave("new");
            for command in [message, leave] {
                tale.send(command, line);
                let seq = tale.store(command);
                let ack = tale.ack(seq, false);
                tale.answer(command, line, ack);
            }
            tale.show();
        },
        &[Rule::IdStoredTwice],
    ),
    (
        "an id with two acks of two seqs, both of which are in the log",
        |tale| {
            let command = tale.message(Some("new"));
            let line = tale.line();
            for _ in 0..2 {
                tale.send(command, line);
                let seq = tale.store(command);
                let ack = tale.ack(seq, false);
                tale.answer(command, line, ack);
            }
            tale.show();
        },
        &[Rule::IdStoredTwice, Rule::AcksDisagree],
    ),
    (
        "a message without an id was sent once and stored twice",
        |tale| {
            let command = tale.message(None);
            let line = tale.line();
            tale.send(command, line);
            tale.store(command);
            tale.store(command);
            tale.show();
        },
        &[Rule::StoredMoreThanSent],
    ),
    (
        "a message that nobody sent",
        |tale| {
            let last = tale.last_seq(ROOM);
            let row = tale.row(ROOM, last).clone();
            let (kind, seq) = ("message".to_owned(), tale.last_seq(ROOM) + 1);
            let (user, body) = ("talker-0".to_owned(), Some("from nowhere".to_owned()));
            tale.append(RowTale { kind, seq, user, body, client_id: None, ..row });
            tale.show();
        },
        &[Rule::StoredNeverSent],
    ),
    (
        "a message is stored with another text than it was sent with, everywhere the same",
        |tale| {
            let command = tale.message(Some("new"));
            let line = tale.line();
            tale.send(command, line);
            let seq = tale.store(command);
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            tale.show();
            tale.commands[command].text = Some("what was really sent".to_owned());
        },
        &[Rule::StoredOtherwiseThanSent],
    ),
    (
        "the table has another text than all others saw",
        |tale| {
            let ack = tale.only_ack();
            let CommandTale { id, .. } = tale.commands[tale.answers[ack].command].clone();
            let row = tale.rows.iter_mut().find(|row| row.client_id == id).unwrap();
            row.body = Some("rewritten".to_owned());
        },
        &[
            Rule::StoredOtherwiseThanSent,
            Rule::DeliveredOtherwiseThanStored,
            Rule::PageDiffersFromLog,
            Rule::StreamDiffersFromLog,
            Rule::StreamLacksEvent,
        ],
    ),
];
