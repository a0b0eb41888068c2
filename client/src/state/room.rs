//! A room that is followed, and how far it is.

use crate::event::Event;

/// Rooms of one `resume`.
pub const RESUME_ROOMS_MAX: usize = 200;

/// A room that is followed, or will be again.
pub struct Room {
    /// The last event that was told, or above which all was asked for. `None`: it began with
    /// `Start::Last` and no event has come.
    pub last: Option<u64>,
    /// Events that it wanted from before it followed, and the room's last seq then; for as long as
    /// `last` is `None`.
    pub began: (u64, u64),
    /// The room's last seq when this connection began to follow: an older `leave` was long ago.
    as_of: u64,
    pub follow: Follow,
    /// The `leave` was acked, and its event has not come.
    pub is_left: bool,
    /// Rooms of one `resume` with this one: fewer, when one with more was refused as a whole.
    pub part_len_max: usize,
    /// It was told that the room cannot be followed for now.
    pub is_paused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// To be asked for.
    Off,
    /// To be asked for with all others that were refused for now.
    Later,
    /// By the `resume` with that number.
    Asked(u64),
    On,
}

/// What an event is to its room.
pub enum Place {
    Next,
    /// It was told, or is from before the room was followed.
    Old,
    /// One before it is missing.
    Hole,
}

impl Room {
    pub fn new(last: Option<u64>, began: (u64, u64)) -> Self {
        Self {
            last,
            began,
            as_of: 0,
            follow: Follow::Off,
            is_left: false,
            part_len_max: RESUME_ROOMS_MAX,
            is_paused: false,
        }
    }

    /// Above which all is to be asked for.
    pub fn position(&self) -> u64 {
        let (wanted, edge) = self.began;
        // Whether the last event then was the user's own `join` is not known: so one more.
        self.last.unwrap_or_else(|| edge.saturating_sub(wanted.saturating_add(1)))
    }

    /// The server has said `joined`.
    pub fn joined(&mut self, last_seq: u64) {
        (self.follow, self.as_of) = (Follow::On, last_seq);
        // A user who left would have been refused, or is a member again.
        (self.is_left, self.is_paused) = (false, false);
        self.part_len_max = RESUME_ROOMS_MAX;
    }

    /// The user's `leave` was acked. An ack of long ago is of a `leave` that was told, or after
    /// which the user became a member again.
    pub fn left(&mut self, seq: u64) {
        self.is_left = seq > self.as_of && self.last.is_none_or(|last| seq > last);
    }

    /// Takes an event, and moves on to it.
    pub fn take(&mut self, event: &Event, is_mine: bool) -> Place {
        let (wanted, edge) = self.began;
        let before = self.last.unwrap_or(edge);
        if event.seq > before.saturating_add(1) {
            return Place::Hole;
        }
        if self.last.is_some() && event.seq <= before {
            return Place::Old;
        }
        // It began with what is new. What was there before is not, but for the user's own `join`.
        let is_join = is_mine && event.kind == "join";
        let is_old = self.last.is_none() && wanted == 0 && event.seq <= edge && !is_join;
        self.last = Some(event.seq);
        if is_old { Place::Old } else { Place::Next }
    }

    /// Whether the event ends following: a `leave` of the user, since they were a member.
    pub fn is_ended_by(&self, event: &Event, is_mine: bool) -> bool {
        is_mine && event.kind == "leave" && event.seq > self.as_of
    }

    /// The room's part of a `resume`, in bytes at most: no name has control characters, so each of
    /// its bytes takes two.
    pub fn resume_bytes(name: &str) -> usize {
        2 * name.len() + r#""":18446744073709551615,"#.len()
    }
}
