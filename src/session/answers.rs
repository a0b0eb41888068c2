//! The answers that a session owes, in the order of its commands, and how each is worked out.
//!
//! It does not write to the socket: the session takes the answers from here one by one. A write is
//! on its way in a lane from the moment it is read; everything else starts when all commands
//! before it have been answered, so a client that pipelines always reads its own writes.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shared;
use crate::decide::{Outcome, Refusal};
use crate::hub::Room;
use crate::lane::{Answer, Failure};
use crate::log::{LogError, Standing};
use crate::model::{ClientId, Event, RoomName, Seq, UserId};
use crate::protocol::command::{MEMBERS_LIMIT, Page, Start};
use crate::protocol::error::{Code, Problem};
use crate::protocol::frame::{self, Frame};

/// Bounded by `in_flight_max`: at that length the session stops reading its socket.
#[derive(Default)]
pub struct Answers(VecDeque<Pending>);

/// An answer that is owed.
pub enum Pending {
    Ready(Reply),
    /// A lane has it.
    Write(Asked, oneshot::Receiver<Answer>),
    /// Begins when it is first polled, which is when it is the next to be answered.
    Work(Pin<Box<dyn Future<Output = Reply> + Send>>),
}

/// What the answer must repeat of the command.
#[derive(Clone, Debug)]
pub struct Asked {
    pub re: &'static str,
    pub room: RoomName,
    pub user: UserId,
    pub id: Option<ClientId>,
}

/// An answer, worked out.
pub enum Reply {
    /// A frame for a command of this type.
    Frame(&'static str, Frame),
    Problem(Problem),
    /// `create`, `leave` or `message` was decided.
    Written(Asked, Outcome),
    Joined(Box<Follow>),
    Resumed(Vec<Result<Follow, Problem>>, Option<ClientId>),
}

/// A room that the socket is to follow from now on.
pub struct Follow {
    pub asked: Asked,
    pub room: Arc<Room>,
    pub last_seq: Seq,
    pub members: u64,
    /// The socket has everything up to here.
    pub position: Seq,
    /// The client's position was above the log's end.
    pub reset: bool,
}

impl Answers {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn push(&mut self, pending: Pending) {
        self.0.push_back(pending);
    }

    /// The next answer, when it is there. Cancel-safe: what is not finished stays in front.
    pub async fn next(&mut self) -> Reply {
        let reply = match self.0.front_mut() {
            None => return std::future::pending().await,
            Some(Pending::Ready(_)) => None,
            Some(Pending::Write(_, answered)) => Some(Ok(answered.await)),
            Some(Pending::Work(work)) => Some(Err(work.await)),
        };
        let front = self.0.pop_front();
        if self.0.is_empty() {
            // Idle sockets keep no memory for answers.
            self.0 = VecDeque::new();
        }
        match (front, reply) {
            (Some(Pending::Ready(reply)), _) | (_, Some(Err(reply))) => reply,
            (Some(Pending::Write(asked, _)), Some(Ok(answer))) => written(asked, answer),
            _ => Reply::Problem(Problem::internal()),
        }
    }
}

fn written(asked: Asked, answer: Result<Answer, oneshot::error::RecvError>) -> Reply {
    match answer {
        Ok(Ok(Outcome::Refused(refusal))) => Reply::Problem(asked.refused(refusal)),
        Ok(Ok(outcome)) => Reply::Written(asked, outcome),
        Ok(Err(Failure::Unavailable)) => Reply::Problem(asked.problem(Problem::unavailable())),
        // The lane is gone, which it says loudly elsewhere.
        Ok(Err(Failure::Internal)) | Err(_) => Reply::Problem(asked.problem(Problem::internal())),
    }
}

impl Asked {
    /// A problem with this command in it.
    pub fn problem(&self, problem: Problem) -> Problem {
        let (re, room, id) = (Some(self.re), Some(self.room.clone()), self.id.clone());
        Problem { re, room, id, ..problem }
    }

    pub fn refused(&self, refusal: Refusal) -> Problem {
        let room = serde_json::Value::from(self.room.as_str());
        let what = match self.re {
            "message" => "sending to it",
            "leave" => "leaving it",
            _ => "reading it",
        };
        let (code, error): (_, Cow<'static, str>) = match refusal {
            Refusal::RoomExists => {
                (Code::RoomExists, format!("there is a room {room} already: join it").into())
            }
            Refusal::RoomNotFound => {
                (Code::RoomNotFound, format!("there is no room {room}: create it first").into())
            }
            Refusal::NotMember => (Code::NotMember, format!("join {room} before {what}").into()),
        };
        self.problem(Problem::new(code, error))
    }

