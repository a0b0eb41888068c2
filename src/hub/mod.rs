//! Who on this node follows which room, the recent events of each room in use, and the fan-out.
//!
//! It reads no log and orders nothing: the relay hands it events that follow a room's edge. It
//! never waits for a socket: a follower whose queue is full falls back to catching up.
//!
//! Locks are taken in one order, room → follower → socket queue, each for a moment and none across
//! an `.await`. The fan-out holds no room's lock while it writes, so joins and new events go on.

mod batch;
mod door;
mod follower;
mod inbox;
mod ring;
mod room;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use batch::{Batch, Entry};
pub use door::Door;
pub use follower::{Answered, Follower, Pushed, State, Watch};
pub use inbox::Inbox;
pub use room::{Accepted, NextPage, Overlap, Room};

use crate::budget::Budgets;
use crate::config::HubConfig;
use crate::metrics::Metrics;
use crate::model::{RoomName, Seq};
use crate::share::{Pool, Share};
use crate::tasks::Tasks;

/// Locks that the map of rooms is spread over, so that rooms rarely wait for each other.
const SHARDS: usize = 64;
/// Sockets written to between two chances for other tasks: about half a millisecond of writes.
/// (Few in unit tests: what others do in the middle of a fan-out must not hurt it.)
const FAN_OUT_BURST: usize = if cfg!(test) { 2 } else { 64 };
/// Shortest time that a room nobody follows stays: who has brought it into use must come to follow
/// it before it is let go, whatever `room_linger_ms` says.
const LINGER_MIN: Duration = Duration::from_secs(1);
/// Pause between two searches for rings that are not used, when one did not free enough.
const YIELD_PAUSE: Duration = Duration::from_millis(50);
/// Bytes joined into one write. More would only fill a slow socket's queue in one go. (A few events
/// in unit tests.)
pub const BATCH_BYTES_MAX: usize = if cfg!(test) { 1024 } else { 64 * 1024 };

/// Seeded at random, so that names cannot be chosen to collide; but not in unit tests, where the
/// same has to happen each time (see `sim`).
#[cfg(not(test))]
type Hasher = std::hash::RandomState;
#[cfg(test)]
type Hasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

type Rooms = HashMap<RoomName, Arc<Room>, Hasher>;

/// One to a node.
pub struct Hub {
    shards: Box<[Mutex<Rooms>]>,
    /// Decides the shard of a room.
    hasher: Hasher,
    config: HubConfig,
    budgets: Budgets,
    /// Who has how many of the places for those who follow.
    follows: Arc<Pool<IpAddr>>,
    /// Where the search for rings that are not used goes on, and when it may begin again.
    hand: Mutex<(usize, Instant)>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

impl Hub {
    pub fn new(
        config: HubConfig,
        budgets: Budgets,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let hasher = Hasher::default();
        let hand = Mutex::new((0, Instant::now()));
        let follows = Pool::new(config.follows_max);
        let hub = Arc::new(Self { shards, hasher, config, budgets, follows, hand, metrics, tasks });
        hub.tasks.spawn("hub sweep", sweep(hub.clone()));
        hub
    }

    fn shard(&self, name: &RoomName) -> MutexGuard<'_, Rooms> {
        let index = self.hasher.hash_one(name) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the rings of all rooms count on.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// What a socket of that address holds of the places for those who follow.
    pub fn share(&self, address: IpAddr) -> Share<IpAddr> {
        Share::new(self.follows.clone(), address)
    }

    /// The room, made if it is not in use yet. From here on its events are no longer ignored, and
    /// it lingers anew: the sweep must not take it between this and the first follower.
    pub fn open(&self, name: &RoomName) -> Arc<Room> {
        let mut shard = self.shard(name);
        if let Some(room) = shard.get(name) {
            room.touch(Instant::now());
            return room.clone();
        }
        let room = Arc::new(Room::new(name.clone(), Instant::now(), &self.budgets));
        shard.insert(name.clone(), room.clone());
        self.metrics.rooms_followed.inc();
        room
    }

    /// The room, if it is in use on this node.
    pub fn room(&self, name: &RoomName) -> Option<Arc<Room>> {
        self.shard(name).get(name).cloned()
    }

    /// Lets go of a room whose followers cannot be given what comes next: they are ended. `false`:
    /// it is not in use any more.
    pub fn abandon(&self, room: &Arc<Room>) -> bool {
        let mut shard = self.shard(room.name());
        let is_ours = shard.get(room.name()).is_some_and(|known| Arc::ptr_eq(known, room));
        if is_ours {
            shard.remove(room.name());
            self.metrics.rooms_followed.dec();
        }
        drop(shard);
        room.close();
        is_ours
    }

    /// The names of all rooms in use.
    pub fn room_names(&self) -> Vec<RoomName> {
        let lock = |shard: &Mutex<Rooms>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.keys().cloned().collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(lock).collect()
    }

