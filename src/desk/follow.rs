//! Activates a room for a caller who is to follow it, by a socket or by an event stream.

use std::sync::Arc;

use tokio::time::Instant;

use super::asked::Asked;
use super::pending::Pending;
use super::reader::CommandReader;
use super::reading;
use super::reply::{Joined, Reply};
use crate::hub::Room;
use crate::log::LogError;
use crate::model::Seq;
use crate::protocol::command::Start;
use crate::protocol::error::Problem;
use crate::rules::{self, Outcome, Reading};

/// A room that the caller follows from now on.
pub struct Follow {
    pub joined: Joined,
    pub room: Arc<Room>,
    /// The caller has everything up to this seq.
    pub position: Seq,
    /// The caller's position was above the end of the log.
    pub reset: bool,
}

/// Waits for the lane's outcome of a `join`, then follows the room if there is a `start`. `before`
/// is this node's edge of the room, read before the write.
pub async fn join(
    mut reader: CommandReader,
    write: Pending,
    start: Option<Start>,
    before: Option<Seq>,
) -> Reply {
    reader.begin_with_write();
    let (asked, event, last_seq, members, messages) = match write.end().await {
        Reply::Written(asked, Outcome::Joined { event, last_seq, members, messages }) => {
            (asked, event, last_seq, members, messages)
        }
        reply => return reply,
    };
    let reading = reading::of_joined(&reader, &asked, event.as_ref(), last_seq, messages).await;
    let reading = match reading {
        Ok(reading) => reading,
        Err(problem) => return Reply::Problem(asked.problem(problem)),
    };
    let joined = Joined { asked, event, last_seq, members, reading };
    let Some(start) = start else { return Reply::Joined(Box::new(joined)) };
    match follow(&reader, joined, start, before).await {
        Ok(follow) => Reply::Follow(Box::new(follow)),
        Err(problem) => Reply::Problem(problem),
    }
}

/// Follows a room by an event stream, for a member: everything above `after`.
pub async fn stream(reader: CommandReader, asked: Asked, after: Option<Seq>) -> Reply {
    let before = reader.desk.relay.edge(&asked.room);
    let standing = match reader.member(&asked).await {
        Ok(standing) => standing,
        Err(problem) => return Reply::Problem(problem),
    };
    let (last_seq, members) = (standing.last_seq, standing.members);
    let reading = standing.reading.unwrap_or(Reading { read: last_seq, unread: 0 });
    let joined = Joined { asked, event: None, last_seq, members, reading };
    let start = after.map_or(Start::Here, Start::Since);
    match follow(&reader, joined, start, before).await {
        Ok(follow) => Reply::Stream(Box::new(follow)),
        Err(problem) => Reply::Problem(problem),
    }
}

async fn follow(
    reader: &CommandReader,
    joined: Joined,
    start: Start,
    before: Option<Seq>,
) -> Result<Follow, Problem> {
    let (asked, relay) = (&joined.asked, &reader.desk.relay);
    let open = async {
        relay.verdict(&asked.room, before, joined.last_seq).await?;
        relay.activate(&asked.room).await
    };
    let room = reader.read(open).await.map_err(|problem| asked.problem(problem))?;
    let follow = placed(joined, start, room);
    let checked = reader.read(check(reader, &follow)).await;
    checked.map_err(|problem| follow.joined.asked.problem(problem))?;
    Ok(follow)
}

/// Where a caller who follows the room starts.
pub fn placed(joined: Joined, start: Start, room: Arc<Room>) -> Follow {
    let known = room.known(joined.last_seq, Instant::now());
    let own = joined.event.as_ref().map_or(joined.last_seq, |event| event.seq.prev());
    let (position, reset) = rules::position(start, own, joined.last_seq, known);
    Follow { joined, room, position, reset }
}

/// Checks that the next event can be read.
async fn check(reader: &CommandReader, follow: &Follow) -> Result<(), LogError> {
    reader.desk.relay.check(&follow.room, follow.position).await
}
