//! A client that gives no ids: it says each thing once, and what was not acked it does not know.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::json;
use tokio::sync::watch;

use super::line::{Gone, Line};

pub struct Mumbler {
    pub name: String,
    /// A member of the rooms; the socket does not follow them, so that every answer is an ack.
    pub user: String,
    pub rooms: Vec<String>,
    pub address: watch::Receiver<SocketAddr>,
    pub talking: watch::Receiver<bool>,
    /// What it said, with the seq that it was told.
    pub said: BTreeMap<String, Option<u64>>,
    pub connections: usize,
}

impl Mumbler {
    pub async fn run(mut self) -> Self {
        loop {
            self.connections += 1;
            let mut line = Line::open(&self.address).await;
            if self.mumble(&mut line).await.is_ok() {
                return self;
            }
        }
    }

    async fn mumble(&mut self, line: &mut Line) -> Result<(), Gone> {
        while *self.talking.borrow() {
            let text = format!("{} mumbles {}", self.name, self.said.len());
            let room = &self.rooms[self.said.len() % self.rooms.len()];
            self.said.insert(text.clone(), None);
            let message =
                json!({"type": "message", "user_id": self.user, "room": room, "message": text});
            line.send(&message).await?;
            let mut answer = line.next().await?;
            // A node that stops says so in between.
            while answer["type"] == "goodbye" {
                answer = line.next().await?;
            }
            match (answer["type"].as_str(), answer["code"].as_str()) {
                (Some("ack"), _) => drop(self.said.insert(text, answer["seq"].as_u64())),
                (_, Some("unavailable")) => {}
                _ => panic!("{}: {answer}", self.name),
            }
        }
        Ok(())
    }
}