    /// Hands a room entries in ascending order and fans out what follows its edge. Whoever is told
    /// that they differ from what it has must suspect it: until then it takes nothing more.
    pub fn accept(self: &Arc<Self>, room: &Arc<Room>, entries: &[Entry]) -> (Accepted, Overlap) {
        let (accepted, overlap) = room.accept(entries, &self.config);
        let (Accepted::All { fan_out } | Accepted::Gap { fan_out, .. }) = accepted;
        if fan_out {
            self.tasks.spawn("fan-out", fan_out_room(self.clone(), room.clone()));
        }
        if self.budgets.rings.is_full() {
            self.yield_rings();
        }
        (accepted, overlap)
    }

    /// The log went back to `to`: what this room has is not what happened. All who follow it come
    /// anew, to a room that tells them so. `false`: it is not in use any more.
    pub fn went_back(&self, room: &Arc<Room>, to: Seq) -> bool {
        let mut shard = self.shard(room.name());
        let known = shard.get_mut(room.name()).filter(|known| Arc::ptr_eq(known, room));
        let is_ours = known.is_some();
        if let Some(known) = known {
            let (name, now) = (room.name().clone(), Instant::now());
            // It may be noticed twice, by what was said before and comes late: then it is the lower
            // of both that those must be told who have not come back yet.
            let to = room.known(to, now);
            *known = Arc::new(Room::went_back(name, to, now, &self.budgets));
        }
        drop(shard);
        room.close();
        is_ours
    }

    /// Has rooms whose recent events nobody uses forget them, until an eighth of what all rings may
    /// take is free. Whoever needs them reads the log.
    ///
    /// It goes around like the hand of a clock and takes the ring of each room that was not used
    /// since it last came by. So after two rounds every ring has been taken, and what it costs is
    /// a look at each room for each eighth that is freed.
    fn yield_rings(&self) {
        // Somebody else is at it.
        let Ok(mut hand) = self.hand.try_lock() else { return };
        let (place, not_before) = &mut *hand;
        if Instant::now() < *not_before {
            return;
        }
        let rings = &self.budgets.rings;
        let enough = rings.bytes_max() / 8 * 7;
        for _ in 0..2 * SHARDS {
            if rings.bytes() <= enough {
                return;
            }
            let shard = self.shards[*place].lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().for_each(|room| room.yield_ring());
            *place = (*place + 1) % SHARDS;
        }
        // What is left is on its way to followers, and will be theirs in a moment.
        *not_before = Instant::now() + YIELD_PAUSE;
    }

    /// Adds a follower. `false`: the room was let go meanwhile; open it again.
    pub fn follow(&self, room: &Room, follower: Arc<Follower>) -> bool {
        let followed = room.follow(follower);
        if followed {
            self.metrics.follows.inc();
        }
        followed
    }

    pub fn unfollow(&self, room: &Room, follower: &Arc<Follower>) {
        room.unfollow(follower, Instant::now());
        self.metrics.follows.dec();
    }
}

/// Writes a room's new events to its followers until there are none. At most one runs for a room.
async fn fan_out_room(hub: Arc<Hub>, room: Arc<Room>) {
    while let Some((batch, followers)) = room.next_fan_out(BATCH_BYTES_MAX) {
        let mut deliveries = 0;
        for burst in followers.chunks(FAN_OUT_BURST) {
            deliveries += burst.iter().map(|follower| follower.offer(&batch)).sum::<u64>();
            if followers.len() > FAN_OUT_BURST {
                tokio::task::yield_now().await;
            }
        }
        hub.metrics.deliveries.inc_by(deliveries);
        hub.metrics.commit_to_delivery.observe(batch.committed.elapsed().as_secs_f64());
    }
}

/// Lets go of rooms that nobody has followed for `room_linger_ms`. They linger because clients of
/// a broken connection come back within seconds, and find the ring still warm. But not while more
/// rooms are in use than half of what may be followed: who follows ever new rooms, and leaves them,
/// would fill the memory.
async fn sweep(hub: Arc<Hub>) {
    let linger = Duration::from_millis(hub.config.room_linger_ms).max(LINGER_MIN);
    let mut ticks = tokio::time::interval(LINGER_MIN / 2);
    let mut next = Instant::now() + linger / 2;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = hub.tasks.stopping() => return,
        }
        let now = Instant::now();
        let rooms = usize::try_from(hub.metrics.rooms_followed.get()).unwrap_or(0);
        let is_crowded = rooms > hub.config.follows_max / 2;
        if !is_crowded && now < next {
            continue;
        }
        next = now + linger / 2;
        let linger = if is_crowded { LINGER_MIN } else { linger };
        let Some(before) = now.checked_sub(linger) else { continue };
        for shard in &hub.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let len = shard.len();
            // Whoever holds a room may be about to follow it, however long that takes: a client
            // that reads nothing holds up its own answers. Nobody can come by it while the lock is
            // held.
            let is_held = |room: &Arc<Room>| Arc::strong_count(room) > 1;
            shard.retain(|_, room| is_held(room) || !room.close_if_idle(before));
            hub.metrics.rooms_followed.dec_by((len - shard.len()) as i64);
            shard.shrink_to_fit();
        }
    }
}
