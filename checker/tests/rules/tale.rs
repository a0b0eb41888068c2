//! A run as plain values that a test can bend as it likes, before it is recorded.

use verbatim_checker::{
    Ack, Asked, Command, Connection, History, Kind, Limits, MembersRow, Page, Place, Read, Room,
    RoomRow, Row, SetBack, Start, StreamEntry, ViewOf, Wanted,
};

#[derive(Clone, Debug)]
pub struct Tale {
    pub limits: Limits,
    /// Of each connection, its node.
    pub lines: Vec<String>,
    pub commands: Vec<CommandTale>,
    pub sent: Vec<Sent>,
    pub answers: Vec<Answer>,
    pub views: Vec<ViewTale>,
    /// By connection: event frames that nobody asked for.
    pub strays: Vec<(usize, u64, String)>,
    pub reads: Vec<ReadTale>,
    pub pages: Vec<PageTale>,
    /// Whether the table is read; else the pages are the log.
    pub has_table: bool,
    pub rooms: Vec<RoomTale>,
    pub rows: Vec<RowTale>,
    pub members: Vec<(String, String)>,
    pub set_back: Option<SetBackTale>,
    pub stream: Vec<EntryTale>,
    pub outbox_rows: u64,
    pub whole_since: u64,
    pub memory: Vec<(String, u64)>,
    pub healed_at: u64,
    pub ended_at: u64,
}

#[derive(Clone, Debug)]
pub struct CommandTale {
    pub kind: Kind,
    pub room: String,
    pub user: String,
    pub id: Option<String>,
    pub text: Option<String>,
    pub abandoned: bool,
}

#[derive(Clone, Debug)]
pub struct Sent {
    pub command: usize,
    pub line: usize,
    pub at: u64,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub command: usize,
    pub line: usize,
    pub at: u64,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Ack { re: Kind, seq: u64, at_ms: i64, duplicate: bool },
    Refused(&'static str),
}

impl What {
    pub fn is_refused(&self, with: &str) -> bool {
        matches!(self, Self::Refused(code) if *code == with)
    }
}

#[derive(Clone, Debug)]
pub struct ViewTale {
    pub who: String,
    pub room: String,
    pub user: String,
    pub slow: bool,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Joined { line: usize, asked_at: u64, at: u64, start: Start, last_seq: u64 },
    Reset(u64),
    Shown { at: u64, frame: String },
    Closed(u64),
}

#[derive(Clone, Debug)]
pub struct ReadTale {
    /// `None`: the table.
    pub node: Option<String>,
    pub room: String,
    pub asked_at: u64,
    pub last_seq: u64,
}

#[derive(Clone, Debug)]
pub struct PageTale {
    pub node: String,
    pub room: String,
    pub asked: Asked,
    pub asked_at: u64,
    pub events: Vec<String>,
    pub more: bool,
}

#[derive(Clone, Debug)]
pub struct RoomTale {
    pub name: String,
    pub last_seq: u64,
    pub message_count: u64,
    pub member_count: u64,
}

#[derive(Clone, Debug)]
pub struct RowTale {
    pub room: String,
    pub seq: u64,
    pub kind: String,
    pub user: String,
    pub client_id: Option<String>,
    pub body: Option<String>,
    pub data: Option<String>,
    pub at_ms: i64,
}

/// The log of one room was set back.
#[derive(Clone, Debug)]
pub struct SetBackTale {
    pub room: String,
    pub to: u64,
    pub from: u64,
    pub until: u64,
    /// What it lost.
    pub gone: Vec<RowTale>,
}

#[derive(Clone, Debug)]
pub struct EntryTale {
    pub room: String,
    pub seq: u64,
    pub frame: String,
}

/// What an event of this kind has that only its type has.
pub fn data(kind: Kind) -> Option<String> {
    (kind == Kind::Other).then(|| r#""target":1,"of":{"a": 1}"#.to_owned())
}

impl RowTale {
    fn record(&self, room: Room) -> Row<'_> {
        Row {
            room,
            seq: self.seq,
            kind: &self.kind,
            user: &self.user,
            client_id: self.client_id.as_deref(),
            body: self.body.as_deref(),
            data: self.data.as_deref(),
            at_ms: self.at_ms,
        }
    }

    /// The frame of the event, as a server sends it.
    pub fn frame(&self) -> String {
        let text = |text: &str| serde_json::to_string(text).unwrap();
        let message = self.body.iter().map(|body| format!(",\"message\":{}", text(body)));
        let id = self.client_id.iter().map(|id| format!(",\"client_id\":{}", text(id)));
        let data = self.data.iter().map(|data| format!(",{data}"));
        let (message, id): (String, String) = (message.chain(data).collect(), id.collect());
        // Tales are told within one minute.
        let (second, ms) = (self.at_ms / 1000, self.at_ms % 1000);
        assert!((0..60).contains(&second));
        let at = format!("1970-01-01T00:00:{second:02}.{ms:03}Z");
        let (kind, room, user, seq) =
            (text(&self.kind), text(&self.room), text(&self.user), self.seq);
        format!(
            r#"{{"type":{kind},"room":{room},"user_id":{user}{message},"seq":{seq},"at":"{at}"{id}}}"#
        )
    }
}

impl Tale {
    /// As a recorder would have recorded it.
    pub fn history(&self) -> History {
        let mut history = History::new(self.limits);
        let lines: Vec<Connection> = self
            .lines
            .iter()
            .enumerate()
            .map(|(number, node)| {
                let node = history.node(node);
                history.connection(node, &format!("client-{number}"))
            })
            .collect();
        self.record_commands(&mut history, &lines);
        self.record_views(&mut history, &lines);
        self.record_reads(&mut history);
        if self.has_table {
            self.record_table(&mut history);
        }
        self.record_stream(&mut history);
        for (node, bytes) in &self.memory {
            let node = history.node(node);
            history.memory(node, self.ended_at, *bytes);
        }
        history.note(self.healed_at, "the last fault ended");
        history.healed(self.healed_at);
        history.ended(self.ended_at);
        history
    }

