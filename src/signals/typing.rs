//! Who is typing where, and when that was last sent. Pure: time is an argument.
//!
//! What is to be sent is taken from here a few times a second, room by room, so that a follower
//! gets all of a room's typing in one write.
//!
//! A user's message ends their typing. But messages do not pass here, so they cost nothing.
//! Instead, each typing has the room's seq at which it was noted; to know whether it still holds,
//! look for a message above that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::Party;
use crate::model::{RoomName, Seq, UserId};
use crate::share::Shares;

/// Most users of one room that are sent at once. More at the same time are a crowd, where it does
/// not matter who is typing: the rest is accepted and dropped.
const USERS_AT_ONCE_MAX: usize = 8;

pub struct Typing {
    /// Approximate time between two `typing` of one user in one room. Each holds for twice as long.
    interval: Duration,
    /// How many slots for remembered users and rooms each party has.
    shares: Shares<Party>,
    /// When each user's typing was last sent. Empty while nobody types.
    last: HashMap<RoomName, HashMap<UserId, Told>>,
    /// Typing to be sent next.
    waiting: HashMap<RoomName, Vec<Typist>>,
}

/// A user whose typing is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typist {
    pub user: UserId,
    /// Where the user is. If it is this node, other nodes must hear of it.
    pub from: Party,
    /// The room's edge on their node when they typed. `None`: nobody follows the room there.
    pub since: Option<Seq>,
}

/// A user whose typing was sent or is about to be.
struct Told {
    at: Instant,
    /// Whose slot it takes, besides the user's.
    from: Party,
    /// As `Typist::since`, moved up to where the user is known to have sent nothing.
    since: Option<Seq>,
}

impl Typist {
    pub fn is_here(&self) -> bool {
        matches!(self.from, Party::Address(_))
    }

    /// The parties whose slot it takes.
    fn parties(&self) -> [Party; 2] {
        [self.from.clone(), Party::User(self.user.clone())]
    }
}

impl Typing {
    pub fn new(interval: Duration, len_max: usize) -> Self {
        let (last, waiting) = (HashMap::new(), HashMap::new());
        Self { interval, shares: Shares::new(len_max), last, waiting }
    }

    /// A user types. Returns whether it will be sent: not if it just was, or if too many type.
    ///
    /// `silent_up_to`: the seq up to which the user has sent nothing since the given one; `None` if
    /// they have. Then the earlier typing has ended, and this one is about the next message and
    /// sent at once.
    pub fn types(
        &mut self,
        room: &RoomName,
        typist: Typist,
        now: Instant,
        silent_up_to: impl FnOnce(Seq) -> Option<Seq>,
    ) -> bool {
        let pause = self.pause(typist.is_here());
        let told = self.last.get_mut(room).and_then(|users| users.get_mut(&typist.user));
        let is_new = told.is_none();
        if let Some(told) = told.filter(|told| told.at + pause > now) {
            let Some(since) = told.since else { return false };
            if let Some(up_to) = silent_up_to(since) {
                // The next search starts here.
                told.since = Some(up_to);
                return false;
            }
        }
        let waiting = self.waiting.get_mut(room);
        let waiting_len = waiting.map_or(0, |waiting| {
            waiting.retain(|other| other.user != typist.user);
            waiting.len()
        });
        if waiting_len >= USERS_AT_ONCE_MAX || (is_new && !self.shares.take(&typist.parties(), 1)) {
            return false;
        }
        let Typist { user, from, since } = typist.clone();
        match self.last.entry(room.clone()).or_default().entry(user) {
            Entry::Vacant(place) => drop(place.insert(Told { at: now, from, since })),
            // The slot stays with the party that took it.
            Entry::Occupied(mut known) => {
                (known.get_mut().at, known.get_mut().since) = (now, since)
            }
        }
        self.waiting.entry(room.clone()).or_default().push(typist);
        true
    }

