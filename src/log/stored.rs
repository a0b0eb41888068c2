//! An event as a row in either log, and how it becomes an `Event`.
//!
//! It does not repeat the checks made when the row was written. It only refuses rows that cannot be
//! shown, because leaving an event out would make a hole. An event of an unknown type, written by a
//! newer version, is passed on as it is.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use super::LogError;
use crate::model::{ClientId, Data, Event, EventKind, RoomName, Seq, Text, Timestamp, UserId};
use crate::rules::Reading;

/// One row of `events`. The reader knows its room.
pub(super) struct StoredEvent<'a> {
    pub seq: i64,
    pub kind: &'a str,
    pub user: &'a str,
    pub client_id: Option<&'a str>,
    pub body: Option<&'a str>,
    pub data: Option<&'a str>,
    pub at: Timestamp,
}

/// Somebody changed the row by hand.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("event {seq} of room {room:?} has no user")]
    User { room: String, seq: i64 },
    #[error("event {seq} of room {room:?} has data that is not a list of JSON object members")]
    Data { room: String, seq: i64 },
}

/// A counter from a row. SQL's integers are signed; our counters are never negative.
pub(super) fn count(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// A member's read mark and unread count: from the number of messages in the room, the mark, and
/// the number of messages up to the mark. The last two are NULL for users who are not members.
pub(super) fn reading(messages: i64, read: Option<i64>, up_to: Option<i64>) -> Option<Reading> {
    let (read, up_to) = read.zip(up_to)?;
    Some(Reading { read: Seq::from_i64(read), unread: count(messages.saturating_sub(up_to)) })
}

impl StoredEvent<'_> {
    pub fn event(self, room: &RoomName) -> Result<Event, LogError> {
        let damaged = |what: fn(String, i64) -> Unreadable| {
            Err(LogError::Damaged(what(room.to_string(), self.seq).into()))
        };
        if self.user.is_empty() {
            return damaged(|room, seq| Unreadable::User { room, seq });
        }
        if self.data.is_some_and(|data| !are_members(data)) {
            return damaged(|room, seq| Unreadable::Data { room, seq });
        }
        let kind = EventKind::from_stored(self.kind);
        // Every message has a text, even if its row lost it.
        let body = match kind {
            EventKind::Message => Some(self.body.unwrap_or_default()),
            _ => self.body,
        };
        Ok(Event {
            room: room.clone(),
            seq: Seq::from_i64(self.seq),
            user: UserId::stored(self.user),
            client_id: self.client_id.map(ClientId::stored),
            at: self.at,
            kind,
            text: body.map(Text::stored),
            data: self.data.map(Data::stored),
        })
    }
}

/// Members that every event may have, or that no event may have.
const RESERVED: [&str; 8] = ["type", "room", "user_id", "message", "seq", "at", "client_id", "re"];

/// Whether a frame with these members is one JSON object on one line. (A line break would end an
/// entry of an event stream.)
fn are_members(data: &str) -> bool {
    let has_break = data.bytes().any(|byte| byte < b' ');
    let object = format!("{{{data}}}");
    let parsed = serde_json::from_str::<BTreeMap<Cow<'_, str>, IgnoredAny>>(&object);
    let are_its_own = |members: BTreeMap<Cow<'_, str>, IgnoredAny>| {
        !members.is_empty() && RESERVED.iter().all(|name| !members.contains_key(*name))
    };
    !has_break && parsed.is_ok_and(are_its_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_must_be_the_members_of_one_json_object() {
        for data in [r#""target":4"#, r#""a":{"b":[1,"\n"]},"c":null"#, r#""ä":"}""#] {
            assert!(are_members(data), "{data}");
        }
        for data in [
            "",
            " ",
            "{}",
            "\"a\":1\n",
            r#""a":1}"#,
            r#""a":1},{"b":2"#,
            r#""a""#,
            "1",
            r#""seq":9"#,
        ] {
            assert!(!are_members(data), "{data}");
        }
    }
}
