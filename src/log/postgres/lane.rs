//! One lane's connection, and the two round trips of an append: `load`, then `commit`.
//!
//! It decides nothing and retries nothing. A lane that returned an error is not used again, so no
//! statement here meets the remains of an earlier one.
//!
//! # A locked room holds up nothing else
//!
//! A batch takes the rooms whose lock is free and leaves the others out (`Loaded::facts`), so a
//! room that an operator's psql or a frozen backend holds does not make other rooms wait. The
//! caller may name one room to wait for. Without that, a room that other nodes write to all the
//! time might never be found free: a transaction that waits for a row has a place in PostgreSQL's
//! queue for it.
//!
//! # Why two nodes cannot deadlock
//!
//! An append takes its locks in this order:
//!
//! 1. The row of the room to wait for (`WAIT`). The transaction holds nothing yet.
//! 2. *Names*: each room that the batch may create has an advisory lock, which is tried but never
//!    waited for. Rooms whose lock it got are inserted (`FOUND`). An insert of a room always holds
//!    the room's lock, so it never waits for another node's insert.
//! 3. *Rows*: the batch's rooms that are free (`LOCK`, `skip locked`).
//!
//! It only waits while it holds nothing, so no cycle can form.
//!
//! # Why a room is never left with last_seq 0
//!
//! `FOUND` only inserts a row for a room that does not exist. Such a room has no receipts and
//! refuses every verb but `create`, so the first `create` of the batch is its seq 1, and `WRITE`
//! sets its counters in the same transaction. See `Batch::founders`.

use std::collections::HashSet;
use std::time::SystemTime;

use futures_util::future;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::connect::{ConnectError, Connection, Connector};
use super::error::{before_commit, is_lock_timeout, of_commit, of_data};
use super::rows::Rows;
use crate::log::LogError;
use crate::log::batch::Batch;
use crate::log::stored::count;
use crate::model::{Role, RoomName, Seq, Timestamp, UserId};
use crate::rules::{Receipt, Room};

/// READ COMMITTED, as for every connection: each statement after the locks must see what was
/// committed while the transaction waited for them.
const BEGIN: &str = "begin";

/// `BEGIN` when a room is waited for: not for long, because other rooms wait their turn.
const BEGIN_PATIENT: &str = "begin; set local lock_timeout = '100ms'";

/// Waits in the queue for one room's row. A room that does not exist is not waited for.
const WAIT: &str = "select from rooms where name = $1::text for no key update";

/// Inserts the rooms that the batch may create, in the order of their names, except those that
/// somebody else is creating. Seq 0 means "not created yet"; `rules` sees such a room as missing.
const FOUND: &str = "
    insert into rooms (name, created_by, last_seq, message_count, member_count, created_at)
    select f.name, f.created_by, 0, 0, 0, now()
    from unnest($1::text[], $2::text[]) with ordinality as f (name, created_by, place)
    where pg_try_advisory_xact_lock(hashtextextended(f.name, 0))
    order by f.place
    on conflict (name) do nothing";

/// Locks those of these rooms that nobody else holds, and reads them. (`+ 0`: without it, a plan
/// made while there are few rooms walks through all of them by id, and is kept.)
const LOCK: &str = "
    select id, name, created_by, last_seq, message_count, member_count,
           (select e.at from events e where e.room_id = r.id and e.seq = r.last_seq)
    from rooms r
    where name = any ($1::text[])
    order by id + 0
    for no key update skip locked";

/// When these events were committed, by index in the arrays, from 1.
///
/// `LOCK` returns the time for nearly all rooms. The race that this closes: another node's batch
/// commits between `LOCK`'s snapshot and its lock. PostgreSQL then returns the room's row as it is
/// now, but still reads `events` by the snapshot, which lacks the room's last event.
const TIMES: &str = "
    select q.place, e.at
    from unnest($1::bigint[], $2::bigint[]) with ordinality as q (room_id, seq, place)
    cross join lateral (
        select at from events where room_id = q.room_id and seq = q.seq offset 0
    ) e";

