//! What a client knows across its connections: the rooms it follows with its position in each, and
//! the unanswered commands.
//!
//! It is pure: no I/O, no clock, no randomness. Frames come in; frames to send, updates and answers
//! come out. `T` says where a command's answer goes.
//!
//! Of each room one command is under way at a time. Were the first of two messages refused as
//! `unavailable` for a moment, the second would be stored before it.
//!
//! A `resume` that is refused as a whole says nothing of its rooms. They are asked for in halves,
//! until each that is to blame is alone, and the others are followed.

mod room;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use self::room::{Follow, Place, RESUME_ROOMS_MAX, Room};
use crate::backoff::{Backoff, Retry};
use crate::error::Refused;
use crate::event::{Event, Page, Update};
use crate::frame::{Command, Frame, History, Positions};

/// The wait before a command that the server could not carry out is sent again.
const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) };
/// The wait before rooms that could not be followed for now are asked for again, all together: a
/// server closes a connection with many refused commands in each of several seconds.
const RESUME_AGAIN: Backoff =
    Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// Where to begin following a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With every event above this seq. 0 means the whole room.
    After(u64),
    /// With this many of the newest events, up to 1000. 0 means only new events. If the connection
    /// is lost before the first event, it may be one event more.
    Last(u64),
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Create,
    Join(Start),
    Leave,
    Message(String),
    History { before: Option<u64>, after: Option<u64>, limit: u64 },
}

/// The server's answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The seq of the event that was stored; for a `join`, of the room's last event.
    Seq(u64),
    Page(Page),
}

#[derive(Debug, PartialEq)]
pub enum Output<T> {
    Send(String),
    Tell(Update),
    Answer(T, Result<Answer, Refused>),
    /// The server skipped an event, which it should never do. A new connection brings the event.
    Hole,
    /// Wait this long before the next connection.
    Wait(Duration),
}

pub struct State<T> {
    user: String,
    /// The beginning of this client's ids, which no other client has.
    prefix: String,
    /// Commands so far.
    count: u64,
    /// There is a connection, and it was greeted.
    is_greeted: bool,
    /// The longest frame that the server takes.
    frame_bytes_max: usize,
    is_following: bool,
    /// `resume`s so far.
    resumes: u64,
    /// Of rooms that could not be followed for now.
    resume_again: Retry,
    /// Of everything, when the server says that it is too much.
    all_again: Retry,
    /// Nothing is due and nothing will be by itself: there is no need to look.
    is_settled: bool,
    /// When `due` last looked.
    looked_at: Option<Instant>,
    rooms: BTreeMap<String, Room>,
    /// Unanswered commands by room, in the order of the calls. No queue is empty.
    queues: BTreeMap<String, VecDeque<Entry<T>>>,
}

struct Entry<T> {
    token: T,
    id: String,
    ask: Ask,
    /// It was sent on this connection.
    is_sent: bool,
    again: Retry,
}

impl<T> State<T> {
    pub fn new(user: String, prefix: String) -> Self {
        let (rooms, queues) = (BTreeMap::new(), BTreeMap::new());
        Self {
            user,
            prefix,
            count: 0,
            is_greeted: false,
            frame_bytes_max: usize::MAX,
            is_following: false,
            resumes: 0,
            resume_again: Retry::default(),
            all_again: Retry::default(),
            is_settled: false,
            looked_at: None,
            rooms,
            queues,
        }
    }

    /// Every command is answered.
    pub fn is_idle(&self) -> bool {
        self.queues.is_empty()
    }

    /// Events may come on this connection. A `join` brings none before its answer, which is heard
    /// first: so there is no connection that has only events for who waits for an answer.
    pub fn is_following(&self) -> bool {
        self.is_following
    }

    /// Accepts a command. `token` gets its answer.
    pub fn push(&mut self, room: String, ask: Ask, token: T) {
        self.count += 1;
        let id = format!("{}-{}", self.prefix, self.count);
        let entry = Entry { token, id, ask, is_sent: false, again: Retry::default() };
        self.queues.entry(room).or_default().push_back(entry);
        self.is_settled = false;
    }

