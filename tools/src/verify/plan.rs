//! What the clients of a run are and do: everything that a seed decides.
//!
//! It is pure: the same seed and shape give the same plan. When things happen, and in what order
//! the nodes see them, differs from run to run.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::text;

/// How large a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The number of clients; a quarter of them are talkers.
    pub clients: usize,
    pub rooms: usize,
    /// Messages per second of all talkers together.
    pub rate: u32,
    /// The longest message in bytes.
    pub message_bytes_max: usize,
}

/// With fewer clients, some manners of talking or habits of following would be missing.
pub const CLIENTS_MIN: usize = 24;
/// Most rooms of a follower: enough that one socket follows several, and few enough that not every
/// follower gets every event.
const FOLLOWED_MAX: usize = 3;
/// The most bytes of a user and a number, with which a text without an id begins to be unique.
const TAG_BYTES_MAX: usize = 128;
/// One in this many clients is a talker.
const CLIENTS_PER_TALKER: usize = 4;

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub rooms: Vec<String>,
    pub talkers: Vec<Talker>,
    pub followers: Vec<Follower>,
}

/// A client that writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Talker {
    pub user: String,
    /// The index of the URL that it tries first.
    pub home: usize,
    pub manner: Manner,
    /// The mean time between two commands.
    pub pace_ms: f64,
    /// Decides what it sends.
    pub seed: u64,
}

/// How a talker sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// One command at a time: the next is sent after the ack of the last.
    Patient,
    /// Up to `window` unanswered commands, several in one write.
    Pipelined { window: usize },
    /// Like `Patient`, and after each ack it asks another node for what it has written.
    Reading,
    /// If a command is not acked in time, sends it again on the same socket, with the same id.
    Hasty { patience_ms: u64 },
    /// Sends everything through two nodes at the same time, with the same id.
    Twin,
    /// Uses no ids, and sends nothing twice.
    Mumbling,
}

/// A client that reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Follower {
    pub user: String,
    pub home: usize,
    /// Indexes in `Plan::rooms`.
    pub rooms: Vec<usize>,
    pub entry: Entry,
    pub habit: Habit,
    /// Decides when it does what.
    pub seed: u64,
}

/// How a follower joins for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `since: 0`
    Beginning,
    /// `last: n`
    Last(u64),
    /// Neither: only events from its own `join` on.
    Now,
}

/// What a follower does repeatedly to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    Steady,
    /// Does not read for a while.
    Slow,
    /// Disconnects without closing, and comes back at another node.
    Vanishing(Vanish),
    /// Closes properly, and comes back at another node.
    Roaming,
    /// Leaves rooms, and joins them again from its position.
    Leaving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vanish {
    /// The connection is reset.
    Rst,
    /// The connection is ended, without the close handshake.
    Fin,
    /// The connection stays open, but is not read any more.
    Silent,
}

/// A command that a talker sends.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// The pause before it.
    pub pause_ms: u64,
    /// An index in `Plan::rooms`.
    pub room: usize,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Message(String),
    /// Leaves the room and joins it again.
    Return,
    /// Creates a room that other talkers create, too.
    Create(u64),
}

impl Plan {
    /// `run` makes the names of rooms and users differ from those of other runs.
    pub fn new(seed: u64, shape: &Shape, run: &str) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let clients = shape.clients.max(CLIENTS_MIN);
        let rooms: Vec<_> = (1..=shape.rooms.max(1)).map(|n| format!("{run}-{n}")).collect();
        let talkers_len = clients / CLIENTS_PER_TALKER;
        let pace_ms = 1000.0 * talkers_len as f64 / f64::from(shape.rate.max(1));
        let talker = |index: usize| Talker {
            user: format!("{run}-talker-{}", index + 1),
            home: rng.random_range(0..usize::from(u8::MAX)),
            manner: manner(index, &mut rng),
            pace_ms,
            seed: rng.random(),
        };
        let talkers = (0..talkers_len).map(talker).collect();
        let follower = |index: usize| Follower {
            user: format!("{run}-follower-{}", index + 1),
            // In turn, so that every node has equally many.
            home: index,
            rooms: some_rooms(index, rooms.len(), &mut rng),
            entry: entry(&mut rng),
            habit: habit(index),
            seed: rng.random(),
        };
        let followers = (0..clients - talkers_len).map(follower).collect();
        Self { rooms, talkers, followers }
    }
}

/// Each six talkers in a row have one of each manner.
fn manner(index: usize, rng: &mut StdRng) -> Manner {
    match index % 6 {
        0 => Manner::Pipelined { window: rng.random_range(4..64) },
        1 => Manner::Patient,
        2 => Manner::Twin,
        3 => Manner::Hasty { patience_ms: rng.random_range(2..200) },
        4 => Manner::Reading,
        _ => Manner::Mumbling,
    }
}

