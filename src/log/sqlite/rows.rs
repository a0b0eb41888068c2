//! The rows that a batch reads and writes, within the writer's transaction.
//!
//! It does not begin, commit or roll back, and has no rules: it loads the facts, has them decided,
//! and writes the result.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::log::Mark;
use crate::log::batch::{Batch, Decided};
use crate::log::stored::count;
use crate::model::{Role, Seq, Timestamp, UserId};
use crate::rules::{Outcome, Receipt, Room, Write};

/// Loads what the batch needs to know, decides it, and writes the result.
pub(super) fn write(
    transaction: &Transaction<'_>,
    writes: &[Write],
    now: Timestamp,
) -> rusqlite::Result<Vec<Outcome>> {
    let batch = Batch::new(writes);
    let (mut ids, facts) = load(transaction, &batch)?;
    let decided = batch.decide(facts.into_iter().map(Some).collect(), now);
    write_rooms(transaction, &batch, &decided, &mut ids, now)?;
    write_events(transaction, &decided, &ids)?;
    // Nobody else could hold a room.
    Ok(decided.outcomes.into_iter().flatten().collect())
}

/// The facts by room index, and the ids of rooms that exist. With one writer, the transaction is
/// the lock.
fn load(
    transaction: &Transaction<'_>,
    batch: &Batch<'_>,
) -> rusqlite::Result<(Vec<Option<i64>>, Vec<Room>)> {
    let mut ids = Vec::with_capacity(batch.rooms().len());
    let mut facts = Vec::with_capacity(batch.rooms().len());
    let mut select = transaction.prepare_cached(
        "select id, created_by, last_seq, message_count, member_count,
                (select at from events e where e.room_id = r.id and e.seq = r.last_seq)
         from rooms r
         where name = ?1",
    )?;
    for name in batch.rooms() {
        let found = select.query_row([name.as_str()], |row| {
            let room = Room {
                created_by: Some(UserId::stored(row.get_ref(1)?.as_str()?)),
                last_seq: Seq::from_i64(row.get(2)?),
                message_count: count(row.get(3)?),
                member_count: count(row.get(4)?),
                last_at: row.get::<_, Option<i64>>(5)?.map(Timestamp).unwrap_or_default(),
                ..Room::default()
            };
            Ok((row.get(0)?, room))
        });
        let (id, room) = found.optional()?.unzip();
        ids.push(id);
        facts.push(room.unwrap_or_default());
    }
    let mut select = transaction
        .prepare_cached("select role from members where room_id = ?1 and user_id = ?2")?;
    for (index, user) in batch.users() {
        let role = select.query_row(params![ids[index], user.as_str()], |row| {
            Ok(Role::from_stored(row.get_ref(0)?.as_str()?))
        });
        facts[index].members.extend(role.optional()?.map(|role| (user.clone(), role)));
    }
    let mut select = transaction.prepare_cached(
        "select type, seq, at
         from events
         where room_id = ?1 and user_id = ?2 and client_id = ?3",
    )?;
    for (index, user, id) in batch.keys() {
        let receipt = select.query_row(params![ids[index], user.as_str(), id.as_str()], |row| {
            let (kind, seq) = (row.get::<_, String>(0)?.into(), Seq::from_i64(row.get(1)?));
            Ok(Receipt { kind, seq, at: Timestamp(row.get(2)?) })
        });
        let receipt = receipt.optional()?;
        facts[index].receipts.extend(receipt.map(|it| ((user.clone(), id.clone()), it)));
    }
    Ok((ids, facts))
}

/// Creates new rooms, which gives them their ids, and updates counters and members.
fn write_rooms(
    transaction: &Transaction<'_>,
    batch: &Batch<'_>,
    decided: &Decided,
    ids: &mut [Option<i64>],
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "insert into rooms
           (name, created_by, last_seq, message_count, member_count, created_at)
         values (?1, ?2, ?3, ?4, ?5, ?6)
         on conflict (name) do update set
           last_seq = excluded.last_seq,
           message_count = excluded.message_count,
           member_count = excluded.member_count
         returning id",
    )?;
    let mut enter = transaction.prepare_cached(
        "insert into members (room_id, user_id, joined_seq, role)
         values (?1, ?2, ?3, ?4)
         on conflict (room_id, user_id) do update set
           joined_seq = excluded.joined_seq,
           role = excluded.role",
    )?;
    let mut leave =
        transaction.prepare_cached("delete from members where room_id = ?1 and user_id = ?2")?;
    for changed in decided.changed() {
        let room = changed.room;
        let id: i64 = upsert.query_row(
            params![
                batch.rooms()[changed.index].as_str(),
                room.created_by.as_ref().map(UserId::as_str),
                room.last_seq.to_i64(),
                room.message_count.cast_signed(),
                room.member_count.cast_signed(),
                now.0
            ],
            |row| row.get(0),
        )?;
        ids[changed.index] = Some(id);
        for (user, membership) in &room.changed_members {
            let user = user.as_str();
            match membership {
                Some(it) => {
                    enter.execute(params![id, user, it.joined_seq.to_i64(), it.role.name()])?
                }
                None => leave.execute(params![id, user])?,
            };
        }
    }
    Ok(())
}

/// Moves marks forward, never back and not beyond the room's last event; returns those that moved.
pub(super) fn mark(transaction: &Transaction<'_>, marks: &[Mark]) -> rusqlite::Result<Vec<Mark>> {
    let mut update = transaction.prepare_cached(
        "update members as m
         set read_seq = min(?3, r.last_seq)
         from rooms r
         where r.name = ?1 and m.room_id = r.id and m.user_id = ?2
           and min(?3, r.last_seq) > max(coalesce(m.read_seq, 0), m.joined_seq)
         returning read_seq",
    )?;
    let mut moved = Vec::with_capacity(marks.len());
    for mark in marks {
        let params = params![mark.room.as_str(), mark.user.as_str(), mark.seq.to_i64()];
        let seq = update.query_row(params, |row| row.get(0)).optional()?;
        moved.extend(seq.map(|seq| Mark { seq: Seq::from_i64(seq), ..mark.clone() }));
    }
    Ok(moved)
}

fn write_events(
    transaction: &Transaction<'_>,
    decided: &Decided,
    ids: &[Option<i64>],
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "insert into events (room_id, seq, type, user_id, client_id, body, data, messages, at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for (index, event, messages) in decided.events() {
        insert.execute(params![
            ids[index],
            event.seq.to_i64(),
            event.kind.name(),
            event.user.as_str(),
            event.client_id.as_ref().map(|id| id.as_str()),
            event.text.as_ref().map(|text| text.as_str()),
            event.data.as_ref().map(|data| data.as_str()),
            messages.map(u64::cast_signed),
            event.at.0
        ])?;
    }
    Ok(())
}
