//! Where a lane's commands wait for rooms that something else has locked.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Failure, Job};
use crate::model::RoomName;
use crate::rules::Write;

/// Commands of one room that go before other rooms' commands on a siding.
const TURN_LEN: usize = 64;

/// The lane's end of its siding, on which commands wait for rooms that something else has locked.
pub struct Siding {
    /// As long as the lane's own inbox.
    jobs: mpsc::Sender<Job>,
    /// Rooms with commands on the siding; each command holds its room's ticket.
    rooms: HashMap<RoomName, Arc<()>>,
}

impl Siding {
    pub fn new(jobs: mpsc::Sender<Job>) -> Self {
        Self { jobs, rooms: HashMap::new() }
    }

    /// Sends commands for rooms on the siding after them. A room without commands there is the
    /// lane's again.
    pub fn divert(&mut self, waiting: &mut Vec<Job>) {
        if self.rooms.is_empty() {
            return;
        }
        self.rooms.retain(|_, ticket| Arc::strong_count(ticket) > 1);
        let follow = waiting.extract_if(.., |job| self.rooms.contains_key(&job.write.room));
        follow.collect::<Vec<_>>().into_iter().for_each(|job| self.put(job));
    }

    /// Takes a command for a room that somebody else holds, or that waits already.
    pub fn put(&mut self, mut job: Job) {
        let ticket = self.rooms.entry(job.write.room.clone()).or_default();
        job.ticket = Some(ticket.clone());
        if let Err(mpsc::error::TrySendError::Full(job)) = self.jobs.try_send(job) {
            // The siding is full. An error: the client is gone.
            let _ = job.answer.send(Err(Failure::Unavailable));
        }
    }
}

/// Puts the first commands of each room before the rest: a room that is locked for long, and
/// written to all the time, must not fill every batch of a siding.
pub fn take_turns(jobs: &mut Vec<Job>) {
    let mut taken: HashMap<RoomName, usize> = HashMap::new();
    let is_first = |job: &Job| {
        let taken = taken.entry(job.write.room.clone()).or_default();
        *taken += 1;
        *taken <= TURN_LEN
    };
    let (mut first, rest): (Vec<Job>, Vec<Job>) = jobs.drain(..).partition(is_first);
    first.extend(rest);
    *jobs = first;
}

/// The room of the batch whose turn it is.
pub fn nth_room(writes: &[Write], turn: usize) -> Option<&RoomName> {
    let mut rooms: Vec<&RoomName> = Vec::new();
    for write in writes {
        if !rooms.contains(&&write.room) {
            rooms.push(&write.room);
        }
    }
    rooms.get(turn.checked_rem(rooms.len())?).copied()
}
