//! The outbox, read, swept and cleared: batches that are committed and not yet known to be in
//! Redis.
//!
//! It does not know Redis. The lanes write the rows, in the transactions of their events; this is
//! the other end. An advisory lock ensures that two nodes never sweep at once, so what a dead node
//! left reaches Redis in order.
//!
//! A row whose events cannot be read is set aside for a minute, so that it does not block the
//! others.

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

/// The lock for which sweepers take turns: "vb sweep" in ASCII. It ends with the transaction.
const SWEEP_LOCK: i64 = 0x7662_2073_7765_6570;
/// Batches in one sweep, at most.
const SWEEP_LEN: i64 = 512;
/// Events in one sweep; the batch that passes this is taken whole. They are held in memory.
const SWEEP_EVENTS: i64 = 512;
/// The same limit in bytes of text.
const SWEEP_BYTES: i64 = 8 * 1024 * 1024;
/// How long rows that cannot be read are set aside.
const ASIDE_FOR: Duration = Duration::from_secs(60);
/// Rows set aside one by one. If there are more, all rows up to the highest of them are set aside,
/// whatever they hold.
const ASIDE_MAX: usize = 1000;
/// While a sweep waits for Redis, its transaction sends this many statements per idle timeout, so
/// that PostgreSQL does not end it.
const KEEP_ALIVES: u32 = 4;
/// For each statement here. None of them waits long for a lock.
const TIMEOUT: Duration = Duration::from_secs(5);

const NEWS: &str = "
    select o.id, r.name, o.last_seq
    from outbox o
    join rooms r on r.id = o.room_id
    where o.id > $1::bigint and o.at <= now() - $2::bigint * interval '1 millisecond'
    order by o.id
    limit $3::bigint";

/// Includes rows whose room was deleted by hand, without events; otherwise they would stay forever
/// and fill every sweep. `lateral` and `offset 0` force the planner to look up each batch, so it
/// only reads the pages of these batches, and meets no other damage.
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

/// The first row that `SWEEP` would take. It reads no other table, because a row there may be the
/// damaged one.
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

/// Skips rows that somebody is sweeping; if that sweep fails, they come up again. A sweep holds its
/// rows for as long as Redis takes, and waiting for it would stop all other work of this task.
const FORGET: &str = "
    delete from outbox o
    using (
        select id from outbox where id = any ($1::bigint[]) for update skip locked
    ) done
    where o.id = done.id";

/// Access to the outbox, for one task.
pub struct Outbox {
    shared: Arc<Shared>,
    /// `None` before the first use and after a failure.
    connection: Option<Connection>,
    /// Belongs to that connection.
    floor: Floor,
    aside: Aside,
    /// Batches to take in the next sweep.
    len: i64,
}

/// Rows that this node does not sweep for now, because their events cannot be read.
#[derive(Default)]
struct Aside {
    ids: Vec<i64>,
    /// All rows up to this id are set aside.
    up_to: i64,
    /// How many rows are set aside.
    len: usize,
    /// When the first of them was set aside.
    since: Option<Instant>,
}

/// Rows that are being put into Redis. Dropping it puts them back.
pub struct Sweep {
    connection: Connection,
    ids: Vec<i64>,
    /// In commit order within each room.
    pub events: Vec<Event>,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {TIMEOUT:?}")]
struct TooSlow;

impl Outbox {
    /// Rows read at once by `news`.
    pub const NEWS_LEN_MAX: usize = 2000;

    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (floor, aside) = (Floor::default(), Aside::default());
        Self { shared, connection: None, floor, aside, len: SWEEP_LEN }
    }

    /// Batches that were committed after the row `after` and at least `age` ago: which rooms have
    /// come how far, at most `NEWS_LEN_MAX`. Within a room rows appear in the order of their ids;
    /// between rooms they need not.
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

    /// Writes the rows that could not be written together with their events.
    pub async fn announce(&mut self) -> Result<(), LogError> {
        if self.shared.unannounced.is_owing() {
            let connection = self.connected().await?;
            within(self.shared.unannounced.announce(&connection.client)).await?;
            self.connection = Some(connection);
        }
        Ok(())
    }

