//! Faults of answers: acks and errors, and the order of what was sent and known.

use verbatim_checker::{Kind, Rule};

use super::Planted;
use super::soil::ROOM;
use crate::tale::{Tale, What};

/// A message that is acked, or is not, in one tale of its own.
fn tell(tale: &mut Tale, id: &str) -> (usize, usize, u64) {
    let (command, line) = (tale.message(Some(id)), tale.line());
    tale.send(command, line);
    (command, line, tale.store(command))
}

pub(super) const PLANTED: &[Planted] = &[
    (
        "an ack of a message that was swallowed",
        |tale| {
            let (command, line) = (tale.message(Some("new")), tale.line());
            tale.send(command, line);
            let (re, seq) = (Kind::Message, tale.last_seq(ROOM) + 1);
            let what = What::Ack { re, seq, at_ms: 1, duplicate: false };
            tale.answer(command, line, what);
        },
        &[Rule::AckedNotStored],
    ),
    (
        "an ack with the seq of another",
        |tale| {
            let (command, line, seq) = tell(tale, "new");
            let mut what = tale.ack(seq, false);
            if let What::Ack { seq, .. } = &mut what {
                *seq += 1;
            }
            tale.answer(command, line, what);
            tale.show();
        },
        &[Rule::AckedAtWrongSeq],
    ),
    (
        "an ack with another time than the event's",
        |tale| {
            let ack = tale.only_ack();
            if let What::Ack { at_ms, .. } = &mut tale.answers[ack].what {
                *at_ms += 1;
            }
        },
        &[Rule::AckDiffersFromRow],
    ),
    (
        "a message is acked as a leave",
        |tale| {
            let ack = tale.only_ack();
            if let What::Ack { re, .. } = &mut tale.answers[ack].what {
                *re = Kind::Leave;
            }
        },
        &[Rule::AckDiffersFromRow],
    ),
    (
        "a leave under the id of a message is acked as if it had been done",
        |tale| {
            let (command, line, seq) = tell(tale, "new");
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            let leave = tale.leave("new");
            tale.send(leave, line);
            let at_ms = tale.row(ROOM, seq).at_ms;
            let what = What::Ack { re: Kind::Leave, seq, at_ms, duplicate: true };
            tale.answer(leave, line, what);
            tale.show();
        },
        &[Rule::AckedNotStored],
    ),
    (
        "a resend is acked with another seq",
        |tale| {
            let (command, line, seq) = tell(tale, "new");
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            tale.send(command, line);
            let what = What::Ack { re: Kind::Message, seq: seq - 1, at_ms: 1, duplicate: true };
            tale.answer(command, line, what);
            tale.show();
        },
        &[Rule::AcksDisagree, Rule::AckedAtWrongSeq],
    ),
    (
        "a resend is acked as if it were the first",
        |tale| {
            let (command, line, seq) = tell(tale, "new");
            tale.send(command, line);
            for _ in 0..2 {
                let ack = tale.ack(seq, false);
                tale.answer(command, line, ack);
            }
            tale.show();
        },
        &[Rule::TwoFirstAcks],
    ),
    (
        "an ack comes to somebody who did not ask",
        |tale| {
            let (command, line, seq) = tell(tale, "new");
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            let (other, duplicate) = (tale.line(), tale.ack(seq, true));
            tale.answer(command, other, duplicate);
            tale.show();
        },
        &[Rule::AnswerToNothing],
    ),
    (
        "an ack comes before its command is sent",
        |tale| {
            let (command, line, seq) = tell(tale, "new");
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            let sent_at = tale.tick();
            tale.sent.last_mut().unwrap().at = sent_at;
            tale.show();
        },
        &[Rule::AnswerToNothing],
    ),
    (
        "two answers on one connection change places",
        |tale| {
            let (first, second, line) =
                (tale.message(Some("new-1")), tale.message(Some("new-2")), tale.line());
            tale.send(first, line);
            tale.send(second, line);
            for command in [second, first] {
                tale.answer(command, line, What::Refused("not_member"));
            }
        },
        &[Rule::AnswerSkipped, Rule::AnswerOutOfOrder],
    ),
    (
        "an answer comes twice",
        |tale| {
            let (command, line) = (tale.message(Some("new")), tale.line());
            tale.send(command, line);
            tale.answer(command, line, What::Refused("unavailable"));
            tale.answer(command, line, What::Refused("not_member"));
        },
        &[Rule::AnswerOutOfOrder],
    ),
    (
        "a command is passed over in silence, and answered only when it comes again",
        |tale| {
            let (first, second) = (tale.message(Some("new-1")), tale.message(Some("new-2")));
            let (line, other) = (tale.line(), tale.line());
            tale.send(first, line);
            tale.send(second, line);
            tale.answer(second, line, What::Refused("not_member"));
            tale.send(first, other);
            tale.answer(first, other, What::Refused("not_member"));
        },
        &[Rule::AnswerSkipped],
    ),
    (
        "a command is never answered",
        |tale| {
            let (command, line) = (tale.message(Some("new")), tale.line());
            tale.send(command, line);
        },
        &[Rule::NeverAnswered],
    ),
    (
        "a command is answered by nothing but `unavailable`",
        |tale| {
            let (command, line) = (tale.message(Some("new")), tale.line());
            tale.send(command, line);
            tale.answer(command, line, What::Refused("unavailable"));
        },
        &[Rule::NeverAnswered],
    ),
    (
        "what was acked is refused when it comes again",
        |tale| {
            let (command, line, seq) = tell(tale, "new");
            let ack = tale.ack(seq, false);
            tale.answer(command, line, ack);
            tale.send(command, line);
            tale.answer(command, line, What::Refused("not_member"));
            tale.show();
        },
        &[Rule::RefusedAfterAck],
    ),
    (
        "a refused command is stored",
        |tale| {
            let (command, line, _) = tell(tale, "new");
            tale.answer(command, line, What::Refused("not_member"));
            tale.show();
        },
        &[Rule::RefusedButStored],
    ),
    (
        "what was sent after an ack is before it in the log",
        |tale| {
            let (late, line, late_seq) = tell(tale, "new-1");
            let (early, other, early_seq) = tell(tale, "new-2");
            let ack = tale.ack(early_seq, false);
            tale.answer(early, other, ack);
            let sent_at = tale.tick();
            tale.sent.iter_mut().find(|sent| sent.command == late).unwrap().at = sent_at;
            let ack = tale.ack(late_seq, false);
            tale.answer(late, line, ack);
            tale.show();
        },
        &[Rule::OrderBroken],
    ),
    (
        "what was sent after another had been shown is before it in the log",
        |tale| {
            let (late, line, late_seq) = tell(tale, "new-1");
            tale.show();
            let sent_at = tale.tick();
            tale.sent.iter_mut().find(|sent| sent.command == late).unwrap().at = sent_at;
            let ack = tale.ack(late_seq, false);
            tale.answer(late, line, ack);
        },
        &[Rule::DeliveredBeforeSent],
    ),
    (
        "a message is shown before it is sent",
        |tale| {
            let (line, steps) = (tale.line(), tale.view().len());
            let command = tale.message(None);
            tale.store(command);
            tale.show();
            assert!(tale.view().len() > steps);
            tale.send(command, line);
        },
        &[Rule::DeliveredBeforeSent],
    ),
];
