//! Who is online where, as one node knows it: what it sees itself, what its peers told it, and
//! what its watchers have been told. Pure: time is an argument, and messages are values.
//!
//! It holds rooms that somebody asked about (`who`), here or on a peer, and no others.
//!
//! ```text
//!  followers ─ seen ─▶ unsettled ─ a second ─▶ here ─┬─ news, round ─▶ peers
//!                                                    ▼
//!  peers ─ hear ─▶ there, each for a lease ─▶ who is online ─ at most once a second ─▶ watchers
//! ```
//!
//! Who comes and goes within a second was never there: a change settles before it counts. Nothing
//! here is a difference to something that a peer must have heard before: a node always tells the
//! whole of what it has in a room, again and again, so a message that is lost is soon made good,
//! and a node that says nothing any more has nobody, once its lease is over.

mod room;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use self::room::Room;
use super::Party;
use crate::model::{RoomName, UserId};
use crate::share::Shares;

/// Longest list of users that goes into one frame, in bytes of JSON. A longer one is only counted:
/// a frame must not fill a socket's queue, and clients have their limits, too.
const LIST_BYTES_MAX: usize = 64 * 1024;
/// Peers that are listened to. There are never so many; beyond it, messages are made up.
const PEERS_MAX: usize = 1000;
/// A look at a room takes some 0.2 µs for each follower, and for each user as whom one follows.
/// Looking for those who ask may take a hundredth of a core for each room: of a crowd that comes at
/// once and asks, most are told what was seen a moment ago.
const LOOK_PAUSE_PER_FACE: Duration = Duration::from_micros(20);
/// How long somebody who asks about a room waits for the peers, and for how long they are not asked
/// again. They answer within milliseconds; a node that died a moment ago does not.
const GATHER_TIMEOUT: Duration = Duration::from_millis(250);
/// For how long the people of a node that stops are still counted: they are about to come back, by
/// way of another node.
const GONE_GRACE: Duration = Duration::from_secs(3);

/// Some users: by name, or, if there are too many, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crowd {
    Listed(BTreeSet<UserId>),
    Counted(u64),
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long somebody has to be there before they count, half of how long they have to be gone,
    /// and the least time between two frames of a room.
    pub settle: Duration,
    /// For how long a peer is believed.
    pub lease: Duration,
    /// Most users that are told by name.
    pub listed_max: usize,
    /// Most rooms that are kept. One more is not: its `who` says what this node sees itself, and no
    /// `presence` follows.
    pub rooms_max: usize,
}

/// How long somebody has to be there, and to be away, before it counts.
#[derive(Clone, Copy, Debug)]
struct Settle {
    coming: Duration,
    going: Duration,
}

impl Limits {
    /// It takes twice as long to be gone: who moves from one node to another comes there as soon as
    /// they go here, and each node waits by itself.
    fn settle(&self) -> Settle {
        Settle { coming: self.settle, going: 2 * self.settle }
    }
}

pub struct Presence {
    limits: Limits,
    rooms: HashMap<RoomName, Room>,
    /// Who has how many of the places for rooms.
    shares: Shares<Party>,
    peers: HashMap<String, Peer>,
}

/// Another node.
struct Peer {
    /// Until when it is believed to live.
    until: Instant,
    /// It was asked, and did not answer in time: nobody waits for it until it has told of a room.
    ///
    /// A node that died is believed for a lease, and its people come to another node and ask about
    /// all their rooms: if each of those waited for it, the last would wait for minutes. But it may
    /// live, and not have heard the question: what it tells is taken as from any other.
    is_mute: bool,
}

/// Peers have not told of a room yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// They are to be asked: nobody did so a moment ago.
    pub ask: bool,
    /// How long to wait for them, the same for all who ask about the room meanwhile.
    pub until: Instant,
}

/// What a peer said about who is online.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Rooms of which it wants to be told.
    pub watch: Vec<RoomName>,
    /// Rooms of which it wants to be told at once.
    pub ask: Vec<RoomName>,
    /// Who is online in these rooms by way of it.
    pub online: Vec<(RoomName, Crowd)>,
    /// It stops.
    pub gone: bool,
}

/// What the watchers of a room are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    pub room: RoomName,
    pub what: What,
    /// What they know then: for those who missed something before.
    pub whole: Crowd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Who came and who went.
    Difference { online: Vec<UserId>, offline: Vec<UserId> },
    /// There are too many to list.
    Count,
    /// There were too many to list, and are not any more.
    Whole,
    /// Nothing is new; there are some who missed something.
    Nothing,
}