/// Which of these rooms exist, locked or not, and their last seqs.
const KNOWN: &str = "select name, last_seq from rooms where name = any ($1::text[])";

/// Whether nobody is creating this room.
const UNFOUNDED: &str = "select pg_try_advisory_xact_lock(hashtextextended($1::text, 0))";

/// Which of these (room, user) are members, and their roles, by index in the arrays, from 1.
///
/// `lateral` and `offset 0`, here and below, force the planner to look up the room and then the one
/// row, for each pair. While the tables are (nearly) empty it would rather read all members of a
/// room for each user, and that plan would be kept.
const MEMBERS: &str = "
    select u.place, m.role
    from unnest($1::text[], $2::text[]) with ordinality as u (room, user_id, place)
    cross join lateral (
        select r.id from rooms r where r.name = u.room offset 0
    ) r
    cross join lateral (
        select m.role from members m where m.room_id = r.id and m.user_id = u.user_id offset 0
    ) m";

/// Which of these (room, user, id) were committed before, by index in the arrays, from 1.
const RECEIPTS: &str = "
    select k.place, e.type, e.seq, e.at
    from unnest($1::text[], $2::text[], $3::text[])
         with ordinality as k (room, user_id, client_id, place)
    cross join lateral (
        select r.id from rooms r where r.name = k.room offset 0
    ) r
    cross join lateral (
        select e.type, e.seq, e.at
        from events e
        where e.room_id = r.id and e.user_id = k.user_id and e.client_id = k.client_id
        offset 0
    ) e";

/// Everything a batch writes, in one statement: one answer says whether it was written, and no part
/// of it can be sent alone. The parts write to different tables, or (`entered` and `gone`) to
/// different rows, so it does not matter that each sees the tables as they were before.
///
/// Outbox rows have the clock's time, not the transaction's. The race that this closes:
///
/// 1. T1 begins, and waits for a room that T2, which began later, holds.
/// 2. T2 commits, and T1 writes after it.
/// 3. By transaction time T1's row would be the older one. A sweep, which takes rows of some age,
///    would take it alone, and put it into Redis before T2's.
///
/// Under the room's lock, a later row has a later clock time.
const WRITE: &str = "
    with changed as (
        select *
        from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
             as c (id, first_seq, last_seq, message_count, member_count)
    ), happened as (
        insert into events (room_id, seq, type, user_id, client_id, body, data, messages, at)
        select e.room_id, e.seq, e.type, e.user_id, e.client_id, e.body, e.data, e.messages, e.at
        from unnest($7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::text[],
                    $22::text[], $20::bigint[], $21::timestamptz[])
             as e (room_id, seq, type, user_id, client_id, body, data, messages, at)
    ), entered as (
        insert into members (room_id, user_id, joined_seq, role)
        select e.room_id, e.user_id, e.joined_seq, e.role
        from unnest($13::bigint[], $14::text[], $15::bigint[], $16::text[])
             as e (room_id, user_id, joined_seq, role)
        on conflict (room_id, user_id) do update
        set joined_seq = excluded.joined_seq, role = excluded.role
    ), gone as (
        delete from members m
        using unnest($17::bigint[], $18::text[]) as g (room_id, user_id)
        where m.room_id = g.room_id and m.user_id = g.user_id
    ), announced as (
        {ANNOUNCED}
    ), counted as (
        update rooms r
        set last_seq = c.last_seq,
            message_count = c.message_count,
            member_count = c.member_count,
            created_at = case when r.last_seq = 0 then $6::timestamptz else r.created_at end
        from changed c
        where r.id = c.id
    )
    select id from announced";

/// Part of `WRITE`.
const ANNOUNCED: &str = "
        insert into outbox (room_id, first_seq, last_seq, at)
        select c.id, c.first_seq, c.last_seq, clock_timestamp()
        from changed c
        where $19::boolean
        returning id";

