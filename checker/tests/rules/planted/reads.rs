//! Faults of what else was read: pages, positions, the stream, a node's memory.

use verbatim_checker::{Asked, Rule, check};

use super::Planted;
use super::soil::{ROOM, soil};
use crate::tale::{PageTale, ReadTale, Step, Tale};

fn read(tale: &mut Tale, node: Option<&str>, last_seq: u64) {
    let (node, room, asked_at) = (node.map(str::to_owned), ROOM.to_owned(), tale.tick());
    tale.reads.push(ReadTale { node, room, asked_at, last_seq });
}

/// A page that is as it should be.
fn page(tale: &mut Tale, asked: Asked, from: u64, to: u64, more: bool) -> &mut PageTale {
    let (node, room, asked_at) = ("n2".to_owned(), ROOM.to_owned(), tale.tick());
    let events = (from..=to).map(|seq| tale.row(ROOM, seq).frame()).collect();
    tale.pages.push(PageTale { node, room, asked, asked_at, events, more });
    tale.pages.last_mut().unwrap()
}

pub(super) const PLANTED: &[Planted] = &[
    (
        "the table lacks what was acked and shown before it was read",
        |tale| {
            let last = tale.last_seq(ROOM);
            read(tale, None, last - 9);
        },
        &[Rule::AckedBeforeCommit, Rule::DeliveredBeforeCommit],
    ),
    (
        "the table lacks what was shown before it was read",
        |tale| {
            let (command, line) = (tale.message(None), tale.line());
            tale.send(command, line);
            let seq = tale.store(command);
            tale.show();
            read(tale, None, seq - 1);
        },
        &[Rule::DeliveredBeforeCommit],
    ),
    (
        "a node lacks what its writer was told before",
        |tale| {
            let (command, line) = (tale.message(Some("new")), tale.line());
            tale.send(command, line);
            let seq = tale.store(command);
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            read(tale, Some("n3"), seq - 1);
            tale.show();
        },
        &[Rule::StaleRead],
    ),
    (
        "the newest page lacks the newest",
        |tale| {
            let last = tale.last_seq(ROOM);
            page(tale, Asked::Newest, last - 5, last - 1, true);
        },
        &[Rule::StaleRead],
    ),
    (
        "a page says that it is the last one, and is not",
        |tale| {
            page(tale, Asked::After(3), 4, 8, false);
        },
        &[Rule::StaleRead],
    ),
    (
        "a node was ahead of the log",
        |tale| {
            let last = tale.last_seq(ROOM);
            read(tale, Some("n1"), last + 1);
        },
        &[Rule::PositionBeyondLog],
    ),
    (
        "a row that the table had is gone",
        |tale| {
            let last = tale.last_seq(ROOM);
            read(tale, None, last + 1);
        },
        &[Rule::PositionBeyondLog],
    ),
    (
        "a joiner was told of more than there is",
        |tale| {
            let last = tale.last_seq(ROOM);
            let joined = tale.view().iter_mut().rev().find_map(|step| match step {
                Step::Joined { last_seq, .. } => Some(last_seq),
                _ => None,
            });
            *joined.unwrap() = last + 7;
        },
        &[Rule::PositionBeyondLog],
    ),
    (
        "a page has a hole",
        |tale| {
            let page = page(tale, Asked::After(3), 4, 8, true);
            page.events.remove(2);
        },
        &[Rule::PageOutOfRange],
    ),
    (
        "a page begins one too late",
        |tale| {
            page(tale, Asked::After(3), 5, 8, true);
        },
        &[Rule::PageOutOfRange],
    ),
    (
        "a page ends one too early",
        |tale| {
            page(tale, Asked::Before(9), 3, 7, true);
        },
        &[Rule::PageOutOfRange],
    ),
    (
        "a page is in the wrong order",
        |tale| page(tale, Asked::Before(9), 4, 8, true).events.reverse(),
        &[Rule::PageOutOfRange],
    ),
    (
        "an event in a page has other bytes",
        |tale| {
            let page = page(tale, Asked::Before(9), 4, 8, true);
            page.events[1] = page.events[1].replacen("user_id\":\"", "user_id\":\"not-", 1);
        },
        &[Rule::PageDiffersFromLog],
    ),
    (
        "an element of a page is no event",
        |tale| page(tale, Asked::Before(9), 4, 8, true).events[1] = "{}".to_owned(),
        &[Rule::UnreadableFrame],
    ),
    (
        "a page says that there is nothing before it",
        |tale| {
            page(tale, Asked::Before(9), 4, 8, false);
        },
        &[Rule::PageWrongAboutMore],
    ),
    (
        "a page says that there is more after the end",
        |tale| {
            let last = tale.last_seq(ROOM);
            page(tale, Asked::After(last - 2), last - 1, last, true);
        },
        &[Rule::PageWrongAboutMore],
    ),
    (
        "an event never got into the stream",
        |tale| {
            let seq = tale.last_seq(ROOM);
            tale.stream.retain(|entry| (&*entry.room, entry.seq) != (ROOM, seq));
        },
        &[Rule::StreamLacksEvent],
    ),
    (
        "an event in the stream has other bytes",
        |tale| {
            let entry = tale.stream[4].clone();
            let frame = entry.frame.replacen("user_id\":\"", "user_id\":\"not-", 1);
            tale.stream.push(crate::tale::EntryTale { frame, ..entry });
        },
        &[Rule::StreamDiffersFromLog],
    ),
    (
        "an entry of the stream says another seq than its event",
        |tale| {
            let entry = tale.stream[4].clone();
            tale.stream.push(crate::tale::EntryTale { seq: entry.seq + 1, ..entry });
        },
        &[Rule::StreamDiffersFromLog],
    ),
    ("the outbox keeps a batch for ever", |tale| tale.outbox_rows = 1, &[Rule::OutboxNotDrained]),
    ("a node grows beyond its bound", |tale| tale.memory[1].1 = 1001, &[Rule::MemoryBeyondBound]),
];

#[test]
fn what_was_written_before_a_stream_was_lost_is_not_missed_and_what_came_after_is() {
    let mut tale = soil();
    tale.whole_since = tale.tick();
    tale.stream.clear();
    let (command, line) = (tale.message(None), tale.line());
    tale.send(command, line);
    tale.store(command);
    tale.show();
    assert!(check(&tale.history()).is_clean());
    tale.stream.clear();
    let report = check(&tale.history());
    assert_eq!(report.totals.into_iter().collect::<Vec<_>>(), [(Rule::StreamLacksEvent, 1)]);
}