/// What was seen of a room on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub crowd: Crowd,
    /// What the look took: the followers and, of each, the users as whom it follows. One user may
    /// have many sockets, and one socket many users.
    pub faces: usize,
    /// Whether anyone here is told of who comes and goes.
    pub watched: bool,
}

impl Crowd {
    pub fn nobody() -> Self {
        Self::Listed(BTreeSet::new())
    }

    /// By name, if that is not too long.
    pub fn of(users: BTreeSet<UserId>, listed_max: usize) -> Self {
        // Each with its quotes and comma. (Escapes are so rare that the limit does not know them.)
        let bytes: usize = users.iter().map(|user| user.as_str().len() + 3).sum();
        match users.len() > listed_max || bytes > LIST_BYTES_MAX {
            true => Self::Counted(users.len() as u64),
            false => Self::Listed(users),
        }
    }

    pub fn count(&self) -> u64 {
        match self {
            Self::Listed(users) => users.len() as u64,
            Self::Counted(count) => *count,
        }
    }
}

impl Presence {
    pub fn new(limits: Limits) -> Self {
        let shares = Shares::new(limits.rooms_max);
        Self { limits, rooms: HashMap::new(), shares, peers: HashMap::new() }
    }

    /// How many rooms somebody asks about.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// The rooms to look at, and of each whether nobody has yet.
    ///
    /// The race this closes: peers are not heard for a lease, so a room that only they watch is
    /// forgotten here. They are heard again and want it, and it is a new one. But whoever is in it
    /// passed its door long ago, and the looks that noticed were for the room that was forgotten.
    pub fn rooms(&self) -> Vec<(RoomName, bool)> {
        self.rooms.iter().map(|(name, room)| (name.clone(), room.is_new())).collect()
    }

    /// Somebody here wants to know. `false`: there is no place for one more of theirs.
    pub fn want(&mut self, name: &RoomName, asks: &[Party], now: Instant) -> bool {
        let lease = self.limits.lease;
        let Some(room) = self.room(name, asks, now) else { return false };
        room.asked_until = now + lease;
        true
    }

    /// What there is to wait for before somebody who asks about the room is answered. `None`: every
    /// peer has told of it that may.
    pub fn gap(&mut self, name: &RoomName, now: Instant) -> Option<Gap> {
        if self.is_whole(name, now) {
            return None;
        }
        let room = self.rooms.get_mut(name)?;
        let asked = room.peers_asked_at.filter(|at| *at + GATHER_TIMEOUT > now);
        let at = *room.peers_asked_at.insert(asked.unwrap_or(now));
        Some(Gap { ask: asked.is_none(), until: at + GATHER_TIMEOUT })
    }

    /// Whether every peer has said who is online by way of it in this room, or is mute.
    pub fn is_whole(&self, name: &RoomName, now: Instant) -> bool {
        let Some(room) = self.rooms.get(name) else { return true };
        self.peers
            .iter()
            .all(|(name, peer)| peer.is_mute || peer.until <= now || room.there.contains_key(name))
    }

