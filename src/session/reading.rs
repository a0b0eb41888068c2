//! What the user who asks has not read: in `joined`, and in the list of rooms.
//!
//! It counts nothing itself; the log does. A client reads what it wrote: what a user said they have
//! read is stored before it is told how far that is.

use tokio::time::Instant;

use super::answers::{Asked, ROW_BYTES, Reader, Reply};
use super::pace::weight;
use crate::log::{Reading, RoomSummary};
use crate::model::{ClientId, Event, RoomName, Seq, UserId};
use crate::protocol::error::Problem;
use crate::protocol::frame::{self, ListedRoom};

/// Rooms in a list that weigh as much as a small command.
const ROOMS_PER_WEIGHT: usize = 20;
/// The same where the list says what is unread, which takes a look at each.
const READ_ROOMS_PER_WEIGHT: usize = 4;

/// Sees to it that the log has what the user said they have read. It takes half of the time there
/// is at most: who reads an older mark is served better than who reads nothing.
pub async fn settle(reader: &Reader, user: Option<&UserId>) {
    if let Some(user) = user {
        let now = Instant::now();
        let until = now + reader.due().saturating_duration_since(now) / 2;
        reader.shared.signals.stored(user, until).await;
    }
}

/// What of a room is unread to one who was answered that they are a member.
pub async fn of_joined(
    reader: &Reader,
    asked: &Asked,
    event: Option<&Event>,
    last_seq: Seq,
    messages: u64,
) -> Result<Reading, Problem> {
    match event {
        // What was said before does not count, and there is nothing behind.
        Some(event) => Ok(Reading { read: event.seq, unread: 0 }),
        None => up_to(reader, asked, last_seq, messages).await,
    }
}

/// How far a member has read of a room that had so many messages up to `last_seq`.
///
/// It is asked a moment after `last_seq` was given out, and by then there may be more messages.
/// Those come to the socket behind its `joined`, and a client counts them: so they do not here.
async fn up_to(
    reader: &Reader,
    asked: &Asked,
    last_seq: Seq,
    messages: u64,
) -> Result<Reading, Problem> {
    settle(reader, Some(&asked.user)).await;
    let standing = reader.read(reader.shared.log.standing(&asked.room, &asked.user)).await?;
    let standing = standing.and_then(|standing| Some((standing.messages, standing.reading?)));
    // None: the user left again meanwhile, by another socket.
    let (now, reading) = standing.unwrap_or((messages, Reading { read: last_seq, unread: 0 }));
    let since = now.saturating_sub(messages);
    Ok(Reading { read: reading.read.min(last_seq), unread: reading.unread.saturating_sub(since) })
}

pub async fn rooms(
    mut reader: Reader,
    user: Option<UserId>,
    after: Option<RoomName>,
    limit: usize,
    id: Option<ClientId>,
) -> Reply {
    reader.begin();
    let _held = match reader.room(limit * ROW_BYTES).await {
        Ok(held) => held,
        Err(problem) => return Reply::Problem(Problem { re: Some("rooms"), id, ..problem }),
    };
    settle(&reader, user.as_ref()).await;
    let read = reader.shared.log.rooms(user.as_ref(), after.as_ref(), limit + 1);
    match reader.read(read).await {
        Ok(mut rooms) => {
            let more = rooms.len() > limit;
            rooms.truncate(limit);
            let rooms: Vec<_> = rooms.iter().map(listed).collect();
            let per_weight = if user.is_some() { READ_ROOMS_PER_WEIGHT } else { ROOMS_PER_WEIGHT };
            let weight = weight(rooms.len(), per_weight);
            Reply::Frame { re: "rooms", frame: frame::rooms(&rooms, more, id.as_ref()), weight }
        }
        Err(problem) => Reply::Problem(Problem { re: Some("rooms"), id, ..problem }),
    }
}

fn listed(summary: &RoomSummary) -> ListedRoom<'_> {
    let RoomSummary { room, last_seq, members, reading } = summary;
    ListedRoom {
        room: room.as_str(),
        last_seq: *last_seq,
        members: *members,
        read: reading.map(|reading| reading.read),
        unread: reading.map(|reading| reading.unread),
    }
}
