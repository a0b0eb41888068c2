//! The node's position in the stream under seeded schedules. Whatever Redis does, every event in it
//! is handed on, or the log is asked after its commit.
//!
//! Redis is a model here, and so is `Follow`: a step is one round trip, in `Follow`'s order.
//! Between any two steps others append, messages are lost, connections break, and the stream is
//! trimmed, emptied, or loses its end.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::*;
use crate::model::{RoomName, Seq};
use crate::protocol::frame::Frame;
use crate::sim::chance::Chance;

/// Schedules in an ordinary run.
const SCHEDULES: u64 = 20_000;

/// An event in Redis: its number among all, and whether it is sealed.
type Put = (StreamId, usize, bool);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Disconnect,
    LoseMessage,
    Trim,
    FailOver,
    Flush,
    DestroyGroup,
    ClockGoesBack,
    Stranger,
    Restart,
}

const TROUBLES: [Trouble; 9] = [
    Trouble::Disconnect,
    Trouble::LoseMessage,
    Trouble::Trim,
    Trouble::FailOver,
    Trouble::Flush,
    Trouble::DestroyGroup,
    Trouble::ClockGoesBack,
    Trouble::Stranger,
    Trouble::Restart,
];

#[derive(Default)]
struct Redis {
    origin: usize,
    clock: u64,
    /// `None`: there is no stream.
    stream: Option<Stream>,
    group: Option<StreamPosition>,
    /// Messages on their way to the node; `None`: it does not listen.
    channel: Option<VecDeque<Put>>,
}

#[derive(Clone, Default)]
struct Stream {
    entries: VecDeque<Put>,
    end: StreamPosition,
}

/// How far the node is with its connection.
enum Phase {
    Away,
    /// It listens, and has asked for the origin, then for the end.
    Asks(Option<String>, Option<Option<StreamPosition>>),
    Reads(CatchUp),
    Live,
}

struct World {
    chance: Chance,
    metrics: Arc<Metrics>,
    troubles: BTreeSet<Trouble>,
    redis: Redis,
    position: Position,
    phase: Phase,
    /// Whether somebody may follow: the first attempt is over.
    is_serving: bool,
    /// The number of events.
    count: usize,
    /// Events that nobody here knows yet.
    open: BTreeSet<usize>,
    doubts: usize,
    restarts: usize,
}

impl Redis {
    /// The script of an append: stream and channel at once.
    fn append(&mut self, number: usize, is_sealed: bool) {
        let stream = self.stream.get_or_insert_default();
        let now = StreamId { ms: self.clock, number: 0 };
        let last = stream.end.id;
        let next = StreamId { ms: last.ms, number: last.number + 1 };
        stream.end = StreamPosition { id: now.max(next), read: stream.end.read + 1 };
        let put = (stream.end.id, number, is_sealed);
        stream.entries.push_back(put);
        self.channel.iter_mut().for_each(|channel| channel.push_back(put));
    }

    fn end(&self) -> Option<StreamPosition> {
        self.stream.as_ref().map(|stream| stream.end)
    }

    /// `false`: there is no stream, or no group.
    fn set_group(&mut self, position: StreamPosition) -> bool {
        let is_there = self.stream.is_some() && self.group.is_some();
        if is_there {
            self.group = Some(position);
        }
        is_there
    }

    fn create_group(&mut self) {
        self.group = Some(self.stream.get_or_insert_default().end);
    }

    /// `None`: there is no stream, or no group.
    fn read(&mut self, len: usize) -> Option<StreamPage> {
        let (stream, group) = (self.stream.as_ref()?, self.group.as_mut()?);
        let news = stream.entries.iter().filter(|(id, ..)| *id > group.id).take(len);
        let entries: Vec<(StreamId, Found)> = news.map(|put| (put.0, found(*put))).collect();
        if let Some((id, _)) = entries.last() {
            let after = stream.entries.iter().filter(|(known, ..)| known > id).count();
            *group = StreamPosition { id: *id, read: stream.end.read - after as u64 };
        }
        let end = (entries.len() < len).then_some(stream.end);
        Some(StreamPage { entries, end })
    }
}

