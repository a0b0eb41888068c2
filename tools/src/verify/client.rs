//! What talkers and followers share: a connection, the rooms that the client follows, and recording
//! all that it receives.
//!
//! It does what every client of this server has to do: it keeps the highest seq of each room, and
//! goes to another node when one does not answer. Talkers and followers decide what to send when.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use verbatim_checker::{
    Ack, Asked, Command, Connection, Kind, Nanos, Node, Page, Start, View, ViewOf, Wanted, at_ms,
};
use verbatim_client::frame::{self, Frame};
use verbatim_client::{Connection as Line, Target, Waits};

use super::recorder::{Counters, Recorder};
use super::{Ends, Phase};

/// The pause after a failed attempt to connect.
const KNOCK_PAUSE: Duration = Duration::from_millis(50);

/// How long a client waits for a server. Shorter than people would wait, so that the effect of a
/// fault is seen and not waited out.
pub const WAITS: Waits = Waits {
    open: Duration::from_millis(1500),
    silence: Duration::from_millis(800),
    answer: Duration::from_millis(1500),
    send: Duration::from_secs(2),
    receive_bytes: None,
};

/// The connection or the run has ended.
#[derive(Debug)]
pub struct Gone;

impl From<verbatim_client::Gone> for Gone {
    fn from(_: verbatim_client::Gone) -> Self {
        Self
    }
}

/// What all clients of a run have in common.
pub struct Stage {
    pub recorder: Recorder,
    pub targets: Vec<Target>,
    /// The rooms that talkers send to and followers follow.
    pub rooms: Vec<String>,
    /// Further rooms that talkers have created.
    pub made: Mutex<BTreeSet<String>>,
    pub phase: watch::Sender<Phase>,
    /// How many followers follow all their rooms to the end, and how many have seen all ends.
    pub settled: watch::Sender<usize>,
    pub arrived: watch::Sender<usize>,
}

pub struct Client {
    pub stage: Arc<Stage>,
    /// For the report. Clients of the same user have different names.
    pub name: String,
    pub user: String,
    /// The index of the target of its last or next connection.
    pub home: usize,
    pub phase: watch::Receiver<Phase>,
    slow: bool,
    /// The rooms that it follows or followed, by name.
    rooms: HashMap<String, Place>,
    /// It had a connection before.
    has_connected: bool,
}

/// A connection that has received its `hello`.
pub struct Open {
    pub line: Line,
    pub id: Connection,
    pub node: Node,
    stage: Arc<Stage>,
}

impl Open {
    /// The next frame. Cancel-safe.
    ///
    /// Connections may break; but what no server may send, or a close for something that these
    /// clients do not do, is written down as a frame that nothing accounts for.
    pub async fn next(&mut self) -> Result<String, Gone> {
        let gone = match self.line.next().await {
            Ok(text) => return Ok(text),
            Err(gone) => gone,
        };
        if gone.is_for_good() || matches!(gone, verbatim_client::Gone::Wrong(_)) {
            self.stray(&gone.to_string());
        }
        Err(gone.into())
    }

    /// A frame that nothing accounts for.
    pub fn stray(&self, text: &str) {
        let now = self.stage.recorder.now();
        let mut history = self.stage.recorder.history();
        let frame = history.frame(text.as_bytes());
        history.stray(self.id, now, frame);
    }
}

/// What a client knows of one room.
struct Place {
    view: View,
    /// The highest seq it has seen, or the seq above which it requested all events.
    last: Option<u64>,
    /// Unanswered `join`s and `resume`s, in the order of their answers: where each begins, and when
    /// it was sent.
    asked: VecDeque<(Start, Nanos)>,
    /// While it follows: the seq at which its user was known to be a member. Only a later `leave`
    /// ends the following.
    as_of: Option<u64>,
}

/// What a recorded frame means for the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    /// The client follows the room now.
    Joined(String),
    /// The client's user left the room.
    Left(String),
    /// An answer, which the caller matches with what was sent.
    Answer,
}

/// How a command was answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered {
    Acked(u64),
    /// The server could not say whether it was committed. Send the same id again.
    Unavailable,
    Refused,
}

