//! The values of a chat: rooms, users, seqs, events, and the hosts of requests. None of them can be
//! invalid.
//!
//! They do not know JSON, SQL or sockets. A `RoomName` has passed every rule of the protocol, so
//! nothing below the parser checks it again.

mod authority;
mod name;
mod network;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

pub use self::authority::{Authority, Host, Origin};
pub use self::name::Unfit;
pub use self::network::Network;

/// Longest client id (idempotency key), in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 64;

/// Identifies a log, where several may be met.
#[derive(Clone)]
pub struct LogIdentity {
    pub id: String,
    /// Known only to nodes of this log; must not be shown.
    pub secret: Vec<u8>,
}

/// The name of a room: 1 to 128 bytes, NFC, printable (see `name`). Cloning shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

/// The user who acts; the same rules as for room names. Cloning shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

/// The client's own `id` for a command: 1 to 64 bytes of printable ASCII. It makes a write
/// idempotent, permanently, within (room, user).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Arc<str>);

/// The text of a message: not empty, no NUL, its length checked by the parser. Cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Arc<str>);

/// The number of an event in its room: 1 is the `create`, and there are no holes. 0 is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// Milliseconds since 1970, UTC. For display only: `Seq` gives the order, never the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// One durable event, as the log stores it and every recipient sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub room: RoomName,
    pub seq: Seq,
    pub user: UserId,
    /// The command's `id`, if it is an idempotency key (never for `join`).
    pub client_id: Option<ClientId>,
    pub at: Timestamp,
    pub kind: EventKind,
    /// Present for every message.
    pub text: Option<Text>,
    pub data: Option<Data>,
}

/// The type of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    Create,
    Join,
    Leave,
    Message,
    /// A type written by a newer version. This version passes it on unchanged.
    Other(Arc<str>),
}

/// Fields that only an event of this type has: members of its JSON object, encoded, in wire order
/// (`"target":41,"emoji":"x"`). Kept as text, so that its bytes never change. Cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data(Arc<str>);

/// The role of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Created the room.
    Owner,
    Member,
}

/// Why a text is not a valid name, client id or message. The `Display` form continues a sentence
/// that begins with the field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("must not be empty")]
    Empty,
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    #[error("must not be only white space")]
    Blank,
    #[error("must not contain the character U+{:04X} (control, bidi or zero-width)", *.0 as u32)]
    Character(char),
    #[error("must be in Unicode normalization form C (NFC)")]
    NotNfc,
    #[error("must not begin or end with a space")]
    Edge,
    #[error("contains U+{code:04X}, which {1}", code = *.0 as u32)]
    Unfit(char, Unfit),
    #[error("must be printable ASCII")]
    NotAscii,
}

impl RoomName {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        name::check(text).map(|()| Self(text.into()))
    }

    /// Whether a new room may have this name. Stricter than what existing logs contain.
    pub fn check_new(&self) -> Result<(), Invalid> {
        name::check_new(&self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UserId {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        name::check(text).map(|()| Self(text.into()))
    }

    /// Whether a user with this name may join a room. Stricter than what existing members are
    /// called.
    pub fn check_new(&self) -> Result<(), Invalid> {
        name::check_new(&self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClientId {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid::Empty);
        }
        if text.len() > CLIENT_ID_BYTES_MAX {
            return Err(Invalid::TooLong(CLIENT_ID_BYTES_MAX));
        }
        if !text.bytes().all(|b| (0x20..0x7F).contains(&b)) {
            return Err(Invalid::NotAscii);
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Text {
    /// `bytes_max` is the setting `session.message_bytes_max`; a text above it is `TooLong`.
    pub fn parse(text: &str, bytes_max: usize) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid::Empty);
        }
        if text.len() > bytes_max {
            return Err(Invalid::TooLong(bytes_max));
        }
        if text.contains('\0') {
            return Err(Invalid::Character('\0'));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Values read from a log were checked when they were written. A log that was edited by hand may
/// contain anything, so these functions check nothing and cannot fail: what is stored is shown.
impl RoomName {
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }
}
impl UserId {
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }
}
impl ClientId {
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }
}
impl Text {
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }
}
impl Data {
    pub(crate) fn stored(members: &str) -> Self {
        Self(members.into())
    }
}

