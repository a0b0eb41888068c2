//! How far the user has read: for `joined` and for the list of rooms.
//!
//! The log counts. A client reads its own writes: pending marks of a user are stored before the log
//! is asked.

use tokio::time::Instant;

use super::asked::Asked;
use super::reader::CommandReader;
use crate::model::{Event, Seq, UserId};
use crate::protocol::error::Problem;
use crate::rules::Reading;

/// Stores the user's pending marks first. It takes at most half of the time left: an older mark is
/// better than no answer.
pub async fn store_pending_marks(reader: &CommandReader, user: Option<&UserId>) {
    if let Some(user) = user {
        let now = Instant::now();
        let until = now + reader.due().saturating_duration_since(now) / 2;
        reader.desk.signals.stored(user, until).await;
    }
}

/// What is unread for a user whose `join` was answered.
pub async fn of_joined(
    reader: &CommandReader,
    asked: &Asked,
    event: Option<&Event>,
    last_seq: Seq,
    messages: u64,
) -> Result<Reading, Problem> {
    match event {
        // Earlier messages do not count, and there are no later ones.
        Some(event) => Ok(Reading { read: event.seq, unread: 0 }),
        None => up_to(reader, asked, last_seq, messages).await,
    }
}

/// How far a member has read in a room that had `messages` messages up to `last_seq`.
///
/// The log is asked a moment after `last_seq` was given out, so there may be more messages by then.
/// The socket gets those after its `joined`, and the client counts them, so they are subtracted
/// here.
async fn up_to(
    reader: &CommandReader,
    asked: &Asked,
    last_seq: Seq,
    messages: u64,
) -> Result<Reading, Problem> {
    store_pending_marks(reader, Some(&asked.user)).await;
    let standing = reader.read(reader.desk.log.standing(&asked.room, &asked.user)).await?;
    let standing = standing.and_then(|standing| Some((standing.messages, standing.reading?)));
    // `None`: the user has left again, by another socket.
    let (now, reading) = standing.unwrap_or((messages, Reading { read: last_seq, unread: 0 }));
    let since = now.saturating_sub(messages);
    Ok(Reading { read: reading.read.min(last_seq), unread: reading.unread.saturating_sub(since) })
}
