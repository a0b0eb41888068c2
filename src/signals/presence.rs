//! Who is online where, as one node knows it: what it sees itself, what its peers sent, and what
//! its watchers were told. Pure: time is an argument, and messages are values.
//!
//! It holds only rooms that somebody asked about (`who`), here or on a peer.
//!
//! ```text
//!  followers ─ seen ─▶ unsettled ─ a second ─▶ here ─┬─ news, round ─▶ peers
//!                                                    ▼
//!  peers ─ hear ─▶ there, each for a lease ─▶ who is online ─ at most once a second ─▶ watchers
//! ```
//!
//! A change settles before it counts, so a user who comes and goes within a second was never there.
//! Messages between nodes are never differences: a node always sends all users it has in a room,
//! again and again. So a lost message is soon replaced, and a silent node has no users once its
//! lease is over.

mod room;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use self::room::RoomPresence;
use super::Party;
use crate::model::{RoomName, UserId};
use crate::share::Shares;

/// Longest list of users in one frame, in bytes of JSON. Beyond it users are only counted, because
/// a frame must not fill a socket's queue, and clients have limits as well.
const LIST_BYTES_MAX: usize = 64 * 1024;
/// Peers that are listened to. No cluster is that large: beyond it, messages are forged.
const PEERS_MAX: usize = 1000;
/// A look at a room takes some 0.2 µs per follower and per user as whom one follows. For those who
/// ask, looks may take a hundredth of a core per room: of a crowd that comes at once and asks, most
/// get what was seen a moment ago.
const LOOK_PAUSE_PER_FACE: Duration = Duration::from_micros(20);
/// How long a user who asks about a room waits for peers, and how long peers are not asked again.
/// They answer within milliseconds, unless they have just died.
const GATHER_TIMEOUT: Duration = Duration::from_millis(250);
/// How long the users of a stopping node still count: they are about to reconnect to another.
const GONE_GRACE: Duration = Duration::from_secs(3);

/// Users, by name or, if there are too many, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crowd {
    Listed(BTreeSet<UserId>),
    Counted(u64),
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a user must be there before they count; a user must be gone for twice as long. Also
    /// the least time between two frames of a room.
    pub settle: Duration,
    /// How long a peer is believed.
    pub lease: Duration,
    /// Most users that are listed by name.
    pub listed_max: usize,
    /// Most rooms that are kept. Beyond it, `who` says what this node sees itself, and no
    /// `presence` follows.
    pub rooms_max: usize,
}

/// How long a user must be there, or be gone, before it counts.
#[derive(Clone, Copy, Debug)]
struct Settle {
    coming: Duration,
    going: Duration,
}

impl Limits {
    /// Going takes twice as long as coming: a user who moves between nodes comes to one when they
    /// go from the other, and each node waits by itself.
    fn settle(&self) -> Settle {
        Settle { coming: self.settle, going: 2 * self.settle }
    }
}

pub struct Presence {
    limits: Limits,
    rooms: HashMap<RoomName, RoomPresence>,
    /// How many slots for rooms each party has.
    shares: Shares<Party>,
    peers: HashMap<String, Peer>,
}

/// Another node.
struct Peer {
    /// Until when it is believed to live.
    until: Instant,
    /// It did not answer in time when asked, so nobody waits for it until it has sent a room.
    ///
    /// A node that died is believed for a lease. Its users reconnect to another node and ask about
    /// all their rooms: if each of those waited for it, the last would wait for minutes. But it may
    /// be alive and not have received the question, so what it sends is accepted as always.
    is_mute: bool,
}

/// Peers have not answered about a room yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// They must be asked: nobody did so a moment ago.
    pub ask: bool,
    /// How long to wait for them. The same for all who ask about the room meanwhile.
    pub until: Instant,
}

/// What a peer says about who is online.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Rooms that it wants to hear about.
    pub watch: Vec<RoomName>,
    /// Rooms that it wants to hear about at once.
    pub ask: Vec<RoomName>,
    /// Its users in these rooms.
    pub online: Vec<(RoomName, Crowd)>,
    /// It stops.
    pub gone: bool,
}

/// A change for the watchers of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    pub room: RoomName,
    pub what: What,
    /// Everyone who is online now: for watchers that missed something.
    pub whole: Crowd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Users who came and went.
    Difference { online: Vec<UserId>, offline: Vec<UserId> },
    /// Too many to list.
    Count,
    /// Few enough to list again.
    Whole,
    /// Nothing new, but some watchers missed something.
    Nothing,
}

/// The users of a room that this node sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub crowd: Crowd,
    /// The cost of the look: the number of followers, plus the users of each. One user may have
    /// many sockets, and one socket many users.
    pub faces: usize,
    /// Whether any socket here watches the room's presence.
    pub watched: bool,
}

impl Crowd {
    pub fn nobody() -> Self {
        Self::Listed(BTreeSet::new())
    }

