//! The shortest excerpt of a history that shows what went wrong: the log around it, and the moments
//! of those who took part in it.
//!
//! It judges nothing, and looks through the whole history for each violation: there are few, or
//! nobody reads them.

use std::collections::BTreeSet;

use crate::event::Event;
use crate::history::History;
use crate::names::{Command, Frame, Room, View};
use crate::record::{Answer, Delivery, Follow, Nanos, Start};
use crate::violation::Violation;

/// Seqs shown on either side of the first and of the last that a violation is about.
const SEQS_BESIDE: u64 = 2;

/// Moments of one kind that are shown: of the followers that saw an event, of one follower's
/// deliveries, of what was done to the servers. More of a kind says nothing new.
const MOMENTS_MAX: usize = 16;

/// How long before the first moment a fault may have to do with it.
const BEFORE: Nanos = 5_000_000_000;

impl Violation {
    /// The rows, frames and moments around it, as lines for a person; times are seconds of the
    /// recorder's clock.
    pub fn context(&self, history: &History) -> String {
        let mut excerpt = Excerpt { history, seqs: BTreeSet::new(), moments: Vec::new() };
        let ends = self.seqs.into_iter().flat_map(|(first, last)| [first, last]);
        for seq in ends.clone() {
            excerpt.seqs.extend(seq.saturating_sub(SEQS_BESIDE)..=seq.saturating_add(SEQS_BESIDE));
        }
        let mut text = format!("{self}\n");
        if let Some(room) = self.room {
            let ends: BTreeSet<u64> = ends.collect();
            let log = excerpt.log(room);
            if !log.is_empty() {
                text += &format!("the log of {:?}:\n", history.room_name(room));
            }
            for (seq, frame) in log {
                text += &format!("  {seq:>8}  {}\n", history.shown(frame));
                let command = history.event(frame).map(|event| event.command);
                if let Some(command) = command.filter(|_| ends.contains(&seq)) {
                    excerpt.add_command(command, 1);
                }
            }
        }
        if let Some(command) = self.command {
            excerpt.add_command(command, MOMENTS_MAX);
        }
        match (self.view, self.room) {
            (Some(view), _) => excerpt.add_view(view, self.at),
            (None, Some(room)) => excerpt.add_first_views(room),
            (None, None) => {}
        }
        if let (None, Some(at)) = (self.view, self.at) {
            excerpt.moments.push((at, "here it happened".to_owned()));
        }
        excerpt.add_notes();
        text + &excerpt.timeline()
    }
}

struct Excerpt<'h> {
    history: &'h History,
    /// The seqs of interest.
    seqs: BTreeSet<u64>,
    moments: Vec<(Nanos, String)>,
}

