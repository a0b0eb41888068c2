//! Who on this node follows which room, the recent events of rooms in use, and the fan-out.
//!
//! It reads no log and orders nothing: the relay gives it events that follow a room's edge. It
//! never waits for a socket: a follower whose queue is full falls back to catching up.
//!
//! Lock order: room → follower → socket queue. Each lock is held for a moment, and none across an
//! `.await`. The fan-out writes without the room's lock, so joins and new events proceed.

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

/// Locks over which the map of rooms is spread, so that rooms rarely wait for each other.
const SHARDS: usize = 64;
/// Sockets written to before other tasks get a turn: about half a millisecond of writes. (Few in
/// unit tests, so that other tasks run in the middle of a fan-out.)
const FAN_OUT_BURST: usize = if cfg!(test) { 2 } else { 64 };
/// The shortest time that a room without followers stays, whatever `room_linger_ms` says: a caller
/// that brought it into use must be able to follow it first.
const LINGER_MIN: Duration = Duration::from_secs(1);
/// Pause between two searches for unused rings, when one did not free enough.
const YIELD_PAUSE: Duration = Duration::from_millis(50);
/// Bytes joined into one write. More would only fill a slow socket's queue at once. (A few events
/// in unit tests.)
pub const BATCH_BYTES_MAX: usize = if cfg!(test) { 1024 } else { 64 * 1024 };

/// Seeded at random, so that nobody can choose names that collide. Not in unit tests, which must be
/// reproducible (see `sim`).
#[cfg(not(test))]
type Hasher = std::hash::RandomState;
#[cfg(test)]
type Hasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

type Rooms = HashMap<RoomName, Arc<Room>, Hasher>;

/// One per node.
pub struct Hub {
    shards: Box<[Mutex<Rooms>]>,
    /// Decides a room's shard.
    hasher: Hasher,
    config: HubConfig,
    budgets: Budgets,
    /// The slots for followers, and who has how many.
    follows: Arc<Pool<IpAddr>>,
    /// Where the search for unused rings continues, and the earliest time for it.
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

    /// The budgets to which rings are charged.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// The follower slots of a socket with that address.
    pub fn share(&self, address: IpAddr) -> Share<IpAddr> {
        Share::new(self.follows.clone(), address)
    }

    /// The room, created if it is not in use. From here on its events are kept, and its linger time
    /// starts anew, so that the sweep does not remove it before the first follower.
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

    /// Lets go of a room whose next event cannot be delivered, and ends its followers. `false`: it
    /// is not in use any more.
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

    /// Gives a room entries in ascending order, and fans out those that follow its edge. If the
    /// result is `Overlap::Differs`, the caller must suspect the room: until then it takes nothing
    /// new.
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

    /// The log went back to `to`, so the room's events are not the log's. Ends its followers, who
    /// will return to a new room that tells them. `false`: it is not in use any more.
    pub fn went_back(&self, room: &Arc<Room>, to: Seq) -> bool {
        let mut shard = self.shard(room.name());
        let known = shard.get_mut(room.name()).filter(|known| Arc::ptr_eq(known, room));
        let is_ours = known.is_some();
        if let Some(known) = known {
            let (name, now) = (room.name().clone(), Instant::now());
            // This may be noticed twice, because old events come late. Then the lower seq counts
            // for clients that have not returned yet.
            let to = room.known(to, now);
            *known = Arc::new(Room::went_back(name, to, now, &self.budgets));
        }
        drop(shard);
        room.close();
        is_ours
    }

    /// Clears the rings of rooms that nobody uses, until an eighth of the rings' budget is free.
    /// Whoever needs those events reads the log.
    ///
    /// Works like a clock hand: it passes over all rooms, and clears each ring that was not used
    /// since it last passed. So two rounds clear every ring, and freeing an eighth costs at most
    /// two looks at each room.
    fn yield_rings(&self) {
        // Another task is searching.
        let Ok(mut hand) = self.hand.try_lock() else { return };
        let (index, not_before) = &mut *hand;
        if Instant::now() < *not_before {
            return;
        }
        let rings = &self.budgets.rings;
        let enough = rings.bytes_max() / 8 * 7;
        for _ in 0..2 * SHARDS {
            if rings.bytes() <= enough {
                return;
            }
            let shard = self.shards[*index].lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().for_each(|room| room.yield_ring());
            *index = (*index + 1) % SHARDS;
        }
        // What is left is on its way to followers, and will be gone in a moment.
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

/// Writes a room's new events to its followers until there are none. At most one runs per room.
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

/// Lets go of rooms that nobody has followed for `room_linger_ms`. They linger because clients of a
/// broken connection return within seconds, and are then served from the ring. But not while the
/// rooms in use are more than half of `follows_max`: a client that follows and leaves ever new
/// rooms would fill the memory.
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
            // A task that holds a room may be about to follow it, however long that takes: a client
            // that does not read delays its own answers. Nobody can get the room while the shard's
            // lock is held.
            let is_held = |room: &Arc<Room>| Arc::strong_count(room) > 1;
            shard.retain(|_, room| is_held(room) || !room.close_if_idle(before));
            hub.metrics.rooms_followed.dec_by((len - shard.len()) as i64);
            shard.shrink_to_fit();
        }
    }
}