    /// Removes rows whose events are in Redis, except those that are being swept.
    pub async fn forget(&mut self, ids: &[i64]) -> Result<(), LogError> {
        self.query(FORGET, &[&ids]).await.map(drop)
    }

    /// Takes the oldest rows of that age. `None`: there are none, or another node is sweeping.
    ///
    /// If something cannot be read, it halves the number of rows until it gets those before the
    /// damage, or finds the damaged row.
    pub async fn sweep(&mut self, age: Duration) -> Result<Option<Sweep>, LogError> {
        self.raise_floor().await?;
        self.aside.look_again(Instant::now());
        let (age, mut len) = (millis(age), self.len);
        loop {
            match self.take(age, len).await {
                // Everything that it took was unreadable.
                Ok(Some(sweep)) if sweep.ids.is_empty() => self.put_back(sweep).await?,
                Err(LogError::Damaged(_)) if len > 1 => len /= 2,
                Err(error @ LogError::Damaged(_)) => self.set_oldest_aside(age, error).await?,
                taken => return taken,
            }
        }
    }

    /// Waits until Redis has answered a sweep. On an error the rows have gone back.
    ///
    /// PostgreSQL ends a transaction that is idle for longer than `log.append_timeout_ms`, so that
    /// a frozen node loses its turn. A node that only waits for Redis therefore keeps its
    /// transaction busy. Otherwise a slow Redis would be given the same rows again and again.
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

    /// Returns when a statement fails.
    async fn keep_alive(&self, connection: &Connection) -> LogError {
        loop {
            sleep(self.shared.append_timeout / KEEP_ALIVES).await;
            if let Err(error) = within(connection.client.batch_execute("select")).await {
                return error;
            }
        }
    }

    /// Redis did not accept the sweep: puts its rows back, and takes fewer the next time.
    pub async fn refused(&mut self, sweep: Sweep) -> Result<(), LogError> {
        self.len = (self.len / 2).max(1);
        self.put_back(sweep).await
    }

    /// How many rows are set aside.
    pub fn aside_len(&self) -> usize {
        self.aside.len
    }

    /// Takes up to `len` rows, except those whose events cannot be read.
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

    /// Sets the oldest row aside: whatever is damaged, that row needs it.
    async fn set_oldest_aside(&mut self, age: i64, error: LogError) -> Result<(), LogError> {
        let (after, ids) = (self.floor.id().max(self.aside.up_to), self.aside.ids.clone());
        let oldest = self.query(OLDEST, &[&age, &after, &ids]).await?;
        let Some(id) = oldest.first().map(|row| row.get::<_, i64>(0)) else { return Ok(()) };
        let room = match self.query(ROOM, &[&id]).await {
            Ok(rows) => rows.first().map(|row| RoomName::stored(row.get(0))),
            // The room itself cannot be read.
            Err(LogError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        self.shared.health.of_room(room.as_ref(), &error);
        self.aside.put(id, Instant::now());
        Ok(())
    }

    /// The sweep's events are in Redis: removes its rows. On an error they come up again, and their
    /// events reach Redis a second time.
    pub async fn swept(&mut self, sweep: Sweep) -> Result<(), LogError> {
        let client = &sweep.connection.client;
        let end = async {
            future::try_join(client.execute(FORGET, &[&sweep.ids]), client.batch_execute("commit"))
                .await
        };
        within(end).await?;
        self.connection = Some(sweep.connection);
        // Grows slowly: Redis would otherwise get most of what it has just refused again.
        self.len = (self.len + self.len / 8 + 1).min(SWEEP_LEN);
        Ok(())
    }

    async fn raise_floor(&mut self) -> Result<(), LogError> {
        let connection = self.connected().await?;
        match within(self.floor.raise(&connection.client)).await {
            // The floor stays where it is. Whoever needs the damaged page meets it again.
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

    /// Takes the connection out while it is used: a failed one is not put back.
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
