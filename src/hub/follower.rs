//! One socket's place in one room, and the one rule of delivery: a follower is only ever sent
//! last + 1.
//!
//! It reads no log and knows no room. The hub offers what is new while the follower is *live*; the
//! session feeds it the past while it is *catching up*.
//!
//! ```text
//!            follow, behind the edge             the queue was full, or a gap
//!   (new) ─────────────────────▶ catching up ◀────────────────────────────── live
//!     │                            │    ▲ its place reached the room's edge    ▲│
//!     │                            └────┼──────────────────────────────────────┘│
//!     └── follow, at the edge ──────────┼──────────────────────────────────────▶│
//!                                       │ a user that was asked for is a member │
//!                                    paused ◀───────────────────────────────────┘
//!   the last user that it follows as has left: paused while users are asked for, else stopped
//!   any ── the socket is gone, or nobody is left to follow as ──▶ stopped
//! ```
//!
//! Who the socket follows as changes by answers (to `join` and `resume`) and by events (`leave`),
//! and the two reach the follower by different ways, in any order. So the session says which users
//! are *asked for* when it sends the command; the follower notes their leaves from then on, does
//! not stop while an answer is owed, and the answer says as of which seq the user is a member.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::batch::Batch;
use super::door::Door;
use super::inbox::Inbox;
use crate::model::{RoomName, Seq, UserId};
use crate::socket::{Link, Offer};

/// Shared by the session that made it, the room's list of followers, and a fan-out in progress.
pub struct Follower {
    /// The room's, through which it came in.
    door: Arc<Door>,
    /// The socket's writing half.
    link: Arc<Link>,
    /// Where the session hears that this follower needs it.
    inbox: Arc<Inbox>,
    /// Its index in the room's list of followers, which the room reads and writes under its lock.
    pub(super) index: AtomicUsize,
    place: Mutex<Place>,
}

struct Place {
    /// The highest seq that was handed to the socket; it gets `last + 1` next, and nothing else.
    last: Seq,
    state: State,
    /// As whom the socket follows.
    users: Vec<Known>,
    /// Users that the socket may come to follow as: a `join` or `resume` of theirs is on its way.
    /// One for each command, so bounded by `in_flight_max`.
    asks: Vec<Ask>,
    /// Where it began: what lies at or below did not come by it.
    start: Seq,
    /// The session wants to hear when the event at this seq was handed over.
    awaited: Option<Seq>,
    /// Whether the socket is told who comes and goes.
    watch: Watch,
}

/// What a socket knows of who is online in the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It never asked, and is told nothing.
    No,
    /// It asked, and is told the differences.
    Yes,
    /// It could not take some of the differences, and needs the whole.
    Stale,
}

/// A user whom the socket follows as.
struct Known {
    user: UserId,
    /// At this seq they were known to be a member: a `leave` above it ends that, an older one (seen
    /// in a replay) does not.
    as_of: Seq,
    /// They have left; the event is on its way, and the socket follows up to it.
    is_leaving: bool,
}

/// A command that may make the socket follow as this user.
struct Ask {
    user: UserId,
    /// The last `leave` of theirs that came by since the command was sent.
    left: Option<Seq>,
}

/// What an answer to an ask made of the follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It goes on in this state.
    State(State),
    /// It knows of no such ask: it had stopped before.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    CatchingUp,
    Live,
    /// Nobody is left to follow as, but users are asked for.
    Paused,
    Stopped,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The follower's place is the batch's end now.
    Taken,
    /// The socket's queue is full; only a fan-out sees this.
    Full,
    /// The batch begins above the next event; only a catch-up sees this.
    Gap,
    /// The follower has stopped or paused, now or before.
    Stopped,
}

impl Follower {
    /// A follower that has everything up to `last` and is not live yet. `asked_for`: users whose
    /// commands are on their way already.
    pub fn new(
        door: Arc<Door>,
        link: Arc<Link>,
        inbox: Arc<Inbox>,
        last: Seq,
        (user, as_of): (UserId, Seq),
        asked_for: &[UserId],
    ) -> Self {
        let asks = asked_for.iter().map(|user| Ask { user: user.clone(), left: None }).collect();
        let users = vec![Known { user, as_of, is_leaving: false }];
        let state = State::CatchingUp;
        let watch = Watch::No;
        let place = Place { last, state, users, asks, start: last, awaited: None, watch };
        let index = AtomicUsize::new(usize::MAX);
        Self { door, link, inbox, index, place: Mutex::new(place) }
    }

    pub fn room(&self) -> &RoomName {
        &self.door.name
    }

    /// Nothing that runs under this lock can panic; if it did, the place would still be whole.
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> State {
        self.place().state
    }

