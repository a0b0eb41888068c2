//! One socket's position in one room, and the one rule of delivery: a follower is only ever sent
//! last + 1.
//!
//! It reads no log and knows no room. While it is *live*, the hub offers it new events; while it is
//! *catching up*, the session feeds it past ones.
//!
//! ```text
//!            follow, behind the edge             the queue was full, or a gap
//!   (new) ─────────────────────▶ catching up ◀────────────────────────────── live
//!     │                            │    ▲ its position reached the edge        ▲│
//!     │                            └────┼──────────────────────────────────────┘│
//!     └── follow, at the edge ──────────┼──────────────────────────────────────▶│
//!                                       │ a user that was asked for is a member │
//!                                    paused ◀───────────────────────────────────┘
//!   the last user that it follows as has left: paused while users are asked for, else stopped
//!   any ── the socket is gone, or nobody is left to follow as ──▶ stopped
//! ```
//!
//! Which users the socket follows as changes by answers (to `join` and `resume`) and by events
//! (`leave`), which reach the follower by different paths, in any order. So the session tells it
//! which users are *asked for* when it sends the command. From then on the follower notes their
//! leaves, and does not stop while an answer is owed. The answer says as of which seq the user is a
//! member.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::batch::Batch;
use super::door::Door;
use super::inbox::Inbox;
use crate::model::{RoomName, Seq, UserId};
use crate::socket::{Link, Offer};

/// Shared by its session, the room's list of followers, and a running fan-out.
pub struct Follower {
    /// The room's.
    door: Arc<Door>,
    /// The socket's writing half.
    link: Arc<Link>,
    /// Tells the session that this follower needs it.
    inbox: Arc<Inbox>,
    /// Its index in the room's list of followers; only used under the room's lock.
    pub(super) index: AtomicUsize,
    progress: Mutex<Progress>,
}

struct Progress {
    /// The highest seq given to the socket; next it gets `last + 1`, and nothing else.
    last: Seq,
    state: State,
    /// The users that the socket follows as.
    users: Vec<AsUser>,
    /// Users that the socket may come to follow as: their `join` or `resume` is not answered yet.
    /// One per command, so limited by `in_flight_max`.
    asks: Vec<Ask>,
    /// Its first position: events at or below it did not come through this follower.
    start: Seq,
    /// The session wants to be told when the event at this seq was given to the socket.
    awaited: Option<Seq>,
    /// Whether the socket is told who comes and goes.
    watch: Watch,
}

/// What a socket knows about who is online in the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It never asked, and is told nothing.
    No,
    /// It asked, and is told changes.
    Yes,
    /// It could not take some changes, and needs the whole list.
    Stale,
}

/// A user that the socket follows as.
struct AsUser {
    user: UserId,
    /// They were a member at this seq. A `leave` above it ends that; an older one, seen in a
    /// replay, does not.
    as_of: Seq,
    /// They have left, but the event has not arrived; the socket follows until it does.
    is_leaving: bool,
}

/// A command after which the socket may follow as this user.
struct Ask {
    user: UserId,
    /// Their last `leave` that arrived since the command was sent.
    left: Option<Seq>,
}

/// What the answer to an ask did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The follower continues in this state.
    State(State),
    /// The follower does not know the ask: it had stopped before.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    CatchingUp,
    Live,
    /// No user is left to follow as, but some are asked for.
    Paused,
    Stopped,
}

/// What happened to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The follower's position is now the batch's end.
    Taken,
    /// The socket's queue is full; only for a fan-out.
    Full,
    /// The batch begins above the next event; only for a catch-up.
    Gap,
    /// The follower has stopped or paused, now or before.
    Stopped,
}

