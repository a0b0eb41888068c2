//! Everything that was recorded of one run.
//!
//! It judges nothing. A recorder calls it as things happen, or afterwards; the order of the calls
//! matters only within one view, one connection and the table. Names and frames are kept once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::at;
use crate::event::{Event, EventText, Kind};
use crate::names::{Command, Connection, Frame, Names, Node, Room, Text, User, View};
use crate::record::{
    Ack, Answer, Asked, Attempt, CommandOf, Delivery, Follow, Limits, MembersRow, Nanos, Page,
    Place, Read, Refusal, RoomRow, Row, SetBack, Start, StreamEnd, StreamEntry, ViewOf, Wanted,
};

/// The records of one run.
#[derive(Default)]
pub struct History {
    pub(crate) limits: Limits,
    pub(crate) rooms: Names,
    pub(crate) users: Names,
    pub(crate) nodes: Names,
    pub(crate) texts: Names,
    /// The node, and whose connection it is.
    pub(crate) connections: Vec<(Node, String)>,

    pub(crate) commands: Vec<CommandOf>,
    by_key: HashMap<Key, Command>,
    pub(crate) frames: Vec<Payload>,
    by_bytes: HashMap<Arc<[u8]>, Frame>,

    pub(crate) attempts: Vec<Attempt>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) views: Vec<Seen>,
    /// Event frames of rooms that the connection does not follow, and frames that are nothing.
    pub(crate) strays: Vec<(Connection, Delivery)>,
    pub(crate) reads: Vec<Read>,
    pub(crate) pages: Vec<Page>,

    /// The table's rooms; `None`: it was not read, and history pages stand for it.
    pub(crate) table: Option<Vec<RoomRow>>,
    /// The table's events, in the order of reading.
    pub(crate) rows: Vec<(Room, u64, Frame)>,
    pub(crate) members: Vec<MembersRow>,
    pub(crate) set_backs: HashMap<Room, SetBack>,
    /// Events that were in the log before it was set back, in any order.
    pub(crate) gone: Vec<(Room, u64, Frame)>,
    pub(crate) stream: Vec<StreamEntry>,
    pub(crate) stream_end: Option<StreamEnd>,

    /// Resident bytes of a node.
    pub(crate) memory: Vec<(Node, Nanos, u64)>,
    /// What was done to the servers, for the timeline.
    pub(crate) notes: Vec<(Nanos, String)>,
    /// When each fault ended.
    pub(crate) faults_ended: Vec<Nanos>,
    pub(crate) healed_at: Option<Nanos>,
    pub(crate) ended_at: Option<Nanos>,
}

/// Errors after which a command may still be in the log, or may be sent again as it is.
const INDEFINITE: [&str; 3] = ["unavailable", "internal", "rate_limited"];

/// What makes two commands the same.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Keyed(Room, User, Kind, Text),
    Bare(Room, User, Kind, Option<Text>),
}

/// The payload of a frame, and the event that it is, if it is one.
pub(crate) struct Payload {
    pub bytes: Arc<[u8]>,
    pub event: Option<Event>,
}

/// A view, as it was recorded.
pub(crate) struct Seen {
    pub who: String,
    pub room: Room,
    pub user: Option<User>,
    pub slow: bool,
    pub follows: Vec<Follow>,
    pub deliveries: Vec<Delivery>,
    /// It does not want to follow any more.
    pub closed_at: Option<Nanos>,
}

impl History {
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub fn room(&mut self, name: &str) -> Room {
        self.rooms.number(name).into()
    }

    pub fn user(&mut self, id: &str) -> User {
        self.users.number(id).into()
    }

    pub fn node(&mut self, name: &str) -> Node {
        self.nodes.number(name).into()
    }

    pub fn text(&mut self, text: &str) -> Text {
        self.texts.number(text).into()
    }

    /// A new connection; `who` is for the report.
    pub fn connection(&mut self, node: Node, who: &str) -> Connection {
        self.connections.push((node, who.to_owned()));
        (self.connections.len() - 1).into()
    }

    /// The command that a client is about to send, or sends again. One `id` of one user in one room
    /// names one command: what is sent under it later is taken for the first, if it is of its type,
    /// and is another command if it is not.
    pub fn command(&mut self, wanted: &Wanted<'_>) -> Command {
        let Wanted { kind, room, user, id, text } = *wanted;
        let text = text.map(|text| self.text(text));
        let command = self.command_of(kind, room, user, id, text);
        self.commands[command.index()].sent_as.get_or_insert((kind, text));
        command
    }

