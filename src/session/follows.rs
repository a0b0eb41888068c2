//! The rooms that one socket follows, and the catch-up of those that are behind.
//!
//! It does not decide what an event is or who may follow. A follower that is behind costs only its
//! position. Nothing is buffered for it: pages come from the room's ring, or else from the log, one
//! at a time for the whole socket, and only as fast as the socket takes them.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Sleep;

use super::answers::Asks;
use super::lost::LostSync;
use crate::desk::Desk;
use crate::desk::follow::Follow;
use crate::hub::{
    Answered, BATCH_BYTES_MAX, Batch, Follower, Inbox, NextPage, Pushed, Room, State,
};
use crate::log::LogError;
use crate::model::{ClientId, RoomName, Seq, UserId};
use crate::protocol::command::{Command, Deed, Request};
use crate::protocol::error::{Code, Problem};
use crate::protocol::frame::{self, Frame};
use crate::share::Share;
use crate::socket::Link;

type PageRead = Result<Option<Arc<Batch>>, LogError>;

/// Owned by the session's task. Dropping it, at the end or in a panic, unfollows every room.
pub struct Follows {
    desk: Arc<Desk>,
    link: Arc<Link>,
    /// Slots for the rooms and users that it follows, or may come to follow.
    share: Share<IpAddr>,
    /// Where fan-outs leave followers that fell behind or stopped.
    pub inbox: Arc<Inbox>,
    rooms: HashMap<RoomName, Followed>,
    /// Rooms that are behind, in the order they will be served. At most one entry per room.
    behind: VecDeque<(Arc<Room>, Arc<Follower>)>,
    /// Users whose `join` or `resume` is in progress, by room.
    asked_for: HashMap<RoomName, Vec<UserId>>,
    /// The one page being read from the log, for the first of `behind`.
    reading: Option<Pin<Box<dyn Future<Output = PageRead> + Send>>>,
    /// A page that has been read and is not handed on yet.
    read: Option<PageRead>,
    /// Until when no page is read from the log, because this socket has read many.
    rest: Option<Pin<Box<Sleep>>>,
    /// Empty pages in a row for the first of `behind`.
    empty_pages: u8,
    /// Stopped followers, kept while answers are owed: see `by_whom`.
    stopped: Vec<Arc<Follower>>,
    /// `resume`s whose replays are not done. Bounded by the in-flight commands of one socket.
    resumes: Vec<Resume>,
}

/// A room that the socket follows, or has just left.
struct Followed {
    room: Arc<Room>,
    follower: Arc<Follower>,
    /// Its slots of the share. May be more than needed: users leave without notice.
    slots: usize,
}

/// A `resume` that waits for its rooms.
struct Resume {
    id: Option<ClientId>,
    /// Followers that catch up, each with the `last_seq` of its `joined`.
    waiting: Vec<(Arc<Follower>, Seq)>,
    /// Followers that are live but do not have that event yet: it was just committed, and its
    /// fan-out is on the way. What existed when the client reconnected comes before `resumed`.
    late: Vec<(Arc<Follower>, Seq)>,
    live: Vec<(RoomName, Seq)>,
}

impl Follows {
    pub fn new(desk: Arc<Desk>, link: Arc<Link>, address: IpAddr) -> Self {
        Self {
            share: desk.hub.share(address),
            desk,
            link,
            inbox: Arc::default(),
            rooms: HashMap::new(),
            behind: VecDeque::new(),
            asked_for: HashMap::new(),
            reading: None,
            read: None,
            rest: None,
            empty_pages: 0,
            stopped: Vec::new(),
            resumes: Vec::new(),
        }
    }

