//! The fields of one command, each still as the JSON text that was sent.
//!
//! A frame is read in one pass without building a generic JSON value: known keys keep a borrowed
//! slice of the frame, unknown keys are skipped. An HTTP request also has fields in its path, query
//! and headers; `put` adds those. `command` interprets the fields.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::Problem;
use crate::model::{Invalid, RoomName, Seq, UserId};

/// The fields of one command. A key that is absent or `null` is `None`.
#[derive(Default)]
pub struct Fields<'a> {
    slots: [Option<&'a str>; Key::COUNT],
    /// A known key that is in the frame twice. JSON readers disagree about which one counts, so
    /// such a frame is refused.
    pub twice: Option<Key>,
}

/// Every key that any command reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
pub enum Key {
    Type,
    Id,
    UserId,
    Room,
    Message,
    Since,
    Last,
    Before,
    After,
    Limit,
    Rooms,
    Seq,
    #[serde(other)]
    Unknown,
}

impl Key {
    const COUNT: usize = Self::Unknown as usize;

    pub fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Id => "id",
            Self::UserId => "user_id",
            Self::Room => "room",
            Self::Message => "message",
            Self::Since => "since",
            Self::Last => "last",
            Self::Before => "before",
            Self::After => "after",
            Self::Limit => "limit",
            Self::Rooms => "rooms",
            Self::Seq => "seq",
            Self::Unknown => "unknown",
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                let mut seen = [false; Key::COUNT];
                while let Some(key) = map.next_key::<Key>()? {
                    if key == Key::Unknown {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if std::mem::replace(&mut seen[key as usize], true) {
                        fields.twice = Some(key);
                    }
                    let raw: &RawValue = map.next_value()?;
                    fields.slots[key as usize] = Some(raw.get()).filter(|raw| *raw != "null");
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> Fields<'a> {
    pub fn parse(frame: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(frame)
    }

    /// Adds a field given outside the body. If the body has it as well, it must be the same,
    /// because it is unclear which one was meant.
    pub fn put(&mut self, key: Key, raw: &'a str) -> Result<(), Problem> {
        let slot = &mut self.slots[key as usize];
        match slot {
            Some(known) if text(known) != text(raw) => {
                Err(must(key, "not be given twice with different values"))
            }
            _ => {
                *slot = Some(raw);
                Ok(())
            }
        }
    }

    pub fn raw(&self, key: Key) -> Option<&'a str> {
        self.slots[key as usize]
    }

    fn required(&self, key: Key) -> Result<&'a str, Problem> {
        self.raw(key).ok_or_else(|| self.missing(key))
    }

    pub fn missing(&self, key: Key) -> Problem {
        Problem::field(key.name(), format!("\"{}\" is missing", key.name()))
    }

    pub fn string(&self, key: Key) -> Result<Cow<'a, str>, Problem> {
        string(self.required(key)?).ok_or_else(|| must(key, "be a string"))
    }

    pub fn room(&self, key: Key) -> Result<RoomName, Problem> {
        RoomName::parse(&self.string(key)?).map_err(|why| invalid(key, why))
    }

    /// A user's id may be sent as a string or as an integer, whose digits are the id.
    pub fn user(&self, key: Key) -> Result<UserId, Problem> {
        let text =
            text(self.required(key)?).ok_or_else(|| must(key, "be a string or an integer"))?;
        UserId::parse(&text).map_err(|why| invalid(key, why))
    }

    /// As `room`, for a room that is to be created.
    pub fn new_room(&self, key: Key) -> Result<RoomName, Problem> {
        let room = self.room(key)?;
        room.check_new().map_err(|why| invalid(key, why))?;
        Ok(room)
    }

    /// As `user`, for a user who is certainly new to the room.
    pub fn new_user(&self, key: Key) -> Result<UserId, Problem> {
        let user = self.user(key)?;
        user.check_new().map_err(|why| invalid(key, why))?;
        Ok(user)
    }

    /// An integer from `min` to `max`; `None` if the key is absent.
    pub fn integer(&self, key: Key, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        match raw.parse() {
            Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
            _ => Err(must(key, &format!("be an integer from {min} to {max}"))),
        }
    }

    pub fn seq(&self, key: Key) -> Result<Option<Seq>, Problem> {
        // SQL integers are signed. No room gets that far.
        Ok(self.integer(key, 0, i64::MAX as u64)?.map(Seq))
    }
}

/// The error for a field with a wrong value.
pub fn must(key: Key, what: &str) -> Problem {
    Problem::field(key.name(), format!("\"{}\" must {what}", key.name()))
}

pub fn invalid(key: Key, why: Invalid) -> Problem {
    Problem::field(key.name(), format!("\"{}\" {why}", key.name()))
}

/// The text of a JSON string; `None` if the value is something else or has a lone surrogate.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(raw).ok().map(Cow::Owned)
}

/// The text of a string, the digits of an integer; `None` for anything else.
fn text(raw: &str) -> Option<Cow<'_, str>> {
    string(raw).or_else(|| is_integer(raw).then_some(Cow::Borrowed(raw)))
}

/// Whether a JSON number is an integer as written (no fraction, no exponent).
fn is_integer(raw: &str) -> bool {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The value of `resume`'s `rooms`: room names with the seq to continue from, in the order sent.
pub struct Positions(pub Vec<(String, u64)>);

impl<'de> Deserialize<'de> for Positions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Positions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of room names and seqs")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut rooms = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    rooms.push(entry);
                }
                Ok(Positions(rooms))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_twice_must_be_the_same() {
        let frame = r#"{"user_id":1,"room":"caf\u00e9","message":{},"id":null}"#;
        for (key, raw, fits) in [
            (Key::UserId, "\"1\"", true),
            (Key::UserId, "\"2\"", false),
            (Key::Room, "\"café\"", true),
            (Key::Room, "\"cafe\"", false),
            (Key::Message, "\"{}\"", false),
            (Key::Id, "\"x\"", true),
            (Key::Type, "\"message\"", true),
        ] {
            let mut fields = Fields::parse(frame).unwrap();
            let put = fields.put(key, raw);
            assert_eq!(put.is_ok(), fits, "{key:?} {raw}");
            assert_eq!(put.err().and_then(|problem| problem.field), (!fits).then(|| key.name()));
            assert!(!fits || fields.raw(key) == Some(raw));
        }
    }
}
