//! Looks at the followers of a room, and sends them signals.
//!
//! A room may have very many followers, so other tasks get their turn in between.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};

use super::Signals;
use super::presence::{Crowd, Seen, Tell, What};
use super::typing::Typist;
use crate::hub::{Follower, Hub, Room, Watch};
use crate::log::Mark;
use crate::model::{RoomName, Seq, UserId};
use crate::protocol::frame::{self, Frame};
use crate::protocol::signal;

/// Followers served between two turns of other tasks: about half a millisecond.
const TOLD_BURST: usize = 64;
/// The same for looks, counted in faces ([`Seen::faces`]).
const LOOKED_BURST: usize = 1024;

/// Who follows the room on this node. `None`: nobody came or went since the last look, and there
/// was one (otherwise the room `is_new`).
pub async fn look(hub: &Hub, name: &RoomName, is_new: bool, listed_max: usize) -> Option<Seen> {
    let Some(room) = hub.room(name) else { return Some(Sight::default().end(listed_max)) };
    if !room.door.was_passed() && !is_new {
        return None;
    }
    let mut sight = Sight::default();
    let mut rested = 0;
    for follower in room.followers().iter() {
        sight.take(follower);
        if sight.faces - rested > LOOKED_BURST {
            rested = sight.faces;
            tokio::task::yield_now().await;
        }
    }
    Some(sight.end(listed_max))
}

/// As `look`, but at once, whether or not anybody came or went. It leaves the door's note for
/// `look`.
///
/// A race that this prevents: `look` is in progress, and slow. Somebody joins and asks;
/// `quick_look` sees them. Then `look` ends with a result without them. If `quick_look` had taken
/// the note that somebody came, nobody would look again.
pub fn quick_look(hub: &Hub, name: &RoomName, listed_max: usize) -> Seen {
    let mut sight = Sight::default();
    if let Some(room) = hub.room(name) {
        room.followers().iter().for_each(|follower| sight.take(follower));
    }
    sight.end(listed_max)
}

/// As `quick_look`, for a room without a slot, which is looked at whenever somebody asks. If there
/// are many sockets, only they are counted.
pub fn glance(hub: &Hub, name: &RoomName, listed_max: usize) -> Crowd {
    let sockets = hub.room(name).map_or(0, |room| room.followers().len());
    match sockets > listed_max {
        true => Crowd::Counted(sockets as u64),
        false => quick_look(hub, name, listed_max).crowd,
    }
}

#[derive(Default)]
struct Sight {
    users: HashSet<UserId>,
    faces: usize,
    watched: bool,
}

impl Sight {
    fn take(&mut self, follower: &Follower) {
        self.faces += 1;
        follower.look(|users, watch| {
            self.watched |= watch != Watch::No;
            for user in users {
                self.faces += 1;
                if !self.users.contains(user) {
                    self.users.insert(user.clone());
                }
            }
        });
    }

    fn end(self, listed_max: usize) -> Seen {
        let Self { users, faces, watched } = self;
        // Not worth sorting.
        let crowd = match users.len() > listed_max {
            true => Crowd::Counted(users.len() as u64),
            false => Crowd::of(users.into_iter().collect::<BTreeSet<_>>(), listed_max),
        };
        Seen { crowd, faces, watched }
    }
}

/// The `who` frame with everyone who is online.
fn whole(room: &RoomName, crowd: &Crowd) -> Frame {
    let users: Option<Vec<UserId>> = match crowd {
        Crowd::Listed(users) => Some(users.iter().cloned().collect()),
        Crowd::Counted(_) => None,
    };
    signal::who(room, users.as_deref(), crowd.count(), None)
}

impl Signals {
    /// Sends presence to the watchers of a room.
    pub(super) async fn tell_presence(&self, tell: &Tell) {
        let Tell { room: name, what, whole: crowd } = tell;
        let Some(room) = self.hub.room(name) else { return };
        let difference = match what {
            What::Difference { online, offline } => {
                Some(signal::presence(name, online, offline, crowd.count()))
            }
            What::Count => Some(signal::presence_count(name, crowd.count())),
            What::Whole => Some(whole(name, crowd)),
            What::Nothing => None,
        };
        let difference = difference.map(|frame| frame.bytes().clone());
        let once = OnceLock::new();
        let everyone = || once.get_or_init(|| whole(name, crowd).bytes().clone()).clone();
        let (mut told, mut skipped) = (0, 0);
        let followers = room.followers();
        for burst in followers.chunks(TOLD_BURST) {
            for follower in burst {
                match follower.tell(difference.as_ref(), everyone) {
                    Some(true) => told += 1,
                    Some(false) => skipped += 1,
                    None => {}
                }
            }
            pause(followers.len()).await;
        }
        if skipped > 0 {
            self.presence().missed(name);
        }
        self.metrics.signal("presence", told, skipped);
    }

    /// Sends who is typing to everyone except themselves, unless their message has come. Returns
    /// those whose message has not.
    pub(super) async fn tell_typing(&self, name: &RoomName, typists: Vec<Typist>) -> Vec<Typist> {
        let Some(room) = self.hub.room(name) else { return typists };
        let mut typists = Typists::new(&room, typists, 2 * self.config.typing_interval_ms);
        let followers = room.followers();
        // In a crowd it does not matter who is typing, and sending it to everyone would cost more
        // than their messages.
        if followers.len() > self.config.listed_max {
            return typists.into_typists();
        }
        let (mut told, mut skipped) = (0, 0);
        for burst in followers.chunks(TOLD_BURST) {
            for follower in burst {
                match typists.tell(follower) {
                    Some(true) => told += 1,
                    Some(false) => skipped += 1,
                    None => {}
                }
            }
            pause(followers.len()).await;
        }
        self.metrics.signal("typing", told, skipped);
        typists.into_typists()
    }

