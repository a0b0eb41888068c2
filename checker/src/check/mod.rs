//! The rules, each file a few that look at the same thing.

mod answers;
mod commands;
mod findings;
mod heals;
mod index;
mod log;
mod reads;
mod stream;
mod times;
mod views;

use std::collections::{BTreeMap, HashMap};

use self::findings::{About, Findings};
use self::index::Index;
use crate::history::History;
use crate::names::{Command, Node};
use crate::record::Nanos;
use crate::violation::{Rule, Violation};

/// What came of judging a history.
#[derive(Debug, Default)]
pub struct Report {
    pub counts: Counts,
    /// The first few of each rule.
    pub violations: Vec<Violation>,
    /// How often each rule was broken.
    pub totals: BTreeMap<Rule, usize>,
    /// How long it took after each fault until everything flowed again, in the order of telling.
    pub heals: Vec<Nanos>,
}

/// How much there was to judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub rooms: usize,
    pub connections: usize,
    /// Commands that were sent, each counted once.
    pub commands: usize,
    pub attempts: usize,
    /// Commands that were acked, at least once.
    pub acked: usize,
    /// Commands that were sent and got no answer at all, or only that nobody knows: each is in the
    /// log once, or not.
    pub indeterminate: usize,
    pub views: usize,
    pub deliveries: usize,
    /// Events in the log.
    pub events: usize,
    pub pages: usize,
    pub reads: usize,
    pub stream_entries: usize,
    /// The longest that a follower had to wait, after the last fault, for what was there by then.
    pub heal: Nanos,
}

/// Judges a history.
pub fn check(history: &History) -> Report {
    let mut findings = Findings::new(history);
    let index = Index::new(history, &mut findings);
    log::judge(history, &index, &mut findings);
    commands::judge(history, &index, &mut findings);
    answers::judge(history, &index, &mut findings);
    times::judge(history, &index, &mut findings);
    let heal = views::judge(history, &index, &mut findings);
    reads::judge(history, &index, &mut findings);
    stream::judge(history, &index, &mut findings);
    judge_memory(history, &mut findings);
    let counts = Counts { heal, ..count(history, &index) };
    let heals = heals::measure(history, &index);
    let Findings { violations, totals, .. } = findings;
    Report { counts, violations, totals, heals }
}

impl Report {
    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.totals.is_empty()
    }

    /// All violations, also those that were not kept.
    pub fn total(&self) -> usize {
        self.totals.values().sum()
    }
}

/// The worst moment of each node.
fn judge_memory(history: &History, findings: &mut Findings<'_>) {
    let Some(bound) = history.limits.memory_bytes else { return };
    let mut worst: HashMap<Node, u64> = HashMap::new();
    for (node, _, bytes) in &history.memory {
        let most = worst.entry(*node).or_default();
        *most = (*most).max(*bytes);
    }
    let mut worst: Vec<_> = worst.into_iter().filter(|(_, bytes)| *bytes > bound).collect();
    worst.sort_unstable();
    for (node, bytes) in worst {
        findings.add(Rule::MemoryBeyondBound, About::default(), |history| {
            format!("{} had {bytes} bytes of {bound}", history.node_name(node))
        });
    }
}

fn count(history: &History, index: &Index) -> Counts {
    let sent = || index.facts.iter().filter(|facts| facts.attempts > 0);
    let commands = (0..index.facts.len()).map(Command::from);
    Counts {
        rooms: index.log.iter().filter(|log| !log.lines.is_empty()).count(),
        connections: history.connections.len(),
        commands: sent().count(),
        attempts: history.attempts.len(),
        acked: sent().filter(|facts| facts.was_acked()).count(),
        indeterminate: commands.filter(|command| index.is_indeterminate(*command)).count(),
        views: history.views.len(),
        deliveries: history.views.iter().map(|view| view.deliveries.len()).sum(),
        events: index.log.iter().map(|log| log.lines.len()).sum(),
        pages: history.pages.len(),
        reads: history.reads.len(),
        stream_entries: history.stream.len(),
        heal: 0,
    }
}