    /// The channel was away, for this node or for one that greets it: who did not answer may not
    /// have heard.
    pub fn forgive(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.is_mute = false);
    }

    /// Somebody has waited long enough for peers to tell of this room.
    pub fn give_up(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get(name) else { return };
        for (name, peer) in &mut self.peers {
            peer.is_mute |= !room.there.contains_key(name);
        }
    }

    /// Whether the room is one of those that are kept.
    pub fn is_kept(&self, name: &RoomName) -> bool {
        self.rooms.contains_key(name)
    }

    /// Whether to look at the followers again for somebody who asks.
    pub fn may_look(&self, name: &RoomName, now: Instant) -> bool {
        let pause =
            |room: &Room| LOOK_PAUSE_PER_FACE * u32::try_from(room.faces).unwrap_or(u32::MAX);
        let looked = |room: &Room| room.seen_at.map(|at| at + pause(room));
        self.rooms.get(name).is_some_and(|room| looked(room).is_none_or(|until| until <= now))
    }

    /// Looked at the followers. A change has to settle. If somebody waits for the answer (`asked`)
    /// those who came are there at once: they may be the very one.
    ///
    /// Those who went are not gone at once even then. They may be loading their page, and everybody
    /// would be told that they went, and came, because somebody asked. So whoever asks is answered
    /// what the watchers believe, and hears as they do if somebody does not come back.
    pub fn seen(&mut self, name: &RoomName, seen: Seen, asked: bool, now: Instant) {
        let Settle { coming, going } = self.limits.settle();
        let coming = if asked { Duration::ZERO } else { coming };
        if let Some(room) = self.rooms.get_mut(name) {
            room.seen(seen, now);
            room.settle(Settle { coming, going }, now);
        }
    }

    /// Who is online, for somebody who asks now, and is online as this user, if as anyone. `None`:
    /// nobody asked about this room before, or there was no place to note it.
    pub fn snapshot(&mut self, name: &RoomName, asks: Option<&UserId>) -> Option<Crowd> {
        let room = self.rooms.get_mut(name)?;
        Some(room.snapshot(asks, self.limits.listed_max))
    }

    /// Some watchers of the room could not take what they were told.
    pub fn missed(&mut self, name: &RoomName) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.has_stale = true;
        }
    }

    /// A peer spoke.
    pub fn hear(&mut self, peer: &str, said: Said, now: Instant) {
        let until = now + self.limits.lease;
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(peer) {
            return;
        }
        let known = self.peers.entry(peer.to_owned()).or_insert(Peer { until, is_mute: false });
        known.until = until;
        known.is_mute &= said.online.is_empty();
        let asks = [Party::Node(peer.into())];
        for name in said.watch.iter().chain(&said.ask) {
            if let Some(room) = self.room(name, &asks, now) {
                room.wanted_until = until;
            }
        }
        for (name, crowd) in said.online {
            if let Some(room) = self.rooms.get_mut(&name).filter(|room| room.is_wanted_here(now)) {
                room.hear(peer, crowd, until);
            }
        }
        if said.gone {
            self.peers.remove(peer);
            for room in self.rooms.values_mut() {
                room.grace(peer, now + GONE_GRACE);
            }
        }
    }

    /// What is to be told by now, and to whom: to the watchers of these rooms, and to the peers,
    /// who is online here in those rooms.
    pub fn tick(&mut self, now: Instant) -> (Vec<Tell>, Vec<(RoomName, Crowd)>) {
        let Limits { settle, listed_max, .. } = self.limits;
        self.peers.retain(|_, peer| peer.until > now);
        self.rooms.retain(|_, room| {
            let stays = room.is_wanted(now);
            if !stays {
                self.shares.give_back(&room.asked_by, 1);
            }
            stays
        });
        // A crowd that is gone takes its memory with it.
        if self.rooms.capacity() > 64 && self.rooms.len() < self.rooms.capacity() / 4 {
            self.rooms.shrink_to_fit();
        }
        let settles = self.limits.settle();
        let (mut tells, mut news) = (Vec::new(), Vec::new());
        for (name, room) in &mut self.rooms {
            room.settle(settles, now);
            room.expire(now);
            if let Some((what, whole)) = room.tell(settle, listed_max, now) {
                tells.push(Tell { room: name.clone(), what, whole });
            }
            news.extend(room.news(settle, now).map(|crowd| (name.clone(), crowd)));
        }
        (tells, news)
    }

    /// Who is online here in these rooms, for a peer that asks. To be called when they were looked
    /// at. There is no answer for a room that there was no place for.
    pub fn answer(&mut self, names: &[RoomName], now: Instant) -> Vec<(RoomName, Crowd)> {
        let answer = |name: &RoomName| {
            let room = self.rooms.get_mut(name)?;
            Some((name.clone(), room.for_peers(now)?))
        };
        names.iter().filter_map(answer).collect()
    }

    /// Everything that peers must hear again and again: what this node wants to be told, and who is
    /// online here in the rooms that peers want to be told of.
    pub fn round(&mut self, now: Instant) -> Said {
        let mut said = Said::default();
        for (name, room) in &mut self.rooms {
            if room.is_wanted_here(now) {
                said.watch.push(name.clone());
            }
            if room.wanted_until > now {
                said.online.extend(room.for_peers(now).map(|crowd| (name.clone(), crowd)));
            }
        }
        said
    }

    /// The room, made if there is a place for it.
    fn room(&mut self, name: &RoomName, asks: &[Party], now: Instant) -> Option<&mut Room> {
        if !self.rooms.contains_key(name) && !self.shares.take(asks, 1) {
            return None;
        }
        Some(self.rooms.entry(name.clone()).or_insert_with(|| Room::new(asks, now)))
    }
}

#[cfg(test)]
mod tests;
