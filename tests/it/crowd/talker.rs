//! A client that always has commands under way, and sends again, with the same id, whatever was
//! not answered: after a broken connection, and after `unavailable`.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::Progress;
use super::line::{Gone, Line};
use crate::verdict::{Key, Receipt};

pub struct Talker {
    pub user: String,
    pub rooms: Vec<String>,
    /// Commands that it keeps under way.
    pub window: usize,
    pub address: watch::Receiver<SocketAddr>,
    /// While it is true there is always something more to say.
    pub talking: watch::Receiver<bool>,
    pub progress: watch::Sender<Progress>,
    pub told: Told,
    /// To be sent, in this order.
    pub queue: VecDeque<Command>,
    /// Sent and not answered, in the order of their answers.
    pub under_way: VecDeque<(Command, Instant)>,
}

#[derive(Clone)]
pub struct Command {
    id: String,
    re: &'static str,
    room: String,
    frame: Value,
}

/// What one talker has to tell in the end.
#[derive(Default)]
pub struct Told {
    pub sent: BTreeSet<Key>,
    pub refused: BTreeSet<Key>,
    pub receipts: Vec<Receipt>,
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
        loop {
            let talking = *self.talking.borrow_and_update();
            while talking && self.queue.len() + self.under_way.len() < self.window {
                self.think();
            }
            let room = self.window.saturating_sub(self.under_way.len()).min(self.queue.len());
            let commands: Vec<Command> = self.queue.drain(..room).collect();
            let frames: Vec<Value> = commands.iter().map(|it| it.frame.clone()).collect();
            let now = Instant::now();
            self.under_way.extend(commands.into_iter().map(|command| (command, now)));
            line.send_all(&frames).await?;
            if !talking && self.under_way.is_empty() {
                return Ok(());
            }
            tokio::select! {
                frame = line.next() => self.hear(&frame?),
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
                self.add("leave", room.clone());
                self.add("join", room);
            }
            4..6 => self.add("create", format!("made-{}", self.told.commands / 20)),
            _ => self.add("message", room),
        }
    }

    fn add(&mut self, re: &'static str, room: String) {
        self.told.commands += 1;
        let (user, id) = (&self.user, format!("{}-{}", self.user, self.told.commands));
        let mut frame = json!({"type": re, "user_id": user, "room": room, "id": id});
        if re == "message" {
            let padding = "·".repeat(rand::random_range(0..60));
            frame["message"] = format!("the word of {id} {padding}").into();
        }
        let command = Command { id, re, room, frame };
        // A join is idempotent by nature, not by its id.
        if re != "join" {
            self.told.sent.insert(self.key(&command));
        }
        self.queue.push_back(command);
    }

    fn key(&self, command: &Command) -> Key {
        let Command { id, room, .. } = command.clone();
        Key { room, user: self.user.clone(), id }
    }

    /// Every answer has the id of the oldest command that is owed one. Events have none.
    fn hear(&mut self, frame: &Value) {
        let Some(id) = frame["id"].as_str() else {
            assert!(frame["type"] != "error", "{}: {frame}", self.user);
            return;
        };
        let (command, sent_at) = self.under_way.pop_front().expect("an answer to nothing");
        assert_eq!(id, command.id, "{}: out of order: {frame}", self.user);
        self.told.slowest = self.told.slowest.max(sent_at.elapsed());
        let kind = frame["type"].as_str().unwrap_or_default();
        let mut progress = Progress { answered: 1, ..Progress::default() };
        match (kind, frame["code"].as_str()) {
            ("joined", _) if command.re == "join" => {}
            ("ack", _) => {
                let receipt = Receipt::of_frame(self.key(&command), frame);
                let receipt = receipt.unwrap_or_else(|| panic!("{frame} to {}", command.frame));
                progress.duplicates = usize::from(receipt.duplicate);
                self.told.receipts.push(receipt);
            }
            ("error", Some("unavailable")) => {
                self.told.unavailable += 1;
                progress = Progress { unavailable: 1, ..Progress::default() };
                self.queue.push_back(command);
            }
            ("error", Some("room_exists")) if command.re == "create" => {
                self.told.refused.insert(self.key(&command));
            }
            // A leave that nobody knew to be written was; its join was overtaken by it.
            ("error", Some("not_member")) if command.re == "message" => {
                let room = command.room.clone();
                self.queue.push_front(command);
                self.add("join", room);
                self.queue.rotate_right(1);
            }
            ("error", Some("not_member")) if command.re == "leave" => {
                self.told.refused.insert(self.key(&command));
            }
            _ => panic!("{}: {frame} to {}", self.user, command.frame),
        }
        self.progress.send_modify(|sum| sum.add(progress));
    }
}
