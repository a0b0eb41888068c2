//! Carries a command out for somebody who waits for one answer: writes go through the lanes, reads
//! to the log, as they do for a session.
//!
//! It holds no rules. Nobody is answered before COMMIT returned, and nobody waits for longer than
//! a session's commands may.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;

use super::reply;
use super::route::Route;
use crate::decide::{Outcome, Verb, Write};
use crate::lane::Lanes;
use crate::log::Reading;
use crate::metrics;
use crate::model::{Event, Seq};
use crate::protocol::command::{Command, Request};
use crate::protocol::error::Problem;
use crate::protocol::frame::{self, Joined};
use crate::server::answer::Answer;
use crate::session::Shared;
use crate::session::answers::{self, Asked, Outage, Reader, Reply};
use crate::session::{history, reading};

/// How much longer than a lane takes to answer in any case. Its word is better than ours: it knows
/// whether anything was written.
const GRACE: Duration = Duration::from_millis(50);

/// An answer, and the word for it in the metrics.
type Done = (Answer, &'static str);

/// Carries out a command that some route makes, for somebody at that address.
pub async fn act(
    shared: &Arc<Shared>,
    lanes: &Lanes,
    request: Request,
    address: IpAddr,
) -> Result<Answer, Problem> {
    let re = request.command.name();
    let is_write = Route::writes(re);
    let (room, id) = (request.command.room().cloned(), request.id.clone());
    let budget = Duration::from_millis(shared.config.lane.answer_timeout_ms) + GRACE;
    let done = tokio::time::timeout(budget, run(shared, lanes, request, address)).await;
    // Also where two reads, each in time, took too long together.
    let done = done.unwrap_or_else(|_| {
        let why = if is_write { Problem::unavailable() } else { Problem::unanswered() };
        Err(Problem { re: Some(re), room, id, ..why })
    });
    let result = done.as_ref().map_or_else(|problem| problem.code.name(), |(_, word)| word);
    shared.metrics.commands.get_or_create(&metrics::Command { r#type: re, result }).inc();
    done.map(|(answer, _)| answer)
}

async fn run(
    shared: &Arc<Shared>,
    lanes: &Lanes,
    request: Request,
    address: IpAddr,
) -> Result<Done, Problem> {
    let Request { id, command } = request;
    let re = command.name();
    let came = Instant::now();
    let asked = |room, user| Asked { re, room, user, id: id.clone(), came };
    let reader = Reader::new(shared.clone(), Outage::default());
    let write = async |asked, verb| commit(shared, lanes, asked, verb).await;
    let payer = command.user().cloned();
    let read = |reply| {
        let weight = match &reply {
            Reply::Frame { weight, .. } => *weight,
            Reply::Pages(pages) => pages.weight,
            _ => 0,
        };
        shared.pace.charge_request(address, payer.as_ref(), weight, Instant::now());
        answered(reply)
    };
    match command {
        Command::Create { user, room } => write(asked(room, user), Verb::Create).await,
        Command::Join { user, room, .. } => write(asked(room, user), Verb::Join).await,
        Command::Leave { user, room } => write(asked(room, user), Verb::Leave).await,
        Command::Message { user, room, text } => {
            write(asked(room, user), Verb::Message(text)).await
        }
        Command::History { user, room, page, limit } => {
            read(history::history(reader, asked(room, user), page, limit).await)
        }
        Command::Members { user, room, after } => {
            read(answers::members(reader, asked(room, user), after).await)
        }
        Command::Rooms { user, after, limit } => {
            read(reading::rooms(reader, user, after, limit, id).await)
        }
        // No route makes any other.
        _ => Err(Problem::internal()),
    }
}

fn answered(reply: Reply) -> Result<Done, Problem> {
    match reply {
        Reply::Frame { frame, .. } => Ok((reply::frame(StatusCode::OK, &frame), "ok")),
        Reply::Pages(pages) => Ok((reply::pages(pages), "ok")),
        Reply::Problem(problem) => Err(problem),
        _ => Err(Problem::internal()),
    }
}

/// 201 for what is new, with its event; 200 for what was there before.
async fn commit(
    shared: &Arc<Shared>,
    lanes: &Lanes,
    asked: Asked,
    verb: Verb,
) -> Result<Done, Problem> {
    let (room, user, id) = (asked.room.clone(), asked.user.clone(), asked.id.clone());
    let (answered, parked) = lanes.submit(Write { room, user, id, verb });
    if let Some(parked) = parked {
        parked.send().await;
    }
    let outcome = match answers::written(asked.clone(), answered.await) {
        Reply::Written(_, outcome) => outcome,
        Reply::Problem(problem) => return Err(problem),
        _ => return Err(asked.problem(Problem::internal())),
    };
    match outcome {
        Outcome::Committed(event) => {
            // A leave is the end of something, not a new thing.
            let status = if event.left().is_some() { StatusCode::OK } else { StatusCode::CREATED };
            Ok((reply::frame(status, &frame::event(&event)), "ok"))
        }
        Outcome::Joined { event, last_seq, members, messages } => {
            let reader = Reader::new(shared.clone(), Outage::default());
            let read =
                reading::of_joined(&reader, &asked, event.as_ref(), last_seq, messages).await;
            let Reading { read, unread } = read.map_err(|problem| asked.problem(problem))?;
            let Asked { room, user, id, .. } = &asked;
            let joined = Joined { room, user, last_seq, members, read, unread, id: id.as_ref() };
            let status = if event.is_some() { StatusCode::CREATED } else { StatusCode::OK };
            Ok((reply::frame(status, &frame::joined(&joined)), "ok"))
        }
        Outcome::Duplicate(receipt) => {
            let event = stored(shared, &asked, receipt.seq).await?;
            Ok((reply::frame(StatusCode::OK, &frame::event(&event)), "duplicate"))
        }
        Outcome::Refused(refusal) => Err(asked.refused(refusal)),
    }
}

/// The event that a key was given to the first time: it is the answer to every time after.
async fn stored(shared: &Arc<Shared>, asked: &Asked, seq: Seq) -> Result<Event, Problem> {
    let reader = Reader::new(shared.clone(), Outage::default());
    let read = reader.read(shared.log.read(&asked.room, seq.prev(), 1)).await;
    let events = read.map_err(|problem| asked.problem(problem))?;
    let event = events.into_iter().find(|event| event.seq == seq);
    // A log that has the key and not its event was changed by hand.
    event.ok_or_else(|| asked.problem(Problem::internal()))
}
