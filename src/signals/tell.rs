//! To and from the followers of a room: what it looks like, and what they are told.
//!
//! It decides nothing. A room may have very many followers, so other tasks get their turn.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};

use super::Signals;
use super::presence::{Crowd, Seen, Tell, What};
use super::typing::Typist;
use crate::hub::{Follower, Hub, Watch};
use crate::log::Mark;
use crate::model::{RoomName, UserId};
use crate::protocol::frame::Frame;
use crate::protocol::signal;

/// Followers told, or looked at, between two chances for other tasks: about half a millisecond.
const TOLD_BURST: usize = 64;
/// Counted in faces ([`Seen::faces`]).
const LOOKED_BURST: usize = 1024;

/// Who follows the room on this node. `None`: nobody came or went since the last look, and there
/// was one: the room is not new to whoever asks.
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

/// As `look`, at once, whether anybody passed or not, and leaving that to be noticed by `look`.
///
/// The race this closes: `look` is under way, and slow. Somebody joins and asks; `quick_look` sees
/// them. Then `look`'s result comes, which has them not. If this had taken the note that somebody
/// passed, nobody would look again.
pub fn quick_look(hub: &Hub, name: &RoomName, listed_max: usize) -> Seen {
    let mut sight = Sight::default();
    if let Some(room) = hub.room(name) {
        room.followers().iter().for_each(|follower| sight.take(follower));
    }
    sight.end(listed_max)
}

/// As `quick_look`, for a room that is not kept, and so may be looked at whenever somebody asks: of
/// many only the sockets are counted.
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

/// The frame that says who is there.
fn whole(room: &RoomName, crowd: &Crowd) -> Frame {
    let users: Option<Vec<UserId>> = match crowd {
        Crowd::Listed(users) => Some(users.iter().cloned().collect()),
        Crowd::Counted(_) => None,
    };
    signal::who(room, users.as_deref(), crowd.count(), None)
}

impl Signals {
    /// Tells the watchers of a room who came and went.
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

    /// Tells everyone but themselves who types.
    pub(super) async fn tell_typing(&self, name: &RoomName, typists: &[Typist]) {
        let Some(room) = self.hub.room(name) else { return };
        let followers = room.followers();
        // In a crowd it does not matter who types, and telling everyone would cost more than what
        // they write.
        if followers.len() > self.config.listed_max {
            return;
        }
        let expires_ms = 2 * self.config.typing_interval_ms;
        let frame = |typist: &Typist| signal::typing(name, &typist.user, expires_ms);
        let frames: Vec<Frame> = typists.iter().map(frame).collect();
        let everyone = join(&frames);
        let (mut told, mut skipped) = (0, 0);
        for burst in followers.chunks(TOLD_BURST) {
            for follower in burst {
                let is_other = |typist: &Typist| !follower.follows_as(&typist.user);
                let others: Vec<bool> = typists.iter().map(is_other).collect();
                let offered = match others.iter().filter(|is_other| **is_other).count() {
                    0 => continue,
                    len if len == frames.len() => follower.signal(&everyone),
                    _ => {
                        let others = frames.iter().zip(&others).filter(|(_, is_other)| **is_other);
                        let others: Vec<Frame> = others.map(|(frame, _)| frame.clone()).collect();
                        follower.signal(&join(&others))
                    }
                };
                *(if offered { &mut told } else { &mut skipped }) += 1;
            }
            pause(followers.len()).await;
        }
        self.metrics.signal("typing", told, skipped);
    }

    /// Tells everyone who follows how far others have read.
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
            let bytes = join(&frames);
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

/// Lets others have their turn, if there is much to do.
async fn pause(len: usize) {
    if len > TOLD_BURST {
        tokio::task::yield_now().await;
    }
}

/// Frames as one piece, for one write.
fn join(frames: &[Frame]) -> Bytes {
    if let [frame] = frames {
        return frame.bytes().clone();
    }
    let mut joined = BytesMut::with_capacity(frames.iter().map(|frame| frame.bytes().len()).sum());
    frames.iter().for_each(|frame| joined.extend_from_slice(frame.bytes()));
    joined.freeze()
}
