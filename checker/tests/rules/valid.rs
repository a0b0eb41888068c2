//! What is well is let through, whatever happened; and what is then changed is not.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::sample::Index;
use verbatim_checker::{Kind, Report, Rule, Start, check};

use crate::chat::{Move, play};
use crate::tale::{Answer, CommandTale, Step, Tale, What};

fn moves() -> impl Strategy<Value = Vec<Move>> {
    prop::collection::vec(any::<Move>(), 0..150)
}

/// The deliveries of a tale: view and step of each.
fn deliveries(tale: &Tale) -> Vec<(usize, usize)> {
    let views = tale.views.iter().enumerate();
    let steps = views.flat_map(|(view, it)| it.steps.iter().enumerate().map(move |it| (view, it)));
    let shown = steps.filter(|(_, (_, step))| matches!(step, Step::Shown { .. }));
    shown.map(|(view, (step, _))| (view, step)).collect()
}

/// Commands of which nobody was ever told what became of them.
fn unknown(tale: &Tale) -> usize {
    // The id makes two commands of one type the same; without one, what they say. A join has none.
    let key = |command: &CommandTale| {
        let id = command.id.clone().filter(|_| command.kind != Kind::Join);
        let text = command.text.clone().filter(|_| id.is_none());
        (command.room.clone(), command.user.clone(), command.kind, id, text)
    };
    let sent: HashSet<_> = tale.sent.iter().map(|it| key(&tale.commands[it.command])).collect();
    let is_known = |it: &&Answer| !matches!(it.what, What::Refused("unavailable"));
    let answers = tale.answers.iter().filter(is_known);
    let answered: HashSet<_> = answers.map(|it| key(&tale.commands[it.command])).collect();
    let views = tale.views.iter();
    let joined: HashSet<_> = views.map(|it| (it.room.clone(), it.user.clone())).collect();
    let has_joined = |(room, user, kind, ..): &(String, String, Kind, _, _)| {
        *kind == Kind::Join && joined.contains(&(room.clone(), user.clone()))
    };
    sent.iter().filter(|key| !answered.contains(*key) && !has_joined(key)).count()
}

fn broken(tale: &Tale) -> Report {
    check(&tale.history())
}

fn is_any(report: &Report, rules: &[Rule]) -> bool {
    rules.iter().any(|rule| report.totals.contains_key(rule))
}

proptest! {
    // In debug builds a chat takes a few milliseconds.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_chat_that_keeps_every_promise_is_let_through(moves in moves(), has_table: bool) {
        let mut tale = play(&moves);
        tale.has_table = has_table;
        let report = check(&tale.history());
        prop_assert!(report.is_clean(), "{:#?}", report.violations);
        prop_assert_eq!(report.counts.events, tale.rows.len());
        prop_assert_eq!(report.counts.attempts, tale.sent.len());
        prop_assert_eq!(report.counts.deliveries, deliveries(&tale).len());
        prop_assert_eq!(report.counts.indeterminate, unknown(&tale));
    }

    #[test]
    fn any_one_delivery_that_is_dropped_is_missed(moves in moves(), which: Index) {
        let mut tale = play(&moves);
        let (view, step) = *which.get(&deliveries(&tale));
        let steps = &mut tale.views[view].steps;
        steps.remove(step);
        // The last one before the client asks again is nobody's loss: connections break, and what
        // it asks for then does not depend on what it was about to be shown.
        let is_unmoved = |it: &Step| matches!(it, Step::Joined { start: Start::Unmoved, .. });
        let next = steps[step..].iter().find(|step| !is_unmoved(step));
        let is_last = matches!(next, Some(Step::Joined { .. }));
        let report = broken(&tale);
        let rules = [Rule::DeliveredWithHole, Rule::StartsAtWrongSeq, Rule::StoppedShort];
        prop_assert_eq!(is_any(&report, &rules), !is_last, "{:#?}", report.violations);
    }

    #[test]
    fn any_one_delivery_that_comes_twice_is_noticed(moves in moves(), which: Index) {
        let mut tale = play(&moves);
        let (view, step) = *which.get(&deliveries(&tale));
        let twice = tale.views[view].steps[step].clone();
        tale.views[view].steps.insert(step, twice);
        let rules = [Rule::DeliveredTwice, Rule::DeliveredAfterLeave];
        prop_assert!(is_any(&broken(&tale), &rules));
    }

    #[test]
    fn any_two_deliveries_that_change_places_are_noticed(moves in moves(), which: Index) {
        let mut tale = play(&moves);
        let is_pair = |place: &(usize, usize)| {
            matches!(tale.views[place.0].steps.get(place.1 + 1), Some(Step::Shown { .. }))
        };
        let pairs: Vec<_> = deliveries(&tale).into_iter().filter(is_pair).collect();
        let (view, step) = *which.get(&pairs);
        tale.views[view].steps.swap(step, step + 1);
        let rules = [Rule::DeliveredOutOfOrder, Rule::StartsAtWrongSeq];
        prop_assert!(is_any(&broken(&tale), &rules));
    }

    #[test]
    fn any_one_byte_of_a_delivery_that_is_altered_is_noticed(
        moves in moves(),
        which: Index,
        byte: Index,
    ) {
        let mut tale = play(&moves);
        let (view, step) = *which.get(&deliveries(&tale));
        let Step::Shown { frame, .. } = &mut tale.views[view].steps[step] else { panic!() };
        let characters: Vec<_> = frame.char_indices().collect();
        let (at, old) = *byte.get(&characters);
        let new = if old == '7' { "8" } else { "7" };
        frame.replace_range(at..at + old.len_utf8(), new);
        let rules = [
            Rule::DeliveredOtherwiseThanStored,
            Rule::DeliveredNotStored,
            Rule::DeliveredUnasked,
            Rule::UnreadableFrame,
        ];
        prop_assert!(is_any(&broken(&tale), &rules));
    }

    #[test]
    fn any_one_row_that_is_lost_is_missed(moves in moves(), which: Index) {
        let mut tale = play(&moves);
        let row = which.index(tale.rows.len());
        tale.rows.remove(row);
        let report = broken(&tale);
        // Not every row was shown to somebody, but the pages of the end have all of them.
        prop_assert!(is_any(&report, &[Rule::PageDiffersFromLog]), "{:#?}", report.violations);
        prop_assert!(is_any(&report, &[Rule::HoleInLog, Rule::CountersDiffer]));
    }

    #[test]
    fn any_one_ack_of_another_seq_is_noticed(moves in moves(), which: Index, by in 1u64..5) {
        let mut tale = play(&moves);
        let acks = tale.answers.iter_mut().filter_map(|answer| match &mut answer.what {
            What::Ack { seq, .. } => Some(seq),
            What::Refused(_) => None,
        });
        let mut acks: Vec<_> = acks.collect();
        let ack = which.index(acks.len());
        *acks[ack] += by;
        prop_assert!(is_any(&broken(&tale), &[Rule::AckedAtWrongSeq]));
    }
}
