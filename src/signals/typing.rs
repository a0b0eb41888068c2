//! Who is typing where, and who was told so a moment ago. Pure: time is an argument.
//!
//! It tells nobody: what is to be told is taken from here a few times a second, room by room, so
//! that a follower gets what many type as one write.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::{RoomName, UserId};

/// Users of one room who are told of at once. More of them at the same time are a crowd, and who
/// is in it does not matter: they are taken, and told to nobody.
const USERS_AT_ONCE_MAX: usize = 8;

pub struct Typing {
    /// The least time between two of one user in one room.
    interval: Duration,
    /// Users and rooms that are remembered. While there are more, nobody is told.
    len_max: usize,
    /// When each was last told of. Empty while nobody types.
    last: HashMap<RoomName, HashMap<UserId, Instant>>,
    /// How many that are.
    len: usize,
    /// Who is to be told of next.
    waiting: HashMap<RoomName, Vec<Typist>>,
}

/// Who is to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typist {
    pub user: UserId,
    /// They type on this node: the others have to hear of it.
    pub is_here: bool,
}

impl Typing {
    pub fn new(interval: Duration, len_max: usize) -> Self {
        let (last, waiting) = (HashMap::new(), HashMap::new());
        Self { interval, len_max, last, len: 0, waiting }
    }

    /// Somebody types. Whether it is told: not if it was a moment ago, or if too many type. What
    /// comes from peers goes by the same rule: a user on two nodes types as often as on one.
    pub fn types(&mut self, room: &RoomName, user: &UserId, is_here: bool, now: Instant) -> bool {
        let told = self.last.get(room).and_then(|users| users.get(user));
        if told.is_some_and(|told| *told + self.interval > now) {
            return false;
        }
        let waiting = self.waiting.get(room).map_or(0, Vec::len);
        if waiting >= USERS_AT_ONCE_MAX || (told.is_none() && self.len >= self.len_max) {
            return false;
        }
        let is_new = self.last.entry(room.clone()).or_default().insert(user.clone(), now).is_none();
        self.len += usize::from(is_new);
        let typist = Typist { user: user.clone(), is_here };
        self.waiting.entry(room.clone()).or_default().push(typist);
        true
    }

    /// Takes who is to be told of, and forgets those of whom it may be told again.
    pub fn take(&mut self, now: Instant) -> HashMap<RoomName, Vec<Typist>> {
        let interval = self.interval;
        self.last.retain(|_, users| {
            users.retain(|_, told| *told + interval > now);
            !users.is_empty()
        });
        self.len = self.last.values().map(HashMap::len).sum();
        if self.last.is_empty() {
            // What a crowd needed is not kept.
            self.last = HashMap::new();
        }
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(3);

    fn room(name: &str) -> RoomName {
        RoomName::stored(name)
    }

    fn user(id: usize) -> UserId {
        UserId::stored(&id.to_string())
    }

    #[test]
    fn a_user_is_told_of_once_in_three_seconds_and_room_by_whatever_node() {
        let begin = Instant::now();
        let mut typing = Typing::new(INTERVAL, 100);
        let mut told = Vec::new();
        for tenth in 0..100 {
            let now = begin + INTERVAL * tenth / 30;
            if typing.types(&room("r"), &user(1), tenth % 2 == 0, now) {
                told.push(tenth);
            }
            typing.take(now);
        }
        assert_eq!(told, [0, 30, 60, 90]);
        assert!(typing.types(&room("other"), &user(1), true, begin + INTERVAL * 3));
        assert!(typing.types(&room("r"), &user(2), true, begin + INTERVAL * 3));
    }

    #[test]
    fn a_crowd_is_told_of_in_part_and_nothing_is_kept_of_it() {
        let now = Instant::now();
        let mut typing = Typing::new(INTERVAL, 20);
        let told = (0..50).filter(|id| typing.types(&room("r"), &user(*id), true, now)).count();
        assert_eq!(told, USERS_AT_ONCE_MAX);
        assert_eq!(typing.take(now)[&room("r")].len(), USERS_AT_ONCE_MAX);
        for n in 0..30 {
            typing.types(&room(&n.to_string()), &user(n), true, now);
        }
        assert_eq!(typing.len, 20);
        typing.take(now + INTERVAL);
        assert_eq!((typing.len, typing.last.capacity()), (0, 0));
        assert!(typing.types(&room("r"), &user(1), true, now + INTERVAL));
    }
}
