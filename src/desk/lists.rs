//! Lists: all rooms, and the members of a room.

use super::asked::Asked;
use super::reader::CommandReader;
use super::reading;
use super::reply::{Listed, Reply};
use crate::model::{ClientId, RoomName, UserId};
use crate::protocol::command::MEMBERS_LIMIT;
use crate::protocol::error::Problem;
use crate::protocol::table::CommandType;

/// Estimate of a list row's memory, as read and as sent: a name twice, and the other fields.
const ROW_BYTES: usize = 512;

pub async fn members(mut reader: CommandReader, asked: Asked, after: Option<UserId>) -> Reply {
    reader.begin();
    if let Err(problem) = reader.member(&asked).await {
        return Reply::Problem(problem);
    }
    let held = match reader.room(MEMBERS_LIMIT * ROW_BYTES).await {
        Ok(held) => held,
        Err(problem) => return Reply::Problem(asked.problem(problem)),
    };
    let log = &reader.desk.log;
    match reader.read(log.members(&asked.room, after.as_ref(), MEMBERS_LIMIT + 1)).await {
        Ok(mut items) => {
            let more = items.len() > MEMBERS_LIMIT;
            items.truncate(MEMBERS_LIMIT);
            Reply::Members(asked, Listed { items, more, held })
        }
        Err(problem) => Reply::Problem(asked.problem(problem)),
    }
}

pub async fn rooms(
    mut reader: CommandReader,
    user: Option<UserId>,
    after: Option<RoomName>,
    limit: usize,
    id: Option<ClientId>,
) -> Reply {
    reader.begin();
    let listed = async {
        let held = reader.room(limit * ROW_BYTES).await?;
        reading::store_pending_marks(&reader, user.as_ref()).await;
        let read = reader.desk.log.rooms(user.as_ref(), after.as_ref(), limit + 1);
        Ok((reader.read(read).await?, held))
    };
    match listed.await {
        Ok((mut items, held)) => {
            let more = items.len() > limit;
            items.truncate(limit);
            let (rooms, has_reading) = (Listed { items, more, held }, user.is_some());
            Reply::Rooms { id, rooms, has_reading }
        }
        Err(problem) => Reply::Problem(Problem { re: Some(CommandType::Rooms), id, ..problem }),
    }
}
