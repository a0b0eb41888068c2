//! What the reading threads ask the file. Every query is an index range with a limit (or of a few
//! joins), so none keeps an old snapshot of the file alive for long.

use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::mpsc;

use super::failure::of_read;
use crate::log::stored::{StoredEvent, count, reading};
use crate::log::{LogError, Member, RoomSummary};
use crate::model::{Event, Role, RoomName, Seq, Timestamp, UserId};
use crate::rules::{Reading, Standing};

/// One read, with its own channel for the answer.
pub(super) type Job = Box<dyn FnOnce(&Connection) + Send>;

/// Runs reads until the last sender is gone. Several threads share one queue: an idle one holds the
/// lock while it waits for the next job, and releases it before it works.
pub(super) fn run(connection: &Connection, jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // The lock is only held while waiting, which cannot leave the queue half changed.
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(job) = next else { return };
        job(connection);
    }
}

pub(super) fn read(
    connection: &Connection,
    room: &RoomName,
    after: Seq,
    limit: usize,
    bytes_max: usize,
) -> Result<Vec<Event>, LogError> {
    events(
        connection,
        "select seq, type, user_id, client_id, body, data, at
         from events
         where room_id = (select id from rooms where name = ?1) and seq > ?2
         order by seq
         limit ?3",
        room,
        after.to_i64(),
        limit,
        bytes_max,
    )
}

pub(super) fn read_before(
    connection: &Connection,
    room: &RoomName,
    before: Option<Seq>,
    limit: usize,
    bytes_max: usize,
) -> Result<Vec<Event>, LogError> {
    let mut newest_first = events(
        connection,
        "select seq, type, user_id, client_id, body, data, at
         from events
         where room_id = (select id from rooms where name = ?1) and seq < ?2
         order by seq desc
         limit ?3",
        room,
        before.map_or(i64::MAX, Seq::to_i64),
        limit,
        bytes_max,
    )?;
    newest_first.reverse();
    Ok(newest_first)
}

fn events(
    connection: &Connection,
    sql: &str,
    room: &RoomName,
    edge: i64,
    limit: usize,
    bytes_max: usize,
) -> Result<Vec<Event>, LogError> {
    let mut statement = connection.prepare_cached(sql).map_err(of_read)?;
    let mut rows =
        statement.query(params![room.as_str(), edge, to_limit(limit)]).map_err(of_read)?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(of_read)? {
        let event = stored(row).map_err(of_read)?.event(room)?;
        bytes += event.content_bytes();
        if bytes > bytes_max && !events.is_empty() {
            break;
        }
        events.push(event);
    }
    Ok(events)
}

fn stored<'a>(row: &'a Row<'_>) -> rusqlite::Result<StoredEvent<'a>> {
    Ok(StoredEvent {
        seq: row.get(0)?,
        kind: row.get_ref(1)?.as_str()?,
        user: row.get_ref(2)?.as_str()?,
        client_id: row.get_ref(3)?.as_str_or_null()?,
        body: row.get_ref(4)?.as_str_or_null()?,
        data: row.get_ref(5)?.as_str_or_null()?,
        at: Timestamp(row.get(6)?),
    })
}

pub(super) fn standing(
    connection: &Connection,
    room: &RoomName,
    user: &UserId,
) -> Result<Option<Standing>, LogError> {
    let mut statement = connection
        .prepare_cached(
            "select r.last_seq, r.member_count, r.message_count, m.role, r.id,
                    max(coalesce(m.read_seq, 0), m.joined_seq)
             from rooms r
             left join members m on m.room_id = r.id and m.user_id = ?2
             where r.name = ?1",
        )
        .map_err(of_read)?;
    let standing = statement.query_row(params![room.as_str(), user.as_str()], |row| {
        let messages = row.get(2)?;
        Ok(Standing {
            last_seq: Seq::from_i64(row.get(0)?),
            members: count(row.get(1)?),
            messages: count(messages),
            role: row.get_ref(3)?.as_str_or_null()?.map(Role::from_stored),
            reading: read_up_to(connection, row.get(4)?, messages, row.get(5)?)?,
        })
    });
    standing.optional().map_err(of_read)
}

