//! Reads around damage: if something in a read of several rooms cannot be read, the rest is still
//! answered.

use super::{Log, LogError};
use crate::model::{Event, RoomName, Seq};

/// Answers about several rooms, in their order. An error means that this room is damaged.
pub type Apart<T> = Vec<Result<T, LogError>>;

/// Asks about all rooms at once and, if something is damaged, about each half separately, down to
/// single rooms. Any other error fails the whole call.
pub(super) struct Parts<'a, T> {
    /// The parts still to ask about; the next one is last.
    parts: Vec<&'a [RoomName]>,
    pub answers: Apart<T>,
}

impl<'a, T> Parts<'a, T> {
    pub fn of(rooms: &'a [RoomName]) -> Self {
        Self { parts: vec![rooms], answers: Vec::with_capacity(rooms.len()) }
    }

    /// The next rooms to ask about.
    pub fn next(&mut self) -> Option<&'a [RoomName]> {
        self.parts.pop()
    }

    /// Takes the answer about the rooms that `next` returned.
    pub fn put(
        &mut self,
        rooms: &'a [RoomName],
        found: Result<Vec<T>, LogError>,
    ) -> Result<(), LogError> {
        match found {
            Ok(found) => self.answers.extend(found.into_iter().map(Ok)),
            Err(LogError::Damaged(_)) if rooms.len() > 1 => {
                let (first, second) = rooms.split_at(rooms.len() / 2);
                self.parts.extend([second, first]);
            }
            Err(damaged @ LogError::Damaged(_)) => self.answers.push(Err(damaged)),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Log {
    /// Like `read_page`, for a reader that needs the events before a damaged row: it then gets
    /// fewer events, and `Damaged` only if the very next event cannot be read.
    pub async fn read_to_damage(
        &self,
        room: &RoomName,
        after: Seq,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        let mut limit = limit;
        loop {
            match self.read_page(room, after, limit, bytes_max).await {
                Err(LogError::Damaged(_)) if limit > 1 => limit /= 2,
                page => return page,
            }
        }
    }
}
