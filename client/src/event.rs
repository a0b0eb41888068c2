//! What a client is told: events of rooms, and what becomes of following them.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::connection::Gone;
use crate::error::Refused;

/// What [`Updates::next`](crate::Updates::next) returns.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The next event of a room that is followed: each once, in order and without a hole.
    Event(Event),
    /// The server's log is older than what you were told of this room: forget it. The next event
    /// is that above `last_seq`.
    Reset {
        /// The room.
        room: String,
        /// The seq of its last event now.
        last_seq: u64,
    },
    /// The room is not followed any more.
    Left {
        /// The room.
        room: String,
        /// Why the server refused to let the client follow it again; `None`: the user left it.
        error: Option<Refused>,
    },
    /// The server cannot let the client follow the room for now: something that it needs is
    /// damaged, or the node has no capacity. The client tries again, and goes on with the room from
    /// where it was. This is told once, until the room is followed again.
    Paused {
        /// The room.
        room: String,
        /// Why.
        error: Refused,
    },
    /// There is a connection.
    Connected {
        /// The node's name.
        node: String,
    },
    /// There is none, and the client tries to make one; or, if this is the last update, it has
    /// given up, because the server says that it does something wrong.
    Disconnected {
        /// Why.
        why: Gone,
    },
    /// Another frame, as the server sent it: a signal, or one of a type that is unknown here.
    Other(String),
}

/// An event of a room's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `create`, `join`, `leave`, `message`, or one that a newer server knows.
    pub kind: String,
    /// The room.
    pub room: String,
    /// Its number in the room: 1, 2, 3, …
    pub seq: u64,
    /// When it happened: RFC 3339 in UTC with milliseconds.
    pub at: String,
    /// Who did it.
    pub user_id: Option<String>,
    /// The text of a message.
    pub message: Option<String>,
    /// The id that the author's client gave it.
    pub client_id: Option<String>,
    /// The frame as it came, with all members: one JSON object.
    pub raw: String,
}

/// The members that make a frame an event, and those of today's events, of whatever type.
#[derive(Deserialize)]
struct Members<'a> {
    r#type: String,
    room: String,
    seq: u64,
    at: String,
    #[serde(borrow)]
    re: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    client_id: Option<&'a RawValue>,
}

impl Event {
    /// `None`: it is no event. What an event of a newer server has in the place of a text is left
    /// to `raw`.
    pub fn parse(raw: &str) -> Option<Self> {
        let members: Members<'_> = serde_json::from_str(raw).ok()?;
        if members.re.is_some() {
            return None;
        }
        let text = |value: Option<&RawValue>| serde_json::from_str(value?.get()).ok();
        Some(Self {
            kind: members.r#type,
            room: members.room,
            seq: members.seq,
            at: members.at,
            user_id: text(members.user_id),
            message: text(members.message),
            client_id: text(members.client_id),
            raw: raw.to_owned(),
        })
    }
}

/// A page of a room's past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Ascending by seq; there may be fewer than were asked for.
    pub events: Vec<Event>,
    /// There are events beyond it in the direction that was asked for.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_an_unknown_type_keeps_what_it_has() {
        let raw = r#"{"type":"poll","room":"r","message":{"a":1},"user_id":"1","seq":3,"at":"t"}"#;
        let event = Event::parse(raw).unwrap();
        assert_eq!((&*event.kind, event.seq, event.message, &*event.raw), ("poll", 3, None, raw));
        assert_eq!(event.user_id.as_deref(), Some("1"));
    }

    #[test]
    fn an_ack_is_no_event() {
        let ack = r#"{"type":"ack","re":"message","room":"r","seq":3,"id":"c","at":"t"}"#;
        assert_eq!(Event::parse(ack), None);
        assert_eq!(Event::parse(r#"{"type":"read","room":"r","user_id":"2","seq":3}"#), None);
    }
}
