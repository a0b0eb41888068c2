//! How far the user who asks has read: in `joined`, and in the list of rooms.
//!
//! It counts nothing itself; the log does. A client reads what it wrote: what a user said they have
//! read is stored before it is told how far that is.

use tokio::time::Instant;

use super::asked::Asked;
use super::reader::Reader;
use crate::model::{Event, Seq, UserId};
use crate::protocol::error::Problem;
use crate::rules::Reading;

/// Sees to it that the log has what the user said they have read. It takes half of the time there
/// is at most: who reads an older mark is served better than who reads nothing.
pub async fn settle(reader: &Reader, user: Option<&UserId>) {
    if let Some(user) = user {
        let now = Instant::now();
        let until = now + reader.due().saturating_duration_since(now) / 2;
        reader.desk.signals.stored(user, until).await;
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
    let standing = reader.read(reader.desk.log.standing(&asked.room, &asked.user)).await?;
    let standing = standing.and_then(|standing| Some((standing.messages, standing.reading?)));
    // None: the user left again meanwhile, by another socket.
    let (now, reading) = standing.unwrap_or((messages, Reading { read: last_seq, unread: 0 }));
    let since = now.saturating_sub(messages);
    Ok(Reading { read: reading.read.min(last_seq), unread: reading.unread.saturating_sub(since) })
}
