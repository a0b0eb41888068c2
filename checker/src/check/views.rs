//! What followers are shown: last + 1 and nothing else, the log's own bytes, all of it, in time.

use std::collections::BTreeMap;

use super::findings::{About, Findings};
use super::index::{Index, NEVER, Standing};
use crate::event::{Event, Kind};
use crate::history::{History, Seen};
use crate::names::{Frame, View};
use crate::record::{Delivery, Follow, Nanos, SetBack, Start};
use crate::violation::Rule;

pub(super) fn judge(history: &History, index: &Index, findings: &mut Findings<'_>) -> Nanos {
    let mut heal = 0;
    for (number, seen) in history.views.iter().enumerate() {
        let mut judge = Judge {
            history,
            index,
            view: number.into(),
            seen,
            place: None,
            now: None,
            shown_to: 0,
            heal: 0,
            is_late: false,
        };
        judge.run(findings);
        heal = heal.max(judge.heal);
    }
    judge_strays(history, findings);
    heal
}

/// One view, on the way through it.
struct Judge<'h> {
    history: &'h History,
    index: &'h Index,
    view: View,
    seen: &'h Seen,
    /// `None`: it does not follow.
    place: Option<Following>,
    /// When what it is shown came; `None`: it is not about a moment.
    now: Option<Nanos>,
    /// The highest seq that it was ever shown.
    shown_to: u64,
    /// How long after the last fault it was shown something that was known by then.
    heal: Nanos,
    /// It was said once that it is late; the rest of the queue is late, too.
    is_late: bool,
}

/// One following, from `joined` to the next.
struct Following {
    /// The one seq that may come next.
    next: u64,
    /// Where it may begin as well: behind the user's own join, if that is of an earlier asking.
    or_next: Option<u64>,
    is_first: bool,
    /// Stretches that were passed over and did not come since: from the key up to the value,
    /// exclusive, and when.
    missing: BTreeMap<u64, (u64, Nanos)>,
    /// What it was shown of a room whose log was set back, above what was left.
    era: Era,
    /// Where it begins is for its first event to say: the log was set back just then.
    begins_anywhere: bool,
    /// Their user was known to be a member as of this seq: a leave above it ends the following.
    member_as_of: u64,
    has_left: bool,
}

/// A log that was set back has two ends.
#[derive(Clone, Copy, PartialEq)]
enum Era {
    /// It was shown nothing of either.
    Common,
    /// It was shown what was lost.
    Old,
    /// It was shown what came after.
    New,
}

