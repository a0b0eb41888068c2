//! What watchers are told, as tables.

mod property;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits { settle: SECOND, lease: 15 * SECOND, listed_max: 4, rooms_max: 3 }
}

fn user(id: u8) -> UserId {
    UserId::stored(&id.to_string())
}

fn room(n: u8) -> RoomName {
    RoomName::stored(&format!("r{n}"))
}

fn crowd(users: &[u8]) -> Crowd {
    Crowd::of(users.iter().map(|id| user(*id)).collect(), limits().listed_max)
}

/// Each user with one socket.
fn seen(users: &[u8], watched: bool) -> Seen {
    Seen { crowd: crowd(users), faces: users.len(), watched }
}

/// One room on one node, with a clock.
struct Table {
    presence: Presence,
    now: Instant,
}

impl Table {
    /// Somebody asks, and watches from then on.
    fn watched(users: &[u8]) -> Self {
        let mut table = Self { presence: Presence::new(limits()), now: Instant::now() };
        assert!(table.presence.want(&room(0), &[], table.now));
        assert_eq!(table.asked(users, None), crowd(users));
        table
    }

    fn seen(&mut self, users: &[u8]) {
        self.presence.seen(&room(0), seen(users, true), false, self.now);
    }

    /// The same, for somebody who is online as this user. Returns the answer.
    fn asked(&mut self, users: &[u8], asks: Option<u8>) -> Crowd {
        self.presence.seen(&room(0), seen(users, true), true, self.now);
        self.presence.snapshot(&room(0), asks.map(user).as_ref()).unwrap()
    }

    fn hear(&mut self, peer: &str, users: &[u8]) {
        let said = Said { online: vec![(room(0), crowd(users))], ..Said::default() };
        self.presence.hear(peer, said, self.now);
    }

    /// What watchers were told in that time, checked ten times a second.
    fn pass(&mut self, ms: u64) -> Vec<What> {
        let mut told = Vec::new();
        for _ in 0..ms / 100 {
            self.now += Duration::from_millis(100);
            told.extend(self.presence.tick(self.now).0.into_iter().map(|tell| tell.what));
        }
        told
    }
}

fn difference(online: &[u8], offline: &[u8]) -> What {
    let users = |ids: &[u8]| ids.iter().map(|id| user(*id)).collect();
    What::Difference { online: users(online), offline: users(offline) }
}

#[test]
fn who_comes_is_told_when_it_has_settled_and_who_goes_as_well() {
    let mut table = Table::watched(&[1]);
    table.seen(&[1, 2]);
    assert_eq!(table.pass(900), []);
    assert_eq!(table.pass(200), [difference(&[2], &[])]);
    table.seen(&[2]);
    assert_eq!(table.pass(1900), []);
    assert_eq!(table.pass(200), [difference(&[], &[1])]);
    assert_eq!(table.pass(60_000), []);
}

#[test]
fn who_comes_and_goes_within_a_second_was_never_there() {
    let mut table = Table::watched(&[1]);
    for _ in 0..10 {
        table.seen(&[1, 2]);
        assert_eq!(table.pass(900), []);
        table.seen(&[1]);
        assert_eq!(table.pass(100), []);
        table.seen(&[]);
        assert_eq!(table.pass(900), []);
        table.seen(&[1]);
        assert_eq!(table.pass(100), []);
    }
}

#[test]
fn however_many_come_there_is_one_frame_a_second() {
    let mut table = Table::watched(&[]);
    let mut frames = 0;
    for tenth in 0..200_u8 {
        table.seen(&[tenth, tenth.wrapping_add(1)]);
        table.hear("n2", &[tenth.wrapping_add(100)]);
        frames += table.pass(100).len();
    }
    assert!((10..=20).contains(&frames), "{frames}");
}

#[test]
fn whoever_was_shown_to_one_who_asked_is_told_of_when_they_are_gone() {
    let mut table = Table::watched(&[1]);
    // 2 comes, somebody asks and is shown 2, and 2 goes before anyone else was told.
    table.hear("n2", &[2]);
    assert_eq!(table.asked(&[1], None), crowd(&[1, 2]));
    table.hear("n2", &[]);
    assert_eq!(table.pass(1000), [difference(&[], &[2])]);
}

#[test]
fn whoever_asks_is_there_themselves_and_sees_who_came_a_moment_ago() {
    let mut table = Table::watched(&[1]);
    assert_eq!(table.asked(&[1, 2], Some(3)), crowd(&[1, 2, 3]), "the look is older than 3");
    table.seen(&[1, 2, 3]);
    assert_eq!(table.pass(5000), [difference(&[2, 3], &[])]);
}

