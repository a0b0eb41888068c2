//! What docs/guarantees.md promises is what the checker looks for: all its rules, no others, and
//! tests that are there.

use std::collections::BTreeSet;
use std::path::Path;

use verbatim_checker::Rule;

const TEXT: &str = include_str!("../../docs/guarantees.md");

/// The words in backticks, in the lines of the table of promises or in all.
fn words(is_table: bool) -> impl Iterator<Item = &'static str> {
    let lines = TEXT.lines().filter(move |line| !is_table || line.starts_with('|'));
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn each_rule_stands_beside_a_promise() {
    let is_rule = |word: &&str| word.contains('-') && !word.contains(['/', ' ']);
    let written: BTreeSet<&str> = words(true).filter(is_rule).collect();
    let rules: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    let missing: Vec<_> = rules.difference(&written).collect();
    assert!(missing.is_empty(), "rules without a promise: {missing:?}");
    let unknown: Vec<_> = written.difference(&rules).collect();
    assert!(unknown.is_empty(), "not rules of the checker: {unknown:?}");
}

#[test]
fn the_tests_that_are_named_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths: Vec<_> = words(false).filter(|word| word.contains("tests/")).collect();
    assert!(paths.len() > 15, "the table was not found");
    let missing: Vec<_> = paths.iter().filter(|path| !top.join(path).exists()).collect();
    assert!(missing.is_empty(), "there are no such files: {missing:?}");
}
