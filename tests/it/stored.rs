//! What the log really holds, read from its tables behind the server's back.

use std::collections::BTreeSet;
use std::time::SystemTime;

use rusqlite::{Connection, OpenFlags};
use tokio_postgres::NoTls;
use verbatim::config::LogConfig;

use crate::verdict::{Event, Stored, StoredRoom};

const ROOMS: &str = "select name, last_seq, message_count, member_count from rooms";
const MEMBERS: &str = "select r.name, m.user_id from members m join rooms r on r.id = m.room_id";
const EVENTS: &str = "select r.name, e.seq, e.type, e.user_id, e.client_id, e.body, e.at
     from events e join rooms r on r.id = e.room_id order by e.room_id, e.seq";

/// In one snapshot, whatever else goes on.
pub async fn stored(log: &LogConfig) -> Stored {
    if log.url.0.is_empty() { in_sqlite(&log.path) } else { in_postgres(&log.url.0).await }
}

/// The file passes SQLite's own examination.
pub fn assert_sound(log: &LogConfig) {
    let file = open(&log.path);
    let found: String = file.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
}

fn open(path: &str) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn in_sqlite(path: &str) -> Stored {
    let mut file = open(path);
    let snapshot = file.transaction().unwrap();
    let mut stored = Stored::default();
    let rows = |sql: &str, take: &mut dyn FnMut(&rusqlite::Row<'_>)| {
        let mut select = snapshot.prepare(sql).unwrap();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            take(row);
        }
    };
    let number = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).unwrap() as u64;
    let text = |row: &rusqlite::Row<'_>, at| row.get::<_, String>(at).unwrap();
    rows(ROOMS, &mut |row| stored.add_room(text(row, 0), [1, 2, 3].map(|at| number(row, at))));
    rows(MEMBERS, &mut |row| stored.add_member(&text(row, 0), text(row, 1)));
    rows(EVENTS, &mut |row| {
        stored.add_event(Event {
            room: text(row, 0),
            seq: number(row, 1),
            kind: text(row, 2),
            user: text(row, 3),
            id: row.get(4).unwrap(),
            text: row.get(5).unwrap(),
            at_ms: number(row, 6),
        });
    });
    stored
}

async fn in_postgres(url: &str) -> Stored {
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    // It ends with the client.
    tokio::spawn(connection);
    let snapshot = client.build_transaction().read_only(true);
    let snapshot = snapshot.isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let snapshot = snapshot.start().await.unwrap();
    let mut stored = Stored::default();
    let number = |row: &tokio_postgres::Row, at| row.get::<_, i64>(at) as u64;
    for row in snapshot.query(ROOMS, &[]).await.unwrap() {
        stored.add_room(row.get(0), [1, 2, 3].map(|at| number(&row, at)));
    }
    for row in snapshot.query(MEMBERS, &[]).await.unwrap() {
        stored.add_member(row.get(0), row.get(1));
    }
    for row in snapshot.query(EVENTS, &[]).await.unwrap() {
        let at: SystemTime = row.get(6);
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        stored.add_event(Event {
            room: row.get(0),
            seq: number(&row, 1),
            kind: row.get(2),
            user: row.get(3),
            id: row.get(4),
            text: row.get(5),
            at_ms: since.as_millis() as u64,
        });
    }
    stored
}

impl Stored {
    pub fn last_seq(&self, room: &str) -> u64 {
        self.rooms.get(room).map_or(0, |room| room.last_seq)
    }

    fn add_room(&mut self, name: String, counters: [u64; 3]) {
        let [last_seq, message_count, member_count] = counters;
        let (members, events) = (BTreeSet::new(), Vec::new());
        let room = StoredRoom { last_seq, message_count, member_count, members, events };
        self.rooms.insert(name, room);
    }

    fn add_member(&mut self, room: &str, user: String) {
        self.rooms
            .get_mut(room)
            .expect("a member of a room that is not there")
            .members
            .insert(user);
    }

    fn add_event(&mut self, event: Event) {
        let room = self.rooms.get_mut(&event.room);
        room.expect("an event of a room that is not there").events.push(event);
    }
}
