//! What a log tells of rooms, members and marks.

use crate::model::{Role, RoomName, Seq, UserId};
use crate::rules::Reading;

/// How far a user says that they have read, or has read as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub room: RoomName,
    pub user: UserId,
    pub seq: Seq,
}

/// What became of marks. Those that are in neither list would have gone back, or are of users who
/// are not members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// As they are stored now: not beyond the room's last event.
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
    /// Of the user who asks; `None`: they are not a member, or nobody asks.
    pub reading: Option<Reading>,
}

/// A batch that was committed by some node: its row in the outbox, and how far its room has come.
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