    fn command_of(
        &mut self,
        kind: Kind,
        room: Room,
        user: User,
        id: Option<&str>,
        text: Option<Text>,
    ) -> Command {
        // A join is idempotent by nature: its id is no key.
        let id = id.filter(|_| kind != Kind::Join).map(|id| self.text(id));
        let key = match id {
            Some(id) => Key::Keyed(room, user, kind, id),
            None => Key::Bare(room, user, kind, text),
        };
        let next = self.commands.len().into();
        let command = *self.by_key.entry(key).or_insert(next);
        if command == next {
            let new = CommandOf { room, user, id, sent_as: None, abandoned: false };
            self.commands.push(new);
        }
        command
    }

    /// Just before the command goes out.
    pub fn sent(&mut self, command: Command, connection: Connection, at: Nanos) {
        self.attempts.push(Attempt { command, connection, at });
    }

    /// An `ack` came for a command. `at_ms` reads its `at`.
    pub fn acked(&mut self, ack: Ack) {
        self.answers.push(Answer::Ack(ack));
    }

    /// An `error` came for a command, `unavailable` or any other.
    pub fn refused(&mut self, command: Command, connection: Connection, at: Nanos, code: &str) {
        let is_definite = !INDEFINITE.contains(&code);
        let code = self.text(code);
        let refusal = Refusal { command, connection, at, code, is_definite };
        self.answers.push(Answer::Refusal(refusal));
    }

    /// Its sender will not send it again, though it has no answer. Any other command with an `id`
    /// must have one in the end.
    pub fn abandoned(&mut self, command: Command) {
        self.commands[command.index()].abandoned = true;
    }

    /// The payload of a frame. Only one that is new is read; whether it is an event, and which,
    /// `event` says.
    pub fn frame(&mut self, bytes: &[u8]) -> Frame {
        if let Some(frame) = self.by_bytes.get(bytes) {
            return *frame;
        }
        let event = EventText::parse(bytes).map(|text| self.event_of(&text));
        let (bytes, frame): (Arc<[u8]>, Frame) = (bytes.into(), self.frames.len().into());
        self.frames.push(Payload { bytes: bytes.clone(), event });
        self.by_bytes.insert(bytes, frame);
        frame
    }

    fn event_of(&mut self, text: &EventText<'_>) -> Event {
        let (room, user) = (self.room(&text.room), self.user(&text.user_id));
        let message = text.message.as_deref().map(|text| self.text(text));
        let (kind, id) = (text.kind(), text.client_id.as_deref());
        let command = self.command_of(kind, room, user, id, message);
        let at_ms = at::parse(&text.at).expect("an event was read, so it has a time");
        Event { room, seq: text.seq, kind, command, message, at_ms }
    }

    pub fn event(&self, frame: Frame) -> Option<&Event> {
        self.frames[frame.index()].event.as_ref()
    }

    pub fn room_name(&self, room: Room) -> &str {
        self.rooms.text(room.index())
    }

    /// A client that will follow a room.
    pub fn view(&mut self, view: &ViewOf<'_>) -> View {
        let ViewOf { who, room, user, slow } = *view;
        let (follows, deliveries) = (Vec::new(), Vec::new());
        let (who, closed_at) = (who.to_owned(), None);
        self.views.push(Seen { who, room, user, slow, follows, deliveries, closed_at });
        (self.views.len() - 1).into()
    }

    /// It was answered `joined`, which said `last_seq`; `asked_at` is when it sent the `join` or
    /// the `resume`. What is delivered next belongs to this.
    pub fn followed(
        &mut self,
        view: View,
        connection: Connection,
        asked_at: Nanos,
        at: Nanos,
        start: Start,
        last_seq: u64,
    ) {
        let seen = &mut self.views[view.index()];
        let begins = seen.deliveries.len();
        let is_return = seen.closed_at.take().is_some();
        let reset = None;
        let follow = Follow { connection, asked_at, at, start, last_seq, reset, begins, is_return };
        seen.follows.push(follow);
    }

    /// An event frame came for it.
    pub fn delivered(&mut self, view: View, at: Nanos, frame: Frame) {
        self.views[view.index()].deliveries.push(Delivery { at, frame });
    }

    /// A `reset` came for it.
    pub fn reset(&mut self, view: View, last_seq: u64) {
        if let Some(follow) = self.views[view.index()].follows.last_mut() {
            follow.reset = Some(last_seq);
        }
    }

    /// It follows no more, by its own will: it left, or goes away for good. Nothing is owed to it
    /// from here on. (A connection that broke is no such will: it comes back and follows again.)
    pub fn unfollowed(&mut self, view: View, at: Nanos) {
        self.views[view.index()].closed_at = Some(at);
    }

    /// An event frame came on a connection that does not follow its room, or a frame that is
    /// nothing the protocol knows.
    pub fn stray(&mut self, connection: Connection, at: Nanos, frame: Frame) {
        self.strays.push((connection, Delivery { at, frame }));
    }

