//! A history put in order: the log by room and seq, and what is known of each frame and command.
//!
//! It judges nothing but what it cannot put in order. With it, judging a delivery is two look-ups.

use std::collections::HashMap;

use super::findings::{About, Findings};
use crate::event::{Event, Kind};
use crate::history::History;
use crate::names::{Command, Frame, Room};
use crate::record::{Ack, Answer, CommandOf, Nanos, RoomRow};
use crate::violation::Rule;

/// Nobody ever: later than any time.
pub(super) const NEVER: Nanos = Nanos::MAX;

pub(super) struct Index {
    /// By room.
    pub log: Vec<RoomLog>,
    /// By frame.
    pub standings: Vec<Standing>,
    /// By command.
    pub facts: Vec<Facts>,
    /// Of the commands that are joins, each attempt.
    joins: HashMap<Command, Vec<Asking>>,
    /// What rooms lost that were set back, by room and seq.
    gone: HashMap<(Room, u64), Event>,
}

/// One attempt to join.
struct Asking {
    sent_at: Nanos,
    /// What its `joined` said: it wrote nothing above this. `None`: it had no `joined`, and may
    /// have been written at any time after it was sent.
    settled_at: Option<u64>,
}

/// What the log holds of one room.
#[derive(Default)]
pub(super) struct RoomLog {
    /// Its row of `rooms`, if the table was read.
    pub row: Option<RoomRow>,
    /// Ascending by seq, each seq once.
    pub lines: Vec<Line>,
}

/// One event in the log.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub seq: u64,
    pub frame: Frame,
    /// `None`: no frame can be right for the row.
    pub event: Option<Event>,
    /// When the first ack of it was received.
    pub acked_at: Nanos,
    /// When the first client was shown it.
    pub delivered_at: Nanos,
}

/// How a frame stands to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The log has exactly this, at this index of the room's lines.
    Stored(Event, usize),
    /// The log has something else at its place.
    Otherwise(Event),
    /// The log has nothing at its place.
    Unwritten(Event),
    /// The log had exactly this, until it was set back.
    Gone(Event),
    /// It is not an event.
    NoEvent,
}

/// What is known of a command, all attempts together.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    pub first_sent_at: Nanos,
    pub attempts: usize,
    /// Answers that say why the rules are against it.
    pub refusals: usize,
    /// When its first ack was received, and the seq that it told.
    pub acked: Option<(Nanos, u64)>,
    /// When it was first acked for an event that was lost when the log was set back.
    pub gone_acked_at: Option<Nanos>,
    /// The first seq that the log has it at, and at how many.
    pub stored_at: Option<u64>,
    pub stored_times: usize,
}

impl Facts {
    const NOTHING: Self = Self {
        first_sent_at: NEVER,
        attempts: 0,
        refusals: 0,
        acked: None,
        gone_acked_at: None,
        stored_at: None,
        stored_times: 0,
    };
}

impl Facts {
    /// At least once, for whatever became of it.
    pub fn was_acked(&self) -> bool {
        self.acked.is_some() || self.gone_acked_at.is_some()
    }
}

impl Line {
    /// Since when somebody knew that it is committed.
    pub fn known_at(&self) -> Nanos {
        self.acked_at.min(self.delivered_at)
    }
}

impl RoomLog {
    pub fn last_seq(&self) -> u64 {
        self.lines.last().map_or(0, |line| line.seq)
    }

    /// The index of a seq. Without a hole it is the seq less one.
    pub fn find(&self, seq: u64) -> Option<usize> {
        let guess = usize::try_from(seq.checked_sub(1)?).ok()?;
        match self.lines.get(guess) {
            Some(line) if line.seq == seq => Some(guess),
            _ => self.lines.binary_search_by_key(&seq, |line| line.seq).ok(),
        }
    }

    pub fn line(&self, seq: u64) -> Option<&Line> {
        self.find(seq).map(|index| &self.lines[index])
    }
}