    /// By name, if the list is not too long.
    pub fn of(users: BTreeSet<UserId>, listed_max: usize) -> Self {
        // Each with quotes and a comma. (Escapes are rare enough to ignore.)
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

    /// The number of rooms that somebody asks about.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// The rooms to look at, and whether each is still new (never looked at).
    ///
    /// A race that this prevents: peers are not heard for a lease, so a room that only they watch
    /// is forgotten here. When they are heard again and want it, it is new. But its users passed
    /// its door long ago, and the looks that noticed them were for the forgotten room.
    pub fn rooms(&self) -> Vec<(RoomName, bool)> {
        self.rooms.iter().map(|(name, room)| (name.clone(), room.is_new())).collect()
    }

    /// Somebody here asks about the room. `false`: there is no slot left for them.
    pub fn want(&mut self, name: &RoomName, asks: &[Party], now: Instant) -> bool {
        let lease = self.limits.lease;
        let Some(room) = self.room(name, asks, now) else { return false };
        room.asked_until = now + lease;
        true
    }

    /// What to wait for before a question about the room is answered. `None`: all peers that could
    /// answer have.
    pub fn gap(&mut self, name: &RoomName, now: Instant) -> Option<Gap> {
        if self.is_whole(name, now) {
            return None;
        }
        let room = self.rooms.get_mut(name)?;
        let asked = room.peers_asked_at.filter(|at| *at + GATHER_TIMEOUT > now);
        let at = *room.peers_asked_at.insert(asked.unwrap_or(now));
        Some(Gap { ask: asked.is_none(), until: at + GATHER_TIMEOUT })
    }

    /// Whether every peer has sent its users in this room, or is mute.
    pub fn is_whole(&self, name: &RoomName, now: Instant) -> bool {
        let Some(room) = self.rooms.get(name) else { return true };
        self.peers
            .iter()
            .all(|(name, peer)| peer.is_mute || peer.until <= now || room.there.contains_key(name))
    }

    /// The channel was down, for this node or for one that greets it: peers that did not answer may
    /// not have been asked.
    pub fn forgive(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.is_mute = false);
    }

    /// Somebody has waited long enough for peers to answer about this room.
    pub fn give_up(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get(name) else { return };
        for (name, peer) in &mut self.peers {
            peer.is_mute |= !room.there.contains_key(name);
        }
    }

    /// Whether the room has a slot.
    pub fn is_kept(&self, name: &RoomName) -> bool {
        self.rooms.contains_key(name)
    }

    /// Whether to look at the followers again for somebody who asks.
    pub fn may_look(&self, name: &RoomName, now: Instant) -> bool {
        let pause = |room: &RoomPresence| {
            LOOK_PAUSE_PER_FACE * u32::try_from(room.faces).unwrap_or(u32::MAX)
        };
        let looked = |room: &RoomPresence| room.seen_at.map(|at| at + pause(room));
        self.rooms.get(name).is_some_and(|room| looked(room).is_none_or(|until| until <= now))
    }

    /// Takes a look at the followers. Changes have to settle. If somebody waits for the answer
    /// (`asked`), users who came count at once: one of them may be the one who asks.
    ///
    /// Users who went do not go at once even then. They may be reloading their page, and all
    /// watchers would see them go and come because somebody asked. So the answer is what the
    /// watchers believe, and whoever asked hears with them if a user does not come back.
    pub fn seen(&mut self, name: &RoomName, seen: Seen, asked: bool, now: Instant) {
        let Settle { coming, going } = self.limits.settle();
        let coming = if asked { Duration::ZERO } else { coming };
        if let Some(room) = self.rooms.get_mut(name) {
            room.seen(seen, now);
            room.settle(Settle { coming, going }, now);
        }
    }

    /// Who is online, for somebody who asks and is perhaps online as the user `asks`. `None`:
    /// nobody asked about this room before, or there was no slot for it.
    pub fn snapshot(&mut self, name: &RoomName, asks: Option<&UserId>) -> Option<Crowd> {
        let room = self.rooms.get_mut(name)?;
        Some(room.snapshot(asks, self.limits.listed_max))
    }

    /// Some watchers of the room could not take a frame.
    pub fn missed(&mut self, name: &RoomName) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.has_stale = true;
        }
    }

    /// A message of a peer.
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

    /// What is to be sent now: changes for the watchers of rooms, and for the peers, who is online
    /// here in rooms that they want.
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
        // After a crowd has gone, its memory is freed.
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

    /// Who is online here in these rooms, for a peer that asks. Call after looking. Rooms without a
    /// slot have no answer.
    pub fn answer(&mut self, names: &[RoomName], now: Instant) -> Vec<(RoomName, Crowd)> {
        let answer = |name: &RoomName| {
            let room = self.rooms.get_mut(name)?;
            Some((name.clone(), room.for_peers(now)?))
        };
        names.iter().filter_map(answer).collect()
    }

    /// Everything that peers must hear again and again: what this node wants to hear, and who is
    /// online here in rooms that peers want.
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

    /// The room; created if there is a slot for it.
    fn room(&mut self, name: &RoomName, asks: &[Party], now: Instant) -> Option<&mut RoomPresence> {
        if !self.rooms.contains_key(name) && !self.shares.take(asks, 1) {
            return None;
        }
        Some(self.rooms.entry(name.clone()).or_insert_with(|| RoomPresence::new(asks, now)))
    }
}

#[cfg(test)]
mod tests;
