//! What a client receives: events of rooms, and changes of its connection and of what it follows.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::connection::Gone;
use crate::error::Refused;

/// What [`Updates::next`](crate::Updates::next) returns.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The next event of a room that is followed. Each event comes once, in order and without a
    /// hole.
    Event(Event),
    /// The server's log went back: it lacks events of this room that you have received. Forget what
    /// you have of the room. The next event is the one above `last_seq`.
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
        /// Why the server refused to let the client follow the room again; `None`: the user left.
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
    /// The connection is lost, and the client tries to reconnect. If this is the last update, the
    /// client has given up, because the server says that it does something wrong, or it had nothing
    /// more to do.
    Disconnected {
        /// Why.
        why: Gone,
    },
    /// Another frame, as the server sent it: a signal, or a frame of a type that this client does
    /// not know.
    Other(String),
}

/// An event of a room's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `create`, `join`, `leave`, `message`, or the type of a newer server.
    pub kind: String,
    /// The room.
    pub room: String,
    /// Its number in the room: 1, 2, 3, …
    pub seq: u64,
    /// When it happened: RFC 3339 in UTC with milliseconds.
    pub at: String,
    /// The author.
    pub user_id: Option<String>,
    /// The text of a message.
    pub message: Option<String>,
    /// The id that the author's client gave it.
    pub client_id: Option<String>,
    /// The frame as it came, with all members, as one JSON object.
    pub raw: String,
}

/// The members that make a frame an event, and the optional members of today's events. Those may
/// have any JSON type.
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
    /// `None`: the frame is not an event. If a newer server sends something else where a text is
    /// expected, the field is `None`, and `raw` has it.
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
    /// Ascending by seq; there may be fewer events than requested.
    pub events: Vec<Event>,
    /// There are more events in the requested direction.
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
    fn an_ack_is_not_an_event() {
        let ack = r#"{"type":"ack","re":"message","room":"r","seq":3,"id":"c","at":"t"}"#;
        assert_eq!(Event::parse(ack), None);
        assert_eq!(Event::parse(r#"{"type":"read","room":"r","user_id":"2","seq":3}"#), None);
    }
}
