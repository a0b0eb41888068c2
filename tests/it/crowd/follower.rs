//! A client that follows rooms, resumes behind its last seq whenever its connection breaks, and
//! writes down every event it is shown, right or wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::line::{Gone, Line};
use crate::harness::PATIENCE;
use crate::verdict::{Event, View};

/// Before it asks again for a room that could not be followed: what its error says.
const ASK_PAUSE: Duration = Duration::from_millis(50);

/// How far each room goes; `None`: nobody knows yet.
pub type Ends = Option<BTreeMap<String, u64>>;

pub struct Follower {
    pub user: String,
    pub address: watch::Receiver<SocketAddr>,
    pub ends: watch::Receiver<Ends>,
    pub views: BTreeMap<String, View>,
    pub connections: usize,
}

impl Follower {
    /// Follows until it has seen the end of every room, or nothing more comes.
    pub async fn run(mut self) -> (Vec<View>, usize) {
        let mut ends = self.ends.clone();
        let follow = async {
            loop {
                self.connections += 1;
                let mut line = Line::open(&self.address).await;
                if self.watch(&mut line).await.is_ok() {
                    return;
                }
            }
        };
        let patience = async {
            // An error: the crowd was dropped, and this task is about to be.
            let _ = ends.wait_for(Option::is_some).await;
            tokio::time::sleep(PATIENCE).await;
        };
        tokio::select! {
            () = follow => {}
            // What is missing is for the verdict to say.
            () = patience => {}
        }
        let ends = self.ends.borrow().clone().unwrap_or_default();
        for view in self.views.values_mut() {
            view.until = ends.get(&view.room).copied().unwrap_or_default();
        }
        (self.views.into_values().collect(), self.connections)
    }

    async fn watch(&mut self, line: &mut Line) -> Result<(), Gone> {
        // The first time it joins, later it resumes: what its client knows it is a member of.
        let known: Vec<String> = self.views.keys().cloned().collect();
        if self.connections == 1 {
            for room in known {
                self.join(line, &room).await?;
            }
        } else {
            let rooms = self.views.values().map(|view| (view.room.clone(), view.last().into()));
            let rooms: serde_json::Map<String, Value> = rooms.collect();
            let resume = json!({"type": "resume", "user_id": self.user, "rooms": rooms});
            line.send(&resume).await?;
        }
        while !self.has_seen_all() {
            tokio::select! {
                frame = line.next() => self.hear(line, &frame?).await?,
                changed = self.ends.changed() => changed.map_err(|_| Gone)?,
            }
        }
        Ok(())
    }

    async fn join(&self, line: &mut Line, room: &str) -> Result<(), Gone> {
        let since = self.views[room].last();
        line.send(&json!({"type": "join", "user_id": self.user, "room": room, "since": since}))
            .await
    }

    async fn hear(&mut self, line: &mut Line, frame: &Value) -> Result<(), Gone> {
        if let Some(event) = Event::of_frame(frame) {
            let view = self.views.get_mut(&event.room).expect("an event of a room not asked for");
            view.events.push(event);
            return Ok(());
        }
        match (frame["type"].as_str(), frame["code"].as_str()) {
            (Some("joined" | "resumed" | "goodbye"), _) => Ok(()),
            // The join was not written before the connection broke, or cannot be now.
            (Some("error"), Some("not_member" | "unavailable")) => {
                tokio::time::sleep(ASK_PAUSE).await;
                self.join(line, frame["room"].as_str().expect("an error of a room")).await
            }
            _ => panic!("{}: {frame}", self.user),
        }
    }

    fn has_seen_all(&self) -> bool {
        let ends = self.ends.borrow();
        let Some(ends) = &*ends else { return false };
        self.views.values().all(|view| ends.get(&view.room).is_some_and(|end| view.last() >= *end))
    }

    /// Waits for a follower's end, which its own patience bounds.
    pub async fn finish(task: tokio::task::JoinHandle<(Vec<View>, usize)>) -> (Vec<View>, usize) {
        timeout(PATIENCE * 2, task).await.expect("a follower hangs").expect("a follower failed")
    }
}

impl View {
    fn last(&self) -> u64 {
        self.events.last().map_or(self.after, |event| event.seq)
    }
}