    pub fn last(&self) -> Seq {
        self.place().last
    }

    /// Whether the event at `seq` was handed to the socket. `None`: not yet, and the session hears
    /// by its inbox when it was, or when the follower has stopped before it.
    pub fn has(&self, seq: Seq) -> Option<bool> {
        let mut place = self.place();
        if seq <= place.start {
            return Some(false);
        }
        let has = place.last >= seq;
        if has || matches!(place.state, State::Paused | State::Stopped) {
            return Some(has);
        }
        // Of two the lower: the session looks at all that it awaits when it hears of one.
        place.awaited = Some(place.awaited.map_or(seq, |awaited| awaited.min(seq)));
        None
    }

    /// Whether the event at `seq` came, or will come, by this follower.
    pub fn gets(&self, seq: Seq) -> bool {
        let place = self.place();
        let follows = matches!(place.state, State::CatchingUp | State::Live);
        seq > place.start && (follows || place.last >= seq)
    }

    /// How many users it follows as, or may come to, if `user` is one more.
    pub fn users_with(&self, user: &UserId) -> usize {
        let place = self.place();
        let known = place.users.iter().any(|known| known.user == *user)
            || place.asks.iter().any(|ask| ask.user == *user);
        place.users.len() + place.asks.len() + usize::from(!known)
    }

    /// How many users it follows as, or may come to. One who was answered that they have left is
    /// none, though their event is on its way.
    pub fn users_len(&self) -> usize {
        let place = self.place();
        place.users.iter().filter(|known| !known.is_leaving).count() + place.asks.len()
    }

    /// A command is sent that may make the socket follow as this user. A stopped follower does not
    /// take it: `false`.
    pub fn ask(&self, user: &UserId) -> bool {
        let mut place = self.place();
        let takes = place.state != State::Stopped;
        if takes {
            place.asks.push(Ask { user: user.clone(), left: None });
        }
        takes
    }

    /// The answer to the oldest such command: the user is a member as of this seq, or is not.
    ///
    /// The races this closes, with the follower at 9, following as u1:
    /// - u2 joins (10) and leaves (11), and both events come by before the answer to the join.
    ///   Without the note of that leave the socket would follow as u2 for ever.
    /// - u2 joins (10), u1 leaves (11), and both come by first. Without the ask the follower would
    ///   have stopped at 11, and the answer made a new one at 9, which sends 10 and 11 again.
    pub fn answer(&self, user: &UserId, as_of: Option<Seq>) -> Answered {
        let mut place = self.place();
        let Some(index) = place.asks.iter().position(|ask| ask.user == *user) else {
            return Answered::Unknown;
        };
        let left = place.asks.remove(index).left;
        if let Some(as_of) = as_of.filter(|as_of| left.is_none_or(|left| left <= *as_of)) {
            let user = user.clone();
            match place.users.iter_mut().find(|known| known.user == user) {
                Some(known) if as_of > known.as_of => {
                    *known = Known { user, as_of, is_leaving: false };
                }
                Some(_) => {}
                None => {
                    place.users.push(Known { user, as_of, is_leaving: false });
                    self.door.pass();
                }
            }
        }
        if place.asks.is_empty() {
            place.asks = Vec::new();
        }
        match (place.state, place.users.is_empty(), place.asks.is_empty()) {
            (State::Paused, false, _) => place.state = State::CatchingUp,
            (State::Paused, true, true) => place.state = State::Stopped,
            _ => {}
        }
        Answered::State(place.state)
    }

    /// The hub's fan-out: takes what is new if the follower is live, and the queue has room.
    /// Never waits. Says how many events were handed to the socket.
    pub fn offer(self: &Arc<Self>, batch: &Batch) -> u64 {
        let mut place = self.place();
        if place.state != State::Live || batch.last() <= place.last {
            return 0;
        }
        if batch.first() > place.last.next() {
            // A gap: the ring had already dropped what lies between. The log has it.
            place.state = State::CatchingUp;
            self.inbox.put(self.clone());
            return 0;
        }
        let before = place.last;
        match place.send(|frames| self.link.offer(frames), batch, batch.last(), &self.door) {
            Pushed::Taken => {
                if place.awaited.is_some_and(|seq| seq <= place.last) {
                    place.awaited = None;
                    self.inbox.put(self.clone());
                }
            }
            Pushed::Full => {
                place.state = State::CatchingUp;
                self.inbox.put(self.clone());
            }
            Pushed::Stopped | Pushed::Gap => self.inbox.put(self.clone()),
        }
        place.last.0 - before.0
    }