impl Follower {
    /// A follower that has everything up to `last` and is not live yet. `asked_for`: users whose
    /// commands are not answered yet.
    pub fn new(
        door: Arc<Door>,
        link: Arc<Link>,
        inbox: Arc<Inbox>,
        last: Seq,
        (user, as_of): (UserId, Seq),
        asked_for: &[UserId],
    ) -> Self {
        let asks = asked_for.iter().map(|user| Ask { user: user.clone(), left: None }).collect();
        let users = vec![AsUser { user, as_of, is_leaving: false }];
        let state = State::CatchingUp;
        let watch = Watch::No;
        let progress = Progress { last, state, users, asks, start: last, awaited: None, watch };
        let index = AtomicUsize::new(usize::MAX);
        Self { door, link, inbox, index, progress: Mutex::new(progress) }
    }

    pub fn room(&self) -> &RoomName {
        &self.door.name
    }

    /// Nothing under this lock can panic; if it did, the data would still be consistent.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> State {
        self.progress().state
    }

    pub fn last(&self) -> Seq {
        self.progress().last
    }

    /// Whether the event at `seq` was given to the socket. `None`: not yet; the inbox tells the
    /// session when it was, or that the follower stopped before it.
    pub fn has(&self, seq: Seq) -> Option<bool> {
        let mut progress = self.progress();
        if seq <= progress.start {
            return Some(false);
        }
        let has = progress.last >= seq;
        if has || matches!(progress.state, State::Paused | State::Stopped) {
            return Some(has);
        }
        // The lower of two: the session checks all that it awaits when it is told of one.
        progress.awaited = Some(progress.awaited.map_or(seq, |awaited| awaited.min(seq)));
        None
    }

    /// Whether the event at `seq` came, or will come, through this follower.
    pub fn gets(&self, seq: Seq) -> bool {
        let progress = self.progress();
        let follows = matches!(progress.state, State::CatchingUp | State::Live);
        seq > progress.start && (follows || progress.last >= seq)
    }

    /// How many users it follows as, or may come to, with `user` as one more.
    pub fn users_with(&self, user: &UserId) -> usize {
        let progress = self.progress();
        let known = progress.users.iter().any(|known| known.user == *user)
            || progress.asks.iter().any(|ask| ask.user == *user);
        progress.users.len() + progress.asks.len() + usize::from(!known)
    }

    /// How many users it follows as, or may come to. A user whose leave was answered does not
    /// count, even if the event has not arrived.
    pub fn users_len(&self) -> usize {
        let progress = self.progress();
        progress.users.iter().filter(|known| !known.is_leaving).count() + progress.asks.len()
    }

    /// A command is sent that may make the socket follow as this user. `false`: the follower has
    /// stopped, and does not take it.
    pub fn ask(&self, user: &UserId) -> bool {
        let mut progress = self.progress();
        let takes = progress.state != State::Stopped;
        if takes {
            progress.asks.push(Ask { user: user.clone(), left: None });
        }
        takes
    }

    /// The answer to the oldest such command: the user is a member as of this seq, or is not one.
    ///
    /// The races that this closes, with the follower at 9, following as u1:
    /// - u2 joins (10) and leaves (11), and both events arrive before the answer to the join.
    ///   Without noting the leave, the socket would follow as u2 forever.
    /// - u2 joins (10), u1 leaves (11), and both events arrive first. Without the ask the follower
    ///   would stop at 11, and the answer would create a new one at 9, which sends 10 and 11 again.
    pub fn answer(&self, user: &UserId, as_of: Option<Seq>) -> Answered {
        let mut progress = self.progress();
        let Some(index) = progress.asks.iter().position(|ask| ask.user == *user) else {
            return Answered::Unknown;
        };
        let left = progress.asks.remove(index).left;
        if let Some(as_of) = as_of.filter(|as_of| left.is_none_or(|left| left <= *as_of)) {
            let user = user.clone();
            match progress.users.iter_mut().find(|known| known.user == user) {
                Some(known) if as_of > known.as_of => {
                    *known = AsUser { user, as_of, is_leaving: false };
                }
                Some(_) => {}
                None => {
                    progress.users.push(AsUser { user, as_of, is_leaving: false });
                    self.door.pass();
                }
            }
        }
        if progress.asks.is_empty() {
            progress.asks = Vec::new();
        }
        match (progress.state, progress.users.is_empty(), progress.asks.is_empty()) {
            (State::Paused, false, _) => progress.state = State::CatchingUp,
            (State::Paused, true, true) => progress.state = State::Stopped,
            _ => {}
        }
        Answered::State(progress.state)
    }

    /// Offers new events from the fan-out: taken if the follower is live and the queue has room.
    /// Never waits. Returns how many events were given to the socket.
    pub fn offer(self: &Arc<Self>, batch: &Batch) -> u64 {
        let mut progress = self.progress();
        if progress.state != State::Live || batch.last() <= progress.last {
            return 0;
        }
        if batch.first() > progress.last.next() {
            // A gap: the ring has already dropped what lies between. The log has it.
            progress.state = State::CatchingUp;
            self.inbox.put(self.clone());
            return 0;
        }
        let before = progress.last;
        match progress.send(|frames| self.link.offer(frames), batch, batch.last(), &self.door) {
            Pushed::Taken => {
                if progress.awaited.is_some_and(|seq| seq <= progress.last) {
                    progress.awaited = None;
                    self.inbox.put(self.clone());
                }
            }
            Pushed::Full => {
                progress.state = State::CatchingUp;
                self.inbox.put(self.clone());
            }
            Pushed::Stopped | Pushed::Gap => self.inbox.put(self.clone()),
        }
        progress.last.0 - before.0
    }

    /// Gives past events from the session's catch-up: as many as fit into `bytes_max`, at least
    /// one. The session only calls this when the queue has room, so it is never refused. If an
    /// event larger than that room were refused, the session would try again at once, forever.
    pub fn push(&self, batch: &Batch, bytes_max: usize) -> Pushed {
        let mut progress = self.progress();
        if progress.state != State::CatchingUp {
            return Pushed::Stopped;
        }
        if batch.last() <= progress.last {
            return Pushed::Taken;
        }
        if batch.first() > progress.last.next() {
            return Pushed::Gap;
        }
        let until = batch.until(progress.last, bytes_max);
        progress.send(|frames| self.link.push_shared(frames), batch, until, &self.door)
    }

    /// Turns live if nothing is missing up to `edge`. The caller holds the room's lock, so no event
    /// can come between the comparison and the change.
    pub fn go_live(&self, edge: Seq) -> bool {
        let mut progress = self.progress();
        if progress.state == State::CatchingUp && progress.last >= edge {
            progress.state = State::Live;
        }
        progress.state == State::Live
    }

    /// The room was let go; the session finds out when it asks for the next page.
    pub fn let_go(self: &Arc<Self>) {
        let mut progress = self.progress();
        if progress.state == State::Live {
            progress.state = State::CatchingUp;
            self.inbox.put(self.clone());
        }
    }

    /// The socket is gone, or does not want the room any more.
    pub fn stop(&self) {
        self.progress().state = State::Stopped;
    }

    /// The socket was answered that the user left at this seq.
    ///
    /// The race that this closes: u1 sends `leave` and `who` together. The leave is decided and
    /// answered, but its event comes by another path, behind a long replay much later. Until then
    /// the socket must follow, to get the event; but u1 is not a member any more.
    pub fn leaves(&self, user: &UserId, seq: Seq) {
        let mut progress = self.progress();
        let left = |known: &&mut AsUser| known.user == *user && known.as_of < seq;
        if let Some(known) = progress.users.iter_mut().find(left) {
            known.is_leaving = true;
        }
    }

    /// Whether the socket follows as this user, who has not left as far as it knows.
    pub fn follows_as(&self, user: &UserId) -> bool {
        let progress = self.progress();
        let follows = |known: &AsUser| known.user == *user && !known.is_leaving;
        progress.state != State::Stopped && progress.users.iter().any(follows)
    }

    /// Calls `look` with the users that this socket follows as, and its presence subscription.
    pub fn look(&self, look: impl FnOnce(&mut dyn Iterator<Item = &UserId>, Watch)) {
        let progress = self.progress();
        if progress.state != State::Stopped {
            look(&mut progress.users.iter().map(|known| &known.user), progress.watch);
        }
    }

    /// From here on the socket is told who comes and goes.
    pub fn watch(&self) {
        self.progress().watch = Watch::Yes;
        self.door.pass();
    }

    /// Offers signals. Only a live follower takes them, and only if its socket has nothing waiting:
    /// so they cost a slow socket nothing, and make nobody fall behind. They may go between any two
    /// batches, because `last` does not change.
    ///
    /// `None`: the socket has events above `up_to`, which may include what the signals announce.
    pub fn signal(&self, frames: &Bytes, up_to: Seq) -> Option<bool> {
        let progress = self.progress();
        let is_early = progress.last <= up_to;
        is_early.then(|| progress.state == State::Live && self.link.offer_idle(frames))
    }

    /// Offers signals like `signal`, in frames that each name an event: `names` has, in ascending
    /// order, that seq and the frame's end. Takes those that name events which the socket has. A
    /// client may take the name for the event itself, and believe that it has it.
    pub fn signal_named(&self, frames: &Bytes, names: &[(Seq, usize)]) -> bool {
        let progress = self.progress();
        let known = names.partition_point(|(seq, _)| *seq <= progress.last);
        let Some((_, end)) = names[..known].last() else { return false };
        progress.state == State::Live && self.link.offer_idle(&frames.slice(..*end))
    }

    /// Offers who came and went or, to a socket that missed some of that, who is there. `whole` is
    /// only called then.
    pub fn tell(&self, difference: Option<&Bytes>, whole: impl FnOnce() -> Bytes) -> Option<bool> {
        let mut progress = self.progress();
        let frames = match (progress.watch, difference) {
            (Watch::No, _) | (Watch::Yes, None) => return None,
            (Watch::Yes, Some(difference)) => difference.clone(),
            (Watch::Stale, _) => whole(),
        };
        let taken = progress.state == State::Live && self.link.offer_idle(&frames);
        progress.watch = if taken { Watch::Yes } else { Watch::Stale };
        Some(taken)
    }
}