    pub fn read(&mut self, read: Read) {
        self.reads.push(read);
    }

    pub fn page(&mut self, page: Page) {
        self.pages.push(page);
    }

    /// A row of `rooms`. With the first, the table is what the log is judged by; without any, it is
    /// what the pages of history say.
    pub fn room_row(&mut self, row: RoomRow) {
        self.table.get_or_insert_default().push(row);
    }

    /// A row of `events`, in any order.
    pub fn row(&mut self, row: &Row<'_>) {
        let frame = self.frame_of(row);
        self.rows.push((row.room, row.seq, frame));
    }

    /// The log was set back, and `gone` is called for each row that it lost by that.
    pub fn set_back(&mut self, set_back: SetBack) {
        let before = self.set_backs.insert(set_back.room, set_back);
        assert_eq!(before, None, "a room is set back once");
    }

    /// A row of `events` that was there until the log was set back.
    pub fn gone(&mut self, row: &Row<'_>) {
        let frame = self.frame_of(row);
        self.gone.push((row.room, row.seq, frame));
    }

    fn frame_of(&mut self, row: &Row<'_>) -> Frame {
        let bytes = EventText::of(row, self.rooms.text(row.room.index())).bytes();
        self.frame(&bytes)
    }

    pub fn member(&mut self, row: MembersRow) {
        self.members.push(row);
    }

    pub fn stream_entry(&mut self, entry: StreamEntry) {
        self.stream.push(entry);
    }

    /// The stream was read to its end when the outbox had so many rows. `whole_since`: nothing that
    /// was written to it after this was taken from it (by FLUSHALL, by a Redis that restarted
    /// empty, by trimming). 0: nothing ever was.
    pub fn stream_end(&mut self, outbox_rows: u64, whole_since: Nanos) {
        self.stream_end = Some(StreamEnd { outbox_rows, whole_since });
    }

    pub fn memory(&mut self, node: Node, at: Nanos, bytes: u64) {
        self.memory.push((node, at, bytes));
    }

    /// What was done to the servers, or anything else that a reader of the timeline wants to know.
    pub fn note(&mut self, at: Nanos, text: &str) {
        self.notes.push((at, text.to_owned()));
    }

    /// One fault has ended; `Report::heals` says how long its traces were felt.
    pub fn fault_ended(&mut self, at: Nanos) {
        self.faults_ended.push(at);
    }

    /// The last fault has ended; from here on nobody may be late, and no client stays away by its
    /// own will. Without faults: the beginning. If it is never told, nobody is ever late.
    pub fn healed(&mut self, at: Nanos) {
        self.healed_at = Some(at);
    }

    /// The recording has ended: what had not come by now is missing.
    pub fn ended(&mut self, at: Nanos) {
        self.ended_at = Some(at);
    }
}

/// Names, as a violation tells them.
impl History {
    /// A command, as its sender meant it.
    pub(crate) fn said(&self, command: Command) -> String {
        let CommandOf { room, user, id, sent_as, .. } = &self.commands[command.index()];
        let (room, user) = (self.room_name(*room), self.users.text(user.index()));
        let kind = sent_as.map_or("command", |(kind, _)| kind.name());
        let text = |text: Text| format!(" {:?}", shorten(self.texts.text(text.index())));
        let message = sent_as.and_then(|(_, message)| message).map(text).unwrap_or_default();
        let id = id.map(text).unwrap_or_default();
        format!("{kind}{id}{message} of {user:?} in {room:?}")
    }

    /// The text of a frame.
    pub(crate) fn shown(&self, frame: Frame) -> String {
        shorten(&String::from_utf8_lossy(&self.frames[frame.index()].bytes))
    }

    pub(crate) fn node_name(&self, node: Node) -> &str {
        self.nodes.text(node.index())
    }

    pub(crate) fn place_name(&self, place: Place) -> String {
        match place {
            Place::Table => "the table".to_owned(),
            Place::Node(node) => self.node_name(node).to_owned(),
        }
    }

    pub(crate) fn connection_name(&self, connection: Connection) -> String {
        let (node, who) = &self.connections[connection.index()];
        format!("{who} at {}", self.node_name(*node))
    }

    /// What a page was asked for.
    pub(crate) fn named(&self, page: &Page) -> String {
        let room = self.room_name(page.room);
        match page.asked {
            Asked::Newest => format!("the newest page of {room:?}"),
            Asked::Before(seq) => format!("the page of {room:?} before {seq}"),
            Asked::After(seq) => format!("the page of {room:?} after {seq}"),
        }
    }
}

/// Characters of a text that a person is shown.
const SHOWN_MAX: usize = 240;

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Reads the `at` of a frame. `None`: it is not a time as the protocol writes it.
pub fn at_ms(at: &str) -> Option<i64> {
    at::parse(at)
}
