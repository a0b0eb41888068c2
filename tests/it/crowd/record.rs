//! What a crowd writes down, in the words of its clients.
//!
//! The history and its clock are those of `verify`; here is only how a client of the tests tells it
//! what it sent and got.

use std::sync::MutexGuard;

use serde_json::Value;
use verbatim_checker::{Ack, Command, Connection, History, Kind, Limits, Nanos, Wanted, at_ms};
use verbatim_tools::verify::recorder::Recorder;

pub struct Record(Recorder);

impl Record {
    pub fn new() -> Self {
        Self(Recorder::new(Limits::default()))
    }

    pub fn now(&self) -> Nanos {
        self.0.now()
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.0.history()
    }

    pub fn into_history(self) -> History {
        self.0.into_history()
    }

    /// A new connection of that client to that node.
    pub fn mouth(&self, node: &str, who: &str) -> Connection {
        let mut history = self.history();
        let node = history.node(node);
        history.connection(node, who)
    }

    /// The command that a frame is.
    pub fn command(&self, kind: Kind, frame: &Value) -> Command {
        let mut history = self.history();
        let room = history.room(frame["room"].as_str().expect("a room"));
        let user = history.user(frame["user_id"].as_str().expect("a user"));
        let (id, text) = (frame["id"].as_str(), frame["message"].as_str());
        history.command(&Wanted { kind, room, user, id, text })
    }

    /// Just before it is sent.
    pub fn sent(&self, command: Command, mouth: Connection) {
        let now = self.now();
        self.history().sent(command, mouth, now);
    }

    /// An `ack` or an `error` came for it.
    pub fn answered(&self, command: Command, connection: Connection, frame: &Value) {
        let at = self.now();
        let mut history = self.history();
        if let Some(code) = frame["code"].as_str() {
            return history.refused(command, connection, at, code);
        }
        let re = frame["re"].as_str().map(Kind::named);
        let (re, seq) = (re.expect("what it is of"), frame["seq"].as_u64().expect("a seq"));
        let event_at_ms = frame["at"].as_str().and_then(at_ms).expect("a time");
        let duplicate = frame["duplicate"] == true;
        history.acked(Ack { command, connection, at, re, seq, event_at_ms, duplicate });
    }
}
