//! The answers that a session owes, in the order of its commands, and how each is worked out.
//!
//! It does not write to the socket: the session takes the answers from here one by one. A write is
//! on its way in a lane from the moment it is read; everything else starts when all commands
//! before it have been answered, so a client that pipelines always reads its own writes.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::history::Pages;
use super::owing::Owing;
use super::pace::weight;
use super::resume::Resuming;
use super::{Shared, reading};
use crate::budget::Held;
use crate::decide::{Outcome, Refusal};
use crate::hub::{Follower, Room};
use crate::lane::{Answer, Failure};
use crate::log::{LogError, Reading, Standing};
use crate::model::{ClientId, Event, RoomName, Seq, Timestamp, UserId};
use crate::protocol::command::{MEMBERS_LIMIT, Start};
use crate::protocol::error::{Code, Problem};
use crate::protocol::fields::{self, Key};
use crate::protocol::frame::{self, Frame};
use crate::socket::Link;

/// Commands that keep more than this are looked at when others need their memory.
const OWING_BYTES_MIN: usize = 8 * 1024;

/// Bounded by `in_flight_max`: at that length the session stops reading its socket.
#[derive(Default)]
pub struct Answers {
    /// Each with what it may make the socket follow.
    owed: VecDeque<(Pending, Asks)>,
    /// Those rooms, summed. A client that does not wait for its answers gets no more rooms than
    /// one that does.
    rooms: usize,
    /// The front one is being worked out.
    has_begun: bool,
    /// Bytes that those commands keep.
    bytes: usize,
    owing: Option<Box<Owing>>,
}

/// Whose command an answer is to, and what the socket may come to follow by it.
#[derive(Default)]
pub struct Asks {
    pub user: Option<UserId>,
    /// Each room with the user to follow it as: one for a `join`, in their order for a `resume`.
    pub follows: Vec<(RoomName, UserId)>,
    /// How many of those rooms it does not follow yet.
    pub rooms: usize,
    /// What the command keeps until it is answered.
    pub held: Option<Held>,
}

/// An answer that is owed.
pub enum Pending {
    Ready(Reply),
    /// A lane has it.
    Write(Asked, oneshot::Receiver<Answer>),
    /// Begins when it is the next to be answered. Until then it is what was asked for, and not yet
    /// the work: a client may ask for hundreds in one breath, and work takes kilobytes.
    Later(Box<dyn FnOnce() -> Work + Send>),
    Work(Work),
}

/// An answer that is being worked out.
pub type Work = Pin<Box<dyn Future<Output = Reply> + Send>>;

impl Pending {
    /// What `work` will do, when its turn has come.
    pub fn later<F>(work: impl FnOnce() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::Later(Box::new(|| Box::pin(work())))
    }

    fn begin(&mut self) {
        if let Self::Later(_) = self
            && let Self::Later(begin) = std::mem::replace(self, Self::Ready(Reply::Nothing))
        {
            *self = Self::Work(begin());
        }
    }
}

/// What the answer must repeat of the command.
#[derive(Clone, Debug)]
pub struct Asked {
    pub re: &'static str,
    pub room: RoomName,
    pub user: UserId,
    pub id: Option<ClientId>,
    /// When the command came: it is to be answered in time from then on.
    pub came: Instant,
}

/// A write whose answer is its event.
pub struct Awaited {
    pub asked: Asked,
    pub seq: Seq,
    pub at: Timestamp,
    /// Who brings it.
    pub follower: Arc<Follower>,
    /// When the client has waited long enough: then it gets an ack instead.
    pub due: Instant,
}

impl Reply {
    pub fn frame(re: &'static str, frame: Frame) -> Self {
        Self::Frame { re, frame, weight: 0 }
    }
}

/// An answer, worked out.
pub enum Reply {
    /// None: its work is about to begin.
    Nothing,
    /// A frame for a command of this type, and what it weighs beside its bytes.
    Frame {
        re: &'static str,
        frame: Frame,
        weight: u32,
    },
    /// A `history` of several pieces.
    Pages(Box<Pages>),
    Problem(Problem),
    /// `create`, `leave` or `message` was decided.
    Written(Asked, Outcome),
    Joined(Box<Follow>),
    /// A part of a `resume`, which is in its list from this place on.
    Resumed(Box<Resuming>, usize),
    /// A `who` of a member; the node knows of the others what it can.
    Who(Asked),
}