/// How far a member has read; `read` is NULL for users who are not members.
///
/// The number of messages up to there is the number before the last non-message event, which that
/// event holds, plus every event since: what was said between two joins is not counted one by one.
/// Version 1 did not write that number, so its non-message events are subtracted.
fn read_up_to(
    connection: &Connection,
    room_id: i64,
    messages: i64,
    read: Option<i64>,
) -> rusqlite::Result<Option<Reading>> {
    let Some(read) = read else { return Ok(None) };
    let mut statement = connection.prepare_cached(
        "select seq, messages
         from events indexed by events_by_turn
         where room_id = ?1 and seq <= ?2 and type <> 'message' and messages is not null
         order by seq desc
         limit 1",
    )?;
    let turn = statement.query_row([room_id, read], |row| Ok((row.get(0)?, row.get(1)?)));
    let (seq, before): (i64, i64) = turn.optional()?.unwrap_or_default();
    let mut statement = connection.prepare_cached(
        "select count(*)
         from events indexed by events_by_turn
         where room_id = ?1 and seq > ?2 and seq <= ?3 and type <> 'message'",
    )?;
    let uncounted: i64 = statement.query_row([room_id, seq, read], |row| row.get(0))?;
    Ok(reading(messages, Some(read), Some(before + read - seq - uncounted)))
}

pub(super) fn last_seq(connection: &Connection, room: &RoomName) -> Result<Option<Seq>, LogError> {
    let mut statement =
        connection.prepare_cached("select last_seq from rooms where name = ?1").map_err(of_read)?;
    let seq = statement.query_row([room.as_str()], |row| row.get(0)).optional();
    Ok(seq.map_err(of_read)?.map(Seq::from_i64))
}

pub(super) fn rooms(
    connection: &Connection,
    user: Option<&UserId>,
    after: Option<&RoomName>,
    limit: usize,
) -> Result<Vec<RoomSummary>, LogError> {
    let mut statement = connection
        .prepare_cached(
            "select r.name, r.last_seq, r.member_count, r.message_count, r.id,
                    max(coalesce(m.read_seq, 0), m.joined_seq)
             from rooms r
             left join members m on m.room_id = r.id and m.user_id = ?3
             where r.name > ?1
             order by r.name
             limit ?2",
        )
        .map_err(of_read)?;
    // No name is empty: every name is above the empty one, and no member has it.
    let (after, user) = (after.map_or("", RoomName::as_str), user.map_or("", UserId::as_str));
    let rows = statement.query_map(params![after, to_limit(limit), user], |row| {
        Ok(RoomSummary {
            room: RoomName::stored(row.get_ref(0)?.as_str()?),
            last_seq: Seq::from_i64(row.get(1)?),
            members: count(row.get(2)?),
            reading: read_up_to(connection, row.get(4)?, row.get(3)?, row.get(5)?)?,
        })
    });
    rows.and_then(Iterator::collect).map_err(of_read)
}

pub(super) fn members(
    connection: &Connection,
    room: &RoomName,
    after: Option<&UserId>,
    limit: usize,
) -> Result<Vec<Member>, LogError> {
    let mut statement = connection
        .prepare_cached(
            "select user_id, role
             from members
             where room_id = (select id from rooms where name = ?1) and user_id > ?2
             order by user_id
             limit ?3",
        )
        .map_err(of_read)?;
    let after = after.map_or("", UserId::as_str);
    let rows = statement.query_map(params![room.as_str(), after, to_limit(limit)], |row| {
        Ok(Member {
            user: UserId::stored(row.get_ref(0)?.as_str()?),
            role: Role::from_stored(row.get_ref(1)?.as_str()?),
        })
    });
    rows.and_then(Iterator::collect).map_err(of_read)
}

pub(super) fn ping(connection: &Connection) -> Result<(), LogError> {
    connection.query_row("select 1", [], |_| Ok(())).map_err(of_read)
}

fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