/// Replaces it while the outbox is locked: naming a table takes a lock, even if nothing is written.
const UNANNOUNCED: &str = "select null::bigint as id where $19::boolean and false";

/// A connection with the prepared statements of an append.
pub(super) struct Lane {
    connection: Connection,
    wait: Statement,
    found: Statement,
    lock: Statement,
    times: Statement,
    known: Statement,
    members: Statement,
    receipts: Statement,
    write: Statement,
    /// Whether `write` writes to the outbox.
    pub announces: bool,
}

/// The loaded facts, by the batch's room indexes.
pub(super) struct Loaded {
    /// `None`: the room does not exist and is not being created.
    pub ids: Vec<Option<i64>>,
    /// `None`: somebody else holds the room.
    pub facts: Vec<Option<Room>>,
}

impl Lane {
    pub async fn connect(connector: &Connector, announces: bool) -> Result<Self, ConnectError> {
        let connection = connector.connect().await?;
        let client = &connection.client;
        let names = future::try_join5(
            client.prepare(WAIT),
            client.prepare(FOUND),
            client.prepare(LOCK),
            client.prepare(TIMES),
            client.prepare(KNOWN),
        );
        let write = WRITE.replace("{ANNOUNCED}", if announces { ANNOUNCED } else { UNANNOUNCED });
        let rows = future::try_join3(
            client.prepare(MEMBERS),
            client.prepare(RECEIPTS),
            client.prepare(&write),
        );
        let (names, rows) = future::try_join(names, rows).await?;
        let ((wait, found, lock, times, known), (members, receipts, write)) = (names, rows);
        let lane = Self {
            connection,
            wait,
            found,
            lock,
            times,
            known,
            members,
            receipts,
            write,
            announces,
        };
        Ok(lane)
    }

    pub fn is_closed(&self) -> bool {
        self.client().is_closed()
    }

    fn client(&self) -> &Client {
        &self.connection.client
    }

    /// The first round trip: begins, locks the batch's rooms that are free, and loads their facts.
    /// `None`: the room at `wait_for` was not free in time, and no transaction is open.
    pub async fn load(
        &self,
        batch: &Batch<'_>,
        wait_for: Option<usize>,
    ) -> Result<Option<Loaded>, LogError> {
        match self.load_rows(batch, wait_for).await {
            Ok(loaded) => Ok(Some(loaded)),
            Err(error) if wait_for.is_some() && is_lock_timeout(&error) => {
                self.rollback().await?;
                Ok(None)
            }
            Err(error) => Err(before_commit(error)),
        }
    }

