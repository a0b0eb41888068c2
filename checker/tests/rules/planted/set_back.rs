//! Faults of what followers are told when the log was set back.

use verbatim_checker::{Asked, Rule, Start, check};

use super::Planted;
use super::soil::{ROOM, soil};
use crate::tale::{PageTale, RowTale, SetBackTale, Step, Tale};

/// What the room loses.
const LOST: usize = 3;

/// Says something in the room; the seq of it.
fn say(tale: &mut Tale, at_ms: i64) -> u64 {
    let (command, line) = (tale.message(None), tale.line());
    tale.send(command, line);
    let seq = tale.store(command);
    // Two events with one seq are two moments.
    tale.row(ROOM, seq).at_ms = at_ms;
    let frame = tale.row(ROOM, seq).frame();
    tale.stream.last_mut().unwrap().frame = frame;
    seq
}

/// All see what is then lost; what is left.
fn set_back(tale: &mut Tale) -> u64 {
    for _ in 0..LOST {
        say(tale, 1);
    }
    lose(tale)
}

/// All see the last messages, and they are lost; what is left.
fn lose(tale: &mut Tale) -> u64 {
    tale.show();
    let from = tale.tick();
    let to = tale.last_seq(ROOM) - LOST as u64;
    let is_lost = |row: &RowTale| row.room == ROOM && row.seq > to;
    let (gone, rows) = tale.rows.drain(..).partition(is_lost);
    tale.rows = rows;
    let room = tale.rooms.iter_mut().find(|room| room.name == ROOM).unwrap();
    room.last_seq = to;
    room.message_count -= LOST as u64;
    let until = tale.tick();
    tale.set_back = Some(SetBackTale { room: ROOM.to_owned(), to, from, until, gone });
    to
}

/// All come back from where they were, and are told; the first of them only if it shall be.
fn tell(tale: &mut Tale, to: u64, is_first_told: bool) {
    let (line, at) = (tale.line(), tale.tick());
    let start = Start::After(to + LOST as u64);
    let views = tale.views.iter_mut().filter(|view| view.room == ROOM);
    for view in views.skip(usize::from(!is_first_told)) {
        view.steps.push(Step::Joined { line, asked_at: at, at, start, last_seq: to });
        view.steps.push(Step::Reset(to));
    }
}

/// Something new is said, and all are shown it.
fn go_on(tale: &mut Tale) {
    let seq = say(tale, 2);
    let (at, frame) = (tale.tick(), tale.row(ROOM, seq).frame());
    for view in tale.views.iter_mut().filter(|view| view.room == ROOM) {
        view.steps.push(Step::Shown { at, frame: frame.clone() });
    }
}

fn lost_frame(tale: &Tale) -> String {
    tale.set_back.as_ref().unwrap().gone[0].frame()
}

pub(super) const PLANTED: &[Planted] = &[
    (
        "one is not told that the log was set back, and is shown what came then",
        |tale| {
            let to = set_back(tale);
            tell(tale, to, false);
            go_on(tale);
        },
        &[Rule::NotTold],
    ),
    (
        "one is neither told that the log was set back nor shown what came then",
        |tale| {
            let to = set_back(tale);
            tell(tale, to, false);
            go_on(tale);
            tale.view().pop();
        },
        &[Rule::NotTold],
    ),
    (
        "one is told that the log was set back, and is shown what was lost",
        |tale| {
            let to = set_back(tale);
            tell(tale, to, true);
            let (at, frame) = (tale.tick(), lost_frame(tale));
            tale.view().push(Step::Shown { at, frame });
        },
        &[Rule::DeliveredNotStored],
    ),
    (
        "a page of history has what was lost when the log was set back",
        |tale| {
            let to = set_back(tale);
            tell(tale, to, true);
            let (room, asked_at) = (ROOM.to_owned(), tale.tick());
            let (node, events) = (tale.lines[0].clone(), vec![lost_frame(tale)]);
            let asked = Asked::After(to);
            tale.pages.push(PageTale { node, room, asked, asked_at, events, more: false });
        },
        &[Rule::PageDiffersFromLog],
    ),
];

#[test]
fn all_who_are_told_that_the_log_was_set_back_may_be_shown_what_came_then() {
    let mut tale = soil();
    let to = set_back(&mut tale);
    tell(&mut tale, to, true);
    (0..2 * LOST).for_each(|_| go_on(&mut tale));
    let report = check(&tale.history());
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[test]
fn one_may_be_told_so_that_had_nothing_of_what_was_lost() {
    let mut tale = soil();
    let to = set_back(&mut tale);
    tell(&mut tale, to, true);
    go_on(&mut tale);
    let (line, at, last_seq) = (tale.line(), tale.tick(), tale.last_seq(ROOM));
    let start = Start::After(last_seq);
    tale.view().push(Step::Joined { line, asked_at: at, at, start, last_seq });
    tale.view().push(Step::Reset(last_seq));
    go_on(&mut tale);
    let report = check(&tale.history());
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[test]
fn what_is_lost_when_the_log_is_set_back_was_acked_in_vain() {
    let mut tale = soil();
    let (command, line) = (tale.message(Some("lost")), tale.line());
    tale.send(command, line);
    let seq = tale.store(command);
    let ack = tale.ack(seq, false);
    tale.answer(command, line, ack);
    for _ in 1..LOST {
        say(&mut tale, 1);
    }
    let to = lose(&mut tale);
    tell(&mut tale, to, true);
    go_on(&mut tale);
    let report = check(&tale.history());
    assert!(report.is_clean(), "{:#?}", report.violations);
    tale.set_back = None;
    assert!(check(&tale.history()).totals.contains_key(&Rule::AckedNotStored));
}
