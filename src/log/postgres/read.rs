//! Reads: a bb8 pool of connections on which every query is prepared, so each read is one round
//! trip.
//!
//! The pool tests nothing at check-out, which would cost a round trip. A connection that died while
//! idle is detected and skipped. One whose query was not answered, because it failed or its caller
//! gave up, is not used again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bb8::{ErrorSink, ManageConnection, Pool, QueueStrategy};
use bb8_postgres::PostgresConnectionManager;
use futures_util::future::try_join_all;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::connect::{ConnectError, Connector};
use super::error::is_damage;
use crate::log::health::Health;
use crate::log::stored::{StoredEvent, count, reading};
use crate::log::{LogError, Member, RoomSummary};
use crate::model::{Event, Role, RoomName, Seq, Timestamp, UserId};
use crate::rules::Standing;

/// Connections are replaced after this time, so that a node finds a primary that has moved, and a
/// backend that has grown frees its memory.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// Connections that a burst needed are closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const REAPER_RATE: Duration = Duration::from_secs(30);

/// The queries; each is an index into `QUERIES`.
#[derive(Clone, Copy)]
enum Query {
    ReadPage,
    ReadBefore,
    Standings,
    LastSeq,
    LastSeqs,
    Rooms,
    Members,
    Ping,
    Time,
}

const QUERIES: [&str; 9] = [
    // The running sum covers `limit` rows at most. The first row is returned however long it is.
    "select seq, type, user_id, client_id, body, data, at
     from (
         select e.*,
                row_number() over (order by e.seq) as place,
                sum(coalesce(octet_length(e.body), 0) + coalesce(octet_length(e.data), 0))
                    over (order by e.seq) as bytes
         from (
             select seq, type, user_id, client_id, body, data, at
             from events
             where room_id = (select id from rooms where name = $1::text) and seq > $2::bigint
             order by seq
             limit $3::bigint
         ) e
     ) page
     where place = 1 or bytes <= $4::bigint
     order by seq",
    // The same from the other end: the oldest are left out if they do not fit.
    "select seq, type, user_id, client_id, body, data, at
     from (
         select e.*,
                row_number() over (order by e.seq desc) as place,
                sum(coalesce(octet_length(e.body), 0) + coalesce(octet_length(e.data), 0))
                    over (order by e.seq desc) as bytes
         from (
             select seq, type, user_id, client_id, body, data, at
             from events
             where room_id = (select id from rooms where name = $1::text) and seq < $2::bigint
             order by seq desc
             limit $3::bigint
         ) e
     ) page
     where place = 1 or bytes <= $4::bigint
     order by seq",
    // `m.read` is how far the member has read. Up to there, the number of messages is the number
    // before the last non-message event (`c.messages`) plus every event since: what was said
    // between two joins is not counted one by one. Nodes of version 1 did not write that number, so
    // their non-message events (`uncounted`) are subtracted. `q.place` is the room's index in the
    // array. `lateral` and `offset 0` force the planner to look up each room.
    "select q.place, r.last_seq, r.member_count, r.message_count, m.role, m.read,
            coalesce(c.messages, 0) + m.read - coalesce(c.seq, 0) - uncounted.len
     from unnest($1::text[]) with ordinality as q (name, place)
     cross join lateral (
         select id, last_seq, member_count, message_count
         from rooms
         where name = q.name
         offset 0
     ) r
     left join lateral (
         select m.role, greatest(m.read_seq, m.joined_seq) as read
         from members m
         where m.room_id = r.id and m.user_id = $2::text
         offset 0
     ) m on true
     left join lateral (
         select e.seq, e.messages
         from events e
         where e.room_id = r.id and e.seq <= m.read
           and e.type <> 'message' and e.messages is not null
         order by e.seq desc
         limit 1
     ) c on true
     cross join lateral (
         select count(*) as len
         from events e
         where e.room_id = r.id and e.seq > coalesce(c.seq, 0) and e.seq <= m.read
           and e.type <> 'message'
     ) uncounted",
    "select last_seq from rooms where name = $1::text",
    "select name, last_seq from rooms where name = any ($1::text[])",
    // The same sum as above.
    "select r.name, r.last_seq, r.member_count, r.message_count, m.read,
            coalesce(c.messages, 0) + m.read - coalesce(c.seq, 0) - uncounted.len
     from (
         select id, name, last_seq, member_count, message_count
         from rooms
         where name > $1::text
         order by name
         limit $2::bigint
     ) r
     left join lateral (
         select greatest(m.read_seq, m.joined_seq) as read
         from members m
         where m.room_id = r.id and m.user_id = $3::text
         offset 0
     ) m on true
     left join lateral (
         select e.seq, e.messages
         from events e
         where e.room_id = r.id and e.seq <= m.read
           and e.type <> 'message' and e.messages is not null
         order by e.seq desc
         limit 1
     ) c on true
     cross join lateral (
         select count(*) as len
         from events e
         where e.room_id = r.id and e.seq > coalesce(c.seq, 0) and e.seq <= m.read
           and e.type <> 'message'
     ) uncounted
     order by r.name",
    "select user_id, role
     from members
     where room_id = (select id from rooms where name = $1::text) and user_id > $2::text
     order by user_id
     limit $3::bigint",
    "select 1",
    "select clock_timestamp()",
];

