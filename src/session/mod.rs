//! One connected client: what it says goes to the lanes and the log, what it is owed comes back.
//!
//! It holds no rules of the chat and no bytes of the socket. A session is one task, and the task
//! owns everything in it; the only things others touch are the socket's queue (a fan-out writes
//! into it) and the inbox (a fan-out leaves followers there that fell behind).
//!
//! What bounds it: answers owed (`in_flight_max`) and bytes queued (`queue_bytes_max`); at either
//! the session stops reading its socket, so that a client that does not listen is not heard.

/// Shared with the HTTP API, which answers the same commands.
pub mod answers;
mod follows;
mod limits;
/// As `answers`, what of them is unread.
pub mod reading;
mod signs;
mod written;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use tokio::sync::watch;

use self::answers::{Answers, Asked, Asks, Awaited, Follow, Outage, Pending, Reader, Reply};
use self::follows::{Follows, LostSync};
use self::limits::Limits;
use self::written::overdue;
use crate::config::Config;
use crate::decide::{Verb, Write};
use crate::hub::Hub;
use crate::lane::Lanes;
use crate::log::{Log, Reading};
use crate::metrics::{self, Metrics};
use crate::mirror::Status;
use crate::model::ClientId;
use crate::protocol::close::CloseCode;
use crate::protocol::command::{Command, Request};
use crate::protocol::error::Problem;
use crate::protocol::frame::{self, Frame, Hello, Joined};
use crate::relay::Relay;
use crate::replay::Replay;
use crate::signals::Signals;
use crate::socket::{Incoming, Link, Socket};
use crate::tasks::Tasks;

/// What all sessions of a node use.
pub struct Shared {
    pub config: Config,
    pub log: Log,
    pub hub: Arc<Hub>,
    pub relay: Arc<Relay>,
    pub replay: Replay,
    pub signals: Arc<Signals>,
    /// Whether other nodes are heard by way of Redis; `None`: there is no mirror.
    pub status: Option<watch::Receiver<Status>>,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
}

/// One client. Built and run by the server, one task each.
pub struct Session {
    shared: Arc<Shared>,
    lanes: Lanes,
    socket: Socket,
    link: Arc<Link>,
    follows: Follows,
    answers: Answers,
    /// What its reads have met; their answers are worked out on their own.
    outage: Outage,
    /// A write whose lane had no room. While it waits, nothing more is read.
    parked: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// An event that is an answer and is not with the socket yet. While it is awaited no other
    /// answer is given, so that answers keep their order.
    awaited: Option<Awaited>,
    limits: Limits,
    /// Answers that leave together in one write.
    out: BytesMut,
    stopping: bool,
}