    /// What is due now. Without `may_follow`, no room is followed again.
    pub fn due(&mut self, now: Instant, may_follow: bool) -> Vec<Output<T>> {
        let mut outputs = Vec::new();
        if !self.is_greeted || self.is_settled || !self.all_again.is_due(now) {
            return outputs;
        }
        (self.is_settled, self.all_again.at) = (true, None);
        self.looked_at = Some(now);
        // Commands first: their answers come before all that was missed.
        for (name, queue) in &mut self.queues {
            while let Some(entry) = queue.front_mut().filter(|entry| !entry.is_sent) {
                let room = self.rooms.get(name).filter(|_| matches!(entry.ask, Ask::Join(_)));
                // A `join` waits until it is known whether this connection follows the room, and
                // until the event of a `leave` has come: it would be no new beginning.
                let must_wait = room.is_some_and(|room| match room.follow {
                    Follow::Off | Follow::Later => false,
                    Follow::Asked(_) => true,
                    Follow::On => room.is_left,
                });
                if !entry.again.is_due(now) || must_wait {
                    self.is_settled = false;
                    break;
                }
                // The room may be followed by this alone. It goes on from where it was.
                let goes_on = room.filter(|room| room.follow != Follow::On);
                let start = goes_on.map(|room| Ask::Join(Start::After(room.position())));
                let ask = start.as_ref().unwrap_or(&entry.ask);
                let frame = frame(&self.user, name, &entry.id, ask);
                if frame.len() <= self.frame_bytes_max {
                    entry.is_sent = true;
                    outputs.push(Output::Send(frame));
                } else if let Some(entry) = queue.pop_front() {
                    // The server would close the connection for it, and then the next one.
                    outputs.push(Output::Answer(entry.token, Err(too_large(self.frame_bytes_max))));
                }
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        if may_follow {
            self.resume(now, &mut outputs);
        }
        let is_to_follow = |room: &Room| matches!(room.follow, Follow::Off | Follow::Later);
        self.is_settled &= !self.rooms.values().any(is_to_follow);
        outputs
    }

    /// Asks for the rooms that are not followed, in as few frames as may be.
    fn resume(&mut self, now: Instant, outputs: &mut Vec<Output<T>>) {
        let is_late = self.resume_again.is_due(now);
        // Its answer decides whether more is to be asked for.
        let is_joined = |name: &String| {
            let entry = self.queues.get(name).and_then(VecDeque::front);
            entry.is_some_and(|entry| entry.is_sent && matches!(entry.ask, Ask::Join(_)))
        };
        let due = self.rooms.iter_mut().filter(|(name, room)| {
            let is_due = room.follow == Follow::Off || (room.follow == Follow::Later && is_late);
            is_due && !is_joined(name)
        });
        let mut due = due.peekable();
        while due.peek().is_some() {
            self.resumes += 1;
            let id = format!("{}-r{}", self.prefix, self.resumes);
            let (user_id, id) = (&*self.user, Some(&*id));
            let mut positions = Positions::new();
            let resume = |positions| {
                let rooms = Some(positions);
                Command { r#type: "resume", user_id, rooms, id, ..Command::default() }.json()
            };
            let (mut bytes, mut len_max) = (resume(Positions::new()).len(), RESUME_ROOMS_MAX);
            while let Some((name, room)) = due.next_if(|(name, room)| {
                positions.len() < len_max.min(room.part_len_max)
                    && bytes + Room::resume_bytes(name) <= self.frame_bytes_max
                    || positions.is_empty()
            }) {
                bytes += Room::resume_bytes(name);
                len_max = len_max.min(room.part_len_max);
                room.follow = Follow::Asked(self.resumes);
                positions.insert(name, room.position());
            }
            self.is_following = true;
            outputs.push(Output::Send(resume(positions)));
        }
    }

    /// When something will be due that waits for the time alone; with the same `may_follow`.
    pub fn wake(&self, may_follow: bool) -> Option<Instant> {
        if self.is_settled || !self.is_greeted {
            return None;
        }
        let heads = self.queues.values().filter_map(VecDeque::front);
        let commands = heads.filter(|entry| !entry.is_sent).filter_map(|entry| entry.again.at);
        let is_late = may_follow && self.rooms.values().any(|room| room.follow == Follow::Later);
        let times = commands.chain(self.resume_again.at.filter(|_| is_late));
        // What was due when it last looked is done, or waits for a frame.
        let next = times.filter(|at| self.looked_at.is_none_or(|looked| *at > looked)).min();
        next.max(self.all_again.at)
    }

    /// The connection is gone. Unanswered commands will be sent again.
    pub fn disconnected(&mut self) {
        (self.is_greeted, self.is_following, self.is_settled) = (false, false, false);
        self.looked_at = None;
        self.resume_again = Retry::default();
        for entry in self.queues.values_mut().flatten() {
            entry.is_sent = false;
        }
        for room in self.rooms.values_mut() {
            room.follow = Follow::Off;
        }
    }

    /// Handles a frame from the server. `random` is from 0 to 1.
    pub fn hear(&mut self, text: &str, now: Instant, random: f64) -> Vec<Output<T>> {
        if let Some(event) = Event::parse(text) {
            return self.on_event(event);
        }
        self.is_settled = false;
        let other = || vec![Output::Tell(Update::Other(text.to_owned()))];
        let Ok(frame) = serde_json::from_str::<Frame<'_>>(text) else { return other() };
        match &*frame.r#type {
            "hello" => {
                self.is_greeted = true;
                self.frame_bytes_max =
                    frame.limits.and_then(|it| it.frame_bytes).unwrap_or(usize::MAX);
                let node = frame.node.unwrap_or_default().into_owned();
                vec![Output::Tell(Update::Connected { node })]
            }
            "goodbye" => frame
                .reconnect_ms
                .map(|ms| Output::Wait(Duration::from_millis(ms)))
                .into_iter()
                .collect(),
            "joined" if self.asked(&frame).is_none() => {
                if let (Some(room), Some(last_seq)) = (self.room(&frame), frame.last_seq) {
                    room.joined(last_seq);
                }
                Vec::new()
            }
            "ack" | "joined" | "history" if frame.id.is_some() => self.on_answer(&frame, text),
            "reset" => {
                let (Some(room), Some(last_seq)) = (self.room(&frame), frame.last_seq) else {
                    return Vec::new();
                };
                room.last = Some(last_seq);
                let room = frame.room.unwrap_or_default().into_owned();
                vec![Output::Tell(Update::Reset { room, last_seq })]
            }
            "error" if frame.re.as_deref() == Some("resume") => {
                self.on_not_resumed(&frame, now, random)
            }
            "error" => {
                let refused = Refused::of(&frame);
                self.slow_down(&refused, now, random);
                let Some(entry) = self.asked(&frame) else { return other() };
                // A write has an id, so it is stored once, however often it is sent.
                let writes = !matches!(entry.ask, Ask::Join(_) | Ask::History { .. });
                if writes && refused.is_for_now() {
                    if refused.code == "unavailable" {
                        entry.again.put_off(now, refused.retry_after, AGAIN, random);
                    }
                    entry.is_sent = false;
                    return Vec::new();
                }
                self.answer(&frame, Err(refused))
            }
            "resumed" | "pong" => Vec::new(),
            _ => other(),
        }
    }

    fn room(&mut self, frame: &Frame<'_>) -> Option<&mut Room> {
        self.rooms.get_mut(frame.room.as_deref()?)
    }

    /// The command that the frame answers.
    fn asked(&mut self, frame: &Frame<'_>) -> Option<&mut Entry<T>> {
        let heads = self.queues.values_mut().filter_map(VecDeque::front_mut);
        heads.into_iter().find(|entry| Some(&*entry.id) == frame.id.as_deref())
    }

    fn on_event(&mut self, event: Event) -> Vec<Output<T>> {
        let is_mine = event.user_id.as_ref() == Some(&self.user);
        let Some(room) = self.rooms.get_mut(&event.room) else { return Vec::new() };
        match room.take(&event, is_mine) {
            Place::Hole => return vec![Output::Hole],
            Place::Old => return Vec::new(),
            Place::Next => {}
        }
        let (has_left, name) = (room.is_ended_by(&event, is_mine), event.room.clone());
        let mut outputs = vec![Output::Tell(Update::Event(event))];
        if has_left {
            self.is_settled = false;
            self.rooms.remove(&name);
            outputs.push(Output::Tell(Update::Left { room: name, error: None }));
        }
        outputs
    }

    /// When one command is too many, others are too: nothing is sent for a while.
    fn slow_down(&mut self, refused: &Refused, now: Instant, random: f64) {
        if refused.code == "rate_limited" {
            self.all_again.put_off(now, refused.retry_after, AGAIN, random);
        }
    }

    /// A room, or a `resume` as a whole, was refused, for now or for good.
    fn on_not_resumed(&mut self, frame: &Frame<'_>, now: Instant, random: f64) -> Vec<Output<T>> {
        let refused = Refused::of(frame);
        self.slow_down(&refused, now, random);
        let number = || frame.id.as_deref()?.rsplit_once("-r")?.1.parse().ok();
        let asked: Vec<String> = match frame.room.as_deref() {
            Some(name) => vec![name.to_owned()],
            None => {
                let follow = number().map(Follow::Asked);
                let asked = self.rooms.iter().filter(|(_, room)| Some(room.follow) == follow);
                asked.map(|(name, _)| name.clone()).collect()
            }
        };
        let is_for_now = refused.is_for_now() || refused.code == "internal";
        let next = if is_for_now { Follow::Later } else { Follow::Off };
        if is_for_now {
            self.resume_again.put_off(now, refused.retry_after, RESUME_AGAIN, random);
        }
        let is_too_much = refused.code == "rate_limited";
        if let [name] = &asked[..]
            && !is_too_much
        {
            return self.on_room_not_resumed(name, refused, is_for_now);
        }
        let part_len_max = if is_too_much { RESUME_ROOMS_MAX } else { asked.len() / 2 };
        for name in &asked {
            if let Some(room) = self.rooms.get_mut(name) {
                (room.follow, room.part_len_max) = (next, part_len_max);
            }
        }
        Vec::new()
    }

    fn on_room_not_resumed(
        &mut self,
        name: &str,
        error: Refused,
        is_for_now: bool,
    ) -> Vec<Output<T>> {
        // The answer to a `leave` may come after what it leads to.
        let head = self.queues.get(name).and_then(VecDeque::front);
        let is_leaving = head.is_some_and(|entry| entry.is_sent && entry.ask == Ask::Leave);
        let Some(room) = self.rooms.get_mut(name) else { return Vec::new() };
        let is_left = room.is_left || is_leaving;
        let name = name.to_owned();
        if !is_for_now {
            self.rooms.remove(&name);
            let error = (!is_left).then_some(error);
            return vec![Output::Tell(Update::Left { room: name, error })];
        }
        room.follow = Follow::Later;
        if std::mem::replace(&mut room.is_paused, true) {
            return Vec::new();
        }
        vec![Output::Tell(Update::Paused { room: name, error })]
    }

    fn on_answer(&mut self, frame: &Frame<'_>, text: &str) -> Vec<Output<T>> {
        let Some(ask) = self.asked(frame).map(|entry| entry.ask.clone()) else {
            return Vec::new();
        };
        let answer = match (&*frame.r#type, ask) {
            ("ack", ask) => {
                let seq = frame.seq.unwrap_or_default();
                if ask == Ask::Leave
                    && let Some(room) = self.room(frame)
                {
                    room.left(seq);
                }
                Answer::Seq(seq)
            }
            ("joined", Ask::Join(start)) => {
                let last_seq = frame.last_seq.unwrap_or_default();
                self.on_joined(frame.room.as_deref().unwrap_or_default(), start, last_seq);
                Answer::Seq(last_seq)
            }
            _ => match serde_json::from_str::<History<'_>>(text) {
                Ok(page) => {
                    let events = page.events.iter().filter_map(|raw| Event::parse(raw.get()));
                    Answer::Page(Page { events: events.collect(), more: page.more })
                }
                Err(_) => return Vec::new(),
            },
        };
        self.all_again.went_well();
        self.answer(frame, Ok(answer))
    }

    fn on_joined(&mut self, name: &str, start: Start, last_seq: u64) {
        let (last, began) = match start {
            Start::After(seq) => (Some(seq), (0, 0)),
            Start::Last(wanted) => (None, (wanted, last_seq)),
        };
        self.is_following = true;
        // One that was followed already stays where it is.
        let room = self.rooms.entry(name.to_owned()).or_insert_with(|| Room::new(last, began));
        room.joined(last_seq);
    }

    /// Removes the command that the frame answers from its queue, and answers it.
    fn answer(&mut self, frame: &Frame<'_>, answer: Result<Answer, Refused>) -> Vec<Output<T>> {
        let is_it = |queue: &VecDeque<Entry<T>>| {
            queue.front().is_some_and(|entry| Some(&*entry.id) == frame.id.as_deref())
        };
        let name = self.queues.iter().find(|(_, queue)| is_it(queue)).map(|(name, _)| name.clone());
        let Some(name) = name else { return Vec::new() };
        let Some(queue) = self.queues.get_mut(&name) else { return Vec::new() };
        let entry = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&name);
        }
        entry.map(|entry| Output::Answer(entry.token, answer)).into_iter().collect()
    }
}

fn too_large(frame_bytes_max: usize) -> Refused {
    let message = format!("the command is longer than {frame_bytes_max} bytes; send less at once");
    Refused { code: "too_large".to_owned(), message, retry_after: None }
}

/// A command as it is sent.
fn frame(user_id: &str, room: &str, id: &str, ask: &Ask) -> String {
    let command = Command { user_id, room: Some(room), id: Some(id), ..Command::default() };
    let command = match ask {
        Ask::Create => Command { r#type: "create", ..command },
        Ask::Join(Start::After(seq)) => Command { r#type: "join", since: Some(*seq), ..command },
        Ask::Join(Start::Last(0)) => Command { r#type: "join", ..command },
        Ask::Join(Start::Last(len)) => Command { r#type: "join", last: Some(*len), ..command },
        Ask::Leave => Command { r#type: "leave", ..command },
        Ask::Message(text) => Command { r#type: "message", message: Some(text), ..command },
        Ask::History { before, after, limit } => Command {
            r#type: "history",
            before: *before,
            after: *after,
            limit: Some(*limit),
            ..command
        },
    };
    command.json()
}

#[cfg(test)]
mod tests;
