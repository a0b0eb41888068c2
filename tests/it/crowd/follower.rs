//! A client that follows rooms, resumes behind its last seq whenever its connection breaks, and
//! writes down every event it is shown, right or wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use verbatim_checker::{Connection, Kind, Nanos, Start, View};

use super::line::{Gone, Line};
use super::record::Record;
use crate::harness::PATIENCE;

/// Before it asks again for a room that could not be followed: what its error says.
const ASK_PAUSE: Duration = Duration::from_millis(50);

/// How long nothing more has come when nothing more will.
const SILENCE: Duration = Duration::from_secs(10);

/// How far each room goes; `None`: nobody knows yet.
pub type Ends = Option<BTreeMap<String, u64>>;

pub struct Follower {
    pub user: String,
    pub address: watch::Receiver<SocketAddr>,
    pub ends: watch::Receiver<Ends>,
    pub record: Arc<Record>,
    /// By room.
    pub views: BTreeMap<String, Place>,
    pub connections: usize,
}

/// Where it is in one room.
pub struct Place {
    pub view: View,
    /// The highest seq that it was shown.
    pub last: u64,
    /// How many events it was shown.
    pub shown: usize,
    /// On this connection, the last time that it asked to follow, and whether it was told that it
    /// does.
    pub asked_at: Nanos,
    pub is_joined: bool,
}

impl Follower {
    /// Follows until it has seen the end of every room, or nothing more comes.
    pub async fn run(mut self) -> Followed {
        let mut ends = self.ends.clone();
        let follow = async {
            loop {
                self.connections += 1;
                let mut line = Line::open(&self.address).await;
                if self.watch(&mut line).await.is_ok() {
                    return self.go_away();
                }
            }
        };
        let patience = async {
            // An error: the crowd was dropped, and this task is about to be.
            let _ = ends.wait_for(Option::is_some).await;
            tokio::time::sleep(SILENCE).await;
        };
        tokio::select! {
            () = follow => {}
            // What is missing is for the checker to say.
            () = patience => {}
        }
        let most_shown = self.views.values().map(|place| place.shown).max().unwrap_or(0);
        Followed { connections: self.connections, most_shown }
    }

    /// It has seen what it was to see; what comes after that it is not owed.
    fn go_away(&self) {
        let now = self.record.now();
        for place in self.views.values() {
            self.record.history().unfollowed(place.view, now);
        }
    }

    async fn watch(&mut self, line: &mut Line) -> Result<(), Gone> {
        // The first time it joins, later it resumes: what its client knows it is a member of.
        let mouth = self.record.mouth(&line.node, &self.user);
        let asked_at = self.record.now();
        for place in self.views.values_mut() {
            (place.asked_at, place.is_joined) = (asked_at, false);
        }
        let known: Vec<String> = self.views.keys().cloned().collect();
        if self.connections == 1 {
            for room in known {
                self.join(line, mouth, &room).await?;
            }
        } else {
            let rooms = self.views.iter().map(|(room, place)| (room.clone(), place.last.into()));
            let rooms: serde_json::Map<String, Value> = rooms.collect();
            let resume = json!({"type": "resume", "user_id": self.user, "rooms": rooms});
            line.send(&resume).await?;
        }
        while !self.has_seen_all() {
            tokio::select! {
                text = line.next_text() => self.hear(line, mouth, &text?).await?,
                changed = self.ends.changed() => changed.map_err(|_| Gone)?,
            }
        }
        Ok(())
    }

    async fn join(&mut self, line: &mut Line, mouth: Connection, room: &str) -> Result<(), Gone> {
        let since = self.views[room].last;
        let join = json!({"type": "join", "user_id": self.user, "room": room, "since": since});
        let command = self.record.command(Kind::Join, &join);
        self.record.sent(command, mouth);
        line.send(&join).await
    }

    async fn hear(&mut self, line: &mut Line, mouth: Connection, text: &str) -> Result<(), Gone> {
        let now = self.record.now();
        let frame: Value = serde_json::from_str(text).expect("a frame that is not JSON");
        let room = frame["room"].as_str().unwrap_or_default();
        let place = self.views.get_mut(room);
        match (frame["type"].as_str().unwrap_or_default(), frame["code"].as_str()) {
            ("resumed" | "goodbye", _) => Ok(()),
            ("joined", _) => {
                let place = place.expect("joined a room not asked for");
                // Asked twice: the first answer said where it begins.
                let is_first = !std::mem::replace(&mut place.is_joined, true);
                let start = if is_first { Start::After(place.last) } else { Start::Unmoved };
                let last_seq = frame["last_seq"].as_u64().expect("a seq");
                let mut history = self.record.history();
                history.followed(place.view, mouth, place.asked_at, now, start, last_seq);
                Ok(())
            }
            // The join was not written before the connection broke, or cannot be now.
            ("error", Some("not_member" | "unavailable")) => {
                tokio::time::sleep(ASK_PAUSE).await;
                self.join(line, mouth, room).await
            }
            (_, None) if frame["seq"].is_u64() && frame["at"].is_string() => {
                let place = place.expect("an event of a room not asked for");
                place.last = frame["seq"].as_u64().expect("a seq").max(place.last);
                place.shown += 1;
                let mut history = self.record.history();
                let frame = history.frame(text.as_bytes());
                history.delivered(place.view, now, frame);
                Ok(())
            }
            _ => panic!("{}: {frame}", self.user),
        }
    }

    fn has_seen_all(&self) -> bool {
        let ends = self.ends.borrow();
        let Some(ends) = &*ends else { return false };
        self.views.iter().all(|(room, place)| ends.get(room).is_some_and(|end| place.last >= *end))
    }

    /// Waits for a follower's end, which its own patience bounds.
    pub async fn finish(task: tokio::task::JoinHandle<Followed>) -> Followed {
        timeout(PATIENCE * 2, task).await.expect("a follower hangs").expect("a follower failed")
    }
}

/// What one follower has to tell in the end.
pub struct Followed {
    pub connections: usize,
    /// Events of the room of which it was shown most.
    pub most_shown: usize,
}