    async fn load_rows(
        &self,
        batch: &Batch<'_>,
        wait_for: Option<usize>,
    ) -> Result<Loaded, tokio_postgres::Error> {
        let client = self.client();
        let names: Vec<&str> = batch.rooms().iter().map(|room| room.as_str()).collect();
        let founders = batch.founders();
        let users = Vec::from_iter(batch.users());
        let keys = Vec::from_iter(batch.keys());
        let founded_names: Vec<&str> = founders.keys().map(|index| names[*index]).collect();
        let founded_by: Vec<&str> = founders.values().map(|user| user.as_str()).collect();
        let user_rooms: Vec<&str> = users.iter().map(|(index, _)| names[*index]).collect();
        let user_ids: Vec<&str> = users.iter().map(|(_, user)| user.as_str()).collect();
        let key_rooms: Vec<&str> = keys.iter().map(|(index, ..)| names[*index]).collect();
        let key_users: Vec<&str> = keys.iter().map(|(_, user, _)| user.as_str()).collect();
        let key_ids: Vec<&str> = keys.iter().map(|(.., id)| id.as_str()).collect();

        // Each request is sent when its future is first polled, and a join polls in order, so this
        // is one round trip. The statements are separate because the last two need a snapshot taken
        // after the locks.
        let (begun, founded, locked, members, receipts) = future::join5(
            self.begin(wait_for.map(|index| names[index])),
            self.found(&founded_names, &founded_by),
            client.query(&self.lock, &[&names]),
            client.query(&self.members, &[&user_rooms, &user_ids]),
            client.query(&self.receipts, &[&key_rooms, &key_users, &key_ids]),
        )
        .await;
        // In the order of the statements: the first error causes those after it.
        begun?;
        founded?;

        let (mut ids, mut facts) = (vec![None; names.len()], vec![Room::default(); names.len()]);
        let mut untimed = Vec::new();
        for row in locked? {
            let Some(index) = batch.index(row.get(1)) else { continue };
            ids[index] = Some(row.get(0));
            let last_seq = Seq::from_i64(row.get(3));
            if last_seq > Seq(0) {
                let last_at = row.get::<_, Option<SystemTime>>(6).map(Timestamp::from_system);
                if last_at.is_none() {
                    untimed.push(index);
                }
                facts[index] = Room {
                    created_by: Some(UserId::stored(row.get(2))),
                    last_seq,
                    message_count: count(row.get(4)),
                    member_count: count(row.get(5)),
                    last_at: last_at.unwrap_or_default(),
                    ..Room::default()
                };
            }
        }
        for row in members? {
            let (index, user) = users[ordinal(row.get(0))];
            facts[index].members.insert(user.clone(), Role::from_stored(row.get(1)));
        }
        for row in receipts? {
            let (index, user, id) = keys[ordinal(row.get(0))];
            let (kind, seq) = (row.get::<_, String>(1).into(), Seq::from_i64(row.get(2)));
            let receipt = Receipt { kind, seq, at: Timestamp::from_system(row.get(3)) };
            facts[index].receipts.insert((user.clone(), id.clone()), receipt);
        }
        if !untimed.is_empty() {
            self.load_times(&untimed, &ids, &mut facts).await?;
        }
        let mut facts: Vec<Option<Room>> = facts.into_iter().map(Some).collect();
        // Rare: which of the rooms without a lock are held, and which do not exist? A room created
        // since `LOCK` counts as held.
        let unlocked: Vec<usize> = (0..names.len()).filter(|index| ids[*index].is_none()).collect();
        if !unlocked.is_empty() {
            let asked: Vec<&str> = unlocked.iter().map(|index| names[*index]).collect();
            let known = client.query(&self.known, &[&asked]).await?;
            let known = known.iter().filter_map(|row| batch.index(row.get(0)));
            // We may not create it, and it is not created: somebody else is creating it.
            let unfounded = unlocked.iter().copied().filter(|index| founders.contains_key(index));
            known.chain(unfounded).for_each(|index| facts[index] = None);
        }
        Ok(Loaded { ids, facts })
    }

    /// One more round trip, which is rare: see `TIMES`.
    async fn load_times(
        &self,
        indexes: &[usize],
        ids: &[Option<i64>],
        facts: &mut [Room],
    ) -> Result<(), tokio_postgres::Error> {
        let rooms: Vec<Option<i64>> = indexes.iter().map(|index| ids[*index]).collect();
        let seqs: Vec<i64> = indexes.iter().map(|index| facts[*index].last_seq.to_i64()).collect();
        for row in self.client().query(&self.times, &[&rooms, &seqs]).await? {
            let index = indexes[ordinal(row.get(0))];
            facts[index].last_at = Timestamp::from_system(row.get(1));
        }
        Ok(())
    }

    /// Begins, and waits for one room if asked to.
    async fn begin(&self, wait_for: Option<&str>) -> Result<(), tokio_postgres::Error> {
        let Some(room) = wait_for else { return self.client().batch_execute(BEGIN).await };
        let begin = self.client().batch_execute(BEGIN_PATIENT);
        future::try_join(begin, self.client().query(&self.wait, &[&room])).await.map(drop)
    }