impl Data {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Seq {
    /// The seq after this one: the only one that a follower at this position may be sent.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The seq before this one; 0 before the first.
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// For SQL, whose integers are signed. The parser refuses what does not fit.
    pub fn to_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From SQL. A negative number is not a seq and reads as 0.
    pub fn from_i64(n: i64) -> Self {
        Self(u64::try_from(n).unwrap_or(0))
    }
}

impl Timestamp {
    pub fn now() -> Self {
        Self::from_system(SystemTime::now())
    }

    /// Truncated to milliseconds, so that a stored time reads back equal.
    pub fn from_system(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Err(before) => {
                Self(i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms))
            }
        }
    }

    pub fn to_system(self) -> SystemTime {
        let ms = Duration::from_millis(self.0.unsigned_abs());
        if self.0 < 0 { UNIX_EPOCH - ms } else { UNIX_EPOCH + ms }
    }
}

/// RFC 3339 in UTC with three digits of milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // humantime prints the years 1970 to 9999. A clock outside of them shows the nearest.
        const YEAR_9999_END_MS: i64 = 253_402_300_799_999;
        let shown = Self(self.0.clamp(0, YEAR_9999_END_MS));
        write!(f, "{}", humantime::format_rfc3339_millis(shown.to_system()))
    }
}

impl Event {
    /// Messages are what users write: only they are counted and can be unread.
    pub fn is_message(&self) -> bool {
        self.kind == EventKind::Message
    }

    /// The user whose membership the event ends. Only a `leave` does.
    pub fn left(&self) -> Option<&UserId> {
        (self.kind == EventKind::Leave).then_some(&self.user)
    }

    /// Size of its text and data, in bytes.
    pub fn content_bytes(&self) -> usize {
        let text = self.text.as_ref().map_or(0, |text| text.as_str().len());
        text + self.data.as_ref().map_or(0, |data| data.as_str().len())
    }
}

impl EventKind {
    /// Its name on the wire and in SQL.
    pub fn name(&self) -> &str {
        match self {
            Self::Create => "create",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Message => "message",
            Self::Other(name) => name,
        }
    }

    /// The inverse of `name`, for a row of the log.
    pub fn from_stored(name: &str) -> Self {
        match name {
            "create" => Self::Create,
            "join" => Self::Join,
            "leave" => Self::Leave,
            "message" => Self::Message,
            _ => Self::Other(name.into()),
        }
    }
}

impl Role {
    /// Its name on the wire and in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Member => "member",
        }
    }

    pub fn from_stored(name: &str) -> Self {
        if name == "owner" { Self::Owner } else { Self::Member }
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_are_short_printable_ascii() {
        assert!(ClientId::parse("c1 ~!").is_ok());
        assert!(ClientId::parse(&"x".repeat(64)).is_ok());
        assert_eq!(ClientId::parse(&"x".repeat(65)), Err(Invalid::TooLong(64)));
        assert_eq!(ClientId::parse(""), Err(Invalid::Empty));
        assert_eq!(ClientId::parse("é"), Err(Invalid::NotAscii));
        assert_eq!(ClientId::parse("a\x7F"), Err(Invalid::NotAscii));
    }

    #[test]
    fn times_print_with_milliseconds_and_read_back_equal() {
        let at = Timestamp(1_767_323_045_600);
        assert_eq!(at.to_string(), "2026-01-02T03:04:05.600Z");
        assert_eq!(Timestamp::from_system(at.to_system()), at);
        assert_eq!(Timestamp(-5).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::from_system(Timestamp(-5).to_system()), Timestamp(-5));
        assert_eq!(Timestamp(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }
}