    /// What the socket may come to follow by this command; refused if that is too much. `asked`:
    /// rooms that were asked for before and are not followed yet.
    pub fn admit(&mut self, request: &Request, asked: usize) -> Result<Asks, Problem> {
        let command = &request.command;
        let (field, follows) = match command {
            Command::InRoom { user, room, deed: Deed::Join(_) } => {
                ("room", vec![(room.clone(), user.clone())])
            }
            Command::Resume { rooms, user } => {
                let follow = |(room, _): &(RoomName, Seq)| (room.clone(), user.clone());
                ("rooms", rooms.iter().map(follow).collect())
            }
            _ => return Ok(Asks { user: command.user().cloned(), ..Asks::default() }),
        };
        let refusal = |field, limit: usize, error: String| Problem {
            limit: Some(limit as u64),
            re: Some(command.kind()),
            room: command.room().cloned(),
            id: request.id.clone(),
            ..Problem::field(field, error)
        };
        let users_max = self.desk.config.session.users_per_room_max;
        let too_many = |(room, user): &(RoomName, UserId)| {
            let followed = self.rooms.get(room);
            followed.is_some_and(|followed| followed.follower.users_with(user) > users_max)
        };
        if follows.iter().any(too_many) {
            let error = format!("one socket can follow a room as at most {users_max} users");
            return Err(refusal("user_id", users_max, error));
        }
        let more = follows.iter().filter(|(room, _)| !self.contains(room)).count();
        let asks = Asks { user: command.user().cloned(), follows, rooms: more, held: None };
        let max = self.desk.config.session.follows_max;
        // Rooms that were left and not forgotten yet do not count. Looking for them takes a while,
        // so it is done only if it matters. A client that causes it again and again is closed for
        // its refused frames.
        let followed = || self.rooms.keys().filter(|room| self.contains(room)).count();
        let fits = |followed| followed + asked + more <= max;
        if more > 0 && !fits(self.rooms.len()) && !fits(followed()) {
            return Err(refusal(field, max, format!("one socket can follow at most {max} rooms")));
        }
        if !self.grow(asks.follows.len()) {
            let error = "this node has no free slot for more rooms (hub.follows_max): follow \
                         fewer, or try again later";
            let problem = Problem::new(Code::Unavailable, error);
            let (re, room) = (Some(command.kind()), command.room().cloned());
            return Err(Problem { re, room, id: request.id.clone(), ..problem });
        }
        Ok(asks)
    }

    /// Takes this many more slots. Slots of users who have left are collected only if needed.
    fn grow(&mut self, count: usize) -> bool {
        self.share.grow(count) || {
            self.rooms.values_mut().for_each(|followed| followed.settle(&mut self.share));
            self.share.grow(count)
        }
    }

    /// The command was sent: from here on, the rooms' followers note the leaves of these users.
    pub fn ask(&mut self, follows: &[(RoomName, UserId)]) {
        for (room, user) in follows {
            self.asked_for.entry(room.clone()).or_default().push(user.clone());
            if let Some(followed) = self.rooms.get_mut(room)
                && followed.follower.ask(user)
            {
                followed.slots += 1;
            }
        }
    }

    /// The answer is that the user is not a member.
    pub fn refuse(&mut self, room: &RoomName, user: &UserId) {
        self.answered(room, user);
        if self.answer(room, user, None).is_none() {
            self.share.shrink(1);
        }
    }

    /// Tells the room's follower how an ask was answered. `None`: no follower knows of it.
    fn answer(
        &mut self,
        room: &RoomName,
        user: &UserId,
        as_of: Option<Seq>,
    ) -> Option<Arc<Follower>> {
        let followed = self.rooms.get_mut(room)?;
        let answered = followed.follower.answer(user, as_of);
        if answered == Answered::Unknown {
            return None;
        }
        followed.settle(&mut self.share);
        let follower = followed.follower.clone();
        self.sort(&answered, &follower);
        Some(follower)
    }

    /// The answer is that the user has left.
    pub fn leaves(&self, room: &RoomName, user: &UserId, seq: Seq) {
        if let Some(followed) = self.rooms.get(room) {
            followed.follower.leaves(user, seq);
        }
    }

