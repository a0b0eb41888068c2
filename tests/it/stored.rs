//! What the log really holds, read from its tables behind the server's back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use rusqlite::{Connection, OpenFlags};
use tokio_postgres::NoTls;
use verbatim::config::LogConfig;
use verbatim_checker::{History, MembersRow, RoomRow, Row};

/// What the log holds, by room.
#[derive(Default)]
pub struct Stored {
    pub rooms: BTreeMap<String, StoredRoom>,
}

pub struct StoredRoom {
    pub last_seq: u64,
    pub message_count: u64,
    pub member_count: u64,
    pub members: BTreeSet<String>,
    /// Ascending by seq.
    pub events: Vec<StoredEvent>,
}

/// A row of `events`.
pub struct StoredEvent {
    pub seq: u64,
    pub kind: String,
    pub user: String,
    pub id: Option<String>,
    pub text: Option<String>,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

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
        let event = StoredEvent {
            seq: number(row, 1),
            kind: text(row, 2),
            user: text(row, 3),
            id: row.get(4).unwrap(),
            text: row.get(5).unwrap(),
            at_ms: row.get(6).unwrap(),
        };
        stored.add_event(&text(row, 0), event);
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
        let event = StoredEvent {
            seq: number(&row, 1),
            kind: row.get(2),
            user: row.get(3),
            id: row.get(4),
            text: row.get(5),
            at_ms: since.as_millis() as i64,
        };
        stored.add_event(row.get(0), event);
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

    fn add_event(&mut self, room: &str, event: StoredEvent) {
        let room = self.rooms.get_mut(room);
        room.expect("an event of a room that is not there").events.push(event);
    }

    /// Tells it to the checker.
    pub fn record(&self, history: &mut History) {
        for (name, stored) in &self.rooms {
            let room = history.room(name);
            let StoredRoom { last_seq, message_count, member_count, .. } = *stored;
            history.room_row(RoomRow { room, last_seq, message_count, member_count });
            for user in &stored.members {
                let user = history.user(user);
                history.member(MembersRow { room, user });
            }
            for event in &stored.events {
                history.row(&Row {
                    room,
                    seq: event.seq,
                    kind: &event.kind,
                    user: &event.user,
                    client_id: event.id.as_deref(),
                    body: event.text.as_deref(),
                    data: None,
                    at_ms: event.at_ms,
                });
            }
        }
    }
}
