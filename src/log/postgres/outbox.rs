//! What is committed and not yet known to be in Redis: read, swept, and forgotten.
//!
//! It does not know Redis. The rows are written by the lanes, in the transactions of their events;
//! this is the other end. Two nodes never sweep at once (an advisory lock sees to that), so what a
//! dead node left reaches Redis in its order.
//!
//! A row whose events cannot be read is set aside, so that it keeps no other from Redis, and looked
//! at again a minute later.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future;
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Shared;
use super::connect::Connection;
use super::error::is_damage;
use super::floor::Floor;
use crate::log::stored::StoredEvent;
use crate::log::{LogError, News};
use crate::model::{Event, RoomName, Seq, Timestamp};

/// The lock that makes sweepers take turns: "vb sweep" in ASCII. It ends with the transaction.
const SWEEP_LOCK: i64 = 0x7662_2073_7765_6570;
/// Batches in one sweep.
const SWEEP_LEN: i64 = 512;
/// Events in one sweep, and the rest of the batch that goes beyond. They are held in memory.
const SWEEP_EVENTS: i64 = 512;
/// The same for bytes of text.
const SWEEP_BYTES: i64 = 8 * 1024 * 1024;
/// For how long rows that cannot be read are left alone.
const ASIDE_FOR: Duration = Duration::from_secs(60);
/// Those that are remembered one by one. If there are more, all up to the last of them are left
/// alone, whatever they hold.
const ASIDE_MAX: usize = 1000;
/// While a sweep waits for Redis, its transaction is asked something this often within the time for
/// which it may be idle.
const SIGNS_OF_LIFE: u32 = 4;
/// For each statement here: none of them waits for a lock for long.
const TIMEOUT: Duration = Duration::from_secs(5);

const NEWS: &str = "
    select o.id, r.name, o.last_seq
    from outbox o
    join rooms r on r.id = o.room_id
    where o.id > $1::bigint and o.at <= now() - $2::bigint * interval '1 millisecond'
    order by o.id
    limit $3::bigint";

/// Rows whose room was deleted by hand come, too, without an event: else they would stay for ever,
/// and fill every sweep. `lateral` and `offset 0` leave no other plan than to look up each batch,
/// so that it meets no damage but theirs.
const SWEEP: &str = "
    select o.id, r.name, e.seq, e.type, e.user_id, e.client_id, e.body, e.data, e.at
    from (
        select few.*, sum(len.bytes) over (order by few.id) - len.bytes as bytes_before
        from (
            select oldest.*,
                   sum(last_seq - first_seq + 1) over (order by id)
                   - (last_seq - first_seq + 1) as events_before
            from (
                select id, room_id, first_seq, last_seq
                from outbox
                where at <= now() - $1::bigint * interval '1 millisecond'
                  and id > $5::bigint and id <> all ($6::bigint[])
                order by id
                limit $2::bigint
                for update skip locked
            ) oldest
        ) few
        cross join lateral (
            select coalesce(sum(octet_length(e.body)), 0)
                   + coalesce(sum(octet_length(e.data)), 0) as bytes
            from events e
            where e.room_id = few.room_id and e.seq between few.first_seq and few.last_seq
        ) len
        where few.events_before < $3::bigint
    ) o
    left join rooms r on r.id = o.room_id
    left join lateral (
        select seq, type, user_id, client_id, body, data, at
        from events
        where room_id = r.id and seq between o.first_seq and o.last_seq
        offset 0
    ) e on true
    where o.bytes_before < $4::bigint
    order by o.id, e.seq";

/// The first that `SWEEP` would take. It touches no other table: a row of those may be what cannot
/// be read.
const OLDEST: &str = "
    select id
    from outbox
    where at <= now() - $1::bigint * interval '1 millisecond'
      and id > $2::bigint and id <> all ($3::bigint[])
    order by id
    limit 1";

const ROOM: &str = "
    select r.name
    from outbox o
    join rooms r on r.id = o.room_id
    where o.id = $1::bigint";

/// Rows that somebody sweeps just now are left to them, and if their sweep fails, come up again: it
/// holds them for as long as Redis takes, and whoever would wait for it could look after nothing
/// else meanwhile.
const FORGET: &str = "
    delete from outbox o
    using (
        select id from outbox where id = any ($1::bigint[]) for update skip locked
    ) done
    where o.id = done.id";

/// A node's way to the outbox, for one task.
pub struct Outbox {
    shared: Arc<Shared>,
    /// `None` before the first use and after any failure.
    connection: Option<Connection>,
    /// Of that connection.
    floor: Floor,
    aside: Aside,
    /// Batches in the next sweep.
    len: i64,
}

/// Rows that this node does not sweep for a while, because their events cannot be read.
#[derive(Default)]
struct Aside {
    ids: Vec<i64>,
    /// All rows up to here are set aside.
    up_to: i64,
    /// How many there are.
    len: usize,
    /// When the first of them was set aside.
    since: Option<Instant>,
}

