//! One connected client: its commands go to the desk, and its answers and events come back.
//!
//! A session knows neither the rules of the chat nor the bytes of the socket. It is one task, which
//! owns everything in it. Others touch only the socket's queue, into which a fan-out writes, and
//! the inbox, where a fan-out leaves followers that fell behind.
//!
//! It is bounded by the answers owed (`in_flight_max`) and the bytes queued (`queue_bytes_max`). At
//! either limit the session stops reading its socket. So a client that does not read its answers
//! can send no more commands.

pub(crate) mod answers;
pub(crate) mod follows;
mod limits;
pub(crate) mod lost;
mod owing;
mod paging;
mod reply;
mod signals;
mod written;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use self::answers::{Answers, Asks, Awaited};
use self::follows::Follows;
use self::limits::Limits;
use self::lost::lost_sync;
use self::paging::Paging;
use self::written::overdue;
use crate::desk::history::Broken;
use crate::desk::pace::{PAGE_WEIGHT, weight_of};
use crate::desk::{Caller, Desk, Outage, Pending, Reply, Way};
use crate::metrics;
use crate::model::UserId;
use crate::protocol::close::CloseCode;
use crate::protocol::command::{Command, Request};
use crate::protocol::frame::{self, Hello};
use crate::protocol::table::{CommandType, Effect};
use crate::socket::{Incoming, Link, Socket};

/// One client. Created and run by the server, one task each.
pub struct Session {
    desk: Arc<Desk>,
    socket: Socket,
    link: Arc<Link>,
    follows: Follows,
    answers: Answers,
    /// Its failed reads; the answers are worked out independently.
    outage: Outage,
    /// A write that its lane had no room for. While it waits, nothing more is read.
    parked: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// A write whose event has not reached the socket yet. Until it has, no other answer is given,
    /// so that answers keep their order.
    awaited: Option<Box<Awaited>>,
    /// An answer of several pieces in progress. Meanwhile nothing else is sent.
    paging: Option<Box<Paging>>,
    limits: Limits,
    /// The client's address.
    address: IpAddr,
    /// The user of the command that was answered last, who is charged for it as well.
    payer: Option<UserId>,
    /// Until when nothing is read, because the client sent too much. While the node stops: when an
    /// answer in progress is given up.
    rest: Option<Pin<Box<Sleep>>>,
    /// Until when no answer is begun, because the ones before were much work.
    debt: Option<Pin<Box<Sleep>>>,
    /// Answers that leave together in one write.
    out: Vec<u8>,
    stopping: bool,
}

