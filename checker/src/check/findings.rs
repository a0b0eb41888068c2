//! The violations as they are found: all are counted, the first few of each rule are kept.

use std::collections::BTreeMap;

use crate::history::History;
use crate::names::{Command, Room, View};
use crate::record::Nanos;
use crate::violation::{Rule, Violation};

/// Cases of one rule that are kept with their sentence. A broken server breaks a promise a million
/// times, and nobody reads a million sentences.
const KEPT_MAX: usize = 20;

pub(super) struct Findings<'h> {
    history: &'h History,
    pub violations: Vec<Violation>,
    pub totals: BTreeMap<Rule, usize>,
}

/// What a violation is about; the rest of it is the sentence.
#[derive(Clone, Copy, Default)]
pub(super) struct About {
    pub room: Option<Room>,
    pub seqs: Option<(u64, u64)>,
    pub view: Option<View>,
    pub command: Option<Command>,
    pub time: Option<Nanos>,
}

impl<'h> Findings<'h> {
    pub fn new(history: &'h History) -> Self {
        Self { history, violations: Vec::new(), totals: BTreeMap::new() }
    }

    /// The sentence is made only if it is kept.
    pub fn add(&mut self, rule: Rule, about: About, sentence: impl FnOnce(&History) -> String) {
        let total = self.totals.entry(rule).or_default();
        *total += 1;
        if *total <= KEPT_MAX {
            let About { room, seqs, view, command, time: at } = about;
            let sentence = sentence(self.history);
            self.violations.push(Violation { rule, room, seqs, view, command, at, sentence });
        }
    }
}

impl About {
    pub fn place(room: Room, seq: u64) -> Self {
        Self { room: Some(room), seqs: Some((seq, seq)), ..Self::default() }
    }

    pub fn room(room: Room) -> Self {
        Self { room: Some(room), ..Self::default() }
    }

    pub fn command(room: Room, command: Command) -> Self {
        Self { room: Some(room), command: Some(command), ..Self::default() }
    }

    pub fn at(self, seq: u64) -> Self {
        let (first, last) = self.seqs.unwrap_or((seq, seq));
        Self { seqs: Some((first.min(seq), last.max(seq))), ..self }
    }

    pub fn of(self, command: Command) -> Self {
        Self { command: Some(command), ..self }
    }

    pub fn by(self, view: View) -> Self {
        Self { view: Some(view), ..self }
    }
}
