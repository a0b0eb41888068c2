//! Faults planted into a run that kept every promise: each must be called by its name, and by no
//! other name than those it deserves.

mod answers;
mod log;
mod reads;
mod set_back;
mod shown;
mod soil;

use std::collections::BTreeSet;

use verbatim_checker::{Rule, check};

use self::soil::soil;
use crate::tale::Tale;

/// A fault: what is wrong, how it comes about, and the rules that it breaks.
type Planted = (&'static str, fn(&mut Tale), &'static [Rule]);

fn all() -> impl Iterator<Item = &'static Planted> {
    [log::PLANTED, answers::PLANTED, shown::PLANTED, reads::PLANTED, set_back::PLANTED]
        .into_iter()
        .flatten()
}

#[test]
fn each_planted_fault_is_called_by_its_name() {
    let soil_is = |what: &str| soil().answers.iter().any(|it| it.what.is_refused(what));
    for code in ["unavailable", "not_member", "room_exists", "id_reused"] {
        assert!(soil_is(code), "{code} should be in it, and let through");
    }
    assert!(check(&soil().history()).is_clean());
    let mut wrong = Vec::new();
    for (what, plant, rules) in all() {
        let mut tale = soil();
        plant(&mut tale);
        let history = tale.history();
        let report = check(&history);
        let found: BTreeSet<Rule> = report.totals.keys().copied().collect();
        let wanted: BTreeSet<Rule> = rules.iter().copied().collect();
        if found != wanted {
            wrong.push(format!("{what}: wanted {wanted:?}, found {:#?}", report.violations));
        }
        for violation in &report.violations {
            let context = violation.context(&history);
            assert!(context.starts_with(violation.name()), "{context}");
            assert!(context.lines().count() < 40, "{what}: too long:\n{context}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_is_a_planted_fault_for_each_rule() {
    let planted: BTreeSet<Rule> = all().flat_map(|(_, _, rules)| *rules).copied().collect();
    let never: Vec<_> = Rule::ALL.iter().filter(|rule| !planted.contains(rule)).collect();
    assert!(never.is_empty(), "nothing shows that these are found: {never:?}");
    let names: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), Rule::ALL.len(), "two rules have one name");
}