    /// The least time between two `typing` of one user in one room.
    ///
    /// On this node it is a sixth less than the interval. A client that sends once per interval is
    /// a little early every other time. If that one were dropped, others would wait two intervals
    /// for the next, and by then the user would seem to have stopped.
    ///
    /// A peer's typing was already limited there. But the peer sends in ticks and the channel has
    /// delays, so two of them may arrive closer together; half of the interval is enough. It is
    /// still a limit: a user may type through many nodes, and anybody can publish on the channel.
    fn pause(&self, is_here: bool) -> Duration {
        if is_here { self.interval * 5 / 6 } else { self.interval / 2 }
    }

    /// Takes what is to be sent, and forgets users whose typing may be sent again.
    pub fn take(&mut self, now: Instant) -> HashMap<RoomName, Vec<Typist>> {
        let interval = self.interval;
        self.last.retain(|_, users| {
            users.retain(|user, told| {
                let stays = told.at + interval > now;
                if !stays {
                    let from = told.from.clone();
                    self.shares.give_back(&[from, Party::User(user.clone())], 1);
                }
                stays
            });
            !users.is_empty()
        });
        if self.last.is_empty() {
            // After a crowd, its memory is freed.
            self.last = HashMap::new();
        }
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(3);

    fn room(name: &str) -> RoomName {
        RoomName::stored(name)
    }

    fn user(id: usize) -> UserId {
        UserId::stored(&id.to_string())
    }

    /// Each user has an address of their own.
    fn from(id: usize, is_here: bool) -> Party {
        match is_here {
            true => Party::Address(Ipv4Addr::from_bits(id as u32).into()),
            false => Party::Node("n2".into()),
        }
    }

    /// The user types and has not sent anything.
    fn types(typing: &mut Typing, name: &str, id: usize, is_here: bool, now: Instant) -> bool {
        let typist = Typist { user: user(id), from: from(id, is_here), since: Some(Seq(5)) };
        typing.types(&room(name), typist, now, Some)
    }

    /// The user types in each of 100 tenths of a second. Returns the tenths in which that was told.
    fn told(is_here: impl Fn(u32) -> bool) -> Vec<u32> {
        let (begin, mut typing) = (Instant::now(), Typing::new(INTERVAL, 100));
        let mut in_each = |tenth: &u32| {
            let now = begin + INTERVAL * *tenth / 30;
            let is_told = types(&mut typing, "r", 1, is_here(*tenth), now);
            typing.take(now);
            is_told
        };
        (0..100).filter(&mut in_each).collect()
    }

    #[test]
    fn a_user_is_told_of_now_and_then_however_often_they_type_and_by_whatever_node() {
        assert_eq!(told(|_| true), [0, 25, 50, 75]);
        assert_eq!(told(|_| false), [0, 15, 30, 45, 60, 75, 90]);
        assert_eq!(told(|tenth| tenth % 2 == 0), [0, 15, 31, 47, 63, 79, 95]);
        let (now, mut typing) = (Instant::now(), Typing::new(INTERVAL, 100));
        assert!(types(&mut typing, "r", 1, true, now));
        assert!(!types(&mut typing, "r", 1, true, now));
        assert!(types(&mut typing, "other", 1, true, now));
        assert!(types(&mut typing, "r", 2, true, now));
    }

    /// A user who writes message after message types anew for each.
    #[test]
    fn a_user_who_sent_a_message_and_types_again_is_told_at_once() {
        let (now, mut typing) = (Instant::now(), Typing::new(INTERVAL, 100));
        let typist = |since| Typist { user: user(1), from: from(1, true), since: Some(Seq(since)) };
        // They sent messages at 6 and 8; the room's last seq is 9.
        let looked = std::cell::Cell::new(0);
        let silent = |since: Seq| {
            looked.set(looked.get() + 1);
            (![6, 8].iter().any(|seq| Seq(*seq) > since)).then_some(Seq(9))
        };
        for (since, is_told) in [(5, true), (7, true), (8, true), (8, false), (9, false)] {
            assert_eq!(typing.types(&room("r"), typist(since), now, silent), is_told, "{since}");
        }
        assert_eq!(looked.get(), 4);
        // Of the three, only the last is to be sent: the others were ended by messages.
        assert_eq!(typing.take(now)[&room("r")], [typist(8)]);
        // What was searched is not searched again.
        let silent = |since: Seq| Some(since).filter(|since| *since == Seq(9));
        assert!(!typing.types(&room("r"), typist(9), now, silent));
        // Where nobody knows the room's last seq, the pause holds.
        let unplaced = |id| Typist { user: user(id), from: from(id, false), since: None };
        assert!(typing.types(&room("r"), unplaced(2), now, |_| None));
        assert!(!typing.types(&room("r"), unplaced(2), now, |_| None));
    }

    /// Milliseconds for which a user may seem to have stopped who keeps typing, on this node and on
    /// another, with a client that sends about once per that time.
    fn longest_silence(pause_ms: u64) -> [u64; 2] {
        const TICK_MS: u64 = 200;
        let begin = Instant::now();
        let mut nodes = [Typing::new(INTERVAL, 100), Typing::new(INTERVAL, 100)];
        let (mut told, mut longest) = ([0; 2], [0; 2]);
        let (mut says_at, mut on_its_way) = (0, Vec::new());
        // Pseudo-random, the same in each run.
        let mut disorder = (0..).map(|n: u64| n.wrapping_mul(7919) % 199);
        let mut up_to = |ms: u64| disorder.next().map_or(0, |disorder| disorder % (ms + 1));
        for ms in (0..600_000).step_by(10) {
            let now = begin + Duration::from_millis(ms);
            if says_at <= ms {
                types(&mut nodes[0], "r", 1, true, now);
                says_at += pause_ms - up_to(100) + up_to(100);
            }
            for _ in on_its_way.extract_if(.., |arrives_at| *arrives_at <= ms) {
                types(&mut nodes[1], "r", 1, false, now);
            }
            for (node, typing) in nodes.iter_mut().enumerate() {
                if (ms + 70 * node as u64).is_multiple_of(TICK_MS) && !typing.take(now).is_empty() {
                    longest[node] = longest[node].max(ms - told[node]);
                    told[node] = ms;
                    on_its_way.extend((node == 0).then(|| ms + up_to(150)));
                }
            }
        }
        longest
    }

    #[test]
    fn who_goes_on_typing_never_seems_to_have_stopped() {
        for pause_ms in (100..=3000).step_by(100).chain([2450, 2490, 2510, 2990]) {
            let longest = longest_silence(pause_ms);
            assert!(longest.iter().all(|ms| *ms < 6000), "{pause_ms}: {longest:?}");
        }
    }

    #[test]
    fn a_crowd_is_told_of_in_part_and_nothing_is_kept_of_it() {
        let now = Instant::now();
        let mut typing = Typing::new(INTERVAL, 20);
        let told = (0..50).filter(|id| types(&mut typing, "r", *id, true, now)).count();
        assert_eq!(told, USERS_AT_ONCE_MAX);
        assert_eq!(typing.take(now)[&room("r")].len(), USERS_AT_ONCE_MAX);
        for n in 0..30 {
            types(&mut typing, &n.to_string(), n, true, now);
        }
        assert_eq!(typing.shares.taken(), 20);
        typing.take(now + INTERVAL);
        assert_eq!((typing.shares.taken(), typing.last.capacity()), (0, 0));
        assert!(types(&mut typing, "r", 1, true, now + INTERVAL));
    }

    #[test]
    fn one_who_types_in_every_room_leaves_places_for_the_others() {
        let (now, mut typing) = (Instant::now(), Typing::new(INTERVAL, 100));
        // Under one name, under many of one address, through a peer.
        let one = |n| (user(0), from(n, true));
        let many = |n| (user(n), from(0, true));
        let peer = |n| (user(n), from(0, false));
        let mut greedy = |party: &dyn Fn(usize) -> (UserId, Party)| {
            let types = |n: &usize| {
                let (user, from) = party(*n);
                let typist = Typist { user, from, since: None };
                typing.types(&room(&n.to_string()), typist, now, Some)
            };
            (1..1000).filter(types).count()
        };
        assert_eq!((greedy(&one), greedy(&many), greedy(&peer)), (50, 25, 12));
        assert!(types(&mut typing, "r", 5000, true, now));
    }
}
