//! What a client reads of a frame, and the commands it sends: the protocol from the other side.
//!
//! docs/protocol.md says what each member means. Members that are not here are left out.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Of any frame from a server, what one of its kind has.
#[derive(Debug, Deserialize)]
pub struct Frame<'a> {
    /// What it is. Ignore frames of types that you do not know.
    #[serde(borrow)]
    pub r#type: Cow<'a, str>,
    /// The room it is about.
    #[serde(borrow)]
    pub room: Option<Cow<'a, str>>,
    /// The author of an event; in `joined`, who follows.
    #[serde(borrow)]
    pub user_id: Option<Cow<'a, str>>,
    /// The `id` of the command that it answers.
    #[serde(borrow)]
    pub id: Option<Cow<'a, str>>,
    /// The event's number in its room.
    pub seq: Option<u64>,
    /// The event's time, RFC 3339 in UTC with milliseconds.
    #[serde(borrow)]
    pub at: Option<Cow<'a, str>>,
    /// The type of the command that it answers.
    #[serde(borrow)]
    pub re: Option<Cow<'a, str>>,
    /// In an `ack`: the same `id` was committed before.
    pub duplicate: Option<bool>,
    /// In an `error`: which.
    #[serde(borrow)]
    pub code: Option<Cow<'a, str>>,
    /// In an `error`: a sentence for people.
    #[serde(borrow)]
    pub error: Option<Cow<'a, str>>,
    /// In an `error`: when to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// In `joined` and `reset`: the seq of the room's last event.
    pub last_seq: Option<u64>,
    /// In `hello`: the node's name.
    #[serde(borrow)]
    pub node: Option<Cow<'a, str>>,
    /// In `hello`: what the server takes.
    pub limits: Option<Limits>,
    /// In `goodbye`: how long to wait before connecting again, in milliseconds.
    pub reconnect_ms: Option<u64>,
}

/// What a server takes.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Limits {
    /// Bytes of a frame; a longer one ends the connection.
    pub frame_bytes: Option<usize>,
}

/// A page of history, its events as the bytes they are.
#[derive(Debug, Deserialize)]
pub struct History<'a> {
    /// Ascending by seq; none may be missing between two.
    #[serde(borrow)]
    pub events: Vec<&'a RawValue>,
    /// The seq of the last one; `None` if there is none.
    pub last: Option<u64>,
    /// There are events beyond it in the direction that was asked for.
    pub more: bool,
}

/// Any command; what it does not need is `None`.
#[derive(Debug, Default, Serialize)]
pub struct Command<'a> {
    /// What to do.
    pub r#type: &'a str,
    /// The user who does it.
    pub user_id: &'a str,
    /// The room to do it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<&'a str>,
    /// Of `resume`: the rooms to follow again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Positions<'a>>,
    /// The text of a `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// Of `join`: replay what is above this seq.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Of `join`: replay so many events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// Of `history`: only events above this seq.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Of `history`: only events below this seq.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// Of `history`: events of a page, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Its idempotency key, which the answer repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
}

/// Rooms with the highest seq seen of each.
pub type Positions<'a> = std::collections::BTreeMap<&'a str, u64>;

impl Command<'_> {
    /// As a frame.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers only")
    }
}

impl Frame<'_> {
    /// Whether it is an event, whatever its type: a newer server may have more of them.
    pub fn is_event(&self) -> bool {
        self.seq.is_some() && self.at.is_some() && self.re.is_none()
    }
}