    /// The session's catch-up: as much of a page of the past as fits into `bytes_max`, and at
    /// least one event. The session comes only when the queue has room, so it is not refused: if
    /// one event that is larger than the room were, the session would come back at once, for ever.
    pub fn push(&self, batch: &Batch, bytes_max: usize) -> Pushed {
        let mut place = self.place();
        if place.state != State::CatchingUp {
            return Pushed::Stopped;
        }
        if batch.last() <= place.last {
            return Pushed::Taken;
        }
        if batch.first() > place.last.next() {
            return Pushed::Gap;
        }
        let until = batch.until(place.last, bytes_max);
        place.send(|frames| self.link.push_shared(frames), batch, until, &self.door)
    }

    /// Turns live if nothing is missing up to `edge`. The caller holds the room's lock, so that no
    /// event can come between the comparison and the turn.
    pub fn go_live(&self, edge: Seq) -> bool {
        let mut place = self.place();
        if place.state == State::CatchingUp && place.last >= edge {
            place.state = State::Live;
        }
        place.state == State::Live
    }

    /// The room is let go: the session finds that out when it looks for the next page.
    pub fn let_go(self: &Arc<Self>) {
        let mut place = self.place();
        if place.state == State::Live {
            place.state = State::CatchingUp;
            self.inbox.put(self.clone());
        }
    }

    /// The socket is gone or does not want the room any more.
    pub fn stop(&self) {
        self.place().state = State::Stopped;
    }

    /// The socket was answered that the user has left, at this seq.
    ///
    /// The race this closes: u1 leaves and asks `who` in one breath. The leave is decided and
    /// answered; its event comes by another way, and behind a long replay much later. Until then
    /// the socket follows, as it must to get the event; but u1 is no member any more.
    pub fn leaves(&self, user: &UserId, seq: Seq) {
        let mut place = self.place();
        let left = |known: &&mut Known| known.user == *user && known.as_of < seq;
        if let Some(known) = place.users.iter_mut().find(left) {
            known.is_leaving = true;
        }
    }

    /// Whether the socket follows as this user now, who has not left as far as it knows.
    pub fn follows_as(&self, user: &UserId) -> bool {
        let place = self.place();
        let follows = |known: &Known| known.user == *user && !known.is_leaving;
        place.state != State::Stopped && place.users.iter().any(follows)
    }

    /// Looks at as whom the socket follows, and what it knows of who else does.
    pub fn look(&self, look: impl FnOnce(&mut dyn Iterator<Item = &UserId>, Watch)) {
        let place = self.place();
        if place.state != State::Stopped {
            look(&mut place.users.iter().map(|known| &known.user), place.watch);
        }
    }

    /// From here on the socket is told who comes and goes.
    pub fn watch(&self) {
        self.place().watch = Watch::Yes;
        self.door.pass();
    }

    /// Offers signs of life. They are taken only by a live follower whose socket has nothing
    /// waiting: it costs a slow socket nothing, and can make none fall behind. Between two batches
    /// is a fine place for them: `last` does not move.
    ///
    /// `None`: the socket has events above `up_to`, and one of them may be what the signs announce.
    pub fn signal(&self, frames: &Bytes, up_to: Seq) -> Option<bool> {
        let place = self.place();
        let is_early = place.last <= up_to;
        is_early.then(|| place.state == State::Live && self.link.offer_idle(frames))
    }

    /// Offers signs of life as `signal` does, in frames that each name an event: in ascending order
    /// that seq, and where the frame ends. It takes those that name what it has. A client that took
    /// the name for the event itself would believe that it has it; so it has it.
    pub fn signal_named(&self, frames: &Bytes, names: &[(Seq, usize)]) -> bool {
        let place = self.place();
        let known = names.partition_point(|(seq, _)| *seq <= place.last);
        let Some((_, end)) = names[..known].last() else { return false };
        place.state == State::Live && self.link.offer_idle(&frames.slice(..*end))
    }

    /// Offers who came and went, or, to one that has missed some of that, who is there. `whole` is
    /// asked for only then.
    pub fn tell(&self, difference: Option<&Bytes>, whole: impl FnOnce() -> Bytes) -> Option<bool> {
        let mut place = self.place();
        let frames = match (place.watch, difference) {
            (Watch::No, _) | (Watch::Yes, None) => return None,
            (Watch::Yes, Some(difference)) => difference.clone(),
            (Watch::Stale, _) => whole(),
        };
        let taken = place.state == State::Live && self.link.offer_idle(&frames);
        place.watch = if taken { Watch::Yes } else { Watch::Stale };
        Some(taken)
    }
}

impl Place {
    /// Hands over what is above `last` up to `until`, or up to the `leave` that ends the
    /// following, if one does.
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
            let ends = |known: &Known| known.user == *user && known.as_of < *seq;
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
