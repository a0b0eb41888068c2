//! A log in memory, for tests. It decides as the others do. Its creator determines what happens to
//! each call: it may be late, fail, or not say whether it committed.
//!
//! Nothing survives the process, so no node can have it. It waits only on tokio's clock, so a test
//! can run everything above the log in virtual time (see `sim`).

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::LogError;
use super::health::Health;
use crate::model::{Event, RoomName, Seq, Timestamp, UserId};
use crate::rules::{self, Outcome, Reading, Standing, Write};

/// Where a call is: on its way to the stored data, or back with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    Read,
    FromRead,
    Append,
    FromAppend,
}

/// What one leg of a call waits for, and whether it succeeds.
pub type Passed = Pin<Box<dyn Future<Output = Result<(), LogError>> + Send>>;
/// Decides what happens to each leg of each call.
pub type Way = Box<dyn Fn(Leg) -> Passed + Send + Sync>;
/// Called with each event at the moment of its commit.
pub type Witness = Box<dyn Fn(&Event) + Send + Sync>;

/// Clones share one log.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    way: Way,
    witness: Witness,
    health: Health,
    stored: Mutex<Stored>,
}

#[derive(Default)]
struct Stored {
    rooms: BTreeMap<RoomName, MemoryRoom>,
    /// The time of the last commit; no two are the same.
    now: i64,
}

#[derive(Default)]
struct MemoryRoom {
    /// The facts for the rules.
    facts: rules::Room,
    events: Vec<Event>,
    /// The writes that caused the events, each with the number of events after it.
    writes: Vec<(Write, usize)>,
    /// Events that cannot be read.
    damaged: BTreeSet<Seq>,
}

