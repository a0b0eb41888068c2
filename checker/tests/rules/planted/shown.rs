//! Faults of what followers are shown.

use verbatim_checker::{Kind, Rule, Start};

use super::Planted;
use super::soil::{ROOM, STEP};
use crate::tale::{Step, Tale};

/// The text of a frame, changed at one place.
fn alter(tale: &mut Tale, place: usize, from: &str, to: &str) {
    let frame = tale.shown(place);
    let altered = frame.replacen(from, to, 1);
    assert_ne!(*frame, altered);
    *frame = altered;
}

/// A message that all are shown, so that what comes next is not the end of the room.
fn go_on(tale: &mut Tale) {
    let (command, line) = (tale.message(None), tale.line());
    tale.send(command, line);
    tale.store(command);
    tale.show();
}

pub(super) const PLANTED: &[Planted] = &[
    (
        "a frame is dropped",
        |tale| {
            let place = tale.stretch() + 1;
            tale.view().remove(place);
        },
        &[Rule::DeliveredWithHole],
    ),
    ("the last frame is dropped", |tale| drop(tale.view().pop()), &[Rule::StoppedShort]),
    (
        "a frame comes twice",
        |tale| {
            let place = tale.stretch();
            let twice = tale.view()[place].clone();
            tale.view().insert(place, twice);
        },
        &[Rule::DeliveredTwice],
    ),
    (
        "an old frame comes again much later",
        |tale| {
            let place = tale.stretch();
            let again = tale.view()[place].clone();
            tale.view().push(again);
        },
        &[Rule::DeliveredTwice],
    ),
    (
        "two frames change places",
        |tale| {
            let place = tale.stretch();
            tale.view().swap(place, place + 1);
        },
        &[Rule::DeliveredOutOfOrder],
    ),
    (
        "a text is altered on the way",
        |tale| {
            let place = tale.stretch();
            alter(tale, place, "user_id\":\"", "user_id\":\"not-");
        },
        &[Rule::DeliveredOtherwiseThanStored],
    ),
    (
        "a frame says the same in other bytes",
        |tale| {
            let place = tale.stretch();
            alter(tale, place, ",\"room\"", ", \"room\"");
        },
        &[Rule::DeliveredOtherwiseThanStored],
    ),
    (
        "an event of a type to come is shown with its data in other bytes",
        |tale| {
            let (command, line) = (tale.message(Some("new")), tale.line());
            tale.commands[command].kind = Kind::Other;
            tale.send(command, line);
            let seq = tale.store(command);
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            tale.show();
            let place = tale.view().len() - 1;
            alter(tale, place, "{\"a\": 1}", "{\"a\":1}");
        },
        &[Rule::DeliveredOtherwiseThanStored],
    ),
    (
        "a frame has a seq that nobody gave",
        |tale| {
            let place = tale.stretch();
            alter(tale, place, "\"seq\":", "\"seq\":99");
        },
        &[Rule::DeliveredNotStored, Rule::DeliveredWithHole],
    ),
    (
        "a frame is of another room",
        |tale| {
            let place = tale.stretch();
            alter(tale, place, ROOM, "elsewhere");
        },
        &[Rule::DeliveredUnasked, Rule::DeliveredWithHole],
    ),
    (
        "a frame comes to somebody who does not follow",
        |tale| {
            let (line, at, frame) = (tale.line(), tale.tick(), tale.row(ROOM, 3).frame());
            tale.strays.push((line, at, frame));
        },
        &[Rule::DeliveredUnasked],
    ),
    (
        "a frame comes before the answer to the join",
        |tale| {
            let (at, frame) = (tale.ended_at, tale.row(ROOM, 1).frame());
            tale.view().insert(0, Step::Shown { at, frame });
        },
        &[Rule::DeliveredUnasked],
    ),
    (
        "a frame is cut short",
        |tale| {
            let place = tale.stretch();
            tale.shown(place).truncate(20);
        },
        &[Rule::UnreadableFrame, Rule::DeliveredWithHole],
    ),
    (
        "an event is shown that was never committed",
        |tale| {
            let row = tale.row(ROOM, 3).clone();
            let (at, seq) = (tale.tick(), tale.last_seq(ROOM) + 1);
            let frame = crate::tale::RowTale { seq, ..row }.frame();
            tale.view().push(Step::Shown { at, frame });
        },
        &[Rule::DeliveredNotStored],
    ),
    (
        "a resuming follower gets its last event again",
        |tale| {
            let (line, at) = (tale.line(), tale.tick());
            let (last_seq, frame) = (tale.last_seq(ROOM), tale.row(ROOM, 9).frame());
            let start = Start::After(9);
            let rest: Vec<_> = (10..=last_seq).map(|seq| tale.row(ROOM, seq).frame()).collect();
            let asked_at = at - STEP;
            tale.view().push(Step::Joined { line, asked_at, at, start, last_seq });
            tale.view().push(Step::Shown { at, frame });
            tale.view().extend(rest.into_iter().map(|frame| Step::Shown { at, frame }));
        },
        &[Rule::StartsAtWrongSeq],
    ),
    (
        "a resuming follower misses the first event",
        |tale| {
            let (line, at) = (tale.line(), tale.tick());
            let (last_seq, start) = (tale.last_seq(ROOM), Start::After(9));
            let rest: Vec<_> = (11..=last_seq).map(|seq| tale.row(ROOM, seq).frame()).collect();
            tale.view().push(Step::Joined { line, asked_at: at, at, start, last_seq });
            tale.view().extend(rest.into_iter().map(|frame| Step::Shown { at, frame }));
        },
        &[Rule::StartsAtWrongSeq],
    ),
    (
        "a joiner is not shown its own join",
        |tale| {
            let (line, who) = (tale.line(), "newcomer".to_owned());
            let command = tale.message(None);
            tale.commands[command].kind = Kind::Join;
            (tale.commands[command].text, tale.commands[command].user) = (None, who.clone());
            tale.send(command, line);
            let last_seq = tale.store(command);
            tale.rooms.iter_mut().find(|room| room.name == ROOM).unwrap().member_count += 1;
            tale.members.push((ROOM.to_owned(), who.clone()));
            tale.show();
            let mut view = tale.views[0].clone();
            let (at, start) = (tale.tick(), Start::Last(0));
            (view.user, view.who) = (who.clone(), who);
            view.steps = vec![Step::Joined { line, asked_at: at, at, start, last_seq }];
            tale.views.push(view);
            // `show` looks for what was shown last, so the new one is shown by hand.
            let (command, line) = (tale.message(None), tale.line());
            tale.send(command, line);
            let seq = tale.store(command);
            let (at, frame) = (tale.tick(), tale.row(ROOM, seq).frame());
            for view in tale.views.iter_mut().filter(|view| view.room == ROOM) {
                view.steps.push(Step::Shown { at, frame: frame.clone() });
            }
        },
        &[Rule::StartsAtWrongSeq],
    ),
    (
        "a follower is reset, although the log has what it had",
        |tale| {
            let (line, at, last_seq) = (tale.line(), tale.tick(), tale.last_seq(ROOM));
            let start = Start::After(last_seq);
            tale.view().push(Step::Joined { line, asked_at: at, at, start, last_seq });
            tale.view().push(Step::Reset(last_seq));
        },
        &[Rule::ResetWithoutReason],
    ),
    (
        "one who left is shown more",
        |tale| {
            let (command, line) = (tale.message(None), tale.line());
            let user = tale.views[0].user.clone();
            tale.commands[command].kind = Kind::Leave;
            (tale.commands[command].text, tale.commands[command].user) = (None, user);
            tale.send(command, line);
            tale.store(command);
            tale.show();
            go_on(tale);
        },
        &[Rule::DeliveredAfterLeave],
    ),
    (
        "a follower is six seconds late after the last fault",
        |tale| {
            if let Some(Step::Shown { at, .. }) = tale.view().last_mut() {
                *at += 6_000_000_000;
            }
        },
        &[Rule::LateFollower],
    ),
    ("a follower never gets to follow", |tale| tale.view().clear(), &[Rule::StoppedShort]),
    (
        "a follower resumes and is shown nothing any more",
        |tale| {
            let (line, at, last_seq) = (tale.line(), tale.tick(), tale.last_seq(ROOM));
            let start = Start::After(last_seq - 3);
            tale.view().push(Step::Joined { line, asked_at: at, at, start, last_seq });
        },
        &[Rule::StoppedShort],
    ),
];

#[test]
fn one_who_goes_away_by_its_own_will_need_not_see_the_end() {
    let mut tale = super::soil();
    let at = tale.ended_at;
    tale.view().pop();
    tale.view().push(Step::Closed(at));
    assert!(verbatim_checker::check(&tale.history()).is_clean());
}

#[test]
fn one_who_reads_slowly_may_be_late_and_must_not_miss_the_end() {
    let mut tale = super::soil();
    if let Some(Step::Shown { at, .. }) = tale.view().last_mut() {
        *at += 60_000_000_000;
    }
    tale.views.iter_mut().for_each(|view| view.slow = true);
    assert!(verbatim_checker::check(&tale.history()).is_clean());
    tale.view().pop();
    assert_eq!(verbatim_checker::check(&tale.history()).total(), 1);
}
