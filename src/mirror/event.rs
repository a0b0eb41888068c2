//! An event as Redis carries it, its position in the stream, and whether to trust it.
//!
//! It does no I/O. The JSON of an event is not changed: every follower on every node gets the bytes
//! that the first node encoded.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::seal::{SEAL_LEN, Seal};
use crate::model::{RoomName, Seq, UserId};
use crate::protocol::frame::Frame;

/// The ID of a stream entry: milliseconds of Redis's clock, and a number within them.
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
    /// The user who left, if the event is a `leave`.
    pub left: Option<UserId>,
}

/// What an entry or a message holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A committed event, written by a node of this log.
    Event(Mirrored),
    /// It looks like an event, without this log's seal: from a stranger, or from a node of a
    /// version before seals.
    Unsealed,
    /// Something else.
    Other,
}

/// What the relay needs to know of an event.
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

/// How a message on the channel begins; the seal follows,
const PREFIX: &[u8] = b"{\"seal\":\"";
/// then this; the stream ID and `",` follow.
const BEFORE_ID: &[u8] = b"\",\"stream_id\":\"";

impl Found {
    /// Reads a stream entry: its fields `event` and `seal`.
    pub fn in_entry(event: &[u8], seal: &[u8], ours: &Seal) -> Self {
        match Mirrored::parse(event) {
            Some(event_read) if ours.is_on(event, seal) => Self::Event(event_read),
            Some(_) => Self::Unsealed,
            None => Self::Other,
        }
    }

    /// Reads a channel message: the event, with its seal and stream ID as its first keys.
    pub fn in_message(mut message: Vec<u8>, ours: &Seal) -> (StreamId, Self) {
        let Some((seal, id, begin)) = head(&message) else {
            let is_event = Mirrored::parse(&message).is_some();
            let found = if is_event { Self::Unsealed } else { Self::Other };
            return (StreamId::default(), found);
        };
        // The comma after the ID becomes the event's opening brace.
        message[begin] = b'{';
        (id, Self::in_entry(&message[begin..], &seal, ours))
    }
}

/// The seal and ID of a channel message, and the index of the comma after them.
fn head(message: &[u8]) -> Option<([u8; SEAL_LEN], StreamId, usize)> {
    let (seal, rest) = message.strip_prefix(PREFIX)?.split_first_chunk()?;
    let rest = rest.strip_prefix(BEFORE_ID)?;
    let id_len = rest.iter().position(|byte| *byte == b'"')?;
    let id = std::str::from_utf8(&rest[..id_len]).ok()?.parse().ok()?;
    let begin = message.len() - rest.len() + id_len + 1;
    (message.get(begin) == Some(&b',')).then_some((*seal, id, begin))
}

impl Mirrored {
    /// Reads an event. `None`: it is not one.
    fn parse(json: &[u8]) -> Option<Self> {
        let head: Head = serde_json::from_slice(json).ok()?;
        let left = (head.r#type == "leave").then(|| UserId::stored(&head.user_id));
        let (room, seq) = (RoomName::stored(&head.room), Seq(head.seq));
        Some(Self { room, seq, frame: Frame::text(json), left })
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
    use crate::model::{Data, Event, EventKind, Text, Timestamp};
    use crate::protocol::frame;

    fn event(room: &str, kind: EventKind, text: Option<&str>) -> Event {
        let (room, user) = (RoomName::stored(room), UserId::stored("ü\"1"));
        let (seq, at, text) = (Seq(7), Timestamp(0), text.map(Text::stored));
        let data = Some(Data::stored(r#""target":4"#));
        Event { room, seq, user, client_id: None, at, kind, text, data }
    }

    fn ours() -> Seal {
        Seal::new(b"ours")
    }

    fn live(id: &str, frame: &Frame, seal: &str) -> Vec<u8> {
        let head = format!("{{\"seal\":\"{seal}\",\"stream_id\":\"{id}\",");
        [head.as_bytes(), &frame.payload()[1..]].concat()
    }

    #[test]
    fn events_from_redis_are_the_bytes_that_the_first_node_encoded() {
        for (kind, text) in [
            (EventKind::Leave, None),
            (EventKind::Message, Some("a\u{1}\"\\ü")),
            (EventKind::Other("wave".into()), Some("")),
        ] {
            let event = event("r\"oo\\m", kind, text);
            let frame = frame::event(&event);
            let seal = ours().of(frame.payload());
            let (id, found) = Found::in_message(live("12-3", &frame, &seal), &ours());
            let Found::Event(mirrored) = &found else { panic!("{found:?}") };
            assert_eq!(id, StreamId { ms: 12, number: 3 });
            assert_eq!(mirrored.frame, frame);
            assert_eq!((&mirrored.room, mirrored.seq), (&event.room, event.seq));
            assert_eq!(mirrored.left.as_ref(), event.left());
            assert_eq!(Found::in_entry(frame.payload(), seal.as_bytes(), &ours()), found);
        }
    }

    #[test]
    fn an_event_without_the_seal_of_this_log_is_not_believed() {
        let frame = frame::event(&event("r", EventKind::Leave, None));
        let (seal, other) = (Seal::new(b"theirs").of(frame.payload()), ours().of(b"another"));
        for seal in [seal.as_str(), &other, &"A".repeat(SEAL_LEN), &"*".repeat(SEAL_LEN)] {
            let (_, found) = Found::in_message(live("1-1", &frame, seal), &ours());
            assert_eq!(found, Found::Unsealed);
            assert_eq!(Found::in_entry(frame.payload(), seal.as_bytes(), &ours()), Found::Unsealed);
        }
        // Written by nodes before seals.
        let head: &[u8] = b"{\"stream_id\":\"1-1\",";
        let (_, found) = Found::in_message([head, &frame.payload()[1..]].concat(), &ours());
        assert_eq!(found, Found::Unsealed);
        assert_eq!(Found::in_entry(frame.payload(), b"", &ours()), Found::Unsealed);
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
            prop_assert_eq!(Found::in_message(message, &ours()).1, Found::Other);
        }
    }
}