    /// Removes one ask from those in progress.
    fn answered(&mut self, room: &RoomName, user: &UserId) {
        let Some(users) = self.asked_for.get_mut(room) else { return };
        if let Some(index) = users.iter().position(|known| known == user) {
            users.remove(index);
        }
        if users.is_empty() {
            self.asked_for.remove(room);
        }
        if self.asked_for.is_empty() {
            self.asked_for = HashMap::new();
        }
    }

    /// Puts a follower that was paused where it belongs after an answer.
    fn sort(&mut self, answered: &Answered, follower: &Arc<Follower>) {
        let Some(Followed { room, .. }) = self.rooms.get(follower.room()) else { return };
        match answered {
            Answered::State(State::Stopped) => self.stopped.push(follower.clone()),
            Answered::State(State::CatchingUp)
                if !self.behind.iter().any(|(_, known)| Arc::ptr_eq(known, follower)) =>
            {
                self.behind.push_back((room.clone(), follower.clone()));
            }
            _ => {}
        }
    }

    /// Whether this socket already follows the room.
    pub fn contains(&self, room: &RoomName) -> bool {
        self.follower(room).is_some()
    }

    /// The follower by which this socket follows the room, if it does.
    pub fn follower(&self, room: &RoomName) -> Option<&Arc<Follower>> {
        let Followed { follower, .. } = self.rooms.get(room)?;
        Some(follower).filter(|follower| follower.state() != State::Stopped)
    }

    /// The follower by which this socket gets, or got, the room's event at `seq`, if any.
    ///
    /// A `leave` stops the follower after its event, perhaps before the command's answer is handled
    /// here. So a stopped follower stays known until no answer is owed.
    pub fn by_whom(&self, room: &RoomName, seq: Seq) -> Option<Arc<Follower>> {
        let Followed { follower, .. } = self.rooms.get(room)?;
        follower.gets(seq).then(|| follower.clone())
    }

    /// Follows a room, or follows it as one more user. The `joined` frame is already queued.
    pub fn follow(&mut self, follow: &Follow) -> Result<Arc<Follower>, LostSync> {
        let (asked, as_of) = (&follow.joined.asked, follow.joined.last_seq);
        let (name, user) = (&asked.room, &asked.user);
        self.answered(name, user);
        if let Some(follower) = self.answer(name, user, Some(as_of)) {
            return Ok(follower);
        }
        if let Some(follower) = self.forget(name) {
            self.stopped.retain(|known| !Arc::ptr_eq(known, &follower));
        }
        let (link, inbox) = (self.link.clone(), self.inbox.clone());
        let asked_for = self.asked_for.get(name).map_or(&[][..], Vec::as_slice);
        let (user, position) = ((user.clone(), as_of), follow.position);
        let follower =
            Follower::new(follow.room.door.clone(), link, inbox, position, user, asked_for);
        let follower = Arc::new(follower);
        // Fails only if the room was abandoned (damage) or the log went back meanwhile; the sweep
        // skips rooms that are held.
        if !self.desk.hub.follow(&follow.room, follower.clone()) {
            return Err(LostSync::Differs);
        }
        // Its asks took their slots before the follower existed.
        let (room, slots) = (follow.room.clone(), follower.users_len());
        self.rooms.insert(name.clone(), Followed { room, follower: follower.clone(), slots });
        if follower.state() == State::CatchingUp {
            self.behind.push_back((follow.room.clone(), follower.clone()));
        }
        Ok(follower)
    }

    /// `resume`s in progress.
    pub fn resumes_len(&self) -> usize {
        self.resumes.len()
    }

    /// Waits for these followers to be live and to have these seqs, then sends `resumed`.
    pub fn resume(&mut self, followers: Vec<(Arc<Follower>, Seq)>, id: Option<ClientId>) {
        let (waiting, late) =
            followers.into_iter().partition(|(known, _)| known.state() == State::CatchingUp);
        self.resumes.push(Resume { id, waiting, late, live: Vec::new() });
    }