    fn log_failed(&self, shared: &Shared, err: &LogError) -> Problem {
        self.problem(log_failed(shared, err))
    }
}

/// A read failed: nothing was written, but the sentence for the client is the same.
fn log_failed(shared: &Shared, err: &LogError) -> Problem {
    shared.metrics.log_error("unavailable");
    tracing::debug!(err = %err, "a read of the log failed");
    Problem::new(Code::Unavailable, "the log does not answer: try again in a moment")
}

/// Waits for the lane's outcome of a `join`, and brings the room into use.
pub async fn join(
    shared: Arc<Shared>,
    asked: Asked,
    start: Start,
    answered: oneshot::Receiver<Answer>,
) -> Reply {
    let (event, last_seq, members) = match written(asked.clone(), answered.await) {
        Reply::Written(_, Outcome::Joined { event, last_seq, members }) => {
            (event, last_seq, members)
        }
        reply => return reply,
    };
    let room = match shared.relay.activate(&asked.room).await {
        Ok(room) => room,
        Err(err) => return Reply::Problem(asked.log_failed(&shared, &err)),
    };
    let (position, reset) = position(start, event.as_ref(), last_seq);
    Reply::Joined(Box::new(Follow { asked, room, last_seq, members, position, reset }))
}

/// Up to where a joiner has everything, and whether it must forget what it thought it had.
fn position(start: Start, event: Option<&Event>, last_seq: Seq) -> (Seq, bool) {
    // Its own position: just before its own join, if that made an event.
    let own = event.map_or(last_seq, |event| event.seq.prev());
    match start {
        Start::Here => (own, false),
        Start::Last(n) => (Seq(own.0.saturating_sub(n)), false),
        Start::Since(seq) if seq > last_seq => (last_seq, true),
        Start::Since(seq) => (seq, false),
    }
}

/// The user's standing, or why a member's command is refused.
async fn member(shared: &Shared, asked: &Asked) -> Result<Standing, Problem> {
    match shared.log.standing(&asked.room, &asked.user).await {
        Ok(None) => Err(asked.refused(Refusal::RoomNotFound)),
        Ok(Some(Standing { role: None, .. })) => Err(asked.refused(Refusal::NotMember)),
        Ok(Some(standing)) => Ok(standing),
        Err(err) => Err(asked.log_failed(shared, &err)),
    }
}

pub async fn resume(
    shared: Arc<Shared>,
    user: UserId,
    rooms: Vec<(RoomName, Seq)>,
    id: Option<ClientId>,
) -> Reply {
    let mut follows = Vec::with_capacity(rooms.len());
    for (room, since) in rooms {
        let asked = Asked { re: "resume", room, user: user.clone(), id: id.clone() };
        follows.push(resume_room(&shared, asked, since).await);
    }
    Reply::Resumed(follows, id)
}

async fn resume_room(shared: &Shared, asked: Asked, since: Seq) -> Result<Follow, Problem> {
    let standing = member(shared, &asked).await?;
    let room = match shared.relay.activate(&asked.room).await {
        Ok(room) => room,
        Err(err) => return Err(asked.log_failed(shared, &err)),
    };
    let Standing { last_seq, members, .. } = standing;
    let (position, reset) = position(Start::Since(since), None, last_seq);
    Ok(Follow { asked, room, last_seq, members, position, reset })
}

pub async fn history(shared: Arc<Shared>, asked: Asked, page: Page, limit: usize) -> Reply {
    if let Err(problem) = member(&shared, &asked).await {
        return Reply::Problem(problem);
    }
    // One more than asked for says whether there is more.
    let read = match page {
        Page::Newest => shared.log.read_before(&asked.room, None, limit + 1).await,
        Page::Before(seq) => shared.log.read_before(&asked.room, Some(seq), limit + 1).await,
        Page::After(seq) => shared.log.read(&asked.room, seq, limit + 1).await,
    };
    let mut events = match read {
        Ok(events) => events,
        Err(err) => return Reply::Problem(asked.log_failed(&shared, &err)),
    };
    let more = events.len() > limit;
    match page {
        Page::After(_) => events.truncate(limit),
        Page::Newest | Page::Before(_) if more => drop(events.remove(0)),
        Page::Newest | Page::Before(_) => {}
    }
    let frames: Vec<_> = events.iter().map(|event| (event.seq, frame::event(event))).collect();
    Reply::Frame("history", frame::history(&asked.room, &frames, more, asked.id.as_ref()))
}

pub async fn members(shared: Arc<Shared>, asked: Asked, after: Option<UserId>) -> Reply {
    if let Err(problem) = member(&shared, &asked).await {
        return Reply::Problem(problem);
    }
    match shared.log.members(&asked.room, after.as_ref(), MEMBERS_LIMIT + 1).await {
        Ok(mut members) => {
            let more = members.len() > MEMBERS_LIMIT;
            members.truncate(MEMBERS_LIMIT);
            let members: Vec<_> = members.into_iter().map(|m| (m.user, m.role)).collect();
            let frame = frame::members(&asked.room, &members, more, asked.id.as_ref());
            Reply::Frame("members", frame)
        }
        Err(err) => Reply::Problem(asked.log_failed(&shared, &err)),
    }
}

pub async fn rooms(
    shared: Arc<Shared>,
    after: Option<RoomName>,
    limit: usize,
    id: Option<ClientId>,
) -> Reply {
    match shared.log.rooms(after.as_ref(), limit + 1).await {
        Ok(mut rooms) => {
            let more = rooms.len() > limit;
            rooms.truncate(limit);
            let rooms: Vec<_> =
                rooms.into_iter().map(|r| (r.room, r.last_seq, r.members)).collect();
            Reply::Frame("rooms", frame::rooms(&rooms, more, id.as_ref()))
        }
        Err(err) => {
            let problem = log_failed(&shared, &err);
            Reply::Problem(Problem { re: Some("rooms"), id, ..problem })
        }
    }
}