    fn record_commands(&self, history: &mut History, lines: &[Connection]) {
        let commands: Vec<Command> = self
            .commands
            .iter()
            .map(|command| {
                let (room, user) = (history.room(&command.room), history.user(&command.user));
                let (id, text) = (command.id.as_deref(), command.text.as_deref());
                let number = history.command(&Wanted { kind: command.kind, room, user, id, text });
                if command.abandoned {
                    history.abandoned(number);
                }
                number
            })
            .collect();
        for sent in &self.sent {
            history.sent(commands[sent.command], lines[sent.line], sent.at);
        }
        for answer in &self.answers {
            let (command, connection) = (commands[answer.command], lines[answer.line]);
            match answer.what {
                What::Refused(code) => history.refused(command, connection, answer.at, code),
                What::Ack { re, seq, at_ms, duplicate } => history.acked(Ack {
                    command,
                    connection,
                    at: answer.at,
                    re,
                    seq,
                    event_at_ms: at_ms,
                    duplicate,
                }),
            }
        }
    }

    fn record_views(&self, history: &mut History, lines: &[Connection]) {
        for tale in &self.views {
            let (room, user) = (history.room(&tale.room), Some(history.user(&tale.user)));
            let view = history.view(&ViewOf { who: &tale.who, room, user, slow: tale.slow });
            for step in &tale.steps {
                match step {
                    Step::Joined { line, asked_at, at, start, last_seq } => {
                        history.followed(view, lines[*line], *asked_at, *at, *start, *last_seq);
                    }
                    Step::Reset(last_seq) => history.reset(view, *last_seq),
                    Step::Shown { at, frame } => {
                        let frame = history.frame(frame.as_bytes());
                        history.delivered(view, *at, frame);
                    }
                    Step::Closed(at) => history.unfollowed(view, *at),
                }
            }
        }
        for (line, at, frame) in &self.strays {
            let frame = history.frame(frame.as_bytes());
            history.stray(lines[*line], *at, frame);
        }
    }

    fn record_reads(&self, history: &mut History) {
        for read in &self.reads {
            let room = history.room(&read.room);
            let place = match &read.node {
                None => Place::Table,
                Some(node) => Place::Node(history.node(node)),
            };
            let (asked_at, last_seq) = (read.asked_at, read.last_seq);
            history.read(Read { place, room, asked_at, last_seq });
        }
        for page in &self.pages {
            let (node, room) = (history.node(&page.node), history.room(&page.room));
            let events = page.events.iter().map(|it| history.frame(it.as_bytes())).collect();
            let (asked, asked_at, more) = (page.asked, page.asked_at, page.more);
            history.page(Page { node, room, asked, asked_at, events, more });
        }
    }

    fn record_table(&self, history: &mut History) {
        for tale in &self.rooms {
            let room = history.room(&tale.name);
            let RoomTale { last_seq, message_count, member_count, .. } = *tale;
            history.room_row(RoomRow { room, last_seq, message_count, member_count });
        }
        for row in &self.rows {
            let room = history.room(&row.room);
            history.row(&row.record(room));
        }
        if let Some(tale) = &self.set_back {
            let (room, to) = (history.room(&tale.room), tale.to);
            history.set_back(SetBack { room, to, from: tale.from, until: tale.until });
            tale.gone.iter().for_each(|row| history.gone(&row.record(room)));
        }
        for (room, user) in &self.members {
            let (room, user) = (history.room(room), history.user(user));
            history.member(MembersRow { room, user });
        }
    }

    fn record_stream(&self, history: &mut History) {
        for (number, entry) in self.stream.iter().enumerate() {
            let (room, frame) = (history.room(&entry.room), history.frame(entry.frame.as_bytes()));
            let id = (number as u64, 0);
            history.stream_entry(StreamEntry { id, room, seq: entry.seq, frame });
        }
        history.stream_end(self.outbox_rows, self.whole_since);
    }
}
