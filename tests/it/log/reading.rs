//! How far members have read, and what they have not, on any log: against a count of every event.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use verbatim::log::{Log, Mark};
use verbatim::model::{Event, EventKind, Seq};
use verbatim::rules::{Reading, Write};

use super::appending::Appending;
use super::suite::{create, join, leave, room, say, user};

pub async fn suite(log: &Log) {
    marks_move_forward_only_and_not_beyond_the_end(log).await;
    marks_of_those_who_are_no_members_are_nobodys(log).await;
    whoever_joins_again_has_read_up_to_there(log).await;
    unread_is_what_a_count_of_every_event_says(log).await;
}

fn mark(room_name: &str, id: &str, seq: u64) -> Mark {
    Mark { room: room(room_name), user: user(id), seq: Seq(seq) }
}

async fn moved(log: &Log, marks: &[Mark]) -> Vec<Mark> {
    let marked = log.marker().mark(marks).await.unwrap();
    assert_eq!(marked.busy, []);
    marked.moved
}

async fn reading(log: &Log, room_name: &str, id: &str) -> Option<Reading> {
    let standing = log.standing(&room(room_name), &user(id)).await.unwrap().unwrap();
    // A list says the same.
    let listed = log.rooms(Some(&user(id)), None, 10_000).await.unwrap();
    let listed = listed.into_iter().find(|it| it.room == room(room_name)).unwrap();
    assert_eq!(listed.reading, standing.reading, "{room_name} {id}");
    standing.reading
}

async fn marks_move_forward_only_and_not_beyond_the_end(log: &Log) {
    let mut batch = vec![create("marks", "1")];
    batch.extend((2..=9).map(|n| say("marks", "1", "", &n.to_string())));
    log.appender().append_all(&batch).await.unwrap();
    let of = async || reading(log, "marks", "1").await.unwrap();
    assert_eq!(of().await, Reading { read: Seq(1), unread: 8 });
    for (said, stored, unread) in [(5, 5, 4), (3, 5, 4), (5, 5, 4), (6, 6, 3), (1000, 9, 0)] {
        let before = of().await.read;
        let told = moved(log, &[mark("marks", "1", said)]).await;
        let forward = (stored > before.0).then(|| mark("marks", "1", stored));
        assert_eq!(told, Vec::from_iter(forward), "{said}");
        assert_eq!(of().await, Reading { read: Seq(stored), unread }, "{said}");
    }
    // Being ahead of the room once does not make later messages read.
    log.appender().append_all(&[say("marks", "1", "", "10")]).await.unwrap();
    assert_eq!(of().await, Reading { read: Seq(9), unread: 1 });
    assert_eq!(moved(log, &[mark("marks", "1", u64::MAX)]).await, [mark("marks", "1", 10)]);
}

async fn marks_of_those_who_are_no_members_are_nobodys(log: &Log) {
    let batch = [create("marks, none", "1"), join("marks, none", "2"), leave("marks, none", "2")];
    log.appender().append_all(&batch).await.unwrap();
    let marks = [
        mark("marks, none", "2", 1),
        mark("marks, none", "3", 1),
        mark("marks, nowhere", "1", 1),
        mark("marks, none", "1", 3),
    ];
    assert_eq!(moved(log, &marks).await, [mark("marks, none", "1", 3)]);
    assert_eq!(reading(log, "marks, none", "2").await, None);
    assert_eq!(moved(log, &[]).await, []);
    // Nobody asks: nobody's.
    let listed = log.rooms(None, None, 10_000).await.unwrap();
    assert!(listed.iter().all(|summary| summary.reading.is_none()));
}

async fn whoever_joins_again_has_read_up_to_there(log: &Log) {
    let mut appender = log.appender();
    let batch = [create("again", "1"), join("again", "2"), say("again", "1", "", "3")];
    appender.append_all(&batch).await.unwrap();
    moved(log, &[mark("again", "2", 3)]).await;
    // In one batch, which is one change of the row, and in two.
    appender.append_all(&[leave("again", "2"), join("again", "2")]).await.unwrap();
    assert_eq!(reading(log, "again", "2").await, Some(Reading { read: Seq(5), unread: 0 }));
    appender.append_all(&[leave("again", "2"), say("again", "1", "", "7")]).await.unwrap();
    appender.append_all(&[join("again", "2"), say("again", "1", "", "9")]).await.unwrap();
    assert_eq!(reading(log, "again", "2").await, Some(Reading { read: Seq(8), unread: 1 }));
}

/// Joins, leaves, messages and marks of some users, at random; then every mark that there can be.
async fn unread_is_what_a_count_of_every_event_says(log: &Log) {
    let mut rng = StdRng::seed_from_u64(1);
    for round in 0..3 {
        let name = format!("unread {round}");
        let mut appender = log.appender();
        appender.append_all(&[create(&name, "0")]).await.unwrap();
        for _ in 0..60 {
            let len = rng.random_range(1..6);
            let write = |rng: &mut StdRng| -> Write {
                let id = ["0", "1", "2", "3"].choose(rng).unwrap().to_string();
                match rng.random_range(0..10) {
                    0 | 1 => join(&name, &id),
                    2 => leave(&name, &id),
                    _ => say(&name, &id, "", "x"),
                }
            };
            let batch: Vec<Write> = (0..len).map(|_| write(&mut rng)).collect();
            appender.append_all(&batch).await.unwrap();
        }
        appender.append_all(&["0", "1", "2", "3"].map(|id| join(&name, id))).await.unwrap();
        appender.append_all(&[say(&name, "0", "", "last")]).await.unwrap();
        check_every_mark(log, &name).await;
    }
}

/// Moves every member's mark through the room, and compares what is unread with a count.
pub async fn check_every_mark(log: &Log, name: &str) {
    let events = log.read(&room(name), Seq(0), 100_000).await.unwrap();
    for (id, joined) in last_joins(&events) {
        // Marks do not go back, so it goes on from where the last check ended.
        let begin = reading(log, name, &id).await.unwrap().read.0;
        assert!(begin >= joined);
        for seq in (begin..=events.len() as u64).step_by(3) {
            moved(log, &[mark(name, &id, seq)]).await;
            let unread = events.iter().filter(|event| event.seq.0 > seq && is_message(event));
            let expected = Reading { read: Seq(seq), unread: unread.count() as u64 };
            assert_eq!(reading(log, name, &id).await, Some(expected), "{name} {id} {seq}");
        }
    }
}

fn is_message(event: &Event) -> bool {
    event.is_message()
}

/// Who is a member, and since when.
fn last_joins(events: &[Event]) -> BTreeMap<String, u64> {
    let mut joins = BTreeMap::new();
    for event in events {
        match event.kind {
            EventKind::Create | EventKind::Join => {
                joins.insert(event.user.to_string(), event.seq.0);
            }
            EventKind::Leave => drop(joins.remove(event.user.as_str())),
            EventKind::Message | EventKind::Other(_) => {}
        }
    }
    joins
}
