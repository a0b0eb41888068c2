//! What one schedule is like: its size, its limits, and what goes wrong in it.
//!
//! A schedule has some kinds of trouble and not others. With all of them at once most interleavings
//! would never happen: a log that is away half of the time repairs nothing.

use super::chance::Chance;
use crate::config::Config;

/// How committed events reach this node, besides through its own lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redis {
    /// Each event once and in order, sooner or later.
    Whole,
    /// Late, twice, in any order or never.
    Lossy,
    /// No Redis, and this is the only node.
    None,
    /// No Redis: the node polls the log for what other nodes have written.
    Silent,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub rooms: usize,
    pub users: usize,
    pub clients: usize,
    pub steps: usize,
    /// Bytes that a client's kernel holds, and that a socket's queue may hold.
    pub kernel_bytes: usize,
    pub queue_bytes: usize,
    pub ring_len: usize,
    pub rings_bytes: usize,
    pub unsent_bytes: usize,
    pub page_len: usize,
    pub hold_ms: u64,
    pub held_len: usize,
    pub linger_ms: u64,
    /// How slow the log and the network to clients are, in percent.
    pub slow: usize,
    pub redis: Redis,
    /// Other nodes write, too.
    pub has_others: bool,
    /// The log is away for a while.
    pub has_outages: bool,
    /// The log does not say whether it committed.
    pub has_unknowns: bool,
    /// Some events in the log cannot be read.
    pub has_damage: bool,
    /// The log goes back.
    pub goes_back: bool,
    /// Clients stop reading.
    pub has_idlers: bool,
    /// The memory for rings is needed elsewhere.
    pub has_pressure: bool,
    /// Clients come and go.
    pub has_comers: bool,
    /// There are pauses longer than a room lingers.
    pub has_lulls: bool,
    /// Users leave.
    pub has_leavers: bool,
    /// Clients claim to have more events than exist.
    pub has_liars: bool,
    /// At the end, somebody sends an event to each room, which reveals what was missed before it.
    /// Without it everything must arrive all the same, unless Redis lost it.
    pub has_last_words: bool,
}

impl Plan {
    pub fn of(chance: &Chance) -> Self {
        let one_in = |count| chance.below(count) == 0;
        // A log that goes back is only promised to be noticed by what a node still has in memory.
        let goes_back = one_in(10);
        let linger_ms = *chance.pick(&[1000, 1000, 3000]);
        let lulls = one_in(4);
        let redis =
            *chance.pick(&[Redis::Whole, Redis::Lossy, Redis::Lossy, Redis::None, Redis::Silent]);
        Self {
            rooms: *chance.pick(&[1, 1, 2, 3]),
            users: chance.between(1, 4),
            clients: *chance.pick(&[1, 2, 2, 3, 4]),
            steps: chance.between(3, 24),
            kernel_bytes: chance.between(40, 700),
            queue_bytes: *chance.pick(&[200, 500, 1500, 6000]),
            ring_len: if goes_back { 1000 } else { *chance.pick(&[1, 2, 4, 16, 200]) },
            rings_bytes: if goes_back { 1 << 20 } else { *chance.pick(&[1, 1 << 20, 1 << 20]) },
            unsent_bytes: *chance.pick(&[4096, 1 << 24, 1 << 24]),
            page_len: *chance.pick(&[1, 2, 3, 7, 200]),
            hold_ms: *chance.pick(&[0, 5, 20]),
            held_len: *chance.pick(&[1, 3, 1000]),
            linger_ms: if goes_back { 60_000 } else { linger_ms },
            slow: *chance.pick(&[0, 10, 30, 60]),
            redis,
            has_others: redis != Redis::None && !one_in(4),
            has_outages: one_in(3),
            has_unknowns: one_in(4),
            has_damage: !goes_back && one_in(5),
            goes_back,
            has_idlers: one_in(2),
            has_pressure: !goes_back && one_in(4),
            has_comers: one_in(2),
            // Clients that return late are not told.
            has_lulls: lulls && !goes_back,
            has_leavers: one_in(2),
            has_liars: one_in(8),
            has_last_words: redis == Redis::Lossy || goes_back || one_in(2),
        }
    }

    /// The settings of a node for this plan.
    pub fn config(&self, defaults: &Config) -> Config {
        let mut config = defaults.clone();
        config.socket.queue_bytes_max = self.queue_bytes;
        let hub = &mut config.hub;
        (hub.ring_len_max, hub.rings_bytes_max) = (self.ring_len, self.rings_bytes);
        (hub.page_len, hub.hold_ms, hub.held_len_max) =
            (self.page_len, self.hold_ms, self.held_len);
        (hub.room_linger_ms, hub.follows_max) = (self.linger_ms, FOLLOWS_MAX);
        config.server.unsent_bytes_max = self.unsent_bytes;
        config.lane.count = 1;
        config
    }
}

/// Slots for followers. Even: see `end`.
pub const FOLLOWS_MAX: usize = 1000;
