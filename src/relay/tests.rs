//! Order, holes, and what is let go.

use super::*;
use crate::budget::Budgets;
use crate::config::Config;
use crate::model::{Event, EventKind, Text, Timestamp, UserId};
use crate::protocol::command::Verb;
use crate::rules::Write;

fn name() -> RoomName {
    RoomName::stored("r")
}

fn entry(seq: u64) -> Entry {
    let event = Event {
        room: name(),
        seq: Seq(seq),
        user: UserId::stored("u"),
        client_id: None,
        at: Timestamp(0),
        kind: EventKind::Message,
        text: Some(Text::stored("x")),
        data: None,
    };
    Entry::new(&event, Instant::now())
}

/// A relay on a log whose room "r" has `len` events; holes wait for `hold_ms`.
async fn relay(path: &std::path::Path, len: usize, hold_ms: u64) -> Arc<Relay> {
    let mut config = Config::from_defaults();
    config.log.path = path.join("verbatim.db").display().to_string();
    (config.hub.room_linger_ms, config.hub.hold_ms) = (0, hold_ms);
    let log = Log::open(&config).await.unwrap();
    let write = |verb| Write { room: name(), caller: UserId::stored("u"), id: None, verb };
    let mut writes = vec![write(Verb::Create)];
    writes.resize(len, write(Verb::Message(Text::stored("x"))));
    log.appender().append(&writes, None).await.unwrap();
    let metrics = Arc::new(Metrics::new());
    let tasks = Tasks::new(metrics.panics.clone());
    let budgets = Budgets::new(&Config::from_defaults());
    let hub = Hub::new(config.hub.clone(), budgets, metrics.clone(), tasks.clone());
    Relay::new(hub, log, config.hub, metrics, tasks)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "{what}");
}

#[tokio::test]
async fn events_in_any_order_leave_in_order_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(folder.path(), 20, 1).await;
    let room = relay.activate(&name()).await.unwrap();
    assert_eq!(room.edge(), Some(Seq(20)));
    for seq in [22, 24, 21, 23, 22, 20] {
        relay.deliver(&name(), &[entry(seq)]);
    }
    assert_eq!(room.edge(), Some(Seq(24)));
}

#[tokio::test]
async fn a_hole_is_repaired_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(folder.path(), 20, 1).await;
    let room = relay.hub.open(&name());
    room.set_edge(Seq(5));
    relay.deliver(&name(), &[entry(8)]);
    // The page that closes the hole also brings later events.
    until("the edge is 20", || room.edge() == Some(Seq(20))).await;
    relay.hint(&name(), Seq(20));
    assert_eq!(room.edge(), Some(Seq(20)));
}

/// The log failed those who wanted to follow it, and they went away.
#[tokio::test]
async fn a_room_that_was_never_activated_is_not_held_forever() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(folder.path(), 20, 1).await;
    let room = relay.hub.open(&name());
    relay.deliver(&name(), &[entry(8)]);
    until("nothing is held", || relay.holds_len.load(Ordering::SeqCst) == 0).await;
    assert_eq!(room.edge(), Some(Seq(20)));
}

#[tokio::test]
async fn an_event_missing_from_the_log_is_not_asked_for_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(folder.path(), 20, 1).await;
    let room = relay.activate(&name()).await.unwrap();
    relay.deliver(&name(), &[entry(1000)]);
    until("nothing is held", || relay.holds_len.load(Ordering::SeqCst) == 0).await;
    // Once with the event at the edge, and once without.
    assert_eq!(relay.metrics.repairs.get(), 2);
    relay.deliver(&name(), &[entry(21)]);
    assert_eq!(room.edge(), Some(Seq(21)));
}