impl Client {
    pub fn new(stage: &Arc<Stage>, name: &str, user: &str, home: usize, slow: bool) -> Self {
        Self {
            stage: stage.clone(),
            name: name.to_owned(),
            user: user.to_owned(),
            home: home % stage.targets.len(),
            phase: stage.phase.subscribe(),
            slow,
            rooms: HashMap::new(),
            has_connected: false,
        }
    }

    /// Connects to the next node that answers, without a time limit. `Err`: the run is over.
    pub async fn connect(&mut self) -> Result<Open, Gone> {
        const NARROW_BYTES: u32 = 4096;
        if std::mem::replace(&mut self.has_connected, true) {
            Counters::add(&self.stage.recorder.counters.reconnects);
        }
        let receive_bytes = self.slow.then_some(NARROW_BYTES);
        loop {
            if *self.phase.borrow() == Phase::Over {
                return Err(Gone);
            }
            let target = &self.stage.targets[self.home];
            if let Ok(mut line) = Line::open(target, Waits { receive_bytes, ..WAITS }).await
                && let Ok(hello) = line.next().await
                && let Ok(Frame { node: Some(node), .. }) = serde_json::from_str(&hello)
            {
                let mut history = self.stage.recorder.history();
                let node = history.node(&node);
                let id = history.connection(node, &self.name);
                return Ok(Open { line, id, node, stage: self.stage.clone() });
            }
            self.move_on();
            tokio::time::sleep(KNOCK_PAUSE).await;
        }
    }

    /// Makes it count as never connected. It keeps what it has seen.
    pub fn fresh(mut self) -> Self {
        self.has_connected = false;
        self
    }

    /// Makes the next connection go to another node.
    pub fn move_on(&mut self) {
        self.home = (self.home + 1) % self.stage.targets.len();
    }

    /// Its connection has ended, or is not read any more. The client will reconnect.
    pub fn disconnected(&mut self) {
        for place in self.rooms.values_mut() {
            place.as_of = None;
            place.asked.clear();
        }
    }

    /// Like `disconnected`, but the client will not follow its rooms again.
    pub fn unfollow(&mut self) {
        let now = self.stage.recorder.now();
        for place in self.rooms.values() {
            self.stage.recorder.history().unfollowed(place.view, now);
        }
        self.disconnected();
    }

