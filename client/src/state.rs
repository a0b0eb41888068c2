//! What a client knows across its connections: the rooms it follows with its position in each, and
//! the unanswered commands.
//!
//! It is pure: no I/O, no clock, no randomness. Frames come in; frames to send, updates and answers
//! come out. `T` says where a command's answer goes.
//!
//! In each room, one command is on its way at a time. Otherwise, if the first of two messages were
//! refused as `unavailable`, the second would be stored before it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::Refused;
use crate::event::{Event, Page, Update};
use crate::frame::{Command, Frame, History, Positions};

/// The wait before a command that the server could not carry out is sent again.
const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) };
/// Rooms in one `resume`. Even with the longest names it stays below 64 KiB, the longest frame that
/// a server accepts by default.
const RESUME_ROOMS_MAX: usize = 200;

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
    /// Nothing is due, and nothing will be before the next input, so there is no need to look.
    is_settled: bool,
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
    not_before: Option<Instant>,
    /// How often the server could not carry it out.
    tries: u32,
}

/// A room that is followed, or will be again.
struct Room {
    /// The last event that was passed on, or the seq above which all events were requested. `None`:
    /// it began with `Start::Last`, and no event has arrived.
    last: Option<u64>,
    /// How many past events were requested, and the room's last seq at that time. Used while `last`
    /// is `None`.
    began: (u64, u64),
    /// The room's last seq when this connection began to follow. A `leave` up to it is old, and
    /// does not end the following.
    as_of: u64,
    follow: Follow,
    /// The `leave` was acked, and its event has not arrived.
    is_left: bool,
    /// How often the server could not let the client follow the room.
    tries: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// It has to be requested, but not before this time.
    Off(Option<Instant>),
    Asked,
    On,
}