impl Judge<'_> {
    fn run(&mut self, findings: &mut Findings<'_>) {
        let mut follows = self.seen.follows.iter().peekable();
        for (number, delivery) in self.seen.deliveries.iter().enumerate() {
            while let Some(follow) = follows.next_if(|follow| follow.begins <= number) {
                self.follow(follow, findings);
            }
            self.delivery(delivery, findings);
        }
        for follow in follows {
            self.follow(follow, findings);
        }
        self.end(findings);
    }

    fn about(&self, seq: u64) -> About {
        About { time: self.now, ..About::place(self.seen.room, seq).by(self.view) }
    }

    fn follow(&mut self, follow: &Follow, findings: &mut Findings<'_>) {
        if let (Start::Unmoved, Some(place)) = (follow.start, &mut self.place) {
            place.member_as_of = place.member_as_of.max(follow.last_seq);
            return;
        }
        self.close(findings);
        self.now = Some(follow.at);
        if let Some(last_seq) = follow.reset {
            self.reset(follow, last_seq, findings);
        }
        self.place = Some(self.begin(follow));
    }

    fn begin(&self, follow: &Follow) -> Following {
        let last_seq = follow.last_seq;
        let mut or_next = None;
        let next = match (follow.start, follow.reset) {
            (_, Some(last_seq)) => last_seq + 1,
            (Start::After(since), None) => since + 1,
            // To whoever does not follow yet, asking again is asking for the first time.
            (Start::Unmoved, None) => last_seq + 1,
            (Start::Last(before), None) => {
                let without_join = last_seq.saturating_sub(before) + 1;
                match self.own_join(last_seq, follow) {
                    None => without_join,
                    // The own position is before the own join, if this join made one. If no other
                    // attempt of the user may have made it, it did.
                    Some(attempts) => {
                        or_next = (attempts > 1).then_some(without_join);
                        last_seq.saturating_sub(before.saturating_add(1)) + 1
                    }
                }
            }
        };
        let set_back = self.set_back();
        let is_told = follow.reset.is_some();
        // Which of the two logs had its position, cannot be known.
        let begins_anywhere = !is_told
            && !matches!(follow.start, Start::After(_))
            && set_back.is_some_and(|it| follow.asked_at < it.until && follow.at > it.from);
        let is_new = is_told && set_back.is_some_and(|it| follow.at > it.from);
        Following {
            next,
            or_next,
            is_first: true,
            missing: BTreeMap::new(),
            era: if is_new { Era::New } else { Era::Common },
            begins_anywhere,
            member_as_of: last_seq,
            has_left: false,
        }
    }

    fn set_back(&self) -> Option<&SetBack> {
        self.history.set_backs.get(&self.seen.room)
    }

    /// If this seq is the join of the view's user: how many attempts of theirs may have made it.
    fn own_join(&self, seq: u64, follow: &Follow) -> Option<usize> {
        let room = self.seen.room;
        let is_before = self.set_back().is_some_and(|it| seq > it.to && follow.at <= it.from);
        let event = match is_before {
            true => self.index.gone(room, seq).copied()?,
            false => self.index.room(room).line(seq)?.event?,
        };
        let user = self.history.commands[event.command.index()].user;
        let is_own = event.kind == Kind::Join && self.seen.user == Some(user);
        is_own.then(|| self.index.joins_that_may_be(event.command, seq, follow.at))
    }

    /// The log was behind the client: then nobody may have known of what the client had.
    fn reset(&self, follow: &Follow, last_seq: u64, findings: &mut Findings<'_>) {
        let Start::After(since) = follow.start else { return };
        let line = self.index.room(self.seen.room).line(since);
        let known_at = line.map_or(NEVER, |line| line.known_at());
        // A node tells so everybody who comes from above what was left, for a while.
        let went_back = self.set_back().is_some_and(|it| since > it.to && follow.at > it.from);
        if since == 0 || known_at < follow.asked_at && !went_back {
            findings.add(Rule::ResetWithoutReason, self.about(since), |history| {
                let (who, room) = (&self.seen.who, history.room_name(self.seen.room));
                format!("{who} asked for {room:?} since {since}, and was reset to {last_seq}")
            });
        }
    }

    fn delivery(&mut self, delivery: &Delivery, findings: &mut Findings<'_>) {
        let Delivery { at, frame } = *delivery;
        self.now = Some(at);
        let standing = self.index.standing(frame);
        let event = match standing {
            Standing::Stored(event, _)
            | Standing::Gone(event)
            | Standing::Otherwise(event)
            | Standing::Unwritten(event) => event,
            Standing::NoEvent => {
                findings.add(Rule::UnreadableFrame, About::room(self.seen.room), |history| {
                    format!("{} was shown {}", self.seen.who, history.shown(frame))
                });
                return;
            }
        };
        if event.room != self.seen.room || self.place.is_none() {
            self.say(Rule::DeliveredUnasked, event.seq, frame, "does not follow this", findings);
            return;
        }
        match standing {
            Standing::Stored(_, line) => {
                self.time(&event, line, at, frame, findings);
                self.enter_new(&event, frame, findings);
            }
            Standing::Gone(_) => {
                if !self.enter_old() {
                    let what = "knew that the log had been set back, and was shown";
                    return self.say(Rule::DeliveredNotStored, event.seq, frame, what, findings);
                }
            }
            Standing::Otherwise(_) => self.say(
                Rule::DeliveredOtherwiseThanStored,
                event.seq,
                frame,
                "was shown what the log has otherwise",
                findings,
            ),
            Standing::Unwritten(_) | Standing::NoEvent => {
                let what = "was shown what the log does not have";
                self.say(Rule::DeliveredNotStored, event.seq, frame, what, findings);
                // A seq that nobody gave says nothing about the place.
                return;
            }
        }
        self.step(&event, frame, findings);
    }

    /// It is shown what the log has above what was left when it was set back.
    fn enter_new(&mut self, event: &Event, frame: Frame, findings: &mut Findings<'_>) {
        let to = self.set_back().map_or(u64::MAX, |it| it.to);
        let Some(place) = self.place.as_mut().filter(|_| event.seq > to) else { return };
        let era = std::mem::replace(&mut place.era, Era::New);
        if era == Era::Old {
            place.next = event.seq;
            place.missing.clear();
            self.shown_to = self.shown_to.min(to);
            let what = "was shown more before the log was set back, was not told, and was shown";
            self.say(Rule::NotTold, event.seq, frame, what, findings);
        }
    }

    /// It is shown what the log had; `false`: though it knows better.
    fn enter_old(&mut self) -> bool {
        self.place.as_mut().is_some_and(|place| {
            let may = place.era != Era::New;
            if may {
                place.era = Era::Old;
            }
            may
        })
    }

    fn say(&self, rule: Rule, seq: u64, frame: Frame, what: &str, findings: &mut Findings<'_>) {
        findings.add(rule, self.about(seq), |history| {
            format!("{} {what}: {}", self.seen.who, history.shown(frame))
        });
    }

    /// Last + 1, or a violation and on from there.
    fn step(&mut self, event: &Event, frame: Frame, findings: &mut Findings<'_>) {
        let Some(mut place) = self.place.take() else { return };
        let seq = event.seq;
        if place.has_left {
            self.say(Rule::DeliveredAfterLeave, seq, frame, "has left before this", findings);
        }
        if place.is_first && (place.or_next == Some(seq) || place.begins_anywhere) {
            place.next = seq;
        }
        if seq == place.next {
            place.next += 1;
        } else if place.is_first {
            let next = place.next;
            self.say(
                Rule::StartsAtWrongSeq,
                seq,
                frame,
                &format!("was to begin at {next} and began with this"),
                findings,
            );
            place.next = seq + 1;
        } else if seq > place.next {
            place.missing.insert(place.next, (seq, self.now.unwrap_or_default()));
            place.next = seq + 1;
        } else if place.fill(seq) {
            self.say(Rule::DeliveredOutOfOrder, seq, frame, "was shown this too late", findings);
        } else {
            self.say(Rule::DeliveredTwice, seq, frame, "was shown this again", findings);
        }
        place.is_first = false;
        if place.era != Era::Old {
            self.shown_to = self.shown_to.max(seq);
        }
        let user = self.history.commands[event.command.index()].user;
        let is_own_leave = event.kind == Kind::Leave && self.seen.user == Some(user);
        place.has_left |= is_own_leave && seq > place.member_as_of;
        self.place = Some(place);
    }

    /// Whether it comes in time, if it comes for the first time.
    fn time(
        &mut self,
        event: &Event,
        line: usize,
        at: Nanos,
        frame: Frame,
        findings: &mut Findings<'_>,
    ) {
        let Some(healed_at) = self.history.healed_at else { return };
        if event.seq <= self.shown_to || at <= healed_at {
            return;
        }
        let known_at = self.index.room(event.room).lines[line].known_at();
        let first_asked_at = self.seen.follows.first().map_or(at, |follow| follow.asked_at);
        let due = healed_at.max(first_asked_at);
        if known_at <= healed_at && first_asked_at <= healed_at && !self.seen.slow {
            self.heal = self.heal.max(at - healed_at);
        }
        let took = at.saturating_sub(due.max(known_at));
        if took > self.history.limits.heal && !self.seen.slow && !self.is_late {
            self.is_late = true;
            let what = format!(
                "was shown this {} ms too late",
                (took - self.history.limits.heal) / 1_000_000
            );
            self.say(Rule::LateFollower, event.seq, frame, &what, findings);
        }
    }

    /// The end of a following: what was passed over and never came is a hole.
    fn close(&mut self, findings: &mut Findings<'_>) {
        let Some(place) = self.place.take() else { return };
        for (from, (to, at)) in place.missing {
            let last = to - 1;
            self.now = Some(at);
            findings.add(Rule::DeliveredWithHole, self.about(from).at(last), |history| {
                let (who, room) = (&self.seen.who, history.room_name(self.seen.room));
                format!("{who} was never shown {from} to {last} of {room:?}, but {to}")
            });
        }
    }

    /// The end of the recording: whoever still follows has the end of the log.
    fn end(&mut self, findings: &mut Findings<'_>) {
        let has_left = self.place.as_ref().is_some_and(|place| place.has_left);
        let at = self.place.as_ref().map(|place| place.next - 1);
        let is_old = self.place.as_ref().is_some_and(|place| place.era == Era::Old);
        self.close(findings);
        let last = self.index.room(self.seen.room).last_seq();
        let has_new = self.set_back().is_some_and(|it| last > it.to);
        if is_old && has_new && self.seen.closed_at.is_none() && !has_left {
            findings.add(Rule::NotTold, self.about(last), |history| {
                let (who, room) = (&self.seen.who, history.room_name(self.seen.room));
                format!("{who} was never told that the log of {room:?} had been set back")
            });
            return;
        }
        if self.seen.closed_at.is_some() || has_left || at.is_some_and(|at| at >= last) {
            return;
        }
        self.now = None;
        let about = at.map_or(self.about(last), |at| self.about(at).at(last));
        findings.add(Rule::StoppedShort, about, |history| {
            let (who, room) = (&self.seen.who, history.room_name(self.seen.room));
            match at {
                Some(at) => format!("{who} was shown {room:?} up to {at} of {last}"),
                None => format!("{who} wanted to follow {room:?} and never could"),
            }
        });
    }
}

impl Following {
    /// Takes a seq out of what is missing; `false`: it is not missing.
    fn fill(&mut self, seq: u64) -> bool {
        let Some((&from, &(to, at))) = self.missing.range(..=seq).next_back() else { return false };
        if seq >= to {
            return false;
        }
        self.missing.remove(&from);
        if from < seq {
            self.missing.insert(from, (seq, at));
        }
        if seq + 1 < to {
            self.missing.insert(seq + 1, (to, at));
        }
        true
    }
}

fn judge_strays(history: &History, findings: &mut Findings<'_>) {
    for (connection, delivery) in &history.strays {
        let (rule, about) = match history.event(delivery.frame) {
            Some(event) => (Rule::DeliveredUnasked, About::place(event.room, event.seq)),
            None => (Rule::UnreadableFrame, About::default()),
        };
        let about = About { time: Some(delivery.at), ..about };
        findings.add(rule, about, |history| {
            let who = history.connection_name(*connection);
            format!("{who} was shown {}", history.shown(delivery.frame))
        });
    }
}