impl Excerpt<'_> {
    /// The log at the seqs of interest.
    fn log(&self, room: Room) -> BTreeSet<(u64, Frame)> {
        let history = self.history;
        let mut lines: BTreeSet<(u64, Frame)> = BTreeSet::new();
        let rows = history.rows.iter().chain(&history.gone).filter(|row| row.0 == room);
        lines.extend(rows.map(|(_, seq, frame)| (*seq, *frame)));
        if history.table.is_none() {
            let frames = history.pages.iter().flat_map(|page| &page.events);
            let events = frames.filter_map(|frame| Some((history.event(*frame)?, *frame)));
            let events = events.filter(|(event, _)| event.room == room);
            lines.extend(events.map(|(event, frame)| (event.seq, frame)));
        }
        lines.retain(|(seq, _)| self.seqs.contains(seq));
        lines
    }

    /// When a command was sent, and what was answered: so many of each, from the first.
    fn add_command(&mut self, command: Command, count: usize) {
        let history = self.history;
        let said = history.said(command);
        let attempts = history.attempts.iter().filter(|it| it.command == command);
        for attempt in attempts.take(count) {
            let who = history.connection_name(attempt.connection);
            self.moments.push((attempt.at, format!("{who} sent {said}")));
        }
        let answers = history.answers.iter().filter(|it| it.command() == command);
        for answer in answers.take(count) {
            let who = history.connection_name(answer.connection());
            let what = match answer {
                Answer::Ack(ack) if ack.duplicate => format!("ack {} (duplicate)", ack.seq),
                Answer::Ack(ack) => format!("ack {}", ack.seq),
                Answer::Refusal(refusal) => history.texts.text(refusal.code.index()).to_owned(),
            };
            self.moments.push((answer.at(), format!("{who} was answered {what} to {said}")));
        }
    }

    /// What this follower asked for when it began the following that this moment is in (`None`: the
    /// last one), and what it was shown then of the seqs of interest.
    fn add_view(&mut self, view: View, at: Option<Nanos>) {
        let history = self.history;
        let seen = &history.views[view.index()];
        let who = &seen.who;
        let follows = &seen.follows;
        let is_before = |follow: &Follow| at.is_none_or(|at| follow.at <= at);
        let is_new = |follow: &Follow| follow.start != Start::Unmoved;
        let place = follows.iter().rposition(|follow| is_before(follow) && is_new(follow));
        let from = place.map_or(0, |place| follows[place].begins);
        let next = place.map_or(0, |place| place + 1);
        let next = follows[next..].iter().find(|follow| is_new(follow));
        let to = next.map_or(seen.deliveries.len(), |next| next.begins);
        if let Some(follow) = place.map(|place| follows[place]) {
            let connection = history.connection_name(follow.connection);
            let asked = match follow.start {
                Start::After(seq) => format!("everything since {seq}"),
                Start::Last(count) => format!("the last {count} and what follows"),
                Start::Unmoved => "what it follows already".to_owned(),
            };
            let reset = follow.reset.map(|seq| format!(", reset to {seq}")).unwrap_or_default();
            let told = format!("joined, the room at {}{reset}", follow.last_seq);
            self.moments.push((follow.asked_at, format!("{connection} ({who}) asked for {asked}")));
            self.moments.push((follow.at, format!("{connection} ({who}) was told: {told}")));
        }
        let is_near = |event: &Event| event.room == seen.room && self.seqs.contains(&event.seq);
        let shown = seen.deliveries[from..to].iter().filter(|delivery| {
            let event = history.event(delivery.frame);
            at == Some(delivery.at) || event.is_some_and(is_near)
        });
        let shown = shown.take(MOMENTS_MAX);
        let tell = |it: &Delivery| (it.at, format!("{who} was shown {}", history.shown(it.frame)));
        let moments: Vec<_> = shown.map(tell).collect();
        self.moments.extend(moments);
    }

    /// Without one follower in question: who was shown it first.
    fn add_first_views(&mut self, room: Room) {
        let history = self.history;
        let mut seen = BTreeSet::new();
        for view in history.views.iter().filter(|view| view.room == room) {
            for delivery in &view.deliveries {
                let Some(event) = history.event(delivery.frame) else { continue };
                if event.room == room && self.seqs.contains(&event.seq) {
                    seen.insert((event.seq, delivery.frame, delivery.at, &view.who));
                }
            }
        }
        let mut last = None;
        for (_, frame, at, who) in seen {
            if last.replace(frame) != Some(frame) {
                let shown = history.shown(frame);
                self.moments.push((at, format!("{who} was the first to be shown {shown}")));
            }
        }
    }

    /// What was done to the servers while this went on, or a little earlier.
    fn add_notes(&mut self) {
        let times = || self.moments.iter().map(|(at, _)| *at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return };
        let during = first.saturating_sub(BEFORE)..=last;
        let notes = self.history.notes.iter().filter(|(at, _)| during.contains(at));
        // The latest have most to do with it.
        let notes: Vec<_> = notes.rev().take(MOMENTS_MAX).cloned().collect();
        self.moments.extend(notes.into_iter().map(|(at, note)| (at, format!("* {note}"))));
    }

    fn timeline(mut self) -> String {
        // In time, and at one moment in the order of finding, which is that of recording.
        self.moments.sort_by_key(|(at, _)| *at);
        let mut known = BTreeSet::new();
        self.moments.retain(|moment| known.insert(moment.clone()));
        let moments = self.moments.iter();
        let lines = moments.map(|(at, what)| format!("  {:>12.6} s  {what}\n", seconds(*at)));
        let lines: String = lines.collect();
        if lines.is_empty() { lines } else { format!("the moments:\n{lines}") }
    }
}

fn seconds(at: Nanos) -> f64 {
    at as f64 / 1e9
}