    /// The `resumed` frames that are due.
    pub fn take_resumed(&mut self) -> Vec<Frame> {
        for Resume { late, live, .. } in &mut self.resumes {
            let arrived = late.extract_if(.., |(follower, seq)| follower.has(*seq).is_some());
            live.extend(arrived.map(|(follower, _)| (follower.room().clone(), follower.last())));
        }
        let is_done = |resume: &mut Resume| resume.waiting.is_empty() && resume.late.is_empty();
        let done = self.resumes.extract_if(.., is_done);
        done.map(|resume| frame::resumed(&resume.live, resume.id.as_ref())).collect()
    }

    /// Handles what fan-outs left in the inbox: followers that stopped or fell behind.
    pub fn sort_inbox(&mut self) {
        for follower in self.inbox.take() {
            let Some(Followed { room, .. }) = self.rooms.get(follower.room()) else { continue };
            match follower.state() {
                State::Stopped => self.stopped.push(follower),
                State::CatchingUp => self.behind.push_back((room.clone(), follower)),
                // Paused: an answer is owed, which will say how to continue.
                State::Live | State::Paused => {}
            }
        }
    }

    /// Rooms that were left and are not forgotten.
    pub fn stopped_len(&self) -> usize {
        self.stopped.len()
    }

    /// Forgets the rooms that were left. Call only when no answer is owed.
    pub fn forget_stopped(&mut self) {
        for follower in std::mem::take(&mut self.stopped) {
            let current = self.rooms.get(follower.room());
            if current.is_some_and(|current| Arc::ptr_eq(&current.follower, &follower)) {
                self.forget(follower.room());
            }
        }
    }

    fn forget(&mut self, name: &RoomName) -> Option<Arc<Follower>> {
        let Followed { room, follower, slots } = self.rooms.remove(name)?;
        self.desk.hub.unfollow(&room, &follower);
        self.share.shrink(slots);
        if self.rooms.is_empty() {
            self.rooms = HashMap::new();
        }
        Some(follower)
    }

    /// Whether a page is being read, or must not be read yet.
    pub fn waits(&self) -> bool {
        self.reading.is_some() || self.rest.is_some()
    }

    /// Waits for the page being read (for `catch_up` to hand on), or until one may be read. The
    /// read is completed even if the socket takes nothing, because it uses what others wait for.
    /// Cancel-safe: the read continues.
    pub async fn wait(&mut self) {
        if let Some(reading) = &mut self.reading {
            self.read = Some(reading.await);
            self.reading = None;
        } else if let Some(rest) = &mut self.rest {
            rest.await;
            self.rest = None;
        }
    }

    /// Hands a page to the first of those behind.
    fn on_page(&mut self, page: PageRead) -> Result<(), LostSync> {
        let Some((room, follower)) = self.behind.front().cloned() else { return Ok(()) };
        match page {
            Ok(Some(batch)) => {
                self.empty_pages = 0;
                self.push(&follower, &batch)?;
            }
            // A page may be a moment older than the question (see `Replay::page`). A second empty
            // one means that the log lacks what it had: it was restored to an older state, or
            // changed by hand.
            Ok(None) => {
                self.empty_pages += 1;
                if self.empty_pages > 1 && room.edge() > Some(follower.last()) {
                    return Err(LostSync::Differs);
                }
            }
            Err(LogError::Damaged(_)) => {
                self.desk.relay.sick.note(room.name(), follower.last());
                return Err(self.closed(&follower));
            }
            // `Replay` has paused between its attempts. The socket lives, so go on trying, first
            // with rooms whose events may still be in memory.
            Err(err) => {
                tracing::debug!(room = %room.name(), err = %err, "catch-up waits for the log");
                self.next_behind();
            }
        }
        Ok(())
    }