impl Progress {
    /// Gives the socket the events above `last`, up to `until` or to the `leave` that ends the
    /// following.
    fn send(
        &mut self,
        offer: impl FnOnce(&Bytes) -> Offer,
        batch: &Batch,
        mut until: Seq,
        door: &Door,
    ) -> Pushed {
        let mut gone: Vec<&UserId> = Vec::new();
        let leaves = batch.leaves_after(self.last).take_while(|(seq, _)| *seq <= until);
        for (seq, user) in leaves {
            let ends = |known: &AsUser| known.user == *user && known.as_of < *seq;
            if !gone.contains(&user) && self.users.iter().any(ends) {
                gone.push(user);
                if gone.len() == self.users.len() {
                    until = *seq;
                    break;
                }
            }
        }
        match offer(&batch.slice(self.last, until)) {
            Offer::Taken => {}
            Offer::Full => return Pushed::Full,
            Offer::Closed => {
                self.state = State::Stopped;
                return Pushed::Stopped;
            }
        }
        for (seq, user) in batch.leaves_after(self.last).take_while(|(seq, _)| *seq <= until) {
            door.pass();
            self.users.retain(|known| known.user != *user || known.as_of >= *seq);
            for ask in self.asks.iter_mut().filter(|ask| ask.user == *user) {
                ask.left = Some(*seq);
            }
        }
        self.last = until;
        if self.users.is_empty() {
            self.state = if self.asks.is_empty() { State::Stopped } else { State::Paused };
            return Pushed::Stopped;
        }
        Pushed::Taken
    }
}