/// Its followers would wait forever; and the log must not be asked forever.
#[tokio::test]
async fn a_room_whose_hole_cannot_be_read_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(folder.path(), 20, 1).await;
    let shell = rusqlite::Connection::open(folder.path().join("verbatim.db")).unwrap();
    shell.execute("update events set data = 'bad' where seq = 8", []).unwrap();
    let room = relay.hub.open(&name());
    room.set_edge(Seq(5));
    relay.deliver(&name(), &[entry(10)]);
    until("it is let go", || relay.hub.room(&name()).is_none()).await;
    until("nothing is held", || relay.holds_len.load(Ordering::SeqCst) == 0).await;
    assert!(room.is_closed());
    assert_eq!(room.edge(), Some(Seq(7)), "what is before the damage was there");
    // A late event.
    relay.hold(&room, &[entry(11)]);
    assert_eq!(relay.holds_len.load(Ordering::SeqCst), 0);

    let anew = relay.activate(&name()).await.unwrap();
    assert_eq!(anew.edge(), Some(Seq(20)));
    let checked = relay.check(&anew, Seq(7)).await;
    assert!(matches!(checked, Err(LogError::Damaged(_))), "{checked:?}");
    relay.check(&anew, Seq(8)).await.unwrap();
    shell.execute("update events set data = null where seq = 8", []).unwrap();
    relay.check(&anew, Seq(7)).await.unwrap();
    assert_eq!(relay.sick.ahead_of(&name(), Seq(0)), None);
}

/// Below the events in memory, a follower's events may differ from the log's.
#[tokio::test]
async fn how_far_a_log_went_back_is_known_only_from_equal_events() {
    for (same, known) in [(0, 0), (1, 19)] {
        let folder = tempfile::tempdir().unwrap();
        let relay = relay(folder.path(), 20, 1).await;
        let room = relay.hub.open(&name());
        room.set_edge(Seq(18));
        let stored = relay.log.read(&name(), Seq(18), 2).await.unwrap();
        let mut entries: Vec<_> = stored.iter().map(|it| Entry::new(it, Instant::now())).collect();
        entries[same..].fill_with(|| entry(0));
        (entries[0].seq, entries[1].seq) = (Seq(19), Seq(20));
        relay.deliver_heard(&name(), &entries);
        relay.suspect(&room);
        until("it is let go", || room.is_closed()).await;
        let anew = relay.hub.open(&name());
        assert_eq!(anew.known(Seq(20), Instant::now()), Seq(known));
    }
}

/// Old events that come late to a room whose log went back are another reason to suspect it.
#[tokio::test]
async fn a_log_that_goes_back_twice_went_back_to_the_lower_seq() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(folder.path(), 20, 1).await;
    for (to, known) in [(7, 7), (12, 7), (5, 5)] {
        let room = relay.hub.open(&name());
        assert!(relay.hub.went_back(&room, Seq(to)));
        assert_eq!(relay.hub.open(&name()).known(Seq(20), Instant::now()), Seq(known));
    }
}

/// The room would stay frozen, and its followers would be refused.
#[tokio::test]
async fn a_late_suspicion_of_a_room_that_was_let_go_does_not_hide_one_of_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(folder.path(), 20, 1).await;
    let room = relay.hub.open(&name());
    room.set_edge(Seq(25));
    assert!(relay.hub.went_back(&room, Seq(5)));
    let next = relay.hub.open(&name());
    next.set_edge(Seq(20));
    relay.suspect(&room);
    next.freeze();
    relay.suspect(&next);
    until("it is known to be well", || !next.is_frozen()).await;
    until("nobody looks any more", || relay.suspects().is_empty()).await;
}

/// Lanes and the feed deliver at the same time. The first finds a gap, and the second closes it, at
/// once: the next repair is a minute away.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_deliveries_leave_no_hole() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(folder.path(), 1, 60_000).await;
    let room = relay.activate(&name()).await.unwrap();
    let runtime = tokio::runtime::Handle::current();
    const ROUNDS: u64 = 5000;
    let both = std::sync::Barrier::new(2);
    let deliver = |first: u64| {
        let _runtime = runtime.enter();
        for round in 0..ROUNDS {
            both.wait();
            relay.deliver(&name(), &[entry(first + 2 * round)]);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| deliver(2));
        scope.spawn(|| deliver(3));
    });
    assert_eq!(room.edge(), Some(Seq(1 + 2 * ROUNDS)));
    assert_eq!(relay.metrics.repairs.get(), 0);
}

#[tokio::test]
async fn a_room_stays_in_use_until_its_hole_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(folder.path(), 10, 60_000).await;
    relay.hub.open(&name()).set_edge(Seq(5));
    relay.deliver(&name(), &[entry(8)]);
    // When a room that was opened later has been let go twice, a whole sweep has passed over the
    // first.
    let other = RoomName::stored("other");
    for _ in 0..2 {
        relay.hub.open(&other);
        until("the other room is let go", || relay.hub.room(&other).is_none()).await;
    }
    let room = relay.hub.room(&name());
    assert_eq!(room.and_then(|room| room.edge()), Some(Seq(5)));
}
