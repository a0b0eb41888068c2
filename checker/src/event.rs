//! An event, from the bytes of its frame and back to them.
//!
//! The bytes are worked out here anew from what the protocol says (keys in fixed order, nulls left
//! out), not with the server's code: that is what makes "byte for byte" a check of both.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::at;
use crate::names::{Command, Room, Text};
use crate::record::Row;

/// What an event, or the command that it is of, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Create,
    Join,
    Leave,
    Message,
    /// Something that is no rule's business, whatever its type: a newer version of the server wrote
    /// it. It is shown to followers as all events are.
    Other,
}

/// What a frame says, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub room: Room,
    pub seq: u64,
    pub kind: Kind,
    /// The command that it is the event of, by what the frame says.
    pub command: Command,
    /// The text of a message.
    pub message: Option<Text>,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

/// What a frame says, in texts. Its fields are in the order of the wire.
#[derive(Serialize, Deserialize)]
pub(crate) struct EventText<'a> {
    #[serde(borrow)]
    pub r#type: Cow<'a, str>,
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    #[serde(borrow)]
    pub user_id: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'a, str>>,
    /// What only its type has: members of the object, as the row has them. Not read from a frame,
    /// whose bytes are compared.
    #[serde(skip)]
    pub data: Option<Cow<'a, str>>,
    pub seq: u64,
    #[serde(borrow)]
    pub at: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Cow<'a, str>>,
    /// Of an answer; no event has it.
    #[serde(skip_serializing)]
    re: Option<IgnoredAny>,
}

impl Kind {
    /// As in a frame and in the `events` table.
    pub fn named(name: &str) -> Self {
        match name {
            "create" => Self::Create,
            "join" => Self::Join,
            "leave" => Self::Leave,
            "message" => Self::Message,
            _ => Self::Other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Message => "message",
            Self::Other => "other",
        }
    }
}

impl<'a> EventText<'a> {
    pub fn of(row: &Row<'a>, room: &'a str) -> Self {
        Self {
            r#type: row.kind.into(),
            room: room.into(),
            user_id: row.user.into(),
            message: row.body.map(Into::into),
            data: row.data.map(Into::into),
            seq: row.seq,
            at: at::render(row.at_ms).into(),
            client_id: row.client_id.map(Into::into),
            re: None,
        }
    }

    pub fn kind(&self) -> Kind {
        Kind::named(&self.r#type)
    }

    /// `None`: these bytes are not an event.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text: Self = serde_json::from_slice(bytes).ok()?;
        let has_its_text = match text.kind() {
            Kind::Other => true,
            kind => text.message.is_some() == (kind == Kind::Message),
        };
        let sound = text.seq > 0 && at::parse(&text.at).is_some() && text.re.is_none();
        (sound && has_its_text).then_some(text)
    }

    /// The one right payload of this event's frame.
    pub fn bytes(&self) -> Vec<u8> {
        let bytes = serde_json::to_vec(self).expect("texts and numbers are always JSON");
        let Some(data) = &self.data else { return bytes };
        // No text holds this: its quotes would be escaped.
        let seq = format!(",\"seq\":{},\"at\":\"", self.seq).into_bytes();
        let place = bytes.windows(seq.len()).rposition(|window| window == seq);
        let (begin, end) = bytes.split_at(place.expect("every event has its seq and its time"));
        [begin, b",", data.as_bytes(), end].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_and_written_as_the_protocol_has_it() {
        let frames = [
            r#"{"type":"message","room":"r\"ö","user_id":"1","message":"a\nb","seq":4,"at":"2026-01-02T03:04:05.678Z","client_id":"c1"}"#,
            r#"{"type":"message","room":"r","user_id":"1","message":"hi","seq":4,"at":"2026-01-02T03:04:05.678Z"}"#,
            r#"{"type":"join","room":"r","user_id":"1","seq":4,"at":"2026-01-02T03:04:05.678Z"}"#,
            r#"{"type":"po\"ll","room":"r","user_id":"1","message":"","seq":4,"at":"2026-01-02T03:04:05.678Z"}"#,
        ];
        for frame in frames {
            let event = EventText::parse(frame.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(event.bytes()).unwrap(), frame);
        }
    }

    #[test]
    fn a_rows_data_stand_before_its_seq() {
        let user = "a\",\"seq\":4,\"at\":\"b";
        let row = Row {
            room: 0.into(),
            seq: 4,
            kind: "poll",
            user,
            client_id: None,
            body: None,
            data: Some(r#""target":4,"of":{"a": [1]}"#),
            at_ms: 1_767_323_045_678,
        };
        let bytes = String::from_utf8(EventText::of(&row, "r").bytes()).unwrap();
        let user = serde_json::to_string(user).unwrap();
        let begin = format!(r#"{{"type":"poll","room":"r","user_id":{user},"target":4,"#);
        let end = r#""of":{"a": [1]},"seq":4,"at":"2026-01-02T03:04:05.678Z"}"#;
        assert_eq!(bytes, [&begin, end].concat());
        let text = EventText::parse(bytes.as_bytes()).unwrap();
        assert_eq!((text.kind(), text.seq), (Kind::Other, 4));
    }

    #[test]
    fn what_is_no_event_is_not_read_as_one() {
        let frames = [
            r#"{"type":"ack","re":"poll","room":"r","user_id":"1","seq":4,"at":"2026-01-02T03:04:05.678Z"}"#,
            r#"{"type":"message","room":"r","user_id":"1","seq":4,"at":"2026-01-02T03:04:05.678Z"}"#,
            r#"{"type":"join","room":"r","user_id":"1","message":"hi","seq":4,"at":"2026-01-02T03:04:05.678Z"}"#,
            r#"{"type":"join","room":"r","user_id":"1","seq":0,"at":"2026-01-02T03:04:05.678Z"}"#,
            r#"{"type":"join","room":"r","user_id":"1","seq":4,"at":"yesterday"}"#,
            r#"{"type":"join","room":"r","#,
        ];
        for frame in frames {
            assert!(EventText::parse(frame.as_bytes()).is_none(), "{frame}");
        }
    }
}