/// A room that the socket is to follow from now on.
pub struct Follow {
    pub asked: Asked,
    pub room: Arc<Room>,
    pub last_seq: Seq,
    pub members: u64,
    /// How far the user has read, up to `last_seq`.
    pub reading: Reading,
    /// The socket has everything up to here.
    pub position: Seq,
    /// The client's position was above the log's end.
    pub reset: bool,
}

impl Answers {
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Rooms that the answers owed may add to those that the socket follows.
    pub fn rooms(&self) -> usize {
        self.rooms
    }

    /// Whether the next answer is being worked out. From then on it must be, up to its end, also if
    /// the client does not listen any more: it may hold what others wait for (a connection to the
    /// log, the activation of a room), and its time-outs are its own.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the next answer is of a write: it is decided elsewhere, whatever is owed here.
    pub fn is_decided(&self) -> bool {
        matches!(self.owed.front(), Some((Pending::Write(..), _)))
    }

    pub fn push(&mut self, pending: Pending, asks: Asks, link: &Arc<Link>) {
        self.rooms += asks.rooms;
        self.bytes += asks.held.as_ref().map_or(0, Held::bytes);
        if let Some(owing) = &self.owing {
            owing.tell(self.bytes);
        } else if let Some(held) = &asks.held
            && self.bytes > OWING_BYTES_MIN
        {
            self.owing = Some(Box::new(Owing::new(held, link, self.bytes)));
        }
        self.owed.push_back((pending, asks));
    }

    /// An answer of several parts goes on: it is the next one again.
    pub fn go_on(&mut self, pending: Pending, asks: Asks) {
        self.rooms += asks.rooms;
        self.bytes += asks.held.as_ref().map_or(0, Held::bytes);
        self.owed.push_front((pending, asks));
    }

    /// The next answer, when it is there. Cancel-safe: what is not finished stays in front.
    pub async fn next(&mut self) -> (Reply, Asks) {
        if let Some((front, _)) = self.owed.front_mut() {
            front.begin();
        }
        let reply = match self.owed.front_mut() {
            None => return std::future::pending().await,
            Some((Pending::Ready(_) | Pending::Later(_), _)) => None,
            Some((Pending::Write(_, answered), _)) => Some(Ok(answered.await)),
            Some((Pending::Work(work), _)) => {
                self.has_begun = true;
                Some(Err(work.await))
            }
        };
        self.has_begun = false;
        let (front, asks) = self.owed.pop_front().unzip();
        let asks: Asks = asks.unwrap_or_default();
        self.rooms -= asks.rooms;
        self.bytes -= asks.held.as_ref().map_or(0, Held::bytes);
        if self.owed.is_empty() {
            // Idle sockets keep no memory for answers.
            (self.owed, self.owing) = (VecDeque::new(), None);
        } else if let Some(owing) = &self.owing {
            owing.moved(self.bytes);
        }
        let reply = match (front, reply) {
            (Some(Pending::Ready(reply)), _) | (_, Some(Err(reply))) => reply,
            (Some(Pending::Write(asked, _)), Some(Ok(answer))) => written(asked, answer),
            _ => Reply::Problem(Problem::internal()),
        };
        (reply, asks)
    }
}