impl Index {
    pub fn new(history: &History, findings: &mut Findings<'_>) -> Self {
        let log = read_log(history, findings);
        let standings = history.frames.iter().enumerate();
        let mut standings: Vec<_> = standings
            .map(|(frame, payload)| match payload.event {
                None => Standing::NoEvent,
                Some(event) => stand(&log[event.room.index()], frame.into(), event),
            })
            .collect();
        for (_, _, frame) in &history.gone {
            let standing = &mut standings[frame.index()];
            if let Standing::Otherwise(event) | Standing::Unwritten(event) = *standing {
                *standing = Standing::Gone(event);
            }
        }
        let facts = vec![Facts::NOTHING; history.commands.len()];
        let gone = history.gone.iter();
        let gone =
            gone.filter_map(|(room, seq, frame)| Some(((*room, *seq), *history.event(*frame)?)));
        let (gone, joins) = (gone.collect(), HashMap::new());
        let mut index = Self { log, standings, facts, joins, gone };
        index.take_joins(history);
        index.take_attempts(history);
        index.take_log();
        index.take_answers(history);
        index.take_deliveries(history);
        index
    }

    pub fn room(&self, room: Room) -> &RoomLog {
        &self.log[room.index()]
    }

    pub fn facts(&self, command: Command) -> &Facts {
        &self.facts[command.index()]
    }

    pub fn standing(&self, frame: Frame) -> Standing {
        self.standings[frame.index()]
    }

    /// The highest seq that the room ever had.
    pub fn highest(&self, room: Room) -> u64 {
        let gone = self.gone.keys().filter(|(of, _)| *of == room).map(|(_, seq)| *seq);
        self.room(room).last_seq().max(gone.max().unwrap_or(0))
    }

    /// What was there until the log was set back.
    pub fn gone(&self, room: Room, seq: u64) -> Option<&Event> {
        self.gone.get(&(room, seq))
    }

    /// Whether it is of an event that was lost when the log was set back.
    pub fn is_of_gone(&self, history: &History, ack: &Ack) -> bool {
        let room = history.commands[ack.command.index()].room;
        self.gone(room, ack.seq)
            .is_some_and(|event| (event.command, event.at_ms) == (ack.command, ack.event_at_ms))
    }

    /// How many attempts of a join may have written a seq, if it is known of one who asked by then
    /// that it was written by then.
    pub fn joins_that_may_be(&self, join: Command, seq: u64, by: Nanos) -> usize {
        let askings = self.joins.get(&join).into_iter().flatten();
        let is_open = |it: &&Asking| it.settled_at.is_none_or(|last_seq| last_seq >= seq);
        askings.filter(|it| it.sent_at < by).filter(is_open).count()
    }

    /// Whether a command was sent and nobody was ever told what became of it.
    pub fn is_indeterminate(&self, command: Command) -> bool {
        let facts = self.facts(command);
        let was_sent = facts.attempts > 0;
        let has_joined =
            || self.joins.get(&command).into_iter().flatten().any(|it| it.settled_at.is_some());
        was_sent && !facts.was_acked() && facts.refusals == 0 && !has_joined()
    }

    fn take_joins(&mut self, history: &History) {
        let views = history.views.iter();
        let follows = views.flat_map(|view| view.follows.iter().map(|it| (view.room, it)));
        let settled: HashMap<_, _> =
            follows.map(|(room, it)| ((it.connection, room, it.asked_at), it.last_seq)).collect();
        for attempt in &history.attempts {
            let CommandOf { room, sent_as, .. } = history.commands[attempt.command.index()];
            if sent_as.is_some_and(|(kind, _)| kind == Kind::Join) {
                let settled_at = settled.get(&(attempt.connection, room, attempt.at)).copied();
                let asking = Asking { sent_at: attempt.at, settled_at };
                self.joins.entry(attempt.command).or_default().push(asking);
            }
        }
    }

    fn take_attempts(&mut self, history: &History) {
        for attempt in &history.attempts {
            let facts = &mut self.facts[attempt.command.index()];
            facts.first_sent_at = facts.first_sent_at.min(attempt.at);
            facts.attempts += 1;
        }
    }

