//! The log of one room set back: the standby that took over had not everything, or a backup was
//! restored. What was acked since is lost, which is the operator's doing.

use std::time::SystemTime;

use tokio_postgres::{Client as Sql, Row};
use verbatim_checker::{Row as EventRow, SetBack};
use verbatim_tools::verify::Run;

use crate::reading::{at_ms, number};
use crate::site::Site;

const LOSE: &str = "
    delete from events where room_id = $1 and seq > $2
    returning seq, type, user_id, client_id, body, data, at";

/// What remains follows from the events that do.
const REST: [&str; 5] = [
    "delete from outbox where room_id = $1 and first_seq > $2",
    "update outbox set last_seq = $2 where room_id = $1 and last_seq > $2",
    "delete from members where room_id = $1 and $2::bigint > 0",
    "insert into members (room_id, user_id, joined_seq, role)
     select e.room_id, e.user_id, e.seq,
            case when e.user_id = r.created_by then 'owner' else 'member' end
     from (
         select distinct on (user_id) room_id, user_id, seq, type
         from events
         where room_id = $1 and seq <= $2 and type in ('create', 'join', 'leave')
         order by user_id, seq desc
     ) e
     join rooms r on r.id = e.room_id
     where e.type <> 'leave'",
    "update rooms
     set last_seq = $2,
         message_count = (select count(*) from events where room_id = $1 and type = 'message'),
         member_count = (select count(*) from members where room_id = $1)
     where id = $1",
];

/// So many of its newest events, but never those with which it began. It hits if there were any.
pub async fn inject(site: &Site<'_>, run: &Run, room: &str, count: u64) -> bool {
    let _held = site.postgres.lock().await;
    let Some(mut sql) = site.sql().await else { return false };
    let recorder = run.recorder();
    let from = recorder.now();
    let Ok((to, gone)) = set_back(&mut sql, room, count).await else { return false };
    let until = recorder.now();
    let mut history = recorder.history();
    let room = history.room(room);
    history.set_back(SetBack { room, to, from, until });
    for row in &gone {
        let at: SystemTime = row.get(6);
        history.gone(&EventRow {
            room,
            seq: number(row.get(0)),
            kind: row.get(1),
            user: row.get(2),
            client_id: row.get(3),
            body: row.get(4),
            data: row.get(5),
            at_ms: at_ms(at),
        });
    }
    !gone.is_empty()
}

/// The last seq that is left, and what is not.
async fn set_back(
    sql: &mut Sql,
    name: &str,
    count: u64,
) -> Result<(u64, Vec<Row>), tokio_postgres::Error> {
    let deed = sql.transaction().await?;
    let find = "select id, last_seq from rooms where name = $1 for update";
    let row = deed.query_one(find, &[&name]).await?;
    let (id, last_seq): (i64, i64) = (row.get(0), row.get(1));
    let to = last_seq - i64::try_from(count).unwrap_or(i64::MAX).min(last_seq / 2);
    let gone = deed.query(LOSE, &[&id, &to]).await?;
    for rest in REST {
        deed.execute(rest, &[&id, &to]).await?;
    }
    deed.commit().await.expect("nobody else does anything to PostgreSQL now");
    Ok((number(to), gone))
}