/// Why a session ends.
type End = (CloseCode, &'static str);

impl Session {
    /// Boxed: a future keeps what it is given twice, once as given and once as it uses it, and so
    /// does every future around it.
    pub fn new(shared: Arc<Shared>, lanes: Lanes, socket: Socket) -> Box<Self> {
        let link = socket.link().clone();
        Box::new(Self {
            follows: Follows::new(shared.clone(), link.clone()),
            shared,
            lanes,
            socket,
            link,
            answers: Answers::default(),
            outage: Outage::default(),
            parked: None,
            awaited: None,
            limits: Limits::new(Instant::now()),
            out: BytesMut::new(),
            stopping: false,
        })
    }

    /// Serves the client until one side ends it.
    pub async fn run(mut self: Box<Self>) {
        self.greet();
        let (code, text) = self.serve().await;
        self.shared.metrics.sockets_closed.get_or_create(&metrics::Code { code: code.0 }).inc();
        // Before the close, which may take seconds: nothing more is for this socket, and what its
        // answers hold (a connection to the log, the activation of a room) others wait for.
        let Self { socket, follows, answers, parked, awaited, .. } = *self;
        drop((follows, answers, parked, awaited));
        socket.close(code, text).await;
    }

    async fn serve(&mut self) -> End {
        // One future for the whole session: registering for the stop anew in each turn would take
        // a lock that all sessions share.
        let (shared, inbox) = (self.shared.clone(), self.follows.inbox.clone());
        let mut stopping = std::pin::pin!(shared.tasks.stopping());
        loop {
            let listens = self.listens();
            // Who does not take answers cannot be given the last ones, and resumes later.
            if self.stopping && !(listens && self.owes()) {
                return (CloseCode::RESTART, "the node restarts");
            }
            let reading = listens && self.wants_to_read();
            // The race this closes: the client stops taking what it is sent while an answer is in
            // the middle of a read. Left alone, it would keep its connection to the log, and four
            // such clients would keep all that a node has.
            let answering = (listens || self.answers.has_begun()) && self.awaited.is_none();
            let result = tokio::select! {
                incoming = self.socket.next(reading) => self.on_incoming(incoming),
                (reply, asks) = self.answers.next(), if answering => self.on_reply(reply, asks),
                () = overdue(self.awaited.as_ref()), if self.awaited.is_some() => Ok(()),
                () = inbox.arrived() => {
                    self.follows.sort_inbox();
                    Ok(())
                }
                page = self.follows.page(), if self.follows.is_reading() => {
                    self.follows.on_page(page).map_err(lost_sync)
                }
                () = parked(&mut self.parked) => Ok(()),
                () = &mut stopping, if !self.stopping => self.on_stopping(),
            };
            if let Err(end) = result.and_then(|()| self.settle()) {
                return end;
            }
        }
    }

    fn owes(&self) -> bool {
        !self.answers.is_empty() || self.parked.is_some() || self.awaited.is_some()
    }

    /// Whether the client takes what it is sent. While it does not, no further answer is begun for
    /// it: 200 pages of history that were asked for in one breath would be gigabytes.
    fn listens(&self) -> bool {
        let listens = self.link.queued_bytes() <= self.shared.config.socket.queue_bytes_max;
        if !listens {
            self.link.tell_when_drained();
        }
        listens
    }

    fn wants_to_read(&self) -> bool {
        let owed = self.answers.len() + self.follows.resumes_len();
        let session = &self.shared.config.session;
        // A client that is never without an owed answer could leave more rooms than it may follow.
        let may_leave_more = self.follows.stopped_len() <= session.follows_max;
        !self.stopping && self.parked.is_none() && owed < session.in_flight_max && may_leave_more
    }

    /// What follows from whatever just happened.
    fn settle(&mut self) -> Result<(), End> {
        if self.answers.is_empty() {
            self.follows.forget_stopped();
        }
        self.follows.catch_up().map_err(lost_sync)?;
        self.settle_awaited();
        for frame in self.follows.take_resumed() {
            self.answer("resume", &frame);
        }
        self.flush();
        Ok(())
    }

    fn greet(&mut self) {
        let config = &self.shared.config;
        let hello = frame::hello(&Hello {
            node: &config.node.id,
            heartbeat_ms: config.socket.heartbeat_ms,
            frame_bytes: config.socket.frame_bytes_max,
            message_bytes: config.session.message_bytes_max,
        });
        self.out.extend_from_slice(hello.bytes());
        self.flush();
    }

    fn on_stopping(&mut self) -> Result<(), End> {
        self.stopping = true;
        let goodbye = frame::goodbye("restart", self.shared.config.server.reconnect_ms);
        self.out.extend_from_slice(goodbye.bytes());
        Ok(())
    }

    fn on_incoming(&mut self, incoming: Incoming) -> Result<(), End> {
        match incoming {
            Incoming::Text(text) => {
                self.on_frame(&text);
                Ok(())
            }
            Incoming::Binary(_) => Err((CloseCode::UNSUPPORTED, "send text frames")),
            Incoming::Drained => Ok(()),
            Incoming::Closed(reason) => Err((reason.code(), reason.text())),
        }
    }

    fn on_frame(&mut self, text: &str) {
        let config = &self.shared.config.session;
        let admitted = self.limits.admit(config, Instant::now());
        let request = Request::parse(text, config.message_bytes_max);
        let request = match (admitted, request) {
            (Ok(()), request) => request,
            (Err(retry_after_ms), request) => Err(limits::rate_limited(request, retry_after_ms)),
        };
        let admitted = request.and_then(|request| {
            let asks = self.follows.admit(&request, self.answers.rooms())?;
            Ok((request, asks))
        });
        match admitted {
            Ok((request, asks)) => {
                // Before the command is sent: its events may be back before its answer.
                self.follows.ask(&asks.follows);
                let pending = self.command(request);
                self.answers.push(pending, asks);
            }
            Err(problem) => {
                self.limits.waste(config, text.len(), Instant::now());
                self.answers.push(Pending::Ready(Reply::Problem(problem)), Asks::default());
            }
        }
    }

    /// Sets a command going.
    fn command(&mut self, Request { id, command }: Request) -> Pending {
        let re = command.name();
        let came = Instant::now();
        let asked = |room, user, id| Asked { re, room, user, id, came };
        let reader = Reader::new(self.shared.clone(), self.outage.clone());
        match command {
            Command::Create { user, room } => self.write(asked(room, user, id), Verb::Create),
            Command::Leave { user, room } => self.write(asked(room, user, id), Verb::Leave),
            Command::Message { user, room, text } => {
                self.write(asked(room, user, id), Verb::Message(text))
            }
            Command::Join { user, room, start } => {
                match self.write(asked(room, user, id), Verb::Join) {
                    Pending::Write(asked, answered) => {
                        Pending::Work(Box::pin(answers::join(reader, asked, start, answered)))
                    }
                    pending => pending,
                }
            }
            Command::Resume { user, rooms } => {
                Pending::Work(Box::pin(answers::resume(reader, user, rooms, id)))
            }
            Command::History { user, room, page, limit } => {
                let asked = asked(room, user, id);
                Pending::Work(Box::pin(answers::history(reader, asked, page, limit)))
            }
            Command::Members { user, room, after } => {
                Pending::Work(Box::pin(answers::members(reader, asked(room, user, id), after)))
            }
            Command::Rooms { user, after, limit } => {
                Pending::Work(Box::pin(reading::rooms(reader, user, after, limit, id)))
            }
            Command::Who { user, room } => {
                let follower = self.follows.follower(&room).cloned();
                Pending::Work(Box::pin(signs::who(reader, asked(room, user, id), follower)))
            }
            Command::Typing { user, room } => {
                let follower = self.follows.follower(&room).cloned();
                let since = self.shared.hub.room(&room).and_then(|room| room.edge());
                let asked = asked(room, user, id);
                Pending::Work(Box::pin(signs::typing(reader, asked, follower, since)))
            }
            Command::Read { user, room, seq } => {
                let (follower, asked) =
                    (self.follows.follower(&room).cloned(), asked(room, user, id));
                Pending::Work(Box::pin(signs::read(reader, asked, seq, follower)))
            }
            Command::Ping => Pending::Ready(Reply::Frame(re, frame::pong(id.as_ref()))),
            Command::Help => Pending::Ready(Reply::Frame(re, frame::help(id.as_ref()))),
        }
    }

    fn write(&mut self, asked: Asked, verb: Verb) -> Pending {
        let (room, user, id) = (asked.room.clone(), asked.user.clone(), asked.id.clone());
        let (answered, parked) = self.lanes.submit(Write { room, user, id, verb });
        if let Some(parked) = parked {
            self.parked = Some(Box::pin(parked.send()));
        }
        Pending::Write(asked, answered)
    }

    fn on_reply(&mut self, reply: Reply, asks: Asks) -> Result<(), End> {
        match reply {
            Reply::Frame(re, frame) => {
                self.answer(re, &frame);
                Ok(())
            }
            Reply::Problem(problem) => {
                for (room, user) in &asks.follows {
                    self.follows.refuse(room, user);
                }
                self.refuse(&problem)
            }
            Reply::Written(asked, outcome) => {
                self.on_written(asked, &outcome);
                Ok(())
            }
            Reply::Joined(follow) => {
                self.count("join", "ok");
                self.follow(&follow)
            }
            Reply::Resumed(follows, id) => self.on_resumed(follows, &asks, id),
            Reply::Who(asked) => {
                self.on_who(&asked);
                Ok(())
            }
        }
    }

    /// Says `joined`, then follows: in this order, so that no event comes before it.
    fn follow(&mut self, follow: &Follow) -> Result<(), End> {
        self.say_joined(follow);
        self.flush();
        self.follows.follow(follow).map(drop).map_err(lost_sync)
    }

    fn say_joined(&mut self, follow: &Follow) {
        let Follow { asked, last_seq, members, reading, reset, .. } = follow;
        let Asked { room, user, id, re, .. } = asked;
        // The id of a `resume` comes back in `resumed`.
        let id = id.as_ref().filter(|_| *re == "join");
        let (last_seq, members, Reading { read, unread }) = (*last_seq, *members, *reading);
        let joined = Joined { room, user, last_seq, members, read, unread, id };
        let joined = frame::joined(&joined);
        self.out.extend_from_slice(joined.bytes());
        // Joining again moves nothing, so there is nothing to reset.
        if *reset && !self.follows.contains(room) {
            self.out.extend_from_slice(frame::reset(room, last_seq).bytes());
        }
    }

    /// First a `joined` (or an error) for each room, then the replays, then `resumed`.
    fn on_resumed(
        &mut self,
        follows: Vec<Result<Follow, Problem>>,
        asks: &Asks,
        id: Option<ClientId>,
    ) -> Result<(), End> {
        for follow in &follows {
            match follow {
                Ok(follow) => self.say_joined(follow),
                Err(problem) => self.refuse(problem)?,
            }
        }
        self.flush();
        let mut followers = Vec::with_capacity(follows.len());
        // One ask for each room, in the order of the answers.
        for (follow, (room, user)) in follows.iter().zip(&asks.follows) {
            match follow {
                Ok(follow) => {
                    let follower = self.follows.follow(follow).map_err(lost_sync)?;
                    followers.push((follower, follow.last_seq));
                }
                Err(_) => self.follows.refuse(room, user),
            }
        }
        self.follows.resume(followers, id);
        Ok(())
    }

    fn answer(&mut self, re: &'static str, frame: &Frame) {
        self.count(re, "ok");
        self.out.extend_from_slice(frame.bytes());
    }

    fn refuse(&mut self, problem: &Problem) -> Result<(), End> {
        self.count(problem.re.unwrap_or("unknown"), problem.code.name());
        self.out.extend_from_slice(problem.frame().bytes());
        let limits = &mut self.limits;
        if problem.code.is_refused_frame()
            && limits.refuse(&self.shared.config.session, Instant::now())
        {
            self.flush();
            return Err((CloseCode::POLICY, "too many refused frames"));
        }
        Ok(())
    }

    fn count(&self, r#type: &'static str, result: &'static str) {
        self.shared.metrics.commands.get_or_create(&metrics::Command { r#type, result }).inc();
    }

    /// Hands over the answers that are ready, in one piece. The queue takes them whatever its
    /// length: what bounds them is that the session stops reading.
    fn flush(&mut self) {
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out).freeze();
            // Closed: the next turn of the loop hears of it from the socket.
            let _ = self.link.push(&out);
        }
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

fn lost_sync(_: LostSync) -> End {
    (CloseCode::RESYNC, "lost sync with the log: reconnect and resume")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<T, F: Future>(_: fn(T) -> F) -> usize {
        size_of::<F>()
    }

    /// Nearly all sockets of a chat server are idle, so this is what a node's memory is made of.
    /// An `async fn` keeps its arguments twice, which is why so much here is boxed.
    #[test]
    fn an_idle_session_is_small() {
        let (session, run) = (size_of::<Session>(), size_of_future(Session::run));
        assert!(session + run <= 1536, "a session takes {session} bytes and its task {run}");
    }
}
