//! The members of frames that a client reads, and the commands that it sends.
//!
//! docs/protocol.md says what each member means. Members that are not listed here are ignored.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A frame from a server. Each type of frame has some of these members.
#[derive(Debug, Deserialize)]
pub struct Frame<'a> {
    /// The type of the frame. Ignore frames of types that you do not know.
    #[serde(borrow)]
    pub r#type: Cow<'a, str>,
    /// The room that the frame is about.
    #[serde(borrow)]
    pub room: Option<Cow<'a, str>>,
    /// The author of an event; in `joined`, the user as whom the socket follows.
    #[serde(borrow)]
    pub user_id: Option<Cow<'a, str>>,
    /// The `id` of the command that the frame answers.
    #[serde(borrow)]
    pub id: Option<Cow<'a, str>>,
    /// The event's number in its room.
    pub seq: Option<u64>,
    /// The event's time, RFC 3339 in UTC with milliseconds.
    #[serde(borrow)]
    pub at: Option<Cow<'a, str>>,
    /// The type of the command that the frame answers.
    #[serde(borrow)]
    pub re: Option<Cow<'a, str>>,
    /// In an `ack`: a command with the same `id` was committed before.
    pub duplicate: Option<bool>,
    /// In an `error`: the error code.
    #[serde(borrow)]
    pub code: Option<Cow<'a, str>>,
    /// In an `error`: a sentence for people.
    #[serde(borrow)]
    pub error: Option<Cow<'a, str>>,
    /// In an `error`: how long to wait before trying again, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// In `joined` and `reset`: the seq of the room's last event.
    pub last_seq: Option<u64>,
    /// In `hello`: the node's name.
    #[serde(borrow)]
    pub node: Option<Cow<'a, str>>,
    /// In `hello`: the server's limits.
    pub limits: Option<Limits>,
    /// In `goodbye`: how long to wait before connecting again, in milliseconds.
    pub reconnect_ms: Option<u64>,
}

/// The limits of a server.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Limits {
    /// The longest frame in bytes; a longer one ends the connection.
    pub frame_bytes: Option<usize>,
}

/// A page of history. Its events are the bytes as they came.
#[derive(Debug, Deserialize)]
pub struct History<'a> {
    /// Ascending by seq, without a hole.
    #[serde(borrow)]
    pub events: Vec<&'a RawValue>,
    /// The seq of the last one; `None` if there is none.
    pub last: Option<u64>,
    /// There are more events in the requested direction.
    pub more: bool,
}

/// A command. Members that it does not need are `None`.
#[derive(Debug, Default, Serialize)]
pub struct Command<'a> {
    /// The type of the command.
    pub r#type: &'a str,
    /// The author.
    pub user_id: &'a str,
    /// The room that the command is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<&'a str>,
    /// In `resume`: the rooms to follow again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Positions<'a>>,
    /// The text of a `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// In `join`: replay the events above this seq.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// In `join`: replay this many of the newest events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// In `history`: only events above this seq.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// In `history`: only events below this seq.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// In `history`: the most events of a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The idempotency key, which the answer repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
}

/// The highest seq seen in each room.
pub type Positions<'a> = std::collections::BTreeMap<&'a str, u64>;

impl Command<'_> {
    /// The command as a frame.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers only")
    }
}

impl Frame<'_> {
    /// Whether the frame is an event. This does not look at the type, because a newer server may
    /// have more types of events.
    pub fn is_event(&self) -> bool {
        self.seq.is_some() && self.at.is_some() && self.re.is_none()
    }
}