/// Rows that were taken out to be put into Redis. Dropping it puts them back.
pub struct Sweep {
    connection: Connection,
    ids: Vec<i64>,
    /// In the order in which they were committed, within each room.
    pub events: Vec<Event>,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {TIMEOUT:?}")]
struct TooSlow;

impl Outbox {
    /// News read at once.
    pub const NEWS_LEN_MAX: usize = 2000;

    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (floor, aside) = (Floor::default(), Aside::default());
        Self { shared, connection: None, floor, aside, len: SWEEP_LEN }
    }

    /// What was committed behind the row `after`, at least `age` ago: which rooms have come how
    /// far; not more than `NEWS_LEN_MAX`. Rows appear in the order of their ids within a room, not
    /// between rooms.
    pub async fn news(&mut self, after: i64, age: Duration) -> Result<Vec<News>, LogError> {
        self.raise_floor().await?;
        let (age, limit) = (millis(age), Self::NEWS_LEN_MAX as i64);
        let after = after.max(self.floor.id());
        let rows = self.query(NEWS, &[&after, &age, &limit]).await;
        let rows = rows.inspect_err(|error| self.shared.health.of_room(None, error))?;
        let news = |row: &Row| News {
            id: row.get(0),
            room: RoomName::stored(row.get(1)),
            last_seq: Seq::from_i64(row.get(2)),
        };
        Ok(rows.iter().map(news).collect())
    }

    /// Writes the rows that could not be written with their events.
    pub async fn announce(&mut self) -> Result<(), LogError> {
        if self.shared.unannounced.is_owing() {
            let connection = self.connected().await?;
            within(self.shared.unannounced.announce(&connection.client)).await?;
            self.connection = Some(connection);
        }
        Ok(())
    }

    /// Removes rows whose events are in Redis, but for those that are being swept.
    pub async fn forget(&mut self, ids: &[i64]) -> Result<(), LogError> {
        self.query(FORGET, &[&ids]).await.map(drop)
    }

    /// Takes out the oldest rows of that age. `None`: there are none, or another node is at it.
    ///
    /// If something cannot be read it takes fewer at once, until it has those in front of it, or
    /// knows which row it is.
    pub async fn sweep(&mut self, age: Duration) -> Result<Option<Sweep>, LogError> {
        self.raise_floor().await?;
        self.aside.look_again(Instant::now());
        let (age, mut len) = (millis(age), self.len);
        loop {
            match self.take(age, len).await {
                // None of what it took can be read.
                Ok(Some(sweep)) if sweep.ids.is_empty() => self.put_back(sweep).await?,
                Err(LogError::Damaged(_)) if len > 1 => len /= 2,
                Err(error @ LogError::Damaged(_)) => self.set_oldest_aside(age, error).await?,
                taken => return taken,
            }
        }
    }

    /// Waits until it is known what became of a sweep in Redis. An error: its rows went back.
    ///
    /// Redis may take its time, and PostgreSQL ends a transaction that is idle for longer than
    /// `log.append_timeout_ms`: that is how a node that was frozen loses its turn. So who is alive
    /// says so. Else a Redis that takes longer would be given the same rows again for ever.
    pub async fn wait_for<T>(
        &self,
        sweep: &Sweep,
        done: impl Future<Output = T>,
    ) -> Result<T, LogError> {
        tokio::select! {
            done = done => Ok(done),
            error = self.keep_alive(&sweep.connection) => Err(error),
        }
    }

    /// Returns when that fails.
    async fn keep_alive(&self, connection: &Connection) -> LogError {
        loop {
            sleep(self.shared.append_timeout / SIGNS_OF_LIFE).await;
            if let Err(error) = within(connection.client.batch_execute("select")).await {
                return error;
            }
        }
    }

    /// Redis did not take a sweep: its rows go back. Perhaps it takes less.
    pub async fn refused(&mut self, sweep: Sweep) -> Result<(), LogError> {
        self.len = (self.len / 2).max(1);
        self.put_back(sweep).await
    }

    /// How many rows are set aside.
    pub fn aside_len(&self) -> usize {
        self.aside.len
    }