fn found((_, number, is_sealed): Put) -> Found {
    if !is_sealed {
        return Found::Unsealed;
    }
    let (room, seq, frame) = (RoomName::stored("r"), Seq(number as u64), Frame::text(b"{}"));
    Found::Event(Mirrored { room, seq, frame, left: None })
}

impl World {
    fn new(seed: u64, metrics: &Arc<Metrics>) -> Self {
        let chance = Chance::new(seed, std::env::var("SIM_SEED").is_ok());
        let troubles = TROUBLES.into_iter().filter(|_| chance.percent(30)).collect();
        let redis = Redis { clock: 100, ..Redis::default() };
        Self {
            chance,
            metrics: metrics.clone(),
            troubles,
            redis,
            position: Position::default(),
            phase: Phase::Away,
            is_serving: false,
            count: 0,
            open: BTreeSet::new(),
            doubts: 0,
            restarts: 0,
        }
    }

    fn run(mut self) -> Result<(), String> {
        let troubles: Vec<_> = self.troubles.iter().copied().collect();
        self.chance.tell(|| format!("{troubles:?}"));
        for _ in 0..self.chance.between(5, 80) {
            match self.chance.below(10) {
                0..3 => self.commit(),
                3..8 => self.advance(),
                8 => self.beat(),
                _ if troubles.is_empty() => {}
                _ => self.suffer(*self.chance.pick(&troubles)),
            }
        }
        // From here on everything works.
        for _ in 0..60 {
            self.advance();
        }
        self.commit();
        for _ in 0..3 {
            self.beat();
            for _ in 0..60 {
                self.advance();
            }
        }
        if !matches!(self.phase, Phase::Live) {
            return Err("it never comes to its end".into());
        }
        if let Some(number) = self.open.first() {
            return Err(format!("event {number} of {} is not known", self.count));
        }
        let is_calm = self.troubles.iter().all(|trouble| *trouble == Trouble::Disconnect);
        if is_calm && self.doubts > self.restarts {
            return Err(format!("{} doubts without a reason", self.doubts));
        }
        Ok(())
    }

    fn commit(&mut self) {
        self.redis.clock += self.chance.below(3) as u64;
        self.count += 1;
        if self.is_serving {
            self.open.insert(self.count);
        }
        let is_strange = self.troubles.contains(&Trouble::Stranger) && self.chance.percent(10);
        self.redis.append(self.count, !is_strange);
        let end = self.redis.end().unwrap_or_default();
        self.chance.tell(|| format!("event {} at {} ({})", self.count, end.id, end.read));
    }

    fn hand_on(&mut self, events: Vec<Mirrored>) {
        for event in events {
            self.chance.tell(|| format!("handed on: {}", event.seq));
            self.open.remove(&(event.seq.0 as usize));
        }
    }

    /// The log is asked for everything.
    fn doubt(&mut self) {
        self.chance.tell(|| "doubt".to_owned());
        self.doubts += 1;
        self.open.clear();
    }