/// Makes the pool's connections.
pub(super) struct ConnectionManager {
    connector: Connector,
}

/// A pooled connection.
pub(super) struct ReadConnection {
    client: Client,
    /// In the order of `QUERIES`.
    statements: Vec<Statement>,
    /// True from when a query is sent until it is answered.
    owes: bool,
}

/// Reads from the log.
pub(super) struct Reads {
    pool: Pool<ConnectionManager>,
    timeout: Duration,
    health: Arc<Health>,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct TooSlow(Duration);

#[derive(Debug, thiserror::Error)]
#[error("no connection for reads")]
struct NoConnection;

impl ManageConnection for ConnectionManager {
    type Connection = ReadConnection;
    type Error = ConnectError;

    async fn connect(&self) -> Result<ReadConnection, ConnectError> {
        let connect = |config| {
            let manager = PostgresConnectionManager::new(config, self.connector.tls());
            async move {
                let client = manager.connect().await?;
                let statements = try_join_all(QUERIES.map(|sql| client.prepare(sql))).await?;
                Ok(ReadConnection { client, statements, owes: false })
            }
        };
        self.connector.connect_by(connect).await
    }

    /// Never called: `test_on_check_out` is off.
    async fn is_valid(&self, _reader: &mut ReadConnection) -> Result<(), ConnectError> {
        Ok(())
    }

    fn has_broken(&self, reader: &mut ReadConnection) -> bool {
        reader.owes || reader.client.is_closed()
    }
}

/// The pool retries by itself while a read waits; its errors are reported here.
#[derive(Clone)]
struct Sink(Arc<Health>);

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

impl ErrorSink<ConnectError> for Sink {
    fn sink(&self, error: ConnectError) {
        self.0.failed(&error);
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<ConnectError>> {
        Box::new(self.clone())
    }
}

impl Reads {
    /// Connects at the first read.
    pub fn new(
        connector: Connector,
        connections_max: u32,
        timeout: Duration,
        health: Arc<Health>,
    ) -> Self {
        let pool = Pool::builder()
            .max_size(connections_max)
            .min_idle(None)
            .test_on_check_out(false)
            .max_lifetime(LIFETIME)
            .idle_timeout(IDLE_TIMEOUT)
            .reaper_rate(REAPER_RATE)
            .connection_timeout(timeout)
            .retry_connection(true)
            // The most recently used one, so that those of a burst become idle and are closed.
            .queue_strategy(QueueStrategy::Lifo)
            .error_sink(Box::new(Sink(Arc::clone(&health))))
            .build_unchecked(ConnectionManager { connector });
        Self { pool, timeout, health }
    }

    pub async fn read_page(
        &self,
        room: &RoomName,
        after: Seq,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        let (after, limit, bytes_max) = (after.to_i64(), to_limit(limit), to_limit(bytes_max));
        let rows = self.ask(Query::ReadPage, &[&room.as_str(), &after, &limit, &bytes_max]).await?;
        rows.iter().map(|row| event(row, room)).collect()
    }

    pub async fn read_before(
        &self,
        room: &RoomName,
        before: Option<Seq>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        let (limit, bytes_max) = (to_limit(limit), to_limit(bytes_max));
        let before = before.map_or(i64::MAX, Seq::to_i64);
        let params: [&(dyn ToSql + Sync); 4] = [&room.as_str(), &before, &limit, &bytes_max];
        let rows = self.ask(Query::ReadBefore, &params).await?;
        rows.iter().map(|row| event(row, room)).collect()
    }

    pub async fn standing(
        &self,
        room: &RoomName,
        user: &UserId,
    ) -> Result<Option<Standing>, LogError> {
        let standings = self.standings(std::slice::from_ref(room), user).await?;
        Ok(standings.into_iter().next().flatten())
    }

