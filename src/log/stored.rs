//! An event as a row of either log holds it, and its way back to an `Event`.
//!
//! It checks nothing that was checked when the row was written; it only refuses what this
//! version cannot show, because leaving the event out would make a hole.

use super::{LogError, Reading};
use crate::model::{ClientId, Event, EventKind, RoomName, Seq, Timestamp, UserId};

/// One row of `events`. Its room is known to whoever asked.
pub(super) struct StoredEvent<'a> {
    pub seq: i64,
    pub kind: &'a str,
    pub user: &'a str,
    pub client_id: Option<&'a str>,
    pub body: Option<&'a str>,
    pub at: Timestamp,
}

/// The row was written by hand, or by a version that knows more than this one.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("event {seq} of room {room:?} has the type {kind:?}, which this version does not know")]
    Type { room: String, seq: i64, kind: String },
    #[error("event {seq} of room {room:?} has no user")]
    User { room: String, seq: i64 },
}

/// A counter as a row holds it. SQL's integers are signed; none of ours is ever below 0.
pub(super) fn count(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// How far a member has read: the messages of the room, up to where they have read, and how many
/// messages there are up to there. Both are null for who is not a member.
pub(super) fn reading(messages: i64, read: Option<i64>, up_to: Option<i64>) -> Option<Reading> {
    let (read, up_to) = read.zip(up_to)?;
    Some(Reading { read: Seq::from_i64(read), unread: count(messages.saturating_sub(up_to)) })
}

impl StoredEvent<'_> {
    pub fn event(self, room: &RoomName) -> Result<Event, LogError> {
        let Some(kind) = EventKind::from_stored(self.kind, self.body) else {
            let (room, kind) = (room.to_string(), self.kind.to_owned());
            return Err(LogError::Damaged(Unreadable::Type { room, seq: self.seq, kind }.into()));
        };
        if self.user.is_empty() {
            let room = room.to_string();
            return Err(LogError::Damaged(Unreadable::User { room, seq: self.seq }.into()));
        }
        Ok(Event {
            room: room.clone(),
            seq: Seq::from_i64(self.seq),
            user: UserId::stored(self.user),
            client_id: self.client_id.map(ClientId::stored),
            at: self.at,
            kind,
        })
    }
}
