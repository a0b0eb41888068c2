//! A client that always has commands under way, and sends again, with the same id, whatever was
//! not answered: after a broken connection, and after `unavailable`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use verbatim_checker::{Command as Recorded, Connection, Kind};

use super::Progress;
use super::line::{Gone, Line};
use super::record::Record;

pub struct Talker {
    pub user: String,
    pub rooms: Vec<String>,
    /// Commands that it keeps under way.
    pub window: usize,
    pub address: watch::Receiver<SocketAddr>,
    /// While it is true there is always something more to say.
    pub talking: watch::Receiver<bool>,
    pub progress: watch::Sender<Progress>,
    pub record: Arc<Record>,
    pub told: Told,
    /// To be sent, in this order.
    pub queue: VecDeque<Command>,
    /// Sent and not answered, in the order of their answers.
    pub under_way: VecDeque<(Command, Instant)>,
}

#[derive(Clone)]
pub struct Command {
    id: String,
    kind: Kind,
    room: String,
    frame: Value,
    recorded: Recorded,
}

/// What one talker has to tell in the end.
#[derive(Default)]
pub struct Told {
    pub connections: usize,
    pub unavailable: usize,
    /// The longest that an answer took, on a connection that stood.
    pub slowest: Duration,
    commands: usize,
}

impl Talker {
    /// Talks until it is told to stop, and then until everything is answered.
    pub async fn run(mut self) -> Told {
        loop {
            self.told.connections += 1;
            let mut line = Line::open(&self.address).await;
            if self.converse(&mut line).await.is_ok() {
                return self.told;
            }
            // Whatever was not answered goes first, in the old order.
            let unanswered = std::mem::take(&mut self.under_way).into_iter();
            self.queue =
                unanswered.map(|(command, _)| command).chain(self.queue.drain(..)).collect();
        }
    }

    async fn converse(&mut self, line: &mut Line) -> Result<(), Gone> {
        let mouth = self.record.mouth(&line.node, &self.user);
        loop {
            let talking = *self.talking.borrow_and_update();
            while talking && self.queue.len() + self.under_way.len() < self.window {
                self.think();
            }
            let room = self.window.saturating_sub(self.under_way.len()).min(self.queue.len());
            let commands: Vec<Command> = self.queue.drain(..room).collect();
            let frames: Vec<Value> = commands.iter().map(|it| it.frame.clone()).collect();
            let now = Instant::now();
            commands.iter().for_each(|command| self.record.sent(command.recorded, mouth));
            self.under_way.extend(commands.into_iter().map(|command| (command, now)));
            line.send_all(&frames).await?;
            if !talking && self.under_way.is_empty() {
                return Ok(());
            }
            tokio::select! {
                frame = line.next() => self.hear(mouth, &frame?),
                // An error: the crowd was dropped, and this task is about to be.
                _ = self.talking.changed(), if talking => {}
            }
        }
    }

    /// Something to say: mostly a message, now and then a leave with a join behind it, or the
    /// creation of a room that others want to create, too.
    fn think(&mut self) {
        let room = self.rooms[rand::random_range(0..self.rooms.len())].clone();
        match rand::random_range(0..100) {
            0..4 => {
                self.add(Kind::Leave, room.clone());
                self.add(Kind::Join, room);
            }
            4..6 => self.add(Kind::Create, format!("made-{}", self.told.commands / 20)),
            _ => self.add(Kind::Message, room),
        }
    }

    fn add(&mut self, kind: Kind, room: String) {
        self.told.commands += 1;
        let (user, id) = (&self.user, format!("{}-{}", self.user, self.told.commands));
        let mut frame = json!({"type": kind.name(), "user_id": user, "room": room, "id": id});
        if kind == Kind::Message {
            let padding = "·".repeat(rand::random_range(0..60));
            frame["message"] = format!("the word of {id} {padding}").into();
        }
        let recorded = self.record.command(kind, &frame);
        self.queue.push_back(Command { id, kind, room, frame, recorded });
    }

    /// Every answer has the id of the oldest command that is owed one. Events have none.
    fn hear(&mut self, mouth: Connection, frame: &Value) {
        let Some(id) = frame["id"].as_str() else {
            assert!(frame["type"] != "error", "{}: {frame}", self.user);
            return;
        };
        let (command, sent_at) = self.under_way.pop_front().expect("an answer to nothing");
        assert_eq!(id, command.id, "{}: out of order: {frame}", self.user);
        self.told.slowest = self.told.slowest.max(sent_at.elapsed());
        if command.kind != Kind::Join {
            self.record.answered(command.recorded, mouth, frame);
        }
        let mut progress = Progress { answered: 1, ..Progress::default() };
        match (frame["type"].as_str().unwrap_or_default(), frame["code"].as_str()) {
            ("joined", _) if command.kind == Kind::Join => {}
            ("ack", _) => progress.duplicates = usize::from(frame["duplicate"] == true),
            ("error", Some("unavailable")) => {
                self.told.unavailable += 1;
                progress = Progress { unavailable: 1, ..Progress::default() };
                self.queue.push_back(command);
            }
            ("error", Some("room_exists")) if command.kind == Kind::Create => {}
            // A leave that nobody knew to be written was; its join was overtaken by it.
            ("error", Some("not_member")) if command.kind == Kind::Message => {
                let room = command.room.clone();
                self.queue.push_front(command);
                self.add(Kind::Join, room);
                self.queue.rotate_right(1);
            }
            ("error", Some("not_member")) if command.kind == Kind::Leave => {}
            _ => panic!("{}: {frame} to {}", self.user, command.frame),
        }
        self.progress.send_modify(|sum| sum.add(progress));
    }
}
