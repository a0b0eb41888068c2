//! The rules.

use crate::history::{Counts, History};
use crate::violation::Violation;

/// What came of judging a history.
#[derive(Debug, Default)]
pub struct Report {
    pub counts: Counts,
    /// The first few of each name.
    pub violations: Vec<Violation>,
    /// All of them.
    pub violations_total: usize,
}

/// Judges a history.
pub fn check(_history: &History) -> Report {
    Report::default()
}