/// What a lane's answer means to whoever asked.
pub fn written(asked: Asked, answer: Result<Answer, oneshot::error::RecvError>) -> Reply {
    match answer {
        Ok(Ok(Outcome::Refused(refusal))) => Reply::Problem(asked.refused(refusal)),
        Ok(Ok(outcome)) => Reply::Written(asked, outcome),
        Ok(Err(Failure::Unavailable)) => Reply::Problem(asked.problem(Problem::unavailable())),
        Ok(Err(Failure::Unwritten)) => Reply::Problem(asked.problem(Problem::unwritten())),
        Ok(Err(Failure::Damaged)) => Reply::Problem(asked.problem(Problem::unwritable())),
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
            "who" => "asking who is there",
            "typing" => "typing in it",
            _ => "reading it",
        };
        let (code, error): (_, Cow<'static, str>) = match refusal {
            Refusal::UserName(why) => return self.problem(fields::invalid(Key::UserId, why)),
            Refusal::RoomExists => {
                (Code::RoomExists, format!("there is a room {room} already: join it").into())
            }
            Refusal::RoomNotFound => {
                (Code::RoomNotFound, format!("there is no room {room}: create it first").into())
            }
            Refusal::IdReused { first } => {
                let re = self.re;
                let error = format!(
                    "your {first} in {room} had this \"id\": give the {re} an \"id\" of its own"
                );
                (Code::IdReused, error.into())
            }
            Refusal::NotMember => (Code::NotMember, format!("join {room} before {what}").into()),
        };
        self.problem(Problem::new(code, error))
    }
}

/// Members in a list that weigh as much as a small command.
const MEMBERS_PER_WEIGHT: usize = 50;
/// What a row of a list may take, as it is read and as it is sent: a name twice, and what there is
/// to say about it.
pub const ROW_BYTES: usize = 512;

/// When a read of one session failed the last time. Clones share it.
#[derive(Clone, Default)]
pub struct Outage(Arc<Mutex<Option<Instant>>>);

/// What one command reads with, from the moment it came.
pub struct Reader {
    pub shared: Arc<Shared>,
    outage: Outage,
    asked: Instant,
    /// When its time to read is over, however many reads it takes.
    due: tokio::time::Instant,
}

impl Outage {
    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    pub fn new(shared: Arc<Shared>, outage: Outage) -> Self {
        let now = tokio::time::Instant::now();
        let mut reader = Self { shared, outage, asked: now.into_std(), due: now };
        reader.begin();
        reader
    }

    /// The command is the next to be answered: its time begins now, and what a client asked for
    /// before it has not used it up.
    pub fn begin(&mut self) {
        self.give(self.shared.config.log.read_timeout_ms);
    }

    /// As `begin`, for a command that waits for its lane first. Both are one time: else one whose
    /// commit took nearly as long as it may, and then its reads as well, would be answered late.
    pub fn begin_with_write(&mut self) {
        let config = &self.shared.config;
        self.give(config.lane.answer_timeout_ms.max(config.log.read_timeout_ms));
    }

    fn give(&mut self, budget_ms: u64) {
        self.due = tokio::time::Instant::now() + Duration::from_millis(budget_ms);
    }

    pub fn due(&self) -> tokio::time::Instant {
        self.due
    }

    /// Waits until so many bytes may be held for a client that may not read them.
    pub async fn room(&self, bytes: usize) -> Result<Held, Problem> {
        let room = self.shared.budgets.unsent.room(bytes);
        tokio::time::timeout_at(self.due, room).await.map_err(|_| Problem::no_room())
    }

    /// Reads from the log, unless a read of this session has failed since the command came.
    ///
    /// While the log is away each read takes its whole time-out, and the reads of one socket go one
    /// after the other: a client that comes back and resumes ten rooms would wait ten times as
    /// long. But its command has waited through that failure already, so that is its answer, too.
    pub async fn read<T>(
        &self,
        read: impl Future<Output = Result<T, LogError>>,
    ) -> Result<T, Problem> {
        if self.outage.last().is_some_and(|failed| failed > self.asked) {
            return Err(Problem::unanswered());
        }
        // Some reads share what one of them does, one after the other (`Relay::activate`): the
        // time is each one's own.
        let time = self.due.saturating_duration_since(tokio::time::Instant::now());
        let read = tokio::time::timeout_at(self.due, read).await;
        // That a read had no time left, because the commit before it was slow, says nothing about
        // the reads of other commands.
        let usual = Duration::from_millis(self.shared.config.log.read_timeout_ms);
        let is_telling = read.is_ok() || time >= usual / 2;
        let read = read.unwrap_or_else(|_| Err(LogError::Unavailable("no answer in time".into())));
        read.map_err(|err| {
            // Damage is in one place, and says nothing about the reads of other commands.
            if is_telling && !matches!(err, LogError::Damaged(_)) {
                *self.outage.last() = Some(Instant::now());
            }
            self.failed(&err)
        })
    }

