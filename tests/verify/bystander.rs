//! A socket of the runner's own in a room of its own, for what the checker cannot be asked about.
//!
//! It goes on whatever becomes of its node: everything it does has its time, and then it tries the
//! next.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use verbatim_client::{Connection, Gone, Target, Waits};

/// What the names of the runner's own rooms and users begin with: nobody else's do.
pub const PREFIX: &str = "runner ";

/// For a connection, and for an answer.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);
const WAITS: Waits = Waits {
    open: STEP_TIMEOUT,
    silence: STEP_TIMEOUT,
    answer: STEP_TIMEOUT,
    send: STEP_TIMEOUT,
    receive_bytes: None,
};
const AGAIN_PAUSE: Duration = Duration::from_millis(100);

/// One who says something in a room, and reads what is said there.
pub struct Bystander {
    urls: Vec<String>,
    /// The URL of its next connection.
    home: usize,
    connection: Option<Connection>,
    room: String,
    sent: u64,
    /// The events that it was shown, by their seqs and texts, in the order of coming; what is
    /// behind a `reset` replaces what was before it.
    pub shown: Vec<(u64, String)>,
    /// How often it was closed with 4000.
    pub closed: usize,
    /// How often the room was refused to it.
    pub refused: usize,
}

impl Bystander {
    pub fn new(urls: &[String], room: &str) -> Self {
        Self {
            urls: urls.to_vec(),
            home: 0,
            connection: None,
            room: room.to_owned(),
            sent: 0,
            shown: Vec::new(),
            closed: 0,
            refused: 0,
        }
    }

    fn user() -> String {
        format!("{PREFIX}one")
    }

    /// Makes the room, and says something in it by any node, until that is acked or the time is
    /// over. `None`: it is over.
    pub async fn say(&mut self, text: Option<&str>, within: Duration) -> Option<u64> {
        self.sent += 1;
        let (kind, id) = (text.map_or("create", |_| "message"), format!("b{}", self.sent));
        let mut command =
            json!({"type": kind, "user_id": Self::user(), "room": self.room, "id": id});
        if let Some(text) = text {
            command["message"] = text.into();
        }
        let until = Instant::now() + within;
        while Instant::now() < until {
            if self.send(&command).await {
                while let Some(frame) = self.next(STEP_TIMEOUT).await {
                    let is_answer = frame["id"] == id.as_str();
                    if is_answer && frame["type"] == "ack" {
                        return frame["seq"].as_u64();
                    }
                    if is_answer {
                        break;
                    }
                }
            }
            sleep(AGAIN_PAUSE).await;
        }
        None
    }

    /// Follows the room and reads until it was shown this text, or the time is over.
    pub async fn read(&mut self, text: &str, within: Duration) -> bool {
        let until = Instant::now() + within;
        while Instant::now() < until {
            self.follow_until(until, |shown| shown.iter().any(|(_, it)| it == text)).await;
            if self.shown.iter().any(|(_, it)| it == text) {
                return true;
            }
        }
        false
    }

    /// Follows the room, and reads, for so long.
    pub async fn watch(&mut self, lasting: Duration) {
        let until = Instant::now() + lasting;
        while Instant::now() < until {
            self.follow_until(until, |_| false).await;
            sleep(AGAIN_PAUSE).await;
        }
    }

    /// One connection.
    async fn follow_until(&mut self, until: Instant, is_enough: impl Fn(&[(u64, String)]) -> bool) {
        let since = self.shown.last().map_or(0, |(seq, _)| *seq);
        let join = json!(
            {"type": "join", "user_id": Self::user(), "room": self.room, "since": since, "id": "j"}
        );
        if !self.send(&join).await {
            return;
        }
        while Instant::now() < until && !is_enough(&self.shown) {
            let left = until.saturating_duration_since(Instant::now());
            let Some(frame) = self.next(left).await else { return };
            if frame["type"] == "error" {
                self.refused += 1;
                sleep(AGAIN_PAUSE).await;
                return;
            }
        }
    }

    fn hang_up(&mut self) {
        self.connection = None;
        self.home += 1;
    }

    /// `false`: it could not be sent, and the connection has ended.
    async fn send(&mut self, command: &Value) -> bool {
        if self.connection.is_none() {
            let url = &self.urls[self.home % self.urls.len()];
            let target = Target::parse(url).expect("the URL of a node");
            self.connection = Connection::open(&target, WAITS).await.ok();
            self.home += usize::from(self.connection.is_none());
        }
        let Some(connection) = &mut self.connection else { return false };
        let is_sent = connection.send([command.to_string()]).await.is_ok();
        if !is_sent {
            self.hang_up();
        }
        is_sent
    }

    /// The next frame, with what it says taken down. `None`: there was none, or the connection has
    /// ended.
    async fn next(&mut self, within: Duration) -> Option<Value> {
        match timeout(within, self.connection.as_mut()?.next()).await.ok()? {
            Ok(text) => {
                let frame: Value = serde_json::from_str(&text).ok()?;
                self.take_down(&frame);
                Some(frame)
            }
            Err(gone) => {
                self.closed += usize::from(matches!(gone, Gone::Closed { code: 4000, .. }));
                self.hang_up();
                None
            }
        }
    }

    fn take_down(&mut self, frame: &Value) {
        let kind = frame["type"].as_str().unwrap_or_default();
        if frame["room"] != self.room.as_str() {
            return;
        }
        match kind {
            "create" | "join" | "leave" | "message" => {
                let seq = frame["seq"].as_u64().unwrap_or_default();
                let text = frame["message"].as_str().unwrap_or(kind).to_owned();
                self.shown.push((seq, text));
            }
            "reset" => self.shown.clear(),
            _ => {}
        }
    }
}
