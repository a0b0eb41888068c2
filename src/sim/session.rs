//! A session without a socket and without a protocol. It has the parts of the real one (`Answers`,
//! `Follows`) and asks the real desk. Only the loop around them is its own: the real one reads a
//! socket, and picks among ready events at random. Here the schedule chooses.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::chance::ms;
use super::client::{Client, Said};
use super::node::Node;
use super::truth::{room_of, user_of};
use crate::desk::follow::Follow;
use crate::desk::resume::Resuming;
use crate::desk::{Caller, Outage, Pending, Reply, Way};
use crate::hub::Follower;
use crate::model::Seq;
use crate::protocol::command::{Command, Deed, Request, Start};
use crate::protocol::error::{Code, Problem};
use crate::protocol::frame::Frame;
use crate::protocol::table::CommandType;
use crate::rules::Outcome;
use crate::session::answers::{Answers, Asks};
use crate::session::follows::Follows;
use crate::session::lost::LostSync;
use crate::socket::Link;
use crate::socket::pipe::{Pipe, Turn};

/// Bytes that a command holds until it is answered.
const OWED_BYTES: usize = 100;

pub struct Session {
    pub node: Arc<Node>,
    pub client: Arc<Client>,
    pub address: IpAddr,
    /// The number of its socket.
    pub socket: usize,
    pub pipe: Pipe,
    pub link: Arc<Link>,
    pub follows: Follows,
    pub answers: Answers,
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// The client has gone.
    pub gone: CancellationToken,
    /// An event that is an answer, and the follower through which it comes.
    pub awaited: Option<(Arc<Follower>, Seq)>,
    /// What each room was asked for, in the order of the answers.
    pub asked: VecDeque<Asked>,
    /// For each `resume` in progress, the followers and their seqs.
    pub resumes: VecDeque<Vec<(Arc<Follower>, Seq)>>,
}

/// A room that the client wants to follow.
pub struct Asked {
    room: usize,
    user: usize,
    start: Start,
    /// The number of the last event by then.
    at: usize,
}

/// Why the session has its turn.
// It lives for one turn.
#[allow(clippy::large_enum_variant)]
enum Woken {
    /// A page was read, the queue has drained, a follower needs the session, …
    Something,
    Inbox,
    Command(Command),
    Reply(Reply, Asks),
    /// The client has gone.
    Gone,
}

impl Session {
    pub async fn run(mut self) {
        if let Err(lost) = self.serve().await {
            self.node.chance.tell(|| format!("client {} is closed: {lost:?}", self.client.number));
            self.judge(&lost);
        }
        let Self { link, pipe, follows, answers, awaited, .. } = self;
        drop((follows, answers, awaited));
        link.cut();
        pipe.close();
    }

    /// Only damage, or a log that went back, is a reason to end a socket.
    fn judge(&self, lost: &LostSync) {
        let truth = &self.node.truth;
        let is_justified = match lost {
            LostSync::Differs => truth.has_any_gone_back() || truth.was_damaged(),
            LostSync::Damaged => truth.was_damaged(),
        };
        if !is_justified {
            truth.fail(format!("client {} was closed for nothing: {lost:?}", self.client.number));
        }
    }

    /// `Ok`: the client has gone.
    async fn serve(&mut self) -> Result<(), LostSync> {
        loop {
            match self.wait().await {
                Woken::Something => {}
                Woken::Inbox => self.follows.sort_inbox(),
                Woken::Command(command) => self.on_command(command),
                Woken::Reply(reply, asks) => self.on_reply(reply, asks)?,
                Woken::Gone => return Ok(()),
            }
            self.settle()?;
            let owed = self.answers.len() + self.follows.resumes_len() + self.commands.len();
            self.client.set_owed(self.socket, owed + usize::from(self.awaited.is_some()));
        }
    }

