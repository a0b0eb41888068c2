//! Who may read a room, and from which position.

use super::Refusal;
use crate::model::{Role, Seq};
use crate::protocol::command::Start;

/// A user's relation to a room at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub last_seq: Seq,
    pub members: u64,
    /// The number of messages among the room's events.
    pub messages: u64,
    /// `None`: not a member.
    pub role: Option<Role>,
    /// `None`: not a member.
    pub reading: Option<Reading>,
}

/// How far a member has read. Messages from before they joined do not count as unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub read: Seq,
    /// Messages above `read`.
    pub unread: u64,
}

/// The standing of a member, who may read, follow and send signals. `None`: there is no such room.
pub fn member(standing: Option<Standing>) -> Result<Standing, Refusal> {
    let standing = standing.ok_or(Refusal::RoomNotFound)?;
    standing.role.map(|_| standing).ok_or(Refusal::NotMember)
}

/// The position from which a user follows a room, and whether the client must forget its own. `own`
/// is the user's position: just before their join, if that made an event. A client's position up to
/// `known` may be right even if the room is said to end at `last_seq`.
pub fn position(start: Start, own: Seq, last_seq: Seq, known: Seq) -> (Seq, bool) {
    match start {
        Start::Here => (own, false),
        Start::Last(n) => (Seq(own.0.saturating_sub(n)), false),
        Start::Since(seq) if seq > known => (last_seq, true),
        Start::Since(seq) => (seq, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_read_and_nobody_else() {
        let standing =
            |role| Standing { last_seq: Seq(3), members: 1, messages: 1, role, reading: None };
        assert_eq!(member(None), Err(Refusal::RoomNotFound));
        assert_eq!(member(Some(standing(None))), Err(Refusal::NotMember));
        for role in [Role::Owner, Role::Member] {
            assert_eq!(member(Some(standing(Some(role)))), Ok(standing(Some(role))));
        }
    }

    #[test]
    fn a_follower_begins_where_it_asked_to_unless_the_log_is_behind_it() {
        for (start, wanted) in [
            (Start::Here, (6, false)),
            (Start::Last(0), (6, false)),
            (Start::Last(4), (2, false)),
            (Start::Last(9), (0, false)),
            (Start::Since(Seq(0)), (0, false)),
            (Start::Since(Seq(7)), (7, false)),
            (Start::Since(Seq(8)), (8, false)),
            (Start::Since(Seq(9)), (7, true)),
        ] {
            let (seq, reset) = position(start, Seq(6), Seq(7), Seq(8));
            assert_eq!((seq.0, reset), wanted, "{start:?}");
        }
    }
}