    /// Takes out up to so many rows, but for those whose events cannot be read.
    async fn take(&mut self, age: i64, len: i64) -> Result<Option<Sweep>, LogError> {
        let connection = self.connected().await?;
        let begin = format!("begin; select pg_try_advisory_xact_lock({SWEEP_LOCK})");
        let Aside { ids, up_to, .. } = &self.aside;
        let after = self.floor.id().max(*up_to);
        let limits: [&(dyn ToSql + Sync); 6] =
            [&age, &len, &SWEEP_EVENTS, &SWEEP_BYTES, &after, ids];
        let take = async {
            let turn = connection.client.simple_query(&begin).await?;
            let ours = turn.iter().any(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
                _ => false,
            });
            let rows = match ours {
                true => connection.client.query(SWEEP, &limits).await,
                false => Ok(Vec::new()),
            };
            if rows.as_ref().map_or_else(is_damage, Vec::is_empty) {
                connection.client.batch_execute("rollback").await?;
            }
            rows
        };
        let rows = match within(take).await {
            Ok(rows) if !rows.is_empty() => rows,
            nothing @ (Ok(_) | Err(LogError::Damaged(_))) => {
                self.connection = Some(connection);
                return nothing.map(|_| None);
            }
            Err(error) => return Err(error),
        };
        let mut sweep = Sweep { connection, ids: Vec::new(), events: Vec::new() };
        for batch in rows.chunk_by(|a, b| a.get::<_, i64>(0) == b.get::<_, i64>(0)) {
            let id = batch[0].get(0);
            let events = batch.iter().filter(|row| row.get::<_, Option<i64>>(2).is_some());
            match events.map(event).collect::<Result<Vec<_>, _>>() {
                Ok(events) => {
                    sweep.ids.push(id);
                    sweep.events.extend(events);
                }
                Err(error) => {
                    let room = batch[0].get::<_, Option<&str>>(1).map(RoomName::stored);
                    self.shared.health.of_room(room.as_ref(), &error);
                    self.aside.put(id, Instant::now());
                }
            }
        }
        Ok(Some(sweep))
    }

    async fn put_back(&mut self, sweep: Sweep) -> Result<(), LogError> {
        within(sweep.connection.client.batch_execute("rollback")).await?;
        self.connection = Some(sweep.connection);
        Ok(())
    }

    /// Whatever is damaged, it is needed for the oldest row.
    async fn set_oldest_aside(&mut self, age: i64, error: LogError) -> Result<(), LogError> {
        let (after, ids) = (self.floor.id().max(self.aside.up_to), self.aside.ids.clone());
        let oldest = self.query(OLDEST, &[&age, &after, &ids]).await?;
        let Some(id) = oldest.first().map(|row| row.get::<_, i64>(0)) else { return Ok(()) };
        let room = match self.query(ROOM, &[&id]).await {
            Ok(rows) => rows.first().map(|row| RoomName::stored(row.get(0))),
            // Its room is what cannot be read.
            Err(LogError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        self.shared.health.of_room(room.as_ref(), &error);
        self.aside.put(id, Instant::now());
        Ok(())
    }

    /// The events of a sweep are in Redis: the rows are gone once this returns. On an error they
    /// come up again, and their events reach Redis a second time.
    pub async fn swept(&mut self, sweep: Sweep) -> Result<(), LogError> {
        let client = &sweep.connection.client;
        let end = async {
            future::try_join(client.execute(FORGET, &[&sweep.ids]), client.batch_execute("commit"))
                .await
        };
        within(end).await?;
        self.connection = Some(sweep.connection);
        // Not all at once: Redis would be given most of what it has just refused again.
        self.len = (self.len + self.len / 8 + 1).min(SWEEP_LEN);
        Ok(())
    }

    async fn raise_floor(&mut self) -> Result<(), LogError> {
        let connection = self.connected().await?;
        match within(self.floor.raise(&connection.client)).await {
            // It stays where it is. What is damaged is met again by who needs it.
            Ok(()) | Err(LogError::Damaged(_)) => self.connection = Some(connection),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn query(
        &mut self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, LogError> {
        let connection = self.connected().await?;
        let rows = within(connection.client.query(sql, params)).await;
        if matches!(rows, Ok(_) | Err(LogError::Damaged(_))) {
            self.connection = Some(connection);
        }
        rows
    }

    /// The connection is taken out while it is used: one that fails is not put back.
    async fn connected(&mut self) -> Result<Connection, LogError> {
        match self.connection.take().filter(|known| !known.client.is_closed()) {
            Some(connection) => Ok(connection),
            None => {
                self.floor = Floor::default();
                let connect = self.shared.lane_connector.connect().await;
                connect.map_err(|error| LogError::Unavailable(error.into()))
            }
        }
    }
}

impl Aside {
    fn look_again(&mut self, now: Instant) {
        if self.since.is_some_and(|since| now.duration_since(since) >= ASIDE_FOR) {
            *self = Self::default();
        }
    }

    fn put(&mut self, id: i64, now: Instant) {
        self.since.get_or_insert(now);
        self.len += 1;
        self.ids.push(id);
        if self.ids.len() > ASIDE_MAX {
            let ids = std::mem::take(&mut self.ids);
            self.up_to = ids.into_iter().max().unwrap_or(self.up_to);
        }
    }
}

async fn within<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, LogError> {
    match timeout(TIMEOUT, work).await {
        Ok(Err(error)) if is_damage(&error) => Err(LogError::Damaged(error.into())),
        Ok(done) => done.map_err(|error| LogError::Unavailable(error.into())),
        Err(_) => Err(LogError::Unavailable(TooSlow.into())),
    }
}

fn millis(age: Duration) -> i64 {
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

fn event(row: &Row) -> Result<Event, LogError> {
    let stored = StoredEvent {
        seq: row.get(2),
        kind: row.get(3),
        user: row.get(4),
        client_id: row.get(5),
        body: row.get(6),
        data: row.get(7),
        at: Timestamp::from_system(row.get::<_, SystemTime>(8)),
    };
    stored.event(&RoomName::stored(row.get(1)))
}
