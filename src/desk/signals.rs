//! `who`, `typing` and `read`: checks that the user is a member, then hands them to `signals`.
//!
//! A socket that follows the room as this user belongs to a member, so the log is only asked about
//! others. This is checked when the command's turn has come, not when it is read: a `leave` may
//! come before it.

use std::net::IpAddr;

use super::Way;
use super::asked::Asked;
use super::reader::CommandReader;
use super::reply::Reply;
use crate::log::Mark;
use crate::model::Seq;
use crate::protocol::error::{Code, Problem};
use crate::signals::Party;

/// Checks that the user is a member.
async fn admit(reader: &CommandReader, asked: &Asked, way: Way) -> Result<(), Problem> {
    match way {
        Way::Socket(Some(follower)) if follower.follows_as(&asked.user) => Ok(()),
        _ => reader.member(asked).await.map(drop),
    }
}

pub async fn who(mut reader: CommandReader, asked: Asked, way: Way, from: IpAddr) -> Reply {
    reader.begin();
    if let Err(problem) = admit(&reader, &asked, way).await {
        return Reply::Problem(problem);
    }
    let asks = [Party::Address(from), Party::User(asked.user.clone())];
    reader.desk.signals.gather(&asked.room, &asks).await;
    Reply::Who(asked)
}

/// `since` is the room's edge when the command was read. The message that the user is typing may be
/// in the log before this command has its turn.
pub async fn typing(
    mut reader: CommandReader,
    asked: Asked,
    way: Way,
    since: Option<Seq>,
    from: IpAddr,
) -> Reply {
    reader.begin();
    if let Err(problem) = admit(&reader, &asked, way).await {
        return Reply::Problem(problem);
    }
    reader.desk.signals.types(&asked.room, asked.user.clone(), from, since);
    Reply::Taken(asked)
}

pub async fn read(
    mut reader: CommandReader,
    asked: Asked,
    seq: Seq,
    way: Way,
    from: IpAddr,
) -> Reply {
    reader.begin();
    if let Err(problem) = admit(&reader, &asked, way).await {
        return Reply::Problem(problem);
    }
    let (room, user) = (asked.room.clone(), asked.user.clone());
    if reader.desk.signals.read(&Mark { room, user, seq }, from) {
        return Reply::Taken(asked);
    }
    let error = "too many read marks are waiting to be stored; try again in a moment";
    Reply::Problem(asked.problem(Problem::new(Code::Unavailable, error)))
}
