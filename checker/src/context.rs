//! The shortest excerpt of a history that shows what went wrong: the log around it, and the moments
//! of those who took part in it.
//!
//! It judges nothing, and looks through the whole history for each violation: there are few, or
//! nobody reads them.

use std::collections::BTreeSet;

use crate::event::Event;
use crate::history::History;
use crate::names::{Command, Frame, Room, View};
use crate::record::{Answer, Nanos, Start};
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
        excerpt.add_seqs(self.seqs);
        let mut commands: BTreeSet<Command> = self.command.into_iter().collect();
        let mut text = format!("{self}\n");
        if let Some(room) = self.room {
            let lines = excerpt.log(room, &mut commands);
            if !lines.is_empty() {
                text += &format!("the log of {:?}:\n{lines}", history.room_name(room));
            }
        }
        excerpt.add_commands(&commands);
        match (self.view, self.room) {
            (Some(view), _) => excerpt.add_view(view),
            (None, Some(room)) => excerpt.add_first_views(room),
            (None, None) => {}
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
    fn add_seqs(&mut self, seqs: Option<(u64, u64)>) {
        for seq in seqs.into_iter().flat_map(|(first, last)| [first, last]) {
            let around = seq.saturating_sub(SEQS_BESIDE)..=seq.saturating_add(SEQS_BESIDE);
            self.seqs.extend(around);
        }
    }

    /// The log at the seqs of interest. The commands there are of interest, too.
    fn log(&self, room: Room, commands: &mut BTreeSet<Command>) -> String {
        let history = self.history;
        let mut lines: BTreeSet<(u64, Frame)> = BTreeSet::new();
        let rows = history.rows.iter().filter(|row| row.0 == room);
        lines.extend(rows.map(|(_, seq, frame)| (*seq, *frame)));
        if history.table.is_none() {
            let frames = history.pages.iter().flat_map(|page| &page.events);
            let events = frames.filter_map(|frame| Some((history.event(*frame)?, *frame)));
            let events = events.filter(|(event, _)| event.room == room);
            lines.extend(events.map(|(event, frame)| (event.seq, frame)));
        }
        lines.retain(|(seq, _)| self.seqs.contains(seq));
        commands.extend(lines.iter().filter_map(|(_, frame)| Some(history.event(*frame)?.command)));
        lines
            .iter()
            .map(|(seq, frame)| format!("  {seq:>8}  {}\n", history.shown(*frame)))
            .collect()
    }

    /// When they were sent, and what was answered.
    fn add_commands(&mut self, commands: &BTreeSet<Command>) {
        let history = self.history;
        for attempt in history.attempts.iter().filter(|it| commands.contains(&it.command)) {
            let who = history.connection_name(attempt.connection);
            let said = history.said(attempt.command);
            self.moments.push((attempt.at, format!("{who} sent {said}")));
        }
        for answer in history.answers.iter().filter(|it| commands.contains(&it.command())) {
            let who = history.connection_name(answer.connection());
            let said = history.said(answer.command());
            let what = match answer {
                Answer::Ack(ack) if ack.duplicate => format!("ack {} (duplicate)", ack.seq),
                Answer::Ack(ack) => format!("ack {}", ack.seq),
                Answer::Refusal(refusal) => history.texts.text(refusal.code.index()).to_owned(),
            };
            self.moments.push((answer.at(), format!("{who} was answered {what} to {said}")));
        }
    }

    /// What this follower asked for, and what it was shown of the seqs of interest.
    fn add_view(&mut self, view: View) {
        let history = self.history;
        let seen = &history.views[view.index()];
        let who = &seen.who;
        let is_near = |event: &Event| event.room == seen.room && self.seqs.contains(&event.seq);
        let mut moments = Vec::new();
        let mut places = Vec::new();
        for (place, delivery) in seen.deliveries.iter().enumerate() {
            let Some(event) = history.event(delivery.frame) else { continue };
            if is_near(event) && places.len() < MOMENTS_MAX {
                places.push(place);
                let shown = history.shown(delivery.frame);
                moments.push((delivery.at, format!("{who} was shown {shown}")));
            }
        }
        let (first, last) = (places.first().copied(), places.last().copied());
        for (number, follow) in seen.follows.iter().enumerate() {
            // The following that the first of them belongs to, and those up to the last.
            let next = seen.follows.get(number + 1).map_or(usize::MAX, |next| next.begins);
            let is_over = first.is_some_and(|first| next <= first);
            let is_later = last.is_some_and(|last| follow.begins > last + 1);
            if is_over || is_later {
                continue;
            }
            let connection = history.connection_name(follow.connection);
            let asked = match follow.start {
                Start::After(seq) => format!("everything since {seq}"),
                Start::Last(count) => format!("the last {count} and what follows"),
                Start::Unmoved => "what it follows already".to_owned(),
            };
            let reset = follow.reset.map(|seq| format!(", reset to {seq}")).unwrap_or_default();
            let told = format!("joined, the room at {}{reset}", follow.last_seq);
            moments.push((follow.asked_at, format!("{connection} ({who}) asked for {asked}")));
            moments.push((follow.at, format!("{connection} ({who}) was told: {told}")));
        }
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
        self.moments.sort();
        let moments = self.moments.iter();
        let lines = moments.map(|(at, what)| format!("  {:>12.6} s  {what}\n", seconds(*at)));
        let lines: String = lines.collect();
        if lines.is_empty() { lines } else { format!("the moments:\n{lines}") }
    }
}

fn seconds(at: Nanos) -> f64 {
    at as f64 / 1e9
}
