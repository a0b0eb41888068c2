//! Turns a lane's answer into a reply.

use tokio::sync::oneshot;

use super::asked::Asked;
use super::reader::CommandReader;
use super::reply::Reply;
use crate::lane::{Answer, Failure};
use crate::model::Seq;
use crate::protocol::error::Problem;
use crate::rules::Outcome;

pub fn written(asked: Asked, answer: Result<Answer, oneshot::error::RecvError>) -> Reply {
    match answer {
        Ok(Ok(Outcome::Refused(refusal))) => Reply::Problem(asked.refused(refusal)),
        Ok(Ok(outcome)) => Reply::Written(asked, outcome),
        Ok(Err(Failure::Unavailable)) => Reply::Problem(asked.problem(Problem::unavailable())),
        Ok(Err(Failure::Unwritten)) => Reply::Problem(asked.problem(Problem::unwritten())),
        Ok(Err(Failure::Damaged)) => Reply::Problem(asked.problem(Problem::unwritable())),
        // The lane is gone, and has logged it.
        Ok(Err(Failure::Internal)) | Err(_) => Reply::Problem(asked.problem(Problem::internal())),
    }
}

/// The event of a command that was committed before.
pub async fn stored(reader: CommandReader, asked: Asked, seq: Seq) -> Reply {
    let read = reader.read(reader.desk.log.read(&asked.room, seq.prev(), 1)).await;
    let event = read.map(|events| events.into_iter().find(|event| event.seq == seq));
    match event {
        Ok(Some(event)) => Reply::Stored(Box::new(event)),
        // The log has the key but not its event, so it was changed by hand.
        Ok(None) => Reply::Problem(asked.problem(Problem::internal())),
        Err(problem) => Reply::Problem(asked.problem(problem)),
    }
}
