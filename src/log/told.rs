//! What a log returns about rooms, members and read marks.

use crate::model::{Role, RoomName, Seq, UserId};
use crate::rules::Reading;

/// How far a user says they have read, or has read according to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub room: RoomName,
    pub user: UserId,
    pub seq: Seq,
}

/// The result of writing marks. Marks in neither list would have gone back, or belong to users who
/// are not members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// As they are stored now: capped at the room's last event.
    pub moved: Vec<Mark>,
    /// Somebody else was writing to them: try again.
    pub busy: Vec<Mark>,
}

/// A room in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSummary {
    pub room: RoomName,
    pub last_seq: Seq,
    pub members: u64,
    /// The asking user's; `None`: not a member, or no user was given.
    pub reading: Option<Reading>,
}

/// A committed batch of any node: its row in the outbox, and the room's seq after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub id: i64,
    pub room: RoomName,
    pub last_seq: Seq,
}

/// A member in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub user: UserId,
    pub role: Role,
}
