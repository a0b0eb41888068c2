//! An event, from the bytes of its frame and back to them.
//!
//! The bytes are worked out here anew from what the protocol says (keys in fixed order, nulls left
//! out), not with the server's code: that is what makes "byte for byte" a check of both.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::at;
use crate::names::{Command, Room, Text};

/// What an event, or the command that it is of, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Create,
    Join,
    Leave,
    Message,
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
    pub r#type: Kind,
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    #[serde(borrow)]
    pub user_id: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'a, str>>,
    pub seq: u64,
    #[serde(borrow)]
    pub at: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Cow<'a, str>>,
}

impl Kind {
    /// As in a frame and in the `events` table. `None`: there is no such type of event.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "create" => Some(Self::Create),
            "join" => Some(Self::Join),
            "leave" => Some(Self::Leave),
            "message" => Some(Self::Message),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Message => "message",
        }
    }
}

impl<'a> EventText<'a> {
    /// `None`: these bytes are not an event.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text: Self = serde_json::from_slice(bytes).ok()?;
        let sound = text.seq > 0
            && at::parse(&text.at).is_some()
            && text.message.is_some() == (text.r#type == Kind::Message);
        sound.then_some(text)
    }

    /// The one right payload of this event's frame.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are always JSON")
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
        ];
        for frame in frames {
            let event = EventText::parse(frame.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(event.bytes()).unwrap(), frame);
        }
    }

    #[test]
    fn what_is_no_event_is_not_read_as_one() {
        let frames = [
            r#"{"type":"ack","room":"r","user_id":"1","seq":4,"at":"2026-01-02T03:04:05.678Z"}"#,
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