    fn take_log(&mut self) {
        for line in self.log.iter().flat_map(|room| &room.lines) {
            let Some(event) = line.event else { continue };
            let facts = &mut self.facts[event.command.index()];
            facts.stored_at.get_or_insert(line.seq);
            facts.stored_times += 1;
        }
    }

    fn take_answers(&mut self, history: &History) {
        for answer in &history.answers {
            let is_of_gone = matches!(answer, Answer::Ack(ack) if self.is_of_gone(history, ack));
            let facts = &mut self.facts[answer.command().index()];
            match answer {
                Answer::Refusal(refusal) => facts.refusals += usize::from(refusal.is_definite),
                // What is at its seq now is something else.
                Answer::Ack(ack) if is_of_gone => {
                    facts.gone_acked_at.get_or_insert(ack.at);
                }
                Answer::Ack(ack) => {
                    let (first, seq) = facts.acked.unwrap_or((ack.at, ack.seq));
                    facts.acked = Some((first.min(ack.at), seq));
                    let room = &mut self.log[history.commands[ack.command.index()].room.index()];
                    let Some(index) = room.find(ack.seq) else { continue };
                    let line = &mut room.lines[index];
                    // An ack of a row that is another's says nothing of when that one was known.
                    if line.event.is_some_and(|event| event.command == ack.command) {
                        line.acked_at = line.acked_at.min(ack.at);
                    }
                }
            }
        }
    }

    fn take_deliveries(&mut self, history: &History) {
        for delivery in history.views.iter().flat_map(|view| &view.deliveries) {
            if let Standing::Stored(event, index) = self.standings[delivery.frame.index()] {
                let line = &mut self.log[event.room.index()].lines[index];
                line.delivered_at = line.delivered_at.min(delivery.at);
            }
        }
    }
}

/// The log, by what the table says; without one, by what the pages of history say.
fn read_log(history: &History, findings: &mut Findings<'_>) -> Vec<RoomLog> {
    let mut log: Vec<RoomLog> = Vec::new();
    log.resize_with(history.rooms.len(), RoomLog::default);
    let add = |log: &mut Vec<RoomLog>, room: Room, seq, frame| {
        let event = history.event(frame).copied();
        let (acked_at, delivered_at) = (NEVER, NEVER);
        let line = Line { seq, frame, event, acked_at, delivered_at };
        log[room.index()].lines.push(line);
    };
    match &history.table {
        Some(rooms) => {
            rooms.iter().for_each(|row| log[row.room.index()].row = Some(*row));
            history.rows.iter().for_each(|&(room, seq, frame)| add(&mut log, room, seq, frame));
        }
        None => {
            for frame in history.pages.iter().flat_map(|page| &page.events) {
                let Some(event) = history.event(*frame) else { continue };
                add(&mut log, event.room, event.seq, *frame);
            }
        }
    }
    for (number, room) in log.iter_mut().enumerate() {
        // Read in order, it is in order, and sorting takes one look at each.
        room.lines.sort_by_key(|line| line.seq);
        let is_table = history.table.is_some();
        room.lines.dedup_by(|later, first| {
            let is_same = later.seq == first.seq;
            // Pages overlap, and are compared with the log like anything else.
            if is_same && is_table {
                let about = About::place(number.into(), later.seq);
                findings.add(Rule::SeqTwice, about, |history| {
                    let (one, other) = (history.shown(first.frame), history.shown(later.frame));
                    let room = history.room_name(number.into());
                    format!("the log of {room:?} has {one} and {other} at {}", later.seq)
                });
            }
            is_same
        });
    }
    log
}

fn stand(room: &RoomLog, frame: Frame, event: Event) -> Standing {
    match room.find(event.seq) {
        None => Standing::Unwritten(event),
        Some(index) if room.lines[index].frame == frame => Standing::Stored(event, index),
        Some(_) => Standing::Otherwise(event),
    }
}
