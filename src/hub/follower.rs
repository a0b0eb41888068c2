//! One socket's place in one room, and the one rule of delivery: a follower is only ever sent
//! last + 1.
//!
//! It reads no log and knows no room. The hub offers what is new while the follower is *live*; the
//! session feeds it the past while it is *catching up*.
//!
//! ```text
//!              follow, behind the edge            the queue was full, or a gap
//!   (new) ────────────────────▶ catching up ◀──────────────────────────────── live
//!     │                              │  its place reached the room's edge       ▲
//!     │                              └──────────────────────────────────────────┤
//!     └── follow, at the edge ──────────────────────────────────────────────────┘
//!   any ── the last user it follows as has left, or the socket is gone ──▶ stopped
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::batch::Batch;
use crate::model::{RoomName, Seq, UserId};
use crate::socket::{Link, Offer};

/// Shared by the session that made it, the room's list of followers, and a fan-out in progress.
pub struct Follower {
    pub room: RoomName,
    /// The socket's writing half.
    link: Arc<Link>,
    /// Where the session hears that this follower needs it.
    inbox: Arc<Inbox>,
    place: Mutex<Place>,
}

struct Place {
    /// The highest seq that was handed to the socket; it gets `last + 1` next, and nothing else.
    last: Seq,
    state: State,
    /// As whom the socket follows, and the seq at which each was known to be a member: a `leave`
    /// above it ends that, an older one (seen in a replay) does not.
    users: Vec<(UserId, Seq)>,
    /// The session wants to hear when the event at this seq was handed over.
    awaited: Option<Seq>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    CatchingUp,
    Live,
    Stopped,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The follower's place is the batch's end now.
    Taken,
    /// The socket's queue is full; only a fan-out sees this.
    Full,
    /// The follower has stopped, now or before.
    Stopped,
}

/// Followers of one session that need its attention: they fell behind, they stopped, or they got an
/// event that the session awaits. A follower stands here at most once for each time it went live,
/// and a session awaits one event at a time, so this is bounded by `follows_max`.
#[derive(Default)]
pub struct Inbox {
    followers: Mutex<Vec<Arc<Follower>>>,
    arrived: tokio::sync::Notify,
}

impl Inbox {
    /// Waits until there is something to take. Cancel-safe: a permit that was stored stays.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub fn take(&self) -> Vec<Arc<Follower>> {
        std::mem::take(&mut *self.followers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, follower: Arc<Follower>) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).push(follower);
        self.arrived.notify_one();
    }
}

impl Follower {
    /// A follower that has everything up to `last` and is not live yet.
    pub fn new(
        room: RoomName,
        link: Arc<Link>,
        inbox: Arc<Inbox>,
        last: Seq,
        user: (UserId, Seq),
    ) -> Self {
        let place = Place { last, state: State::CatchingUp, users: vec![user], awaited: None };
        Self { room, link, inbox, place: Mutex::new(place) }
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
        let has = place.last >= seq;
        if has || place.state == State::Stopped {
            return Some(has);
        }
        // Of two the lower: the session looks at all that it awaits when it hears of one.
        place.awaited = Some(place.awaited.map_or(seq, |awaited| awaited.min(seq)));
        None
    }

    /// Follows as one more user, or knows a user's membership as of a later seq. `false`: it has
    /// stopped meanwhile, and the caller makes a new one.
    ///
    /// The race this closes: a user leaves (seq 11) and joins again (12) in one breath. If the
    /// answer to the join is handled first, the user stands here as of 12 when the leave of 11
    /// comes by, which then ends nothing. If the leave comes first, this says `false`.
    pub fn follow_as(&self, user: &UserId, as_of: Seq) -> bool {
        let mut place = self.place();
        if place.state == State::Stopped {
            return false;
        }
        match place.users.iter_mut().find(|(known, _)| known == user) {
            Some((_, known)) => *known = as_of.max(*known),
            None => place.users.push((user.clone(), as_of)),
        }
        true
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
        match place.send(|frames| self.link.offer(frames), batch, batch.last()) {
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
            Pushed::Stopped => self.inbox.put(self.clone()),
        }
        place.last.0 - before.0
    }

    /// The session's catch-up: as much of a page of the past as fits into `bytes_max`, and at
    /// least one event. The session comes only when the queue has room, so it is not refused: if
    /// one event that is larger than the room were, the session would come back at once, for ever.
    pub fn push(&self, batch: &Batch, bytes_max: usize) -> Pushed {
        let mut place = self.place();
        if place.state == State::Stopped {
            return Pushed::Stopped;
        }
        if batch.first() > place.last.next() || batch.last() <= place.last {
            return Pushed::Taken;
        }
        let until = batch.until(place.last, bytes_max);
        place.send(|frames| self.link.push(frames), batch, until)
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

    /// The socket is gone or does not want the room any more.
    pub fn stop(&self) {
        self.place().state = State::Stopped;
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
    ) -> Pushed {
        let mut users = None;
        let leaves = batch.leaves_after(self.last).take_while(|(seq, _)| *seq <= until);
        for (seq, user) in leaves {
            let users = users.get_or_insert_with(|| self.users.clone());
            users.retain(|(known, as_of)| known != user || *as_of >= *seq);
            if users.is_empty() {
                until = *seq;
                break;
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
        self.last = until;
        self.users = users.unwrap_or_else(|| std::mem::take(&mut self.users));
        if self.users.is_empty() {
            self.state = State::Stopped;
            return Pushed::Stopped;
        }
        Pushed::Taken
    }
}