    async fn wait(&mut self) -> Woken {
        let listens = self.link.queued_bytes() <= self.node.plan.queue_bytes;
        if !listens {
            self.link.tell_when_drained();
        }
        let may_answer = (listens || self.answers.has_begun()) && self.awaited.is_none();
        let (waits, inbox) = (self.follows.waits(), self.follows.inbox.clone());
        let (mut answering, mut arrived) = (pin!(self.answers.next()), pin!(inbox.arrived()));
        let (mut waiting, mut gone) = (pin!(self.follows.wait()), pin!(self.gone.cancelled()));
        let (link, commands) = (&self.link, &mut self.commands);
        let first = self.node.chance.below(5);
        poll_fn(move |cx| {
            if gone.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Woken::Gone);
            }
            for arm in (0..5).map(|arm| (arm + first) % 5) {
                let woken = match arm {
                    0 => match link.poll_turn(cx) {
                        Turn { is_broken: true, .. } => Poll::Ready(Woken::Gone),
                        Turn { has_drained: true, .. } => Poll::Ready(Woken::Something),
                        _ => Poll::Pending,
                    },
                    1 if listens => commands.poll_recv(cx).map(|command| match command {
                        Some(command) => Woken::Command(command),
                        None => Woken::Gone,
                    }),
                    2 if may_answer => {
                        answering.as_mut().poll(cx).map(|(reply, asks)| Woken::Reply(reply, asks))
                    }
                    3 => arrived.as_mut().poll(cx).map(|()| Woken::Inbox),
                    4 if waits => waiting.as_mut().poll(cx).map(|()| Woken::Something),
                    _ => Poll::Pending,
                };
                if woken.is_ready() {
                    return woken;
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What the real session does after each event.
    fn settle(&mut self) -> Result<(), LostSync> {
        if self.answers.is_empty() {
            self.follows.forget_stopped();
        }
        let chance = &self.node.chance;
        // A session that had many pages waits for the next.
        let wait = || if chance.percent(10) { ms(chance.between(1, 40)) } else { Duration::ZERO };
        self.follows.catch_up(wait)?;
        if let Some((follower, seq)) = self.awaited.take()
            && follower.has(seq).is_none()
        {
            self.awaited = Some((follower, seq));
        }
        for _ in self.follows.take_resumed() {
            let resumed = self.resumes.pop_front().unwrap_or_default();
            // A user who left meanwhile and follows again has started anew.
            let is_old = |(follower, _): &(Arc<Follower>, Seq)| {
                let now = self.follows.follower(follower.room());
                now.is_some_and(|now| Arc::ptr_eq(now, follower))
            };
            let old = resumed.into_iter().filter(is_old);
            let rooms = old.map(|(follower, seq)| (room_of(follower.room()), seq));
            self.say(Said::Resumed(rooms.collect()));
        }
        Ok(())
    }

    fn say(&self, said: Said) {
        self.node.chance.tell(|| format!("client {} is told {said:?}", self.client.number));
        let said = self.client.say(self.socket, said);
        // Closed: the next turn finds out.
        let _ = self.link.push(Frame::text(said.as_bytes()).bytes());
    }

    fn on_command(&mut self, command: Command) {
        self.node.chance.tell(|| format!("client {} says {command:?}", self.client.number));
        let request = Request { id: None, command };
        let asks = match self.follows.admit(&request, self.answers.rooms()) {
            Ok(asks) => asks,
            Err(problem) => {
                let reply = Reply::Problem(problem);
                return self.answers.push(Pending::Ready(reply), Asks::default(), &self.link);
            }
        };
        self.follows.ask(&asks.follows);
        let at = self.node.truth.now();
        let starts: Vec<_> = match &request.command {
            Command::InRoom { deed: Deed::Join(start), .. } => vec![*start],
            Command::Resume { rooms, .. } => {
                rooms.iter().map(|(_, seq)| Start::Since(*seq)).collect()
            }
            _ => Vec::new(),
        };
        assert_eq!(starts.len(), asks.follows.len());
        for ((room, user), start) in asks.follows.iter().zip(starts) {
            let (room, user) = (room_of(room), user_of(user));
            self.asked.push_back(Asked { room, user, start, at });
        }
        let held = self.node.desk.budgets.inbound.hold(OWED_BYTES);
        // Each read fails on its own, because an outage is timed by the real clock.
        let (address, outage) = (self.address, Outage::default());
        let caller = Caller { address, outage, way: Way::Socket(None) };
        let (pending, parked) = self.node.desk.begin(caller, request);
        assert!(parked.is_none(), "a schedule is shorter than a lane's inbox");
        self.answers.push(pending, Asks { held: Some(held), ..asks }, &self.link);
    }

    /// Handles a reply as the real session does.
    fn on_reply(&mut self, reply: Reply, asks: Asks) -> Result<(), LostSync> {
        match reply {
            Reply::Problem(problem) => {
                for (room, user) in &asks.follows {
                    self.follows.refuse(room, user);
                    self.refuse(room_of(room), user_of(user), &problem);
                }
            }
            Reply::Written(asked, Outcome::Committed { event, .. }) => {
                if asked.re == CommandType::Leave {
                    self.follows.leaves(&asked.room, &asked.user, event.seq);
                }
                let by_whom = self.follows.by_whom(&asked.room, event.seq);
                self.awaited = by_whom.map(|follower| (follower, event.seq));
            }
            Reply::Follow(follow) => drop(self.follow(&follow)?),
            Reply::Resumed(resuming, _) => self.on_resumed(&resuming, &asks)?,
            _ => {}
        }
        Ok(())
    }

    fn on_resumed(&mut self, resuming: &Resuming, asks: &Asks) -> Result<(), LostSync> {
        assert!(resuming.is_over(), "there are fewer rooms than a part has");
        let mut followers = Vec::new();
        for (follow, (room, user)) in resuming.done.iter().zip(&asks.follows) {
            match follow {
                Ok(follow) => followers.push((self.follow(follow)?, follow.joined.last_seq)),
                Err(problem) => {
                    self.follows.refuse(room, user);
                    self.refuse(room_of(room), user_of(user), problem);
                }
            }
        }
        self.resumes.push_back(followers.clone());
        self.follows.resume(followers, None);
        Ok(())
    }

    fn asked(&mut self, room: usize, user: usize) -> Asked {
        let asked = self.asked.pop_front().expect("an answer to nothing");
        assert_eq!((asked.room, asked.user), (room, user));
        asked
    }

    /// Nobody may be refused who was a member all the time, as all rooms exist.
    fn refuse(&mut self, room: usize, user: usize, problem: &Problem) {
        let Asked { at, .. } = self.asked(room, user);
        let is_stranger = matches!(problem.code, Code::NotMember | Code::RoomNotFound);
        let truth = &self.node.truth;
        if problem.code == Code::RoomNotFound
            || is_stranger && truth.was_member_since(room, user, at)
        {
            truth.fail(format!("user {user} was refused room {room}: {problem:?}"));
        }
        self.say(Said::Refused { room, user, is_stranger });
    }

    /// Follows, then says so; nothing is sent in between.
    fn follow(&mut self, follow: &Follow) -> Result<Arc<Follower>, LostSync> {
        let Follow { joined, position, reset, .. } = follow;
        let (asked, last_seq) = (&joined.asked, joined.last_seq);
        let before = self.follows.follower(&asked.room).cloned();
        let follower = self.follows.follow(follow)?;
        let is_new = before.is_none_or(|before| !Arc::ptr_eq(&before, &follower));
        let (room, user) = (room_of(&asked.room), user_of(&asked.user));
        let is_reset = *reset && is_new;
        let Asked { start, .. } = self.asked(room, user);
        let own = joined.event.as_ref().map_or(last_seq, |event| event.seq.prev());
        let wanted = match start {
            Start::Here => own,
            Start::Last(len) => Seq(own.0.saturating_sub(len)),
            Start::Since(seq) => seq,
        };
        let truth = &self.node.truth;
        let is_right = match *reset {
            true => *position == last_seq && (wanted > last_seq || truth.has_gone_back(room)),
            false => *position == wanted,
        };
        if is_new && !is_right {
            truth.fail(format!(
                "room {room}, asked for with {start:?} at {last_seq}, begins at {position}, reset \
                 {reset}"
            ));
        }
        let begins = is_new.then_some(*position);
        let (as_of, is_resumed) = (last_seq, asked.re == CommandType::Resume);
        self.say(Said::Joined { room, user, as_of, begins, is_reset, is_resumed });
        Ok(follower)
    }
}