    /// What a client is told whose read failed.
    pub fn failed(&self, error: &LogError) -> Problem {
        self.shared.metrics.log_error(error.kind());
        tracing::debug!(err = %error, "a read of the log failed");
        match error {
            LogError::Damaged(_) => Problem::unreadable(),
            _ => Problem::unanswered(),
        }
    }
}

/// Waits for the lane's outcome of a `join`, `before` which this node had the room up to there, and
/// brings the room into use.
pub async fn join(
    mut reader: Reader,
    asked: Asked,
    start: Start,
    before: Option<Seq>,
    answered: oneshot::Receiver<Answer>,
) -> Reply {
    reader.begin_with_write();
    let (event, last_seq, members, messages) = match written(asked.clone(), answered.await) {
        Reply::Written(_, Outcome::Joined { event, last_seq, members, messages }) => {
            (event, last_seq, members, messages)
        }
        reply => return reply,
    };
    let reading = reading::of_joined(&reader, &asked, event.as_ref(), last_seq, messages).await;
    let reading = match reading {
        Ok(reading) => reading,
        Err(problem) => return Reply::Problem(asked.problem(problem)),
    };
    let relay = &reader.shared.relay;
    let open = async {
        relay.verdict(&asked.room, before, last_seq).await?;
        relay.activate(&asked.room).await
    };
    let room = match reader.read(open).await {
        Ok(room) => room,
        Err(problem) => return Reply::Problem(asked.problem(problem)),
    };
    let known = room.known(last_seq, Instant::now());
    let (position, reset) = position(start, event.as_ref(), last_seq, known);
    if let Err(problem) = reader.read(reader.shared.relay.check(&room, position)).await {
        return Reply::Problem(asked.problem(problem));
    }
    let follow = Follow { asked, room, last_seq, members, reading, position, reset };
    Reply::Joined(Box::new(follow))
}

/// Up to where a joiner has everything, and whether it must forget what it thought it had: up to
/// `known` it may be right.
pub fn position(start: Start, event: Option<&Event>, last_seq: Seq, known: Seq) -> (Seq, bool) {
    // Its own position: just before its own join, if that made an event.
    let own = event.map_or(last_seq, |event| event.seq.prev());
    match start {
        Start::Here => (own, false),
        Start::Last(n) => (Seq(own.0.saturating_sub(n)), false),
        Start::Since(seq) if seq > known => (last_seq, true),
        Start::Since(seq) => (seq, false),
    }
}

/// The user's standing, or why a member's command is refused.
pub async fn member(reader: &Reader, asked: &Asked) -> Result<Standing, Problem> {
    match reader.read(reader.shared.log.standing(&asked.room, &asked.user)).await {
        Ok(None) => Err(asked.refused(Refusal::RoomNotFound)),
        Ok(Some(Standing { role: None, .. })) => Err(asked.refused(Refusal::NotMember)),
        Ok(Some(standing)) => Ok(standing),
        Err(problem) => Err(asked.problem(problem)),
    }
}

pub async fn members(mut reader: Reader, asked: Asked, after: Option<UserId>) -> Reply {
    reader.begin();
    if let Err(problem) = member(&reader, &asked).await {
        return Reply::Problem(problem);
    }
    let _held = match reader.room(MEMBERS_LIMIT * ROW_BYTES).await {
        Ok(held) => held,
        Err(problem) => return Reply::Problem(asked.problem(problem)),
    };
    let log = &reader.shared.log;
    match reader.read(log.members(&asked.room, after.as_ref(), MEMBERS_LIMIT + 1)).await {
        Ok(mut members) => {
            let more = members.len() > MEMBERS_LIMIT;
            members.truncate(MEMBERS_LIMIT);
            let members: Vec<_> = members.into_iter().map(|m| (m.user, m.role)).collect();
            let frame = frame::members(&asked.room, &members, more, asked.id.as_ref());
            let weight = weight(members.len(), MEMBERS_PER_WEIGHT);
            Reply::Frame { re: "members", frame, weight }
        }
        Err(problem) => Reply::Problem(asked.problem(problem)),
    }
}