    /// The next round trip, or a few messages.
    fn advance(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Away) {
            Phase::Away => {
                self.redis.channel = Some(VecDeque::new());
                Phase::Asks(None, None)
            }
            Phase::Asks(None, _) => Phase::Asks(Some(self.redis.origin.to_string()), None),
            Phase::Asks(origin, None) => Phase::Asks(origin, Some(self.redis.end())),
            Phase::Asks(origin, Some(end)) => self.begin(origin.unwrap_or_default(), end),
            Phase::Reads(catch_up) => self.read(catch_up),
            Phase::Live => {
                let channel = self.redis.channel.as_mut().expect("it listens");
                let len = self.chance.between(0, 3).min(channel.len());
                let messages = channel.drain(..len).collect();
                self.hear(messages, None);
                Phase::Live
            }
        };
        if matches!(self.phase, Phase::Away) {
            self.redis.channel = None;
        }
    }

    fn begin(&mut self, origin: String, end: Option<StreamPosition>) -> Phase {
        let group = self.redis.group.filter(|_| self.redis.stream.is_some());
        let catch_up = self.position.begin(StreamState { origin, end, group });
        match catch_up.from {
            Some(from) if !self.redis.set_group(from) => return self.lose(),
            Some(_) => {}
            None => {
                self.redis.create_group();
                let messages = self.redis.channel.iter_mut().flat_map(|it| it.drain(..)).collect();
                self.hear(messages, None);
            }
        }
        Phase::Reads(catch_up)
    }

    fn read(&mut self, mut catch_up: CatchUp) -> Phase {
        let Some(page) = self.redis.read(self.chance.between(1, 6)) else { return self.lose() };
        let (events, step) = self.position.on_page(&mut catch_up, page, &self.metrics);
        self.hand_on(events);
        if !self.position.go_on(&step) {
            return Phase::Reads(catch_up);
        }
        if self.position.caught_up(&catch_up) && self.is_serving {
            self.doubt();
        }
        self.is_serving = true;
        Phase::Live
    }

    /// The connection is lost, or of no use any more. After the first attempt the node serves.
    fn lose(&mut self) -> Phase {
        self.chance.tell(|| "the connection is lost".to_owned());
        self.restarts += usize::from(!self.is_serving);
        self.is_serving = true;
        Phase::Away
    }

    /// Whether position and count were those of the stream's end.
    fn hear(&mut self, messages: Vec<Put>, end: Option<StreamPosition>) -> bool {
        let mut hearing = self.position.hear(end);
        let mut events = Vec::new();
        for put in messages {
            let event = self.position.on_message(&mut hearing, put.0, found(put), &self.metrics);
            events.extend(event);
        }
        self.hand_on(events);
        self.position.agrees(&hearing)
    }

    fn beat(&mut self) {
        if !matches!(self.phase, Phase::Live) {
            return;
        }
        let is_lost = !self.redis.set_group(self.position.reached());
        let Some(end) = self.redis.end().filter(|_| !is_lost) else {
            self.phase = Phase::Asks(None, None);
            return;
        };
        let messages = self.redis.channel.iter_mut().flat_map(|it| it.drain(..)).collect();
        if !self.hear(messages, Some(end)) {
            self.phase = Phase::Asks(None, None);
        } else if self.position.agreed(end) {
            self.doubt();
        }
    }

    fn suffer(&mut self, trouble: Trouble) {
        self.chance.tell(|| format!("{trouble:?}"));
        match trouble {
            Trouble::Disconnect => self.disconnect(),
            Trouble::LoseMessage => {
                if let Some(channel) = &mut self.redis.channel {
                    channel.remove(self.chance.below(channel.len()));
                }
            }
            Trouble::Trim => {
                if let Some(stream) = &mut self.redis.stream {
                    let len = self.chance.below(stream.entries.len() + 1);
                    stream.entries.drain(..len);
                }
            }
            // The new master lacks the end.
            Trouble::FailOver => {
                self.redis.origin += 1;
                if let Some(stream) = &mut self.redis.stream {
                    for _ in 0..self.chance.below(4).min(stream.entries.len()) {
                        stream.entries.pop_back();
                        let before = stream.entries.back().map(|(id, ..)| *id);
                        let read = stream.end.read - 1;
                        stream.end = StreamPosition { id: before.unwrap_or_default(), read };
                    }
                    let end = stream.end;
                    self.redis.group =
                        self.redis.group.map(|it| if it.id > end.id { end } else { it });
                }
                self.disconnect();
            }
            Trouble::Flush => (self.redis.stream, self.redis.group) = (None, None),
            Trouble::DestroyGroup => self.redis.group = None,
            Trouble::ClockGoesBack => {
                self.redis.clock = self.redis.clock.saturating_sub(self.chance.below(20) as u64);
            }
            Trouble::Stranger => {}
            // The process ends and starts again: nobody follows anything yet.
            Trouble::Restart => {
                (self.position, self.is_serving) = (Position::default(), false);
                (self.phase, self.redis.channel) = (Phase::Away, None);
                self.open.clear();
            }
        }
    }

    fn disconnect(&mut self) {
        if !matches!(self.phase, Phase::Away) {
            self.phase = self.lose();
        }
        self.redis.channel = None;
    }
}

#[test]
fn sim_every_event_in_the_stream_is_handed_on_or_asked_for() {
    let setting = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match setting("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("SIM_SCHEDULES").unwrap_or(SCHEDULES),
    };
    let metrics = Arc::new(Metrics::new());
    for seed in seeds {
        if let Err(broken) = World::new(seed, &metrics).run() {
            panic!("after {seed} schedules: SIM_SEED={seed}: {broken}");
        }
    }
}
