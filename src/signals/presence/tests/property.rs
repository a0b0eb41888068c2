//! What watchers are told, as a property: some nodes, a channel that loses and delays, users who
//! come and go. When it is quiet again, everyone knows the truth.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// A socket that watches: it applies what it is sent.
#[derive(Clone, Debug, PartialEq)]
struct Watcher {
    node: usize,
    knows: Option<Crowd>,
    /// It could not take the last frame.
    stale: bool,
}

impl Watcher {
    fn told(&mut self, tell: &Tell, takes: bool) {
        if !takes {
            self.stale = true;
            return;
        }
        if self.stale || tell.what == What::Whole {
            self.knows = Some(tell.whole.clone());
        } else if let What::Difference { online, offline } = &tell.what {
            let Some(Crowd::Listed(users)) = &mut self.knows else {
                panic!("a difference to what it does not have");
            };
            users.extend(online.iter().cloned());
            users.retain(|user| !offline.contains(user));
            assert_eq!(users.len() as u64, tell.whole.count(), "the count is of what it has now");
        } else if tell.what == What::Count {
            self.knows = Some(Crowd::Counted(tell.whole.count()));
        }
        self.stale = false;
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Somebody opens or closes a socket on a node.
    Toggle(usize, u8),
    /// Somebody asks on a node, and watches.
    Ask(usize),
    /// The watchers of a node stop or start taking frames.
    Stall(usize),
    /// This many tenths of a second pass.
    Pass(u8),
    /// The channel loses what is on its way.
    Lose,
    /// The channel loses everything for this many seconds.
    Away(u8),
    /// A node dies with its sockets, and another takes its name.
    Kill(usize),
}

const NODES: usize = 3;

struct Cluster {
    now: Instant,
    nodes: Vec<Presence>,
    /// Who has a socket, by node.
    sockets: Vec<BTreeMap<u8, ()>>,
    /// Whether anybody came or went since the last look, by node. Otherwise there is no look.
    doors: [bool; NODES],
    stalled: [bool; NODES],
    watchers: Vec<Watcher>,
    /// What is on its way: from, to.
    channel: VecDeque<(usize, usize, Said)>,
    tenths: u64,
}

impl Cluster {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            nodes: (0..NODES).map(|_| Presence::new(limits())).collect(),
            sockets: vec![BTreeMap::new(); NODES],
            doors: [true; NODES],
            stalled: [false; NODES],
            watchers: Vec::new(),
            channel: VecDeque::new(),
            tenths: 0,
        }
    }

    fn say(&mut self, from: usize, said: &Said) {
        for to in (0..NODES).filter(|to| *to != from) {
            self.channel.push_back((from, to, said.clone()));
        }
    }

    fn look(&mut self, node: usize, asked: bool) {
        let users = self.sockets[node].keys().copied().collect::<Vec<_>>();
        let watched = self.watchers.iter().any(|watcher| watcher.node == node);
        let seen = seen(&users, watched);
        self.nodes[node].seen(&room(0), seen, asked, self.now);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Toggle(node, id) => {
                if self.sockets[node].remove(&id).is_none() {
                    self.sockets[node].insert(id, ());
                }
                self.doors[node] = true;
            }
            Step::Ask(node) => {
                self.nodes[node].want(&room(0), &[], self.now);
                if self.nodes[node].gap(&room(0), self.now).is_some_and(|gap| gap.ask) {
                    self.say(node, &Said { ask: vec![room(0)], ..Said::default() });
                }
                // It waits for nobody, the worst case.
                self.nodes[node].give_up(&room(0));
                self.watchers.push(Watcher { node, knows: None, stale: false });
                self.doors[node] = true;
                self.look(node, true);
                let knows = self.nodes[node].snapshot(&room(0), None);
                self.watchers.last_mut().expect("the one above").knows = knows;
            }
            Step::Stall(node) => self.stalled[node] = !self.stalled[node],
            Step::Lose => self.channel.clear(),
            Step::Away(seconds) => {
                for _ in 0..u32::from(seconds) * 10 {
                    self.channel.clear();
                    self.tenth();
                }
            }
            Step::Kill(node) => {
                self.nodes[node] = Presence::new(limits());
                self.sockets[node].clear();
                self.doors[node] = true;
                self.watchers.retain(|watcher| watcher.node != node);
            }
            Step::Pass(tenths) => (0..tenths).for_each(|_| self.tenth()),
        }
    }

    fn tenth(&mut self) {
        self.now += SECOND / 10;
        self.tenths += 1;
        for (from, to, said) in std::mem::take(&mut self.channel) {
            let ask = said.ask.clone();
            self.nodes[to].hear(&format!("n{from}"), said, self.now);
            if !ask.is_empty() {
                self.look(to, true);
                let online = self.nodes[to].answer(&ask, self.now);
                self.say(to, &Said { online, ..Said::default() });
            }
        }
        for node in 0..NODES {
            for (_, is_new) in self.nodes[node].rooms() {
                if std::mem::take(&mut self.doors[node]) || is_new {
                    self.look(node, false);
                }
            }
            let (tells, online) = self.nodes[node].tick(self.now);
            self.say(node, &Said { online, ..Said::default() });
            for tell in tells {
                let takes = !self.stalled[node];
                for watcher in self.watchers.iter_mut().filter(|it| it.node == node) {
                    watcher.told(&tell, takes);
                }
                if !takes {
                    self.nodes[node].missed(&room(0));
                }
            }
            if self.tenths.is_multiple_of(50) {
                let said = self.nodes[node].round(self.now);
                self.say(node, &said);
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..NODES, 0..7_u8).prop_map(|(node, id)| Step::Toggle(node, id)),
        2 => (0..NODES).prop_map(Step::Ask),
        1 => (0..NODES).prop_map(Step::Stall),
        6 => (1..25_u8).prop_map(Step::Pass),
        1 => Just(Step::Lose),
        1 => (1..25_u8).prop_map(Step::Away),
        1 => (0..NODES).prop_map(Step::Kill),
    ]
}

proptest! {
    #[test]
    fn when_it_is_quiet_every_watcher_knows_who_is_online(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut cluster = Cluster::new();
        for step in &steps {
            cluster.step(step);
        }
        cluster.stalled = [false; NODES];
        // A lease, a round, and a moment.
        cluster.step(&Step::Pass(230));
        let online: Vec<u8> = cluster.sockets.iter().flat_map(|it| it.keys().copied()).collect();
        let truth = crowd(&online);
        for watcher in &cluster.watchers {
            match (&watcher.knows, &truth) {
                (Some(Crowd::Listed(_)), _) => {
                    prop_assert_eq!(watcher.knows.as_ref(), Some(&truth));
                }
                // If some are only counted, a user on two nodes may count twice.
                (Some(Crowd::Counted(count)), _) => prop_assert!(*count >= truth.count()),
                (None, _) => prop_assert!(false, "it was never told"),
            }
            prop_assert!(!watcher.stale);
        }
        // And nobody is sent anything any more.
        let before = cluster.watchers.clone();
        cluster.step(&Step::Pass(100));
        prop_assert_eq!(before, cluster.watchers);
    }
}
