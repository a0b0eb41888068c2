//! An event as Redis carries it, and its place in the stream.
//!
//! It does no I/O. The JSON of an event is taken as it is: the bytes that the first node encoded
//! are the bytes that every follower on every node gets.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::model::{RoomName, Seq, UserId};
use crate::protocol::frame::Frame;

/// The ID of a stream entry: milliseconds of Redis' clock, and a number within them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    pub ms: u64,
    pub number: u64,
}

/// An event that came from Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    pub room: RoomName,
    pub seq: Seq,
    pub frame: Frame,
    /// Who left, if the event is a `leave`.
    pub left: Option<UserId>,
}

/// What must be known of an event to put it in order.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    room: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    seq: u64,
}

/// How a message on the channel begins; the stream's ID and `",` follow.
const PREFIX: &[u8] = b"{\"stream_id\":\"";

impl Mirrored {
    /// Reads the `event` field of a stream entry. `None`: somebody else wrote it.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let head: Head = serde_json::from_slice(json).ok()?;
        let left = (head.r#type == "leave").then(|| UserId::stored(&head.user_id));
        let (room, seq) = (RoomName::stored(&head.room), Seq(head.seq));
        Some(Self { room, seq, frame: Frame::text(json), left })
    }

    /// Reads a message of the channel: the event with the stream's ID as its first key.
    pub fn parse_live(mut message: Vec<u8>) -> Option<(StreamId, Self)> {
        let rest = message.strip_prefix(PREFIX)?;
        let id_len = rest.iter().position(|byte| *byte == b'"')?;
        let id = std::str::from_utf8(&rest[..id_len]).ok()?.parse().ok()?;
        // The comma behind the ID becomes the opening brace of the event.
        let begin = PREFIX.len() + id_len + 1;
        if *message.get(begin)? != b',' {
            return None;
        }
        message[begin] = b'{';
        Self::parse(&message[begin..]).map(|event| (id, event))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

impl FromStr for StreamId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ms, number) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { ms: ms.parse()?, number: number.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Event, EventKind, Text, Timestamp};
    use crate::protocol::frame;

    fn event(room: &str, kind: EventKind) -> Event {
        let (room, user) = (RoomName::stored(room), UserId::stored("ü\"1"));
        Event { room, seq: Seq(7), user, client_id: None, at: Timestamp(0), kind }
    }

    fn live(id: &str, frame: &Frame) -> Vec<u8> {
        [b"{\"stream_id\":\"", id.as_bytes(), b"\",", &frame.payload()[1..]].concat()
    }

    #[test]
    fn what_comes_from_redis_is_what_the_first_node_encoded() {
        for kind in [EventKind::Leave, EventKind::Message(Text::stored("a\u{1}\"\\ü"))] {
            let event = event("r\"oo\\m", kind);
            let frame = frame::event(&event);
            let (id, mirrored) = Mirrored::parse_live(live("12-3", &frame)).unwrap();
            assert_eq!(id, StreamId { ms: 12, number: 3 });
            assert_eq!(mirrored.frame, frame);
            assert_eq!((&mirrored.room, mirrored.seq), (&event.room, event.seq));
            assert_eq!(mirrored.left.is_some(), event.kind == EventKind::Leave);
            assert_eq!(Mirrored::parse(frame.payload()), Some(mirrored));
        }
    }

    #[test]
    fn stream_ids_are_ordered_as_numbers() {
        let id = |text: &str| text.parse::<StreamId>().unwrap();
        assert!(id("9-0") < id("10-0") && id("10-2") < id("10-10"));
        assert_eq!(id("5"), id("5-0"));
        assert_eq!(id("5-1").to_string(), "5-1");
    }

    proptest! {
        /// Anybody can publish on the channel.
        #[test]
        fn foreign_bytes_are_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            prefixed: bool,
        ) {
            let message = if prefixed { [PREFIX, &bytes].concat() } else { bytes };
            prop_assert_eq!(Mirrored::parse_live(message), None);
        }
    }
}
