//! Who is admitted, who gives way to whom, and that every slot is given back.

use super::permit::SocketSlot;
use super::*;
use crate::config::Config;

/// An admission with these limits: total, per address, in HTTP, event streams.
fn admission([connections, per_address, http, streams]: [usize; 4]) -> Arc<Admission> {
    let mut config = Config::from_defaults();
    config.server.connections_max = connections;
    config.server.connections_per_address_max = per_address;
    config.server.http_connections_max = http;
    config.api.streams_max = streams;
    Admission::new(&config, Arc::default())
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn enter(admission: &Arc<Admission>, from: &str) -> Arc<Permit> {
    Arc::new(admission.enter(Some(address(from))).expect("closed without a word"))
}

/// A connection that has asked and is idle.
fn idle(admission: &Arc<Admission>, from: &str) -> Arc<Permit> {
    let permit = enter(admission, from);
    permit.waits(Wait::FirstByte);
    assert!(permit.speaks());
    permit.heard();
    permit.waits(Wait::NextRequest);
    permit
}

/// A connection whose request is being answered.
fn busy(admission: &Arc<Admission>, from: &str) -> Arc<Permit> {
    let permit = enter(admission, from);
    assert!(permit.speaks());
    permit.heard();
    permit
}

/// All counts.
fn counts(admission: &Admission) -> [usize; 6] {
    let state = admission.state();
    let by_address = state.by_address.values().sum();
    let [all, address] = state.beyond;
    [state.open, state.http, all, address, state.streams.taken(), by_address]
}

#[test]
fn a_place_that_is_given_back_can_be_taken_again() {
    let admission = admission([2, 1, 9, 9]);
    let first = busy(&admission, "10.0.0.1");
    assert_eq!(first.beyond(), None);
    let same = enter(&admission, "10.0.0.1");
    assert_eq!(same.beyond(), Some(Limit::Address));
    let second = busy(&admission, "10.0.0.2");
    assert_eq!(second.beyond(), None);
    assert_eq!(enter(&admission, "10.0.0.3").beyond(), Some(Limit::Total));
    drop((first, same));
    assert_eq!(enter(&admission, "10.0.0.1").beyond(), None);
    drop(second);
    assert_eq!(counts(&admission), [0; 6]);
    assert!(admission.state().by_address.is_empty());
}

/// Connecting and disconnecting costs the node as well, and the limit on simultaneous connections
/// does not see it.
#[test]
fn an_address_that_connects_too_fast_is_beyond_and_others_are_not() {
    let mut config = Config::from_defaults();
    (config.server.connects_per_second, config.server.connects_burst) = (1, 3);
    let admission = Admission::new(&config, Arc::default());
    for _ in 0..3 {
        assert_eq!(enter(&admission, "10.0.0.1").beyond(), None);
    }
    assert_eq!(enter(&admission, "10.0.0.1").beyond(), Some(Limit::Connects));
    assert_eq!(enter(&admission, "10.0.0.2").beyond(), None);
    // Clients behind a proxy are checked when their connection is to last.
    let proxied = |client: &str| {
        let permit = admission.enter(None).unwrap();
        assert_eq!(permit.beyond(), None);
        permit.become_socket(address(client)).err()
    };
    assert_eq!(proxied("10.0.0.1"), Some(Limit::Connects));
    assert_eq!(proxied("10.0.0.2"), None);
    assert_eq!(counts(&admission), [0; 6]);
}

#[test]
fn one_ipv6_site_is_one_address() {
    let admission = admission([10, 1, 9, 9]);
    let _first = enter(&admission, "2001:db8::1");
    assert_eq!(enter(&admission, "2001:db8::2").beyond(), Some(Limit::Address));
    assert_eq!(enter(&admission, "2001:db8:0:1::1").beyond(), None);
}

/// A connection that only waits can lose its slot; one whose request is being answered cannot.
#[test]
fn a_full_node_takes_back_the_place_that_was_idle_longest() {
    let admission = admission([3, 9, 9, 9]);
    let busy = busy(&admission, "10.0.0.1");
    let idle = [idle(&admission, "10.0.0.1"), idle(&admission, "10.0.0.1")];
    let newcomer = enter(&admission, "10.0.0.1");
    assert_eq!(newcomer.beyond(), None);
    assert!(idle[0].must_go() && !idle[1].must_go() && !busy.must_go());
    // It goes only after it was asked to, and its slot is counted only once all the while.
    assert_eq!(counts(&admission), [3, 2, 0, 0, 0, 4]);
    drop(idle);
    assert_eq!(counts(&admission), [2, 1, 0, 0, 0, 2]);
    drop((busy, newcomer));
    assert_eq!(counts(&admission), [0; 6]);
}

#[test]
fn silence_gives_way_to_whoever_comes() {
    let admission = admission([2, 9, 9, 9]);
    let silent = [enter(&admission, "10.0.0.1"), enter(&admission, "10.0.0.1")];
    silent.iter().for_each(|silent| silent.waits(Wait::FirstByte));
    let third = enter(&admission, "10.0.0.1");
    third.waits(Wait::FirstByte);
    assert_eq!((third.beyond(), silent[0].must_go()), (None, true));
    assert!(!silent[1].must_go());
}

/// A race: a connection is called at the moment its request arrives. It is told that the node is
/// full, from a slot for refusals, and then that slot is free once, not twice.
#[test]
fn a_connection_called_while_it_speaks_is_beyond() {
    let admission = admission([1, 9, 9, 9]);
    let early = idle(&admission, "10.0.0.1");
    let newcomer = busy(&admission, "10.0.0.2");
    assert!(early.must_go() && early.speaks());
    assert!(!early.must_go() && early.is_last());
    assert_eq!(early.beyond(), Some(Limit::Total));
    assert_eq!(counts(&admission)[..3], [1, 1, 1]);
    early.heard();
    early.waits(Wait::Body);
    assert!(!early.must_go());
    assert_eq!(enter(&admission, "10.0.0.3").beyond(), Some(Limit::Total));
    drop(early);
    assert_eq!(counts(&admission)[..3], [1, 1, 0]);
    drop(newcomer);
    assert_eq!(counts(&admission), [0; 6]);
}

/// The same when the whole head has arrived: that request is answered, but nothing that lasts is
/// opened.
#[test]
fn who_is_called_while_asking_is_answered_and_then_goes() {
    let admission = admission([1, 9, 9, 9]);
    let early = enter(&admission, "10.0.0.1");
    assert!(early.speaks());
    let newcomer = busy(&admission, "10.0.0.2");
    assert!(early.must_go());
    early.heard();
    assert!(!early.must_go() && early.is_last());
    assert_eq!(early.become_socket(address("10.0.0.1")).err(), Some(Limit::Total));
    assert_eq!(early.stream(address("10.0.0.1")).err(), Some(Limit::Total));
    // It may take its time only where other connections beyond the limits do.
    early.waits(Wait::Taking);
    assert_eq!((early.beyond(), early.must_go()), (Some(Limit::Total), false));
    drop((early, newcomer));
    assert_eq!(counts(&admission), [0; 6]);
}

/// Clients that sent part of a head and were displaced before their tasks ran were not counted, and
/// could not be displaced again: they took all files.
#[test]
fn who_speaks_when_called_is_counted_all_the_same() {
    let admission = admission([20, 999, 99, 9]);
    let [beyond_max, _] = admission.beyond_max;
    let mut served = Vec::new();
    for _ in 0..50 {
        // Everything that the accept loop admits before any of them runs.
        let arrived: Vec<_> = (0..100)
            .filter_map(|_| admission.enter(Some(address("10.0.0.1"))).ok().map(Arc::new))
            .collect();
        arrived.iter().for_each(|arrived| arrived.waits(Wait::FirstByte));
        assert!(admission.state().leaving <= admission.leaving_max);
        served.extend(arrived.into_iter().filter(|arrived| arrived.speaks()));
        served.retain(|served| !served.must_go());
        assert!(served.len() <= 20 + beyond_max, "{} are served", served.len());
    }
    let become_socket = |permit: &Arc<Permit>| {
        permit.heard();
        permit.become_socket(address("10.0.0.1")).ok()
    };
    let within = served.iter().filter(|permit| permit.beyond().is_none());
    let sockets: Vec<_> = within.filter_map(become_socket).collect();
    assert!(sockets.len() <= 20, "{} sockets", sockets.len());
    drop((served, sockets));
    assert_eq!((counts(&admission), admission.state().leaving), ([0; 6], 0));
}

/// A connection that was called and has no slot to wait in goes when told to.
#[test]
fn who_is_called_and_has_nowhere_to_wait_is_out() {
    let admission = admission([1, 99, 9, 9]);
    let early = enter(&admission, "10.0.0.1");
    assert!(early.speaks());
    let _newcomer = busy(&admission, "10.0.0.2");
    early.heard();
    let told: Vec<_> =
        (0..admission.beyond_max[0]).map(|_| enter(&admission, "10.0.0.3")).collect();
    early.waits(Wait::Body);
    assert!(early.must_go());
    early.heard();
    assert!(!early.must_go());
    drop((early, told));
    assert_eq!(counts(&admission), [1, 1, 0, 0, 0, 1]);
}

#[test]
fn who_is_slow_in_http_gives_way_in_order() {
    let admission = admission([99, 99, 3, 9]);
    let head = enter(&admission, "10.0.0.1");
    assert!(head.speaks());
    let body = busy(&admission, "10.0.0.1");
    body.waits(Wait::Body);
    let idle = idle(&admission, "10.0.0.1");
    // A silent connection is not in HTTP, so displacing it frees no slot there.
    let silent = enter(&admission, "10.0.0.1");
    silent.waits(Wait::FirstByte);
    let mut busy_ones = Vec::new();
    for slow in [&idle, &head, &body] {
        assert!(!slow.must_go());
        busy_ones.push(busy(&admission, "10.0.0.2"));
        assert!(slow.must_go());
    }
    assert!(!silent.must_go());
    // The next one is refused, and takes nobody's slot.
    let told = enter(&admission, "10.0.0.2");
    assert!(told.beyond().is_none() && told.speaks());
    assert_eq!(told.beyond(), Some(Limit::Http));
    drop((head, body, idle, silent, busy_ones, told));
    assert_eq!(counts(&admission), [0; 6]);
}

/// It was in no list when the answer before it was taken, however slowly the body arrived.
#[test]
fn a_slow_body_behind_an_answer_that_is_not_taken_gives_way() {
    let admission = admission([9, 9, 1, 9]);
    for is_stuck in [true, false] {
        let slow = busy(&admission, "10.0.0.1");
        slow.takes_nothing(true);
        slow.heard();
        slow.waits(Wait::Body);
        // Again and again, until it is taken.
        [true, false].into_iter().for_each(|is_news| slow.takes_nothing(is_news));
        if !is_stuck {
            slow.takes();
        }
        let newcomer = busy(&admission, "10.0.0.2");
        assert!(newcomer.beyond().is_none() && slow.must_go());
        drop((slow, newcomer));
        assert_eq!(counts(&admission), [0; 6]);
    }
    // A client that took some just now may go on; one that waits for nothing else is in this list.
    let taking = busy(&admission, "10.0.0.1");
    taking.takes_nothing(false);
    assert_eq!(busy(&admission, "10.0.0.2").beyond(), Some(Limit::Http));
    assert!(taking.standing().is_taking);
    taking.takes();
    assert!(!taking.standing().is_taking);
}

#[test]
fn the_newest_is_told_and_the_longest_silent_is_dropped() {
    let admission = admission([1, 1, 9, 9]);
    let _keeper = busy(&admission, "10.0.0.1");
    for (from, limit) in [("10.0.0.2", Limit::Total), ("10.0.0.1", Limit::Address)] {
        let max = admission.beyond_max[limit.class()];
        let silent: Vec<_> = (0..max).map(|_| enter(&admission, from)).collect();
        silent.iter().for_each(|silent| silent.waits(Wait::FirstByte));
        let newest = enter(&admission, from);
        assert_eq!(newest.beyond(), Some(limit));
        assert!(silent[0].must_go() && !silent[1].must_go());
        // Those being answered keep their slots; then there is none left.
        drop(silent);
        newest.heard();
        let answered: Vec<_> = (1..max).map(|_| enter(&admission, from)).collect();
        assert!(admission.enter(Some(address(from))).is_err());
        drop((answered, newest));
    }
    assert_eq!(counts(&admission), [1, 1, 0, 0, 0, 1]);
}

#[test]
fn a_websocket_keeps_its_place_and_leaves_http() {
    let admission = admission([2, 2, 1, 9]);
    let permit = busy(&admission, "10.0.0.1");
    let place = permit.become_socket(address("10.0.0.1")).ok().unwrap();
    drop(permit);
    assert_eq!(counts(&admission), [1, 0, 0, 0, 0, 1]);
    assert_eq!(busy(&admission, "10.0.0.1").beyond(), None);
    drop(place);
    assert_eq!(counts(&admission), [0; 6]);
}

/// A proxy's connections count for nobody; what lasts on them counts for their clients.
#[test]
fn what_comes_by_way_of_a_proxy_counts_for_its_client() {
    let admission = admission([9, 1, 9, 9]);
    let by_proxy = || {
        let permit = Arc::new(admission.enter(None).unwrap());
        assert!(permit.speaks());
        permit.heard();
        permit
    };
    let permits: Vec<_> = (0..5).map(|_| by_proxy()).collect();
    assert_eq!(counts(&admission), [5, 5, 0, 0, 0, 0]);
    let socket = permits[0].become_socket(address("2001:db8::1")).ok().unwrap();
    assert_eq!(permits[1].become_socket(address("2001:db8::2")).err(), Some(Limit::Address));
    assert_eq!(permits[2].stream(address("2001:db8::3")).err(), Some(Limit::Address));
    let stream = permits[3].stream(address("10.0.0.1")).ok().unwrap();
    drop((permits, socket, stream));
    assert_eq!(counts(&admission), [0; 6]);
}

#[test]
fn nobody_has_more_streams_than_are_still_free() {
    let admission = admission([99, 99, 1, 10]);
    let open = |from: &str| {
        let permit = busy(&admission, from);
        permit.stream(address(from)).ok().map(|stream| (permit, stream))
    };
    let mut first: Vec<_> = (0..20).filter_map(|_| open("10.0.0.1")).collect();
    let second: Vec<_> = (0..20).filter_map(|_| open("10.0.0.2")).collect();
    assert_eq!((first.len(), second.len()), (5, 2));
    assert_eq!(counts(&admission)[1], 0, "streams are not in HTTP");
    first.truncate(1);
    // HTTP continues after a stream, and may have one too many for a moment.
    let (permit, stream) = first.pop().unwrap();
    drop(stream);
    assert_eq!(counts(&admission)[1], 1);
    drop((permit, second));
    assert_eq!(counts(&admission), [0; 6]);
}

mod any_course_of_events {
    use proptest::prelude::*;

    use super::*;

    const CONNECTIONS_MAX: usize = 6;
    const PER_ADDRESS_MAX: usize = 4;
    const HTTP_MAX: usize = 3;
    const STREAMS_MAX: usize = 4;

    /// What can happen to a connection.
    #[derive(Clone, Debug)]
    enum Step {
        Enter(u8),
        Wait(Wait),
        Speak,
        Heard,
        Stream,
        StreamEnds,
        Settle,
        /// It ends, if it was called, or in any case.
        GoIfCalled,
        Go,
    }

    /// A step, and which of several connections it concerns.
    fn step() -> impl Strategy<Value = (usize, Step)> {
        use Wait::{Body, FirstByte, NextRequest, Taking};
        let wait = prop::sample::select(vec![FirstByte, NextRequest, Body, Taking]);
        let step = prop_oneof![
            6 => (0..3_u8).prop_map(Step::Enter),
            4 => wait.prop_map(Step::Wait),
            4 => Just(Step::Speak),
            2 => Just(Step::Heard),
            1 => Just(Step::Stream),
            1 => Just(Step::StreamEnds),
            1 => Just(Step::Settle),
            2 => Just(Step::GoIfCalled),
            1 => Just(Step::Go),
        ];
        (0..12_usize, step)
    }

    #[derive(Default)]
    struct Guest {
        permit: Option<Arc<Permit>>,
        streaming: Option<Streaming>,
        place: Option<SocketSlot>,
    }

    impl Guest {
        fn step(&mut self, admission: &Arc<Admission>, step: Step) {
            let Some(permit) = self.permit.clone() else {
                match step {
                    Step::Enter(from) if self.place.is_none() => {
                        // Without an address: through a proxy.
                        let from = (from > 0).then(|| IpAddr::from([10, 0, 0, from]));
                        self.permit = admission.enter(from).ok().map(Arc::new);
                    }
                    Step::Go => self.place = None,
                    _ => {}
                }
                return;
            };
            let (in_http, is_stream) = (permit.standing().in_http, self.streaming.is_some());
            match step {
                Step::Wait(wait) if !is_stream => {
                    let is_first = wait == Wait::FirstByte;
                    if wait == Wait::Taking || is_first != in_http {
                        permit.waits(wait);
                    }
                }
                Step::Speak if !is_stream && !permit.speaks() => *self = Self::default(),
                Step::Heard => permit.heard(),
                Step::Stream if in_http && !is_stream => {
                    permit.heard();
                    self.streaming = permit.stream(IpAddr::from([10, 0, 1, 1])).ok();
                }
                Step::StreamEnds => self.streaming = None,
                Step::Settle if !is_stream && permit.beyond().is_none() => {
                    permit.heard();
                    self.place = permit.become_socket(IpAddr::from([10, 0, 2, 2])).ok();
                    self.permit = self.permit.take().filter(|_| self.place.is_none());
                }
                Step::GoIfCalled if permit.must_go() => *self = Self::default(),
                Step::Go => *self = Self::default(),
                _ => {}
            }
        }
    }

    proptest! {
        /// Whatever connections do (come, wait, are called, become sockets and streams, go), no
        /// limit is exceeded and all slots are given back.
        #[test]
        fn keeps_the_limits_and_gives_all_places_back(
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let limits = [CONNECTIONS_MAX, PER_ADDRESS_MAX, HTTP_MAX, STREAMS_MAX];
            let admission = admission(limits);
            let mut guests: Vec<Guest> = (0..12).map(|_| Guest::default()).collect();
            for (place, step) in steps {
                guests[place].step(&admission, step);
                let [open, _, all, address, streams, _] = counts(&admission);
                prop_assert!(open <= CONNECTIONS_MAX && streams <= STREAMS_MAX);
                let beyond_max = admission.beyond_max;
                prop_assert!(all <= beyond_max[0] && address <= beyond_max[1]);
                // Every connection is counted, so the node's files suffice.
                let here = guests.iter().filter(|it| it.permit.is_some() || it.place.is_some());
                let state = admission.state();
                prop_assert_eq!(here.count(), open + all + address + state.leaving);
                prop_assert!(state.leaving <= admission.leaving_max);
                prop_assert!(state.by_address.values().all(|count| *count <= PER_ADDRESS_MAX));
            }
            drop(guests);
            prop_assert_eq!(counts(&admission), [0; 6]);
            let state = admission.state();
            prop_assert!(state.by_address.is_empty() && state.leaving == 0);
        }
    }
}
