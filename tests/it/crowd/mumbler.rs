//! A client that gives no ids: it says each thing once, and what was not acked it does not know.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;
use verbatim_checker::Kind;

use super::line::{Gone, Line};
use super::record::Record;

pub struct Mumbler {
    pub name: String,
    /// A member of the rooms; the socket does not follow them, so that every answer is an ack.
    pub user: String,
    pub rooms: Vec<String>,
    pub address: watch::Receiver<SocketAddr>,
    pub talking: watch::Receiver<bool>,
    pub record: Arc<Record>,
    /// How many things it said.
    pub said: usize,
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
        let mouth = self.record.mouth(&line.node, &self.name);
        while *self.talking.borrow() {
            let text = format!("{} mumbles {}", self.name, self.said);
            let room = &self.rooms[self.said % self.rooms.len()];
            self.said += 1;
            let message =
                json!({"type": "message", "user_id": self.user, "room": room, "message": text});
            let command = self.record.command(Kind::Message, &message);
            self.record.sent(command, mouth);
            line.send(&message).await?;
            let mut answer = line.next().await?;
            // A node that stops says so in between.
            while answer["type"] == "goodbye" {
                answer = line.next().await?;
            }
            self.record.answered(command, mouth, &answer);
            let is_fair = answer["type"] == "ack" || answer["code"] == "unavailable";
            assert!(is_fair, "{}: {answer}", self.name);
        }
        Ok(())
    }
}