#[test]
fn nobody_hears_of_a_page_that_is_loaded_again_because_somebody_asks_meanwhile() {
    let mut table = Table::watched(&[1, 2]);
    table.seen(&[1]);
    table.pass(300);
    assert_eq!(table.asked(&[1], None), crowd(&[1, 2]), "as all others believe");
    assert_eq!(table.pass(300), []);
    table.seen(&[1, 2]);
    assert_eq!(table.pass(5000), []);
    // A user who does not come back is gone after two seconds, however often somebody asks.
    for _ in 0..19 {
        assert_eq!(table.asked(&[1], None), crowd(&[1, 2]));
        assert_eq!(table.pass(100), []);
    }
    assert_eq!(table.pass(200), [difference(&[], &[2])]);
    assert_eq!(table.asked(&[1], None), crowd(&[1]));
}

#[test]
fn too_many_are_counted_and_named_again_when_a_tenth_is_free() {
    let mut table = Table::watched(&[1]);
    table.hear("n2", &[2, 3, 4]);
    assert_eq!(table.pass(1000), [difference(&[2, 3, 4], &[])]);
    table.hear("n3", &[5]);
    assert_eq!(table.pass(1000), [What::Count]);
    assert_eq!(table.presence.snapshot(&room(0), None), Some(Crowd::Counted(5)));
    table.hear("n4", &[6, 7, 8, 9, 10]);
    assert_eq!(table.pass(1000), [What::Count]);
    // Four, and five that were only counted, one of whom may be one of the four.
    assert_eq!(table.presence.snapshot(&room(0), None), Some(Crowd::Counted(10)));
    table.hear("n4", &[]);
    table.hear("n3", &[]);
    assert_eq!(table.pass(1000), [What::Whole], "4 of 4, of which a tenth is none");
}

#[test]
fn a_number_that_nobody_can_have_counted_does_no_harm() {
    let mut table = Table::watched(&[1]);
    for peer in ["n2", "n3"] {
        let said = Said { online: vec![(room(0), Crowd::Counted(u64::MAX))], ..Said::default() };
        table.presence.hear(peer, said, table.now);
    }
    assert_eq!(table.asked(&[1], Some(2)), Crowd::Counted(u64::MAX));
    assert_eq!(table.pass(1000), [What::Count]);
}

#[test]
fn for_those_who_ask_it_is_looked_as_often_as_the_sockets_of_the_room_allow() {
    let mut table = Table::watched(&[1]);
    // One user with fifty thousand sockets.
    let crowded = Seen { faces: 50_000, ..seen(&[1], true) };
    table.presence.seen(&room(0), crowded, false, table.now);
    let looks = |table: &Table| table.presence.may_look(&room(0), table.now);
    for _ in 0..10 {
        assert!(!looks(&table));
        table.now += SECOND / 10;
    }
    assert!(looks(&table));
    assert!(!table.presence.may_look(&room(1), table.now), "it is kept nowhere");
    table.presence.want(&room(1), &[], table.now);
    assert!(table.presence.may_look(&room(1), table.now), "nobody ever did");
}

#[test]
fn names_that_are_too_long_for_a_frame_are_counted() {
    let long = |n: usize| UserId::stored(&format!("{n:0128}"));
    let users: BTreeSet<_> = (0..600).map(long).collect();
    assert_eq!(Crowd::of(users, 1000), Crowd::Counted(600));
    let users: BTreeSet<_> = (0..400).map(long).collect();
    assert_eq!(Crowd::of(users.clone(), 1000), Crowd::Listed(users));
}

#[test]
fn the_users_of_a_silent_node_are_offline_when_its_lease_is_over() {
    let mut table = Table::watched(&[1]);
    table.hear("n2", &[2]);
    table.hear("n3", &[2, 3]);
    assert_eq!(table.pass(1000), [difference(&[2, 3], &[])]);
    assert_eq!(table.pass(9000), []);
    table.hear("n2", &[2]);
    assert_eq!(table.pass(6000), [difference(&[], &[3])], "2 is still by way of n2");
    assert_eq!(table.pass(10_000), [difference(&[], &[2])]);
}

#[test]
fn the_users_of_a_node_that_stops_have_a_moment_to_come_back() {
    let mut table = Table::watched(&[1]);
    table.hear("n2", &[2, 3]);
    table.pass(1000);
    table.presence.hear("n2", Said { gone: true, ..Said::default() }, table.now);
    assert_eq!(table.pass(1000), []);
    table.hear("n3", &[2]);
    assert_eq!(table.pass(3000), [difference(&[], &[3])]);
}

#[test]
fn a_room_that_nobody_asks_about_any_more_is_forgotten_and_there_are_never_too_many() {
    let mut presence = Presence::new(limits());
    let mut now = Instant::now();
    for n in 0..3 {
        assert!(presence.want(&room(n), &[], now));
    }
    assert!(!presence.want(&room(3), &[], now));
    assert!(presence.want(&room(0), &[], now));
    let said = Said { watch: vec![room(4), room(0)], ..Said::default() };
    presence.hear("n2", said, now);
    assert_eq!((presence.len(), presence.is_kept(&room(4))), (3, false));
    now += 15 * SECOND;
    presence.tick(now);
    assert_eq!(presence.len(), 0);
}