    /// Sends read marks to everyone who follows the rooms.
    pub(super) async fn tell_read(&self, marks: Vec<Mark>) {
        let mut rooms: HashMap<RoomName, Vec<Mark>> = HashMap::new();
        for mark in marks {
            rooms.entry(mark.room.clone()).or_default().push(mark);
        }
        for (name, mut marks) in rooms {
            let Some(room) = self.hub.room(&name) else { continue };
            marks.sort_by_key(|mark| mark.seq);
            let frame = |mark: &Mark| signal::read(&name, &mark.user, mark.seq);
            let frames: Vec<Frame> = marks.iter().map(frame).collect();
            let ends = frames.iter().scan(0, |end, frame| {
                *end += frame.bytes().len();
                Some(*end)
            });
            let names: Vec<_> = marks.iter().map(|mark| mark.seq).zip(ends).collect();
            let bytes = join(frames.iter());
            let (mut told, mut skipped) = (0, 0);
            let followers = room.followers();
            for burst in followers.chunks(TOLD_BURST) {
                for follower in burst {
                    let offered = follower.signal_named(&bytes, &names);
                    *(if offered { &mut told } else { &mut skipped }) += 1;
                }
                pause(followers.len()).await;
            }
            self.metrics.signal("read", told, skipped);
        }
    }
}

/// The users in a room who are about to be shown as typing.
///
/// A race that this prevents: user 1 types, and sends the message before the next tick. If the tick
/// sent `typing` then, it would come after its message, and for seconds user 1 would seem to write
/// another. Other nodes get the two on different ways, in any order. So each typing has the room's
/// seq at which it was noted, and is not sent to anyone who was sent a message of that user above
/// it.
struct Typists<'r> {
    room: &'r Room,
    /// Each with its frame.
    typists: Vec<(Typist, Frame)>,
    /// All frames together.
    everyone: Bytes,
    /// Up to this seq, no message in the room ends the typing of any of them.
    edge: Seq,
}

impl<'r> Typists<'r> {
    fn new(room: &'r Room, typists: Vec<Typist>, expires_ms: u64) -> Self {
        let framed = |typist: Typist| {
            let frame = signal::typing(room.name(), &typist.user, expires_ms);
            (typist, frame)
        };
        let typists = typists.into_iter().map(framed).collect();
        let mut typists = Self { room, typists, everyone: Bytes::new(), edge: Seq(0) };
        typists.look();
        typists
    }

    /// Drops those whose message has come.
    fn look(&mut self) {
        // Read first: what comes meanwhile is above it.
        self.edge = self.room.edge().unwrap_or_default();
        let types = |Typist { user, since, .. }: &Typist| {
            since.is_none_or(|since| silent_up_to(self.room, user, since).is_some())
        };
        self.typists.retain(|(typist, _)| types(typist));
        self.everyone = join(self.typists.iter().map(|(_, frame)| frame));
    }

    /// Sends one follower all but its own users. `None`: there is nobody else.
    fn tell(&mut self, follower: &Follower) -> Option<bool> {
        // If the follower was sent more since the last look, look again. If it is ahead of the room
        // even then (it reads the log), it gets none.
        for _ in 0..2 {
            let typists = self.typists.iter();
            let others = typists.filter(|(typist, _)| !follower.follows_as(&typist.user));
            let others: Vec<&Frame> = others.map(|(_, frame)| frame).collect();
            let told = match others.len() {
                0 => return None,
                len if len == self.typists.len() => follower.signal(&self.everyone, self.edge),
                _ => follower.signal(&join(others.into_iter()), self.edge),
            };
            if told.is_some() {
                return told;
            }
            self.look();
        }
        Some(false)
    }

    fn into_typists(self) -> Vec<Typist> {
        self.typists.into_iter().map(|(typist, _)| typist).collect()
    }
}

/// The seq up to which the user has sent nothing above `since` that ends their typing (no message,
/// no leave). `None`: they have, or nobody here can tell.
pub fn silent_up_to(room: &Room, user: &UserId, since: Seq) -> Option<Seq> {
    let ends = ["message", "leave"].map(|kind| frame::event_begin(kind, room.name(), user));
    room.lacks(since, |event| ends.iter().any(|begin| event.payload().starts_with(begin)))
}

/// Lets other tasks run, if there are many followers.
async fn pause(len: usize) {
    if len > TOLD_BURST {
        tokio::task::yield_now().await;
    }
}

/// Concatenates frames for one write.
fn join<'f>(frames: impl ExactSizeIterator<Item = &'f Frame> + Clone) -> Bytes {
    if let (1, Some(frame)) = (frames.len(), frames.clone().next()) {
        return frame.bytes().clone();
    }
    let len = frames.clone().map(|frame| frame.bytes().len()).sum();
    let mut joined = BytesMut::with_capacity(len);
    frames.for_each(|frame| joined.extend_from_slice(frame.bytes()));
    joined.freeze()
}