    /// Skipped if the batch creates nothing, as most do.
    async fn found(&self, names: &[&str], by: &[&str]) -> Result<(), tokio_postgres::Error> {
        if !names.is_empty() {
            self.client().execute(&self.found, &[&names, &by]).await?;
        }
        Ok(())
    }

    /// The second round trip: writes and commits. COMMIT is sent as soon as this is polled. Returns
    /// the ids of the outbox rows.
    pub async fn commit(
        &self,
        rows: &Rows<'_>,
        at: Timestamp,
        mirrored: bool,
    ) -> Result<Vec<i64>, LogError> {
        let at = at.to_system();
        let params: [&(dyn ToSql + Sync); 22] = [
            &rows.room_ids,
            &rows.first_seqs,
            &rows.last_seqs,
            &rows.message_counts,
            &rows.member_counts,
            &at,
            &rows.event_rooms,
            &rows.event_seqs,
            &rows.event_types,
            &rows.event_users,
            &rows.event_ids,
            &rows.event_bodies,
            &rows.entered_rooms,
            &rows.entered_users,
            &rows.entered_seqs,
            &rows.entered_roles,
            &rows.gone_rooms,
            &rows.gone_users,
            &mirrored,
            &rows.event_messages,
            &rows.event_ats,
            &rows.event_data,
        ];
        let write = async { self.client().query(&self.write, &params).await.map_err(of_data) };
        // After a failed statement COMMIT answers ROLLBACK without an error, so the statement's
        // answer counts. If the statement fails before it is sent, the join ends, and COMMIT is not
        // sent.
        let commit = async { self.client().batch_execute("commit").await.map_err(of_commit) };
        let (announced, ()) = future::try_join(write, commit).await?;
        Ok(announced.iter().map(|row| row.get(0)).collect())
    }

    /// Ends a transaction that writes nothing, and releases its locks.
    pub async fn rollback(&self) -> Result<(), LogError> {
        self.client().batch_execute("rollback").await.map_err(before_commit)
    }

    /// The last seqs of a lost transaction's rooms, if it has ended.
    ///
    /// It held all its rooms until its end. So it has ended if one of them can be locked, or does
    /// not exist although nobody is creating it; what is read after that is final. A room that
    /// cannot be locked may be held by somebody else by now.
    pub async fn last_seqs_if_ended(
        &self,
        names: &[&str],
        wait_for: Option<&str>,
    ) -> Result<Option<Vec<(RoomName, Seq)>>, LogError> {
        let last_seqs = match self.read_if_ended(names, wait_for).await {
            Err(error) if wait_for.is_some() && is_lock_timeout(&error) => None,
            last_seqs => last_seqs.map_err(before_commit)?,
        };
        self.rollback().await?;
        Ok(last_seqs)
    }

    async fn read_if_ended(
        &self,
        names: &[&str],
        wait_for: Option<&str>,
    ) -> Result<Option<Vec<(RoomName, Seq)>>, tokio_postgres::Error> {
        let client = self.client();
        self.begin(wait_for).await?;
        let mut has_ended = !client.query(&self.lock, &[&names]).await?.is_empty();
        if !has_ended {
            let known = client.query(&self.known, &[&names]).await?;
            let known: HashSet<&str> = known.iter().map(|row| row.get(0)).collect();
            // It creates either all missing rooms or none, so one of them is enough to check.
            let missing = names.iter().find(|name| !known.contains(**name));
            if let Some(missing) = missing {
                has_ended = client.query_one(UNFOUNDED, &[missing]).await?.get(0);
            }
        }
        if !has_ended {
            return Ok(None);
        }
        let known = client.query(&self.known, &[&names]).await?;
        let standing = |row: &Row| (RoomName::stored(row.get(0)), Seq::from_i64(row.get(1)));
        Ok(Some(known.iter().map(standing).collect()))
    }
}

/// SQL counts from 1.
fn ordinal(index: i64) -> usize {
    usize::try_from(index - 1).expect("ordinality counts from 1, and the array has that index")
}