fn habit(index: usize) -> Habit {
    match index % 9 {
        0 | 4 | 7 => Habit::Steady,
        1 => Habit::Slow,
        2 => Habit::Vanishing(Vanish::Rst),
        3 => Habit::Vanishing(Vanish::Fin),
        5 => Habit::Vanishing(Vanish::Silent),
        6 => Habit::Roaming,
        _ => Habit::Leaving,
    }
}

fn entry(rng: &mut StdRng) -> Entry {
    match rng.random_range(0..10) {
        0..7 => Entry::Beginning,
        7 => Entry::Last(rng.random_range(0..200)),
        _ => Entry::Now,
    }
}

/// The follower's index decides the first, so that every room has followers.
fn some_rooms(index: usize, rooms_len: usize, rng: &mut StdRng) -> Vec<usize> {
    let mut rooms = vec![index % rooms_len];
    let others: Vec<_> = (0..rooms_len).filter(|room| *room != rooms[0]).collect();
    let more = rng.random_range(0..FOLLOWED_MAX);
    rooms.extend(others.choose_multiple(rng, more));
    rooms
}

/// The endless commands of one talker.
pub struct Words {
    rng: StdRng,
    pace_ms: f64,
    rooms_len: usize,
    message_bytes_max: usize,
    is_mumbling: bool,
    said: u64,
}

impl Words {
    pub fn new(talker: &Talker, shape: &Shape) -> Self {
        Self {
            rng: StdRng::seed_from_u64(talker.seed),
            pace_ms: talker.pace_ms,
            rooms_len: shape.rooms.max(1),
            message_bytes_max: shape.message_bytes_max.saturating_sub(TAG_BYTES_MAX).max(1),
            is_mumbling: talker.manner == Manner::Mumbling,
            said: 0,
        }
    }
}

impl Iterator for Words {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        let rng = &mut self.rng;
        self.said += 1;
        // Exponentially distributed, so that there are bursts and silences.
        let pause = -rng.random::<f64>().max(f64::MIN_POSITIVE).ln() * self.pace_ms;
        let room = rng.random_range(0..self.rooms_len);
        let what = match rng.random_range(0..200) {
            0..3 if !self.is_mumbling => What::Return,
            3 if !self.is_mumbling => What::Create(self.said / 50),
            _ => What::Message(text::random(rng, self.message_bytes_max)),
        };
        Some(Word { pause_ms: pause as u64, room, what })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn shape() -> impl Strategy<Value = Shape> {
        (1..200_usize, 1..20_usize, 1..2000_u32, 128..20_000_usize).prop_map(
            |(clients, rooms, rate, message_bytes_max)| Shape {
                clients,
                rooms,
                rate,
                message_bytes_max,
            },
        )
    }

    /// The words of a few talkers only, because making texts takes long.
    fn words(plan: &Plan, shape: &Shape) -> Vec<Vec<Word>> {
        plan.talkers.iter().take(4).map(|it| Words::new(it, shape).take(50).collect()).collect()
    }

    proptest! {
        #[test]
        fn the_same_seed_is_the_same_plan(seed: u64, shape in shape()) {
            let (one, two) = (Plan::new(seed, &shape, "r"), Plan::new(seed, &shape, "r"));
            prop_assert_eq!(words(&one, &shape), words(&two, &shape));
            prop_assert_eq!(&one, &two);
            let other = Plan::new(seed ^ 1, &shape, "r");
            prop_assert_ne!(words(&one, &shape), words(&other, &shape));
        }

        #[test]
        fn a_plan_has_every_manner_every_habit_and_a_follower_in_every_room(
            seed: u64,
            shape in shape(),
        ) {
            let plan = Plan::new(seed, &shape, "r");
            let manners: HashSet<_> =
                plan.talkers.iter().map(|it| std::mem::discriminant(&it.manner)).collect();
            prop_assert_eq!(manners.len(), 6);
            let habits: HashSet<_> =
                plan.followers.iter().map(|it| format!("{:?}", it.habit)).collect();
            prop_assert_eq!(habits.len(), 7);
            let followed: BTreeSet<_> = plan.followers.iter().flat_map(|it| &it.rooms).collect();
            // Where there are more rooms than followers, some have none.
            prop_assert!(followed.len() >= shape.rooms.min(plan.followers.len()));
            let users: HashSet<_> = plan.talkers.iter().map(|it| &it.user).collect();
            prop_assert_eq!(users.len(), plan.talkers.len());
        }

        #[test]
        fn talkers_keep_their_pace_and_their_limits(seed: u64, shape in shape()) {
            let plan = Plan::new(seed, &shape, "r");
            let talker = Talker { pace_ms: 100.0, ..plan.talkers[0].clone() };
            let words: Vec<_> = Words::new(&talker, &shape).take(1000).collect();
            let mean = words.iter().map(|it| it.pause_ms).sum::<u64>() / 1000;
            prop_assert!((70..130).contains(&mean), "{}", mean);
            for Word { room, what, .. } in words {
                prop_assert!(room < shape.rooms);
                if let What::Message(text) = what {
                    prop_assert!((1..=shape.message_bytes_max).contains(&text.len()));
                }
            }
        }
    }
}