impl Room {
    fn position(&self) -> u64 {
        let (wanted, edge) = self.began;
        // The last event then may have been the user's own `join`, so this asks for one more.
        self.last.unwrap_or_else(|| edge.saturating_sub(wanted + 1))
    }
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
            is_settled: false,
            rooms,
            queues,
        }
    }

    /// Every command is answered.
    pub fn is_idle(&self) -> bool {
        self.queues.is_empty()
    }

    /// This connection has requested something that brings events.
    pub fn is_following(&self) -> bool {
        self.is_following
    }

    /// Accepts a command. `token` gets its answer.
    pub fn push(&mut self, room: String, ask: Ask, token: T) {
        self.count += 1;
        let id = format!("{}-{}", self.prefix, self.count);
        let entry = Entry { token, id, ask, is_sent: false, not_before: None, tries: 0 };
        self.queues.entry(room).or_default().push_back(entry);
        self.is_settled = false;
    }

    /// What is due now. Without `may_follow`, no room is followed again.
    pub fn due(&mut self, now: Instant, may_follow: bool) -> Vec<Output<T>> {
        let mut outputs = Vec::new();
        if !self.is_greeted || self.is_settled {
            return outputs;
        }
        self.is_settled = true;
        let is_due = |at: Option<Instant>| at.is_none_or(|at| at <= now);
        // Commands first, so that their answers come before the missed events.
        for (name, queue) in &mut self.queues {
            while let Some(entry) = queue.front_mut().filter(|entry| !entry.is_sent) {
                // The connection follows until the event of the `leave` arrives. A `join` before
                // that would not start anew.
                let is_leaving = self.rooms.get(name).is_some_and(|room| room.is_left);
                let is_join = matches!(entry.ask, Ask::Join(_));
                if !is_due(entry.not_before) || (is_join && is_leaving) {
                    self.is_settled = false;
                    break;
                }
                let frame = frame(&self.user, name, &entry.id, &entry.ask);
                if frame.len() <= self.frame_bytes_max {
                    entry.is_sent = true;
                    self.is_following |= is_join;
                    outputs.push(Output::Send(frame));
                } else if let Some(entry) = queue.pop_front() {
                    // The server would close the connection for it, and then the next one.
                    outputs.push(Output::Answer(entry.token, Err(too_large(self.frame_bytes_max))));
                }
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        let mut wanted = Positions::new();
        for (name, room) in &mut self.rooms {
            let Follow::Off(at) = room.follow else { continue };
            if may_follow && is_due(at) {
                room.follow = Follow::Asked;
                self.is_following = true;
                wanted.insert(name, room.position());
            } else {
                self.is_settled = false;
            }
        }
        let mut wanted = wanted.into_iter().peekable();
        while wanted.peek().is_some() {
            let rooms = wanted.by_ref().take(RESUME_ROOMS_MAX).collect();
            let (user_id, rooms) = (&*self.user, Some(rooms));
            let resume = Command { r#type: "resume", user_id, rooms, ..Command::default() };
            outputs.push(Output::Send(resume.json()));
        }
        outputs
    }

    /// When something will be due without further input.
    pub fn wake(&self) -> Option<Instant> {
        if self.is_settled {
            return None;
        }
        let heads = self.queues.values().filter_map(VecDeque::front);
        let commands = heads.filter(|entry| !entry.is_sent).filter_map(|entry| entry.not_before);
        let rooms = self.rooms.values().filter_map(|room| match room.follow {
            Follow::Off(at) => at,
            _ => None,
        });
        commands.chain(rooms).min()
    }

    /// The connection is gone. Unanswered commands will be sent again.
    pub fn disconnected(&mut self) {
        (self.is_greeted, self.is_following, self.is_settled) = (false, false, false);
        for entry in self.queues.values_mut().flatten() {
            entry.is_sent = false;
        }
        for room in self.rooms.values_mut() {
            room.follow = Follow::Off(None);
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
        let again = |retry_after: Option<Duration>, tries| {
            now + retry_after.unwrap_or_default() + AGAIN.wait(tries, random)
        };
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
            "ack" | "joined" | "history" if frame.id.is_some() => self.on_answer(&frame, text),
            "joined" => {
                if let (Some(room), Some(last_seq)) = (self.room(&frame), frame.last_seq) {
                    (room.follow, room.as_of, room.tries) = (Follow::On, last_seq, 0);
                    // A user who left would have been refused.
                    room.is_left = false;
                }
                Vec::new()
            }
            "reset" => {
                let (Some(room), Some(last_seq)) = (self.room(&frame), frame.last_seq) else {
                    return Vec::new();
                };
                room.last = Some(last_seq);
                let room = frame.room.unwrap_or_default().into_owned();
                vec![Output::Tell(Update::Reset { room, last_seq })]
            }
            "error" if frame.re.as_deref() == Some("resume") => self.on_refused(&frame, again),
            "error" => {
                let refused = Refused::of(&frame);
                let Some(entry) = self.asked(&frame) else { return other() };
                // A write has an id, so it is stored once, however often it is sent.
                let writes = !matches!(entry.ask, Ask::Join(_) | Ask::History { .. });
                if writes && refused.is_for_now() {
                    entry.not_before = Some(again(refused.retry_after, entry.tries));
                    entry.tries += 1;
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
        let (wanted, edge) = room.began;
        let next = room.last.map_or(edge, |last| last) + 1;
        if event.seq > next {
            return vec![Output::Hole];
        }
        if room.last.is_some() && event.seq < next {
            return Vec::new();
        }
        // It asked only for new events. Events up to `edge` are not new, except for the user's own
        // `join`.
        let is_join = is_mine && event.kind == "join";
        let is_old = room.last.is_none() && wanted == 0 && event.seq <= edge && !is_join;
        room.last = Some(event.seq);
        let has_left = is_mine && event.kind == "leave" && event.seq > room.as_of;
        let mut outputs = Vec::new();
        let name = event.room.clone();
        if !is_old {
            outputs.push(Output::Tell(Update::Event(event)));
        }
        if has_left {
            self.is_settled = false;
            self.rooms.remove(&name);
            outputs.push(Output::Tell(Update::Left { room: name, error: None }));
        }
        outputs
    }

    /// A room, or all that were requested, cannot be followed again, now or ever.
    fn on_refused(
        &mut self,
        frame: &Frame<'_>,
        again: impl Fn(Option<Duration>, u32) -> Instant,
    ) -> Vec<Output<T>> {
        let refused = Refused::of(frame);
        let named = frame.room.as_deref();
        if !refused.is_for_now()
            && let Some(name) = named
        {
            let Some(room) = self.rooms.remove(name) else { return Vec::new() };
            let error = (!room.is_left).then_some(refused);
            return vec![Output::Tell(Update::Left { room: name.to_owned(), error })];
        }
        let is_meant = |name: &str| named.is_none_or(|named| named == name);
        for (_, room) in self.rooms.iter_mut().filter(|(name, _)| is_meant(name)) {
            if room.follow == Follow::Asked {
                room.follow = Follow::Off(Some(again(refused.retry_after, room.tries)));
                room.tries += 1;
            }
        }
        Vec::new()
    }

    fn on_answer(&mut self, frame: &Frame<'_>, text: &str) -> Vec<Output<T>> {
        let Some(ask) = self.asked(frame).map(|entry| entry.ask.clone()) else {
            return Vec::new();
        };
        let answer = match (&*frame.r#type, ask) {
            ("ack", ask) => {
                if ask == Ask::Leave
                    && let Some(room) = self.room(frame)
                {
                    room.is_left = true;
                }
                Answer::Seq(frame.seq.unwrap_or_default())
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
        self.answer(frame, Ok(answer))
    }

    fn on_joined(&mut self, name: &str, start: Start, last_seq: u64) {
        let (last, began) = match start {
            Start::After(seq) => (Some(seq), (0, 0)),
            Start::Last(wanted) => (None, (wanted, last_seq)),
        };
        let (as_of, follow) = (last_seq, Follow::On);
        let room = self.rooms.entry(name.to_owned());
        // A room that is already followed keeps its position.
        let room = room.or_insert(Room { last, began, as_of, follow, is_left: false, tries: 0 });
        (room.as_of, room.follow) = (as_of, follow);
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