    /// Records and returns the command to join a room, from the client's position there, or else as
    /// `entry` says.
    pub fn join(&mut self, open: &Open, room: &str, entry: Start, id: Option<&str>) -> String {
        let command = self.command(Kind::Join, room, id, None);
        // The same time for both, because the checker uses it to find the attempt that a `joined`
        // answers.
        let asked_at = self.sent(open, command);
        let user = self.user.clone();
        let place = self.place(room);
        let start = place.last.map_or(entry, Start::After);
        if let Start::After(seq) = start {
            place.last = Some(seq);
        }
        place.asked.push_back((start, asked_at));
        let (since, last) = match start {
            Start::After(seq) => (Some(seq), None),
            Start::Last(0) | Start::Unmoved => (None, None),
            Start::Last(len) => (None, Some(len)),
        };
        let (user_id, room) = (&*user, Some(room));
        let r#type = "join";
        frame::Command { r#type, user_id, room, since, last, id, ..Default::default() }.json()
    }

    /// The command to follow again the rooms in which it has a position. `None`: there are none.
    pub fn resume(&mut self) -> Option<String> {
        let asked_at = self.stage.recorder.now();
        let mut positions = frame::Positions::new();
        for (room, place) in &mut self.rooms {
            if let Some(last) = place.last {
                place.asked.push_back((Start::After(last), asked_at));
                positions.insert(room, last);
            }
        }
        if positions.is_empty() {
            return None;
        }
        let (user_id, rooms) = (&*self.user, Some(positions));
        let resume = frame::Command { r#type: "resume", user_id, rooms, ..Default::default() };
        Some(resume.json())
    }

    /// A `join` of that room, or its part of a `resume`, was answered with an error.
    pub fn not_joined(&mut self, room: &str) {
        if let Some(place) = self.rooms.get_mut(room) {
            place.asked.pop_front();
        }
    }

    fn place(&mut self, room: &str) -> &mut Place {
        self.rooms.entry(room.to_owned()).or_insert_with(|| {
            let mut history = self.stage.recorder.history();
            let (number, user) = (history.room(room), history.user(&self.user));
            let (who, slow) = (&*self.name, self.slow);
            let view = history.view(&ViewOf { who, room: number, user: Some(user), slow });
            Place { view, last: None, asked: VecDeque::new(), as_of: None }
        })
    }

    /// Whether it has a position in that room.
    pub fn knows(&self, room: &str) -> bool {
        self.rooms.get(room).is_some_and(|place| place.last.is_some())
    }

    pub fn follows(&self, room: &str) -> bool {
        self.rooms.get(room).is_some_and(|place| place.as_of.is_some())
    }

    /// Whether it has seen every event up to `ends` in the rooms that it follows. A client that
    /// joined at the end, and has received nothing since, has.
    pub fn has_seen(&self, ends: &Ends) -> bool {
        let has_seen = |(room, place): (&String, &Place)| {
            place.as_of.is_none_or(|as_of| {
                let seen = place.last.unwrap_or(as_of);
                ends.get(room).is_none_or(|end| seen >= *end)
            })
        };
        self.rooms.iter().all(has_seen)
    }

    /// Records a frame, and returns what it means.
    pub fn hear(&mut self, open: &Open, text: &str) -> Heard {
        let Ok(frame) = serde_json::from_str::<Frame<'_>>(text) else {
            open.stray(text);
            return Heard::Nothing;
        };
        match &*frame.r#type {
            _ if frame.is_event() => self.on_event(&frame, text).unwrap_or_else(|| {
                open.stray(text);
                Heard::Nothing
            }),
            "joined" => self.on_joined(open, &frame),
            "reset" => {
                if let (Some(room), Some(last_seq)) = (&frame.room, frame.last_seq) {
                    let place = self.place(room);
                    place.last = Some(last_seq);
                    let view = place.view;
                    self.stage.recorder.history().reset(view, last_seq);
                }
                Heard::Nothing
            }
            "ack" | "error" | "history" => Heard::Answer,
            "hello" | "pong" | "resumed" | "goodbye" | "rooms" | "members" => Heard::Nothing,
            // Signals, about which nothing is promised.
            "who" | "presence" | "typing" | "read" => Heard::Nothing,
            _ => {
                open.stray(text);
                Heard::Nothing
            }
        }
    }