/// How a session ends.
pub type End = (CloseCode, &'static str);

const RESTARTS: End = (CloseCode::RESTART, "the node restarts");
/// Estimate of a waiting command's memory, beside its text.
const OWED_BYTES: usize = 512;
/// How long a stopping node waits for a client to take an answer of several pieces.
const LAST_CALL: Duration = Duration::from_secs(1);

impl Session {
    /// Boxed: a future stores its arguments twice, as given and as used, and so does every future
    /// around it.
    pub fn new(desk: Arc<Desk>, socket: Socket, address: IpAddr) -> Box<Self> {
        let link = socket.link().clone();
        Box::new(Self {
            follows: Follows::new(desk.clone(), link.clone(), address),
            desk,
            socket,
            link,
            answers: Answers::default(),
            outage: Outage::default(),
            parked: None,
            awaited: None,
            paging: None,
            limits: Limits::new(Instant::now()),
            address,
            payer: None,
            rest: None,
            debt: None,
            out: Vec::new(),
            stopping: false,
        })
    }

    /// Serves the client until either side ends the connection. Returns how it ended, and the user
    /// of the last command.
    pub async fn run(mut self: Box<Self>) -> (End, Option<UserId>) {
        self.greet();
        let (code, text) = self.serve().await;
        // In the middle of a message, nothing else can be sent.
        if self.paging.is_none() {
            self.flush();
        }
        self.desk.metrics.sockets_closed.get_or_create(&metrics::CodeLabel { code: code.0 }).inc();
        // Dropped before the close, which may take seconds. Nothing more is for this socket, and
        // its answers may hold what others wait for (a connection to the log, the activation of a
        // room).
        let Self { socket, follows, answers, parked, awaited, paging, payer, .. } = *self;
        drop((follows, answers, parked, awaited, paging));
        socket.close(code, text).await;
        ((code, text), payer)
    }

    async fn serve(&mut self) -> End {
        // One future for the whole session: to register for the stop anew in each turn would take a
        // lock that all sessions share.
        let (desk, inbox) = (self.desk.clone(), self.follows.inbox.clone());
        let mut stopping = std::pin::pin!(desk.tasks.stopping());
        loop {
            let listens = self.listens();
            // A client that takes no answers cannot get the last ones. It resumes later.
            if self.stopping && !(listens && self.owes()) {
                return RESTARTS;
            }
            let reading = listens && self.wants_to_read();
            // A race: the client stops reading while an answer is in the middle of a read. If the
            // answer were left alone, it would keep its connection to the log, and a few such
            // clients would keep all connections of the node.
            let is_busy = self.awaited.is_some() || self.paging.is_some();
            let may_begin = listens && self.has_paid();
            let answering = (may_begin || self.answers.has_begun()) && !is_busy;
            let result = tokio::select! {
                incoming = self.socket.next(reading) => self.on_incoming(incoming),
                (reply, asks) = self.answers.next(), if answering => self.on_reply(reply, asks),
                () = overdue(self.awaited.as_deref()), if self.awaited.is_some() => Ok(()),
                len = paged(self.paging.as_mut()), if self.paging.is_some() => self.on_paged(len),
                () = inbox.arrived() => {
                    self.follows.sort_inbox();
                    Ok(())
                }
                () = self.follows.wait(), if self.follows.waits() => Ok(()),
                () = parked(&mut self.parked) => Ok(()),
                () = passed(&mut self.rest), if self.rest.is_some() => self.on_rested(),
                () = passed(&mut self.debt), if self.debt.is_some() => Ok(()),
                () = &mut stopping, if !self.stopping => self.on_stopping(),
            };
            if let Err(end) = result.and_then(|()| self.settle()) {
                return end;
            }
        }
    }

    fn owes(&self) -> bool {
        let is_busy = self.awaited.is_some() || self.paging.is_some();
        is_busy || !self.answers.is_empty() || self.parked.is_some()
    }

    /// Whether the client reads what it is sent. While it does not, no further answer is begun: 200
    /// pages of history requested at once would take gigabytes.
    fn listens(&self) -> bool {
        let listens = self.link.queued_bytes() <= self.desk.config.socket.queue_bytes_max;
        if !listens {
            self.link.tell_when_drained();
        }
        listens
    }

    /// Whether the work done for the client is paid for. If not, the next answer begins later, so
    /// that what is requested at once is not worked out at once. Answers that are already decided
    /// are sent, and a stopping node does not wait.
    fn has_paid(&mut self) -> bool {
        if self.stopping || self.answers.is_decided() {
            return true;
        }
        if self.debt.is_none() && !self.answers.is_empty() {
            let wait = self.limits.debt(&self.desk.config.session, Instant::now());
            self.debt = wait.map(|wait| Box::pin(tokio::time::sleep(wait)));
        }
        self.debt.is_none()
    }

    fn wants_to_read(&self) -> bool {
        let owed = self.answers.len() + self.follows.resumes_len();
        let session = &self.desk.config.session;
        // A client that is always owed an answer could otherwise keep more left rooms than it may
        // follow.
        let may_leave_more = self.follows.stopped_len() <= session.follows_max;
        let may_ask = !self.stopping
            && self.parked.is_none()
            && owed < session.in_flight_max
            && may_leave_more;
        // One command of each client is always carried out, however much memory others hold.
        let has_room = owed == 0 || !self.desk.budgets.inbound.is_full();
        may_ask && has_room && self.rest.is_none() && self.takes_answers()
    }

    /// While the budget for unsent data is full, commands are taken only from clients that have
    /// read everything sent to them.
    fn takes_answers(&self) -> bool {
        let takes = !self.desk.budgets.unsent.is_full() || self.link.queued_bytes() == 0;
        if !takes {
            self.link.tell_when_empty();
        }
        takes
    }

    /// What to do after any event of the loop.
    fn settle(&mut self) -> Result<(), End> {
        if let Some(paging) = &mut self.paging {
            paging.proceed();
            if !paging.is_over() {
                return Ok(());
            }
            self.paging = None;
        }
        if self.answers.is_empty() {
            self.follows.forget_stopped();
        }
        self.catch_up()?;
        self.settle_awaited();
        for frame in self.follows.take_resumed() {
            self.answer(CommandType::Resume, &frame);
        }
        self.flush();
        Ok(())
    }

    /// Catching up is paid for like commands.
    fn catch_up(&mut self) -> Result<(), End> {
        let config = &self.desk.config.session;
        let wait = || self.limits.wait(config, Instant::now());
        let begins_page = self.follows.catch_up(wait).map_err(lost_sync)?;
        if begins_page {
            // Whichever user joined the room, this socket has to catch up.
            self.payer = None;
            self.charge(PAGE_WEIGHT);
        }
        Ok(())
    }

    fn greet(&mut self) {
        let config = &self.desk.config;
        let hello = frame::hello(&Hello {
            node: &config.node.id,
            heartbeat_ms: config.socket.heartbeat_ms,
            frame_bytes: config.socket.frame_bytes_max,
            message_bytes: config.session.message_bytes_max,
        });
        self.out.extend_from_slice(hello.bytes());
        self.flush();
    }

    fn on_paged(&mut self, len: Result<usize, Broken>) -> Result<(), End> {
        let len = len.map_err(|Broken| (CloseCode::RESYNC, "an answer was cut off: reconnect"))?;
        self.charge(weight_of(len));
        Ok(())
    }

    /// A stopping node answers what it has read. But a client that owes for much work, or takes a
    /// long answer slowly, gets only what could be done by now.
    fn on_rested(&mut self) -> Result<(), End> {
        if !self.stopping {
            return Ok(());
        }
        let debt = self.limits.debt(&self.desk.config.session, Instant::now());
        if self.paging.is_some() || debt.is_some() {
            return Err(RESTARTS);
        }
        self.rest = Some(Box::pin(tokio::time::sleep(LAST_CALL)));
        Ok(())
    }

    fn on_stopping(&mut self) -> Result<(), End> {
        self.stopping = true;
        self.rest = Some(Box::pin(tokio::time::sleep(LAST_CALL)));
        let goodbye = frame::goodbye("restart", self.desk.config.server.reconnect_ms);
        self.out.extend_from_slice(goodbye.bytes());
        Ok(())
    }

    fn on_incoming(&mut self, incoming: Incoming) -> Result<(), End> {
        match incoming {
            Incoming::Text(text) => {
                self.on_frame(&text);
                Ok(())
            }
            Incoming::Binary(_) => Err((CloseCode::UNSUPPORTED, "send text frames, not binary")),
            Incoming::Frames(count) => self.on_frames(count),
            Incoming::Drained => Ok(()),
            Incoming::Closed(reason) => Err((reason.code(), reason.text())),
        }
    }

    fn on_frame(&mut self, text: &str) {
        let bytes_max = self.desk.config.session.message_bytes_max;
        let request = Request::parse(text, bytes_max);
        let command = request.as_ref().ok().map(|request| &request.command);
        let admitted = self.admit(command, Instant::now());
        let mut user = None;
        let request = match (admitted, request) {
            (Ok(()), request) => request,
            (Err(retry_after_ms), request) => {
                user = request.as_ref().ok().and_then(|it| it.command.user()).cloned();
                Err(limits::rate_limited(request, retry_after_ms))
            }
        };
        let admitted = request.and_then(|request| {
            let asks = self.follows.admit(&request, self.answers.rooms())?;
            Ok((request, asks))
        });
        match admitted {
            Ok((request, asks)) => {
                // Before the command is sent: its events may arrive before its answer.
                self.follows.ask(&asks.follows);
                let bytes = request.command.bytes() + OWED_BYTES;
                let asks = Asks { held: Some(self.desk.budgets.inbound.hold(bytes)), ..asks };
                let pending = self.command(request);
                self.answers.push(pending, asks, &self.link);
            }
            Err(problem) => {
                let config = &self.desk.config.session;
                self.limits.waste(config, text.len(), Instant::now());
                let asks = Asks { user, ..Asks::default() };
                self.answers.push(Pending::Ready(Reply::Problem(problem)), asks, &self.link);
            }
        }
    }

    /// Takes one command, or returns in how many milliseconds to try again.
    fn admit(&mut self, command: Option<&Command>, now: Instant) -> Result<(), u64> {
        self.limits.admit(&self.desk.config.session, now)?;
        self.desk.pace.take(self.address, command.and_then(Command::user), now)
    }

    /// Begins a command.
    fn command(&mut self, request: Request) -> Pending {
        // Other commands are checked against the log.
        let is_signal = request.command.kind().row().effect == Effect::Signal;
        let room = request.command.room().filter(|_| is_signal);
        let follower = room.and_then(|room| self.follows.follower(room)).cloned();
        let (address, outage) = (self.address, self.outage.clone());
        let caller = Caller { address, outage, way: Way::Socket(follower) };
        let (pending, parked) = self.desk.begin(caller, request);
        if let Some(parked) = parked {
            self.parked = Some(Box::pin(parked.send()));
        }
        pending
    }
}

/// Cancel-safe: the moment is kept until it has passed.
async fn passed(moment: &mut Option<Pin<Box<Sleep>>>) {
    match moment {
        None => std::future::pending().await,
        Some(sleep) => {
            sleep.await;
            *moment = None;
        }
    }
}

async fn paged(paging: Option<&mut Box<Paging>>) -> Result<usize, Broken> {
    match paging {
        None => std::future::pending().await,
        Some(paging) => paging.advance().await,
    }
}

async fn parked(parked: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match parked {
        None => std::future::pending().await,
        Some(sending) => {
            sending.await;
            *parked = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<T, F: Future>(_: fn(T) -> F) -> usize {
        size_of::<F>()
    }

    /// Nearly all sockets of a chat server are idle, so this dominates a node's memory. An `async
    /// fn` stores its arguments twice, which is why so much here is boxed.
    #[test]
    fn an_idle_session_is_small() {
        let (session, run) = (size_of::<Session>(), size_of_future(Session::run));
        assert!(session + run <= 1536, "a session takes {session} bytes and its task {run}");
    }
}
