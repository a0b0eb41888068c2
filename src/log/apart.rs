//! Reads beside damage: what one call asks for at once is asked for in parts if something in it
//! cannot be read, so that the rest is answered.

use super::{Log, LogError};
use crate::model::{Event, RoomName, Seq};

/// Answers about several rooms, in their order. One that is an error says that its room is damaged.
pub type Apart<T> = Vec<Result<T, LogError>>;

/// Asks about all rooms at once, and if something is damaged, about each half by itself, down to
/// single rooms. Any other error is the whole call's.
pub(super) struct Parts<'a, T> {
    /// Those that are to be asked about, the next one last.
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

    /// What was answered about those.
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
    /// As `read_page`, for a reader that must not miss what stands before a damaged row: it gets
    /// fewer events then, and `Damaged` only if the very next one cannot be read.
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