impl Memory {
    pub fn new(way: Way, witness: Witness) -> Self {
        let (health, stored) = (Health::new("memory"), Mutex::default());
        Self(Arc::new(Shared { way, witness, health, stored }))
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn health(&self) -> &Health {
        &self.0.health
    }

    /// Decides and commits at once, as another node would.
    pub fn commit(&self, writes: &[Write]) -> Vec<Outcome> {
        let mut stored = self.stored();
        let stored = &mut *stored;
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            stored.now += 1;
            let room = stored.rooms.entry(write.room.clone()).or_default();
            let outcome = room.decide(write, Timestamp(stored.now));
            outcome.events().for_each(&self.0.witness);
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Sets the room back to what it was when `to` was its last seq.
    pub fn go_back(&self, name: &RoomName, to: Seq) {
        let mut stored = self.stored();
        let Some(room) = stored.rooms.get_mut(name) else { return };
        let old = std::mem::take(room);
        for (write, len) in old.writes.iter().take_while(|(_, len)| *len as u64 <= to.0) {
            room.decide(write, old.events[len - 1].at);
        }
    }

    /// Makes the event at `seq` unreadable, or readable again.
    pub fn set_damaged(&self, name: &RoomName, seq: Seq, is_damaged: bool) {
        let mut stored = self.stored();
        let Some(room) = stored.rooms.get_mut(name) else { return };
        if is_damaged {
            room.damaged.insert(seq)
        } else {
            room.damaged.remove(&seq)
        };
    }

    pub async fn append(&self, writes: &[Write]) -> Result<Vec<Outcome>, LogError> {
        (self.0.way)(Leg::Append).await?;
        let outcomes = self.commit(writes);
        (self.0.way)(Leg::FromAppend).await?;
        Ok(outcomes)
    }

    pub async fn last_seqs_written(
        &self,
        rooms: &[RoomName],
    ) -> Result<Vec<(RoomName, Seq)>, LogError> {
        let last_seqs = self.last_seqs(rooms).await?;
        let known = rooms.iter().cloned().zip(last_seqs);
        Ok(known.filter_map(|(room, last_seq)| Some((room, last_seq?))).collect())
    }

    pub async fn read_page(
        &self,
        name: &RoomName,
        after: Seq,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        self.read(|rooms| {
            let Some(room) = rooms.get(name) else { return Ok(Vec::new()) };
            let (mut page, mut bytes) = (Vec::new(), 0);
            for event in room.events.iter().skip(after.0 as usize).take(limit) {
                if room.damaged.contains(&event.seq) {
                    return Err(LogError::Damaged("a test says so".into()));
                }
                bytes += event.content_bytes();
                if bytes > bytes_max && !page.is_empty() {
                    break;
                }
                page.push(event.clone());
            }
            Ok(page)
        })
        .await
    }

    pub async fn standing(
        &self,
        name: &RoomName,
        user: &UserId,
    ) -> Result<Option<Standing>, LogError> {
        self.read(|rooms| Ok(rooms.get(name).and_then(|room| room.standing(user)))).await
    }

    pub async fn standings(
        &self,
        names: &[RoomName],
        user: &UserId,
    ) -> Result<Vec<Option<Standing>>, LogError> {
        let standing = |rooms: &BTreeMap<_, MemoryRoom>, name| rooms.get(name)?.standing(user);
        self.read(|rooms| Ok(names.iter().map(|name| standing(rooms, name)).collect())).await
    }

    pub async fn last_seq(&self, name: &RoomName) -> Result<Option<Seq>, LogError> {
        self.read(|rooms| Ok(rooms.get(name).and_then(MemoryRoom::last_seq))).await
    }

    pub async fn last_seqs(&self, names: &[RoomName]) -> Result<Vec<Option<Seq>>, LogError> {
        let last_seq = |rooms: &BTreeMap<_, MemoryRoom>, name| rooms.get(name)?.last_seq();
        self.read(|rooms| Ok(names.iter().map(|name| last_seq(rooms, name)).collect())).await
    }

    async fn read<T>(
        &self,
        read: impl FnOnce(&BTreeMap<RoomName, MemoryRoom>) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        (self.0.way)(Leg::Read).await?;
        let found = read(&self.stored().rooms);
        (self.0.way)(Leg::FromRead).await?;
        found
    }
}

/// For calls that this log does not implement, because no test needs them yet.
pub(super) fn no<T>() -> Result<T, LogError> {
    Err(LogError::Unavailable("not implemented by the log in memory".into()))
}

impl MemoryRoom {
    fn decide(&mut self, write: &Write, at: Timestamp) -> Outcome {
        let outcome = self.facts.decide(write, at);
        let before = self.events.len();
        self.events.extend(outcome.events().cloned());
        if self.events.len() > before {
            self.writes.push((write.clone(), self.events.len()));
        }
        outcome
    }

    /// `None` for a room that was only asked for.
    fn last_seq(&self) -> Option<Seq> {
        self.facts.created_by.as_ref().map(|_| self.facts.last_seq)
    }

    /// Read marks are not kept: every member has read everything.
    fn standing(&self, user: &UserId) -> Option<Standing> {
        let last_seq = self.last_seq()?;
        let role = self.facts.members.get(user).copied();
        Some(Standing {
            last_seq,
            members: self.facts.member_count,
            messages: self.facts.message_count,
            role,
            reading: role.map(|_| Reading { read: last_seq, unread: 0 }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::log::Log;
    use crate::model::{ClientId, Text};
    use crate::protocol::command::Verb;
    use crate::rules::Receipt;

    fn name() -> RoomName {
        RoomName::stored("r")
    }

    fn write(user: usize, id: Option<usize>, verb: Verb) -> Write {
        let id = id.map(|id| ClientId::stored(&id.to_string()));
        Write { room: name(), caller: UserId::stored(&user.to_string()), id, verb }
    }

    /// What can be compared; times differ.
    fn without_time(outcomes: Vec<Option<Outcome>>) -> Vec<String> {
        let at = Timestamp(0);
        let strip = |outcome| match outcome {
            Some(Outcome::Committed { event, caused }) => {
                Some(Outcome::Committed { event: Event { at, ..event }, caused })
            }
            Some(Outcome::Joined { event, last_seq, members, messages }) => {
                let event = event.map(|event| Event { at, ..event });
                Some(Outcome::Joined { event, last_seq, members, messages })
            }
            Some(Outcome::Duplicate(receipt)) => {
                Some(Outcome::Duplicate(Receipt { at, ..receipt }))
            }
            refused => refused,
        };
        outcomes.into_iter().map(|outcome| format!("{:?}", strip(outcome))).collect()
    }

    /// Tests on this log would prove nothing if it behaved differently from a real one.
    #[tokio::test]
    async fn it_behaves_like_the_embedded_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::from_defaults();
        config.log.path = folder.path().join("verbatim.db").display().to_string();
        let real = Log::open(&config).await.unwrap();
        let memory = Log::Memory(Memory::new(
            Box::new(|_| Box::pin(std::future::ready(Ok(())))),
            Box::new(|_| {}),
        ));
        for round in 0_usize..60 {
            let one = |n: usize| {
                let dice = (round * 31 + n * 17) % 23;
                let verb = match dice % 6 {
                    0 => Verb::Join,
                    1 => Verb::Leave,
                    2 if round > 5 => Verb::Create,
                    _ => Verb::Message(Text::stored(&"x".repeat(1 + dice))),
                };
                write(dice % 4, dice.is_multiple_of(3).then_some(round / 3 + n), verb)
            };
            let writes: Vec<Write> = (0..round % 5).map(one).collect();
            let mut told = Vec::new();
            for log in [&real, &memory] {
                let outcomes = log.appender().append(&writes, None).await.unwrap();
                told.push(without_time(outcomes));
            }
            assert_eq!(told[0], told[1], "round {round}");
            let (room, user) = (name(), UserId::stored(&(round % 4).to_string()));
            let (after, limit, bytes) = (Seq(round as u64 / 2), round % 7, round % 50);
            for what in 0..4 {
                let mut told = Vec::new();
                for log in [&real, &memory] {
                    told.push(match what {
                        0 => {
                            let page = log.read_page(&room, after, limit, bytes).await.unwrap();
                            let known = page.into_iter().map(|it| (it.seq, it.kind, it.text));
                            format!("{:?}", known.collect::<Vec<_>>())
                        }
                        1 => format!("{:?}", log.last_seq(&room).await.unwrap()),
                        2 => {
                            let standing = log.standing(&room, &user).await.unwrap();
                            let known = standing.map(|it| (it.last_seq, it.members, it.messages));
                            format!("{known:?} {:?}", standing.and_then(|it| it.role))
                        }
                        _ => {
                            let rooms = [RoomName::stored("none"), room.clone()];
                            format!("{:?}", log.last_seqs(&rooms).await.unwrap())
                        }
                    });
                }
                assert_eq!(told[0], told[1], "round {round}, question {what}");
            }
        }
    }

    #[tokio::test]
    async fn it_goes_back_to_what_it_was() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (witnessed, at) = (seen.clone(), |event: &Event| (event.seq, event.at));
        let memory = Memory::new(
            Box::new(|_| Box::pin(std::future::ready(Ok(())))),
            Box::new(move |event| witnessed.lock().unwrap().push(at(event))),
        );
        let say = || write(1, None, Verb::Message(Text::stored("x")));
        memory.commit(&[write(1, None, Verb::Create), say(), write(2, None, Verb::Join), say()]);
        let before = memory.read_page(&name(), Seq(0), 9, 999).await.unwrap();
        memory.go_back(&name(), Seq(2));
        assert_eq!(memory.last_seq(&name()).await.unwrap(), Some(Seq(2)));
        assert_eq!(memory.read_page(&name(), Seq(0), 9, 999).await.unwrap(), before[..2]);
        let refused = memory.commit(&[write(2, None, Verb::Leave)]);
        assert!(matches!(refused[0], Outcome::Refused(_)), "2 has never joined");
        memory.commit(&[say()]);
        memory.set_damaged(&name(), Seq(2), true);
        let read = async |after| memory.read_page(&name(), after, 9, 999).await;
        assert!(matches!(read(Seq(0)).await, Err(LogError::Damaged(_))));
        let last = read(Seq(2)).await.unwrap().pop().unwrap();
        assert!(last.seq == Seq(3) && last.at > before[3].at);
        let seqs: Vec<u64> = seen.lock().unwrap().iter().map(|(seq, _)| seq.0).collect();
        assert_eq!(seqs, [1, 2, 3, 4, 3]);
    }
}