    /// Why this follower cannot continue.
    fn closed(&self, follower: &Follower) -> LostSync {
        let relay = &self.desk.relay;
        if relay.sick.ahead_of(follower.room(), follower.last()).is_none() {
            return LostSync::Differs;
        }
        self.desk.metrics.follows_damaged.inc();
        LostSync::Damaged
    }

    /// Serves those behind until the socket is full, a page must be read, or nobody is behind. A
    /// page is not read before `wait` is over. Returns whether a read has begun.
    pub fn catch_up(&mut self, wait: impl Fn() -> Duration) -> Result<bool, LostSync> {
        if let Some(page) = self.read.take() {
            self.on_page(page)?;
        }
        while self.reading.is_none() && self.rest.is_none() {
            let Some((room, follower)) = self.behind.front().cloned() else {
                self.behind = VecDeque::new();
                break;
            };
            if self.room_in_queue() == 0 {
                self.link.tell_when_drained();
                break;
            }
            match room.next_page(&follower, BATCH_BYTES_MAX) {
                NextPage::Live => self.caught_up(&follower),
                NextPage::Ring(batch) => {
                    self.desk.metrics.catch_up("ring");
                    self.push(&follower, &batch)?;
                }
                NextPage::Log => {
                    let wait = wait();
                    if !wait.is_zero() {
                        self.rest = Some(Box::pin(tokio::time::sleep(wait)));
                        break;
                    }
                    let (desk, last) = (self.desk.clone(), follower.last());
                    self.reading = Some(Box::pin(async move {
                        desk.replay.page_patiently(room.name(), last).await
                    }));
                    return Ok(true);
                }
                NextPage::Closed => return Err(self.closed(&follower)),
            }
        }
        Ok(false)
    }

    /// Bytes that a page may take: none unless the queue is at most half full, so that pages are
    /// not cut into small pieces.
    fn room_in_queue(&self) -> usize {
        let (max, queued) = (self.desk.config.socket.queue_bytes_max, self.link.queued_bytes());
        if queued > max / 2 { 0 } else { max - queued }
    }

    fn push(&mut self, follower: &Arc<Follower>, batch: &Batch) -> Result<(), LostSync> {
        match follower.push(batch, self.room_in_queue()) {
            Pushed::Taken => self.next_behind(),
            Pushed::Full => {}
            // The log has a hole. Our logs have none, so it was changed by hand.
            Pushed::Gap => return Err(LostSync::Differs),
            Pushed::Stopped => {
                if follower.state() == State::Stopped {
                    self.stopped.push(follower.clone());
                }
                self.caught_up(follower);
            }
        }
        Ok(())
    }

    /// Gives the next turn to another room, if there is one.
    fn next_behind(&mut self) {
        if self.behind.len() > 1 {
            self.behind.rotate_left(1);
            self.empty_pages = 0;
        }
    }

    /// The first of those behind needs no more pages.
    fn caught_up(&mut self, follower: &Arc<Follower>) {
        self.empty_pages = 0;
        self.behind.retain(|(_, known)| !Arc::ptr_eq(known, follower));
        for resume in &mut self.resumes {
            let mut waiting = resume.waiting.iter();
            if let Some(index) = waiting.position(|(known, _)| Arc::ptr_eq(known, follower)) {
                resume.late.push(resume.waiting.swap_remove(index));
            }
        }
    }
}

impl Followed {
    /// Gives back the slots of users who have left.
    fn settle(&mut self, share: &mut Share<IpAddr>) {
        let needed = self.follower.users_len();
        share.shrink(self.slots.saturating_sub(needed));
        self.slots = needed;
    }
}

impl Drop for Follows {
    fn drop(&mut self) {
        for Followed { room, follower, .. } in std::mem::take(&mut self.rooms).into_values() {
            self.desk.hub.unfollow(&room, &follower);
        }
    }
}