#[test]
fn the_room_is_whole_when_every_peer_has_answered() {
    let mut table = Table::watched(&[1]);
    let is_whole = |table: &Table| table.presence.is_whole(&room(0), table.now);
    assert!(is_whole(&table), "there are no peers");
    table.presence.hear("n2", Said::default(), table.now);
    table.presence.hear("n3", Said::default(), table.now);
    table.hear("n2", &[]);
    assert!(!is_whole(&table));
    table.hear("n3", &[3]);
    assert!(is_whole(&table));
    table.pass(15_000);
    assert!(is_whole(&table), "the dead are not waited for");
}

#[test]
fn those_who_ask_wait_together_and_once_for_a_peer_that_does_not_answer() {
    let mut table = Table::watched(&[1]);
    let gap = |table: &mut Table, n| table.presence.gap(&room(n), table.now);
    assert_eq!(gap(&mut table, 0), None);
    table.presence.hear("n2", Said::default(), table.now);
    table.presence.hear("n3", Said::default(), table.now);
    let until = table.now + GATHER_TIMEOUT;
    assert_eq!(gap(&mut table, 0), Some(Gap { ask: true, until }));
    table.now = until - Duration::from_millis(1);
    assert_eq!(gap(&mut table, 0), Some(Gap { ask: false, until }));
    table.hear("n2", &[2]);
    assert_eq!(gap(&mut table, 0), Some(Gap { ask: false, until }));
    table.now = until;
    table.presence.give_up(&room(0));
    assert_eq!(gap(&mut table, 0), None);
    // In the next room, only the other one is waited for.
    table.presence.want(&room(1), &[], table.now);
    let until = table.now + GATHER_TIMEOUT;
    assert_eq!(gap(&mut table, 1), Some(Gap { ask: true, until }));
    let said = Said { online: vec![(room(1), crowd(&[]))], ..Said::default() };
    table.presence.hear("n2", said, table.now);
    assert_eq!(gap(&mut table, 1), None);
    // That it lives does not mean that it answers. Once it does, it is like any other.
    table.presence.hear("n3", Said::default(), table.now);
    assert_eq!(gap(&mut table, 1), None);
    table.hear("n3", &[3]);
    assert_eq!(gap(&mut table, 0), None);
    assert_eq!(gap(&mut table, 1), Some(Gap { ask: false, until }));
    table.now = until;
    assert!(gap(&mut table, 1).is_some_and(|gap| gap.ask), "nobody gave up");
    table.presence.give_up(&room(1));
    assert_eq!(gap(&mut table, 1), None);
    table.presence.forgive();
    assert!(gap(&mut table, 1).is_some(), "it may not have heard");
}

#[test]
fn what_nobody_has_looked_at_is_not_told_as_nobody() {
    let (mut presence, now) = (Presence::new(limits()), Instant::now());
    let watch = Said { watch: vec![room(0)], ..Said::default() };
    presence.hear("n2", watch.clone(), now);
    assert_eq!(presence.rooms(), [(room(0), true)]);
    assert_eq!(presence.round(now).online, []);
    assert_eq!(presence.tick(now).1, []);
    presence.seen(&room(0), seen(&[1], false), false, now);
    assert_eq!(presence.rooms(), [(room(0), false)]);
    assert_eq!(presence.tick(now).1, [(room(0), crowd(&[1]))]);
    assert_eq!(presence.round(now).online, [(room(0), crowd(&[1]))]);
    // n2 is away for longer than a lease and comes back. That nobody is there is news as well.
    let later = now + 2 * limits().lease;
    presence.tick(later);
    presence.hear("n2", watch, later);
    assert_eq!(presence.round(later).online, []);
    presence.seen(&room(0), seen(&[], false), false, later);
    assert_eq!(presence.tick(later).1, [(room(0), crowd(&[]))]);
}

#[test]
fn one_who_asks_about_every_room_leaves_places_for_the_others() {
    let (limits, now) = (Limits { rooms_max: 100, ..limits() }, Instant::now());
    let mut presence = Presence::new(limits);
    let address = |n: u8| Party::Address([10, 0, 0, n].into());
    // Under one name, under many of one address.
    let one = |n| [address(n), Party::User(user(0))];
    let many = |n| [address(200), Party::User(user(n))];
    let mut asks = |parties: &dyn Fn(u8) -> [Party; 2], from: u8| {
        (from..from + 80).filter(|n| presence.want(&room(*n), &parties(*n), now)).count()
    };
    assert_eq!((asks(&one, 0), asks(&many, 80)), (50, 25));
    // A peer has watched rooms of its own.
    let said = Said { watch: (160..240).map(room).collect(), ..Said::default() };
    presence.hear("n2", said, now);
    assert_eq!(presence.len(), 50 + 25 + 12);
    assert!(presence.want(&room(255), &many(255)[1..], now));
    presence.tick(now + 15 * SECOND);
    assert_eq!((presence.len(), presence.shares.taken()), (0, 0));
}