    /// `None`: it is of a room that this connection does not follow.
    fn on_event(&mut self, frame: &Frame<'_>, text: &str) -> Option<Heard> {
        let now = self.stage.recorder.now();
        let (room, seq) = (frame.room.as_deref()?, frame.seq?);
        let place = self.rooms.get_mut(room)?;
        let as_of = place.as_of?;
        let mut history = self.stage.recorder.history();
        let bytes = history.frame(text.as_bytes());
        history.delivered(place.view, now, bytes);
        Counters::add(&self.stage.recorder.counters.deliveries);
        place.last = place.last.max(Some(seq));
        let is_mine = frame.user_id.as_deref() == Some(&self.user);
        if frame.r#type == "leave" && is_mine && seq > as_of {
            history.unfollowed(place.view, now);
            place.as_of = None;
            return Some(Heard::Left(room.to_owned()));
        }
        Some(Heard::Nothing)
    }

    fn on_joined(&mut self, open: &Open, frame: &Frame<'_>) -> Heard {
        let now = self.stage.recorder.now();
        let (Some(room), Some(last_seq)) = (&frame.room, frame.last_seq) else {
            return Heard::Nothing;
        };
        let place = self.place(room);
        let view = place.view;
        let (mut start, asked_at) = place.asked.pop_front().unwrap_or((Start::Unmoved, now));
        if place.as_of.is_some() {
            start = Start::Unmoved;
        }
        place.as_of = place.as_of.max(Some(last_seq));
        let mut history = self.stage.recorder.history();
        history.followed(view, open.id, asked_at, now, start, last_seq);
        Heard::Joined(room.clone().into_owned())
    }

    /// Records the answer to a command, and returns what it means.
    pub fn answered(
        &self,
        open: &Open,
        command: Command,
        frame: &Frame<'_>,
        text: &str,
    ) -> Answered {
        let (recorder, connection) = (&self.stage.recorder, open.id);
        let (at, counters) = (recorder.now(), &recorder.counters);
        if let Some(code) = frame.code.as_deref() {
            recorder.history().refused(command, connection, at, code);
            let is_unavailable = matches!(code, "unavailable" | "rate_limited");
            Counters::add(if is_unavailable { &counters.unavailable } else { &counters.answered });
            if !matches!(code, "not_member" | "room_exists") && !is_unavailable {
                // Nothing that these clients send may be refused for another reason.
                open.stray(text);
            }
            return if is_unavailable { Answered::Unavailable } else { Answered::Refused };
        }
        let re = frame.re.as_deref().and_then(kind);
        let event_at_ms = frame.at.as_deref().and_then(at_ms);
        let (Some(re), Some(seq), Some(event_at_ms)) = (re, frame.seq, event_at_ms) else {
            open.stray(text);
            return Answered::Refused;
        };
        let duplicate = frame.duplicate.unwrap_or(false);
        recorder.history().acked(Ack { command, connection, at, re, seq, event_at_ms, duplicate });
        Counters::add(&counters.answered);
        Counters::add(&counters.acked);
        Answered::Acked(seq)
    }

    /// Records a `history` frame and the request for it. Returns the highest seq in it, and whether
    /// there is more.
    pub fn page(
        &self,
        open: &Open,
        room: &str,
        asked: Asked,
        asked_at: Nanos,
        text: &str,
    ) -> Result<(u64, bool), Gone> {
        let page: frame::History<'_> = serde_json::from_str(text).map_err(|_| Gone)?;
        let mut history = self.stage.recorder.history();
        let events = page.events.iter().map(|event| history.frame(event.get().as_bytes()));
        let events = events.collect();
        let (node, room, more) = (open.node, history.room(room), page.more);
        history.page(Page { node, room, asked, asked_at, events, more });
        Ok((page.last.unwrap_or_default(), more))
    }

    /// A talker has created another room.
    pub fn made(&self, room: &str) {
        let mut made = self.stage.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.insert(room.to_owned());
    }

    /// Records a command before it is sent for the first time.
    pub fn command(&self, kind: Kind, room: &str, id: Option<&str>, text: Option<&str>) -> Command {
        let mut history = self.stage.recorder.history();
        let (room, user) = (history.room(room), history.user(&self.user));
        history.command(&Wanted { kind, room, user, id, text })
    }

    /// Records that the command is about to be sent. Returns the time.
    pub fn sent(&self, open: &Open, command: Command) -> Nanos {
        let now = self.stage.recorder.now();
        self.stage.recorder.history().sent(command, open.id, now);
        now
    }

    pub fn abandoned(&self, command: Command) {
        self.stage.recorder.history().abandoned(command);
    }
}

fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "create" => Kind::Create,
        "join" => Kind::Join,
        "leave" => Kind::Leave,
        "message" => Kind::Message,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use verbatim_checker::{Limits, check};

    use super::*;

    /// What is found when a server's connection ends so, after its greeting.
    async fn found(end: &[u8]) -> usize {
        let hello = br#"{"type":"hello","node":"n"}"#;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let stage = Arc::new(Stage {
            recorder: Recorder::new(Limits::default()),
            targets: vec![Target::parse(&url).unwrap()],
            rooms: Vec::new(),
            made: Mutex::default(),
            phase: watch::channel(Phase::Talk).0,
            settled: watch::channel(0).0,
            arrived: watch::channel(0).0,
        });
        let mut client = Client::new(&stage, "c", "u", 0, false);
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            let mut stream = socket.into_inner();
            let head = [0x81, u8::try_from(hello.len()).unwrap()];
            stream.write_all(&[&head[..], hello, end].concat()).await.unwrap();
        };
        let (open, ()) = tokio::join!(client.connect(), serve);
        let mut open = open.unwrap();
        assert!(open.next().await.is_err());
        check(&open.stage.recorder.history()).total()
    }

    #[tokio::test]
    async fn a_break_is_nothing_and_what_no_server_may_send_is_found() {
        let close = |code: u16| [&[0x88, 2][..], &code.to_be_bytes()].concat();
        for end in [Vec::new(), close(1012), close(4008), vec![0x81]] {
            assert_eq!(found(&end).await, 0, "{end:?}");
        }
        for end in [close(1002), close(1008), b"\x82\x01x".to_vec(), b"\xf1\x01x".to_vec()] {
            assert_eq!(found(&end).await, 1, "{end:?}");
        }
    }
}