    pub async fn standings(
        &self,
        rooms: &[RoomName],
        user: &UserId,
    ) -> Result<Vec<Option<Standing>>, LogError> {
        let names: Vec<&str> = rooms.iter().map(RoomName::as_str).collect();
        let rows = self.ask(Query::Standings, &[&names, &user.as_str()]).await?;
        let mut standings = vec![None; rooms.len()];
        for row in &rows {
            let standing = Standing {
                last_seq: Seq::from_i64(row.get(1)),
                members: count(row.get(2)),
                messages: count(row.get(3)),
                role: row.get::<_, Option<&str>>(4).map(Role::from_stored),
                reading: reading(row.get(3), row.get(5), row.get(6)),
            };
            // SQL counts from 1.
            let index = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0).checked_sub(1);
            if let Some(found) = index.and_then(|index| standings.get_mut(index)) {
                *found = Some(standing);
            }
        }
        Ok(standings)
    }

    pub async fn last_seq(&self, room: &RoomName) -> Result<Option<Seq>, LogError> {
        let rows = self.ask(Query::LastSeq, &[&room.as_str()]).await?;
        Ok(rows.first().map(|row| Seq::from_i64(row.get(0))))
    }

    pub async fn last_seqs(&self, rooms: &[RoomName]) -> Result<Vec<Option<Seq>>, LogError> {
        let names: Vec<&str> = rooms.iter().map(RoomName::as_str).collect();
        let rows = self.ask(Query::LastSeqs, &[&names]).await?;
        let last_seq = |row: &Row| (RoomName::stored(row.get(0)), Seq::from_i64(row.get(1)));
        let last_seqs: HashMap<RoomName, Seq> = rows.iter().map(last_seq).collect();
        Ok(rooms.iter().map(|room| last_seqs.get(room).copied()).collect())
    }

    pub async fn rooms(
        &self,
        user: Option<&UserId>,
        after: Option<&RoomName>,
        limit: usize,
    ) -> Result<Vec<RoomSummary>, LogError> {
        // No name is empty: every name is above the empty one, and no member has it.
        let after = after.map_or("", RoomName::as_str);
        let user = user.map_or("", UserId::as_str);
        let rows = self.ask(Query::Rooms, &[&after, &to_limit(limit), &user]).await?;
        let summary = |row: &Row| RoomSummary {
            room: RoomName::stored(row.get(0)),
            last_seq: Seq::from_i64(row.get(1)),
            members: count(row.get(2)),
            reading: reading(row.get(3), row.get(4), row.get(5)),
        };
        Ok(rows.iter().map(summary).collect())
    }

    pub async fn members(
        &self,
        room: &RoomName,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>, LogError> {
        let after = after.map_or("", UserId::as_str);
        let rows = self.ask(Query::Members, &[&room.as_str(), &after, &to_limit(limit)]).await?;
        let member = |row: &Row| Member {
            user: UserId::stored(row.get(0)),
            role: Role::from_stored(row.get(1)),
        };
        Ok(rows.iter().map(member).collect())
    }

    pub async fn time(&self) -> Result<SystemTime, LogError> {
        let rows = self.ask(Query::Time, &[]).await?;
        // There is always one row.
        Ok(rows.first().map_or_else(SystemTime::now, |row| row.get(0)))
    }

    pub async fn ping(&self) -> Result<(), LogError> {
        self.ask(Query::Ping, &[]).await.map(drop)
    }

    /// Runs one query within the timeout, which includes waiting for a connection.
    async fn ask(
        &self,
        query: Query,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, LogError> {
        let work = async {
            let mut reader = loop {
                let reader = self.pool.get().await.map_err(|_| {
                    // The pool's error sink has reported why it could not connect.
                    LogError::Unavailable(NoConnection.into())
                })?;
                // It died while idle: it is dropped here, and the pool replaces it.
                if !reader.client.is_closed() {
                    break reader;
                }
            };
            reader.owes = true;
            let rows = reader.client.query(&reader.statements[query as usize], params).await;
            let rows = match rows {
                Ok(rows) => rows,
                Err(error) if is_damage(&error) => {
                    reader.owes = false;
                    return Err(LogError::Damaged(error.into()));
                }
                Err(error) => return Err(LogError::Unavailable(error.into())),
            };
            reader.owes = false;
            Ok(rows)
        };
        let result = timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_| Err(LogError::Unavailable(TooSlow(self.timeout).into())));
        match &result {
            Ok(_) | Err(LogError::Damaged(_)) => self.health.answered(),
            Err(error) => self.health.failed(error),
        }
        result
    }
}

fn event(row: &Row, room: &RoomName) -> Result<Event, LogError> {
    let stored = StoredEvent {
        seq: row.get(0),
        kind: row.get(1),
        user: row.get(2),
        client_id: row.get(3),
        body: row.get(4),
        data: row.get(5),
        at: Timestamp::from_system(row.get::<_, SystemTime>(6)),
    };
    stored.event(room)
}

fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
