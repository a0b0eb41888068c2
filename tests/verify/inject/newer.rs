//! A node of a later version: it writes events of types that the others do not know, and they carry
//! them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client as Sql;
use verbatim_checker::{Kind, Wanted};
use verbatim_tools::verify::Run;

use super::{Effect, LOOK_PAUSE};
use crate::site::Site;

const USER: &str = "of a later version";
const DATA: &str = r#""target":1,"choices":["a\n", {"b": 2.50}]"#;

/// A statement of its own: what is written behind it must see what was committed while it waited.
const LOCK: &str = "select from rooms where name = $1 for no key update";

/// As a lane writes one event, its batch in the outbox included.
const WRITE: &str = "
    with room as (
        update rooms set last_seq = last_seq + 1 where name = $1
        returning id, last_seq, message_count
    ), event as (
        insert into events (room_id, seq, type, user_id, client_id, body, data, messages, at)
        select room.id, room.last_seq, 'poll', $2, $3, $4, $5, room.message_count, greatest(
            date_trunc('milliseconds', clock_timestamp()),
            (select e.at from events e where e.room_id = room.id and e.seq = room.last_seq - 1)
        )
        from room
    )
    insert into outbox (room_id, first_seq, last_seq, at)
    select id, last_seq, last_seq, clock_timestamp() from room where $6::boolean";

/// It hits if it has written something.
pub async fn inject(site: &Site<'_>, run: &Run, lasting: Duration) -> Effect {
    // Nobody else does anything to PostgreSQL meanwhile.
    let _held = site.postgres.lock().await;
    let Some(mut sql) = site.sql().await else { return Effect::default() };
    let until = Instant::now() + lasting;
    let mut has_hit = false;
    for room in run.rooms().iter().cycle() {
        if Instant::now() >= until {
            break;
        }
        has_hit |= say(&mut sql, site, run, room).await.is_ok();
        sleep(LOOK_PAUSE).await;
    }
    Effect { has_hit, ..Effect::default() }
}

async fn say(
    sql: &mut Sql,
    site: &Site<'_>,
    run: &Run,
    room: &str,
) -> Result<(), tokio_postgres::Error> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let id = format!("later-{number}");
    let text = number.is_multiple_of(2).then_some("a or b?");
    {
        let now = run.recorder().now();
        let mut history = run.recorder().history();
        let (room, user, node) = (history.room(room), history.user(USER), history.node("later"));
        let connection = history.connection(node, USER);
        let wanted = Wanted { kind: Kind::Other, room, user, id: Some(&id), text };
        let command = history.command(&wanted);
        history.sent(command, connection, now);
        // It goes without an answer.
        history.abandoned(command);
    }
    let deed = sql.transaction().await?;
    deed.query_opt(LOCK, &[&room]).await?;
    deed.execute(WRITE, &[&room, &USER, &id, &text, &DATA, &site.has_redis]).await?;
    deed.commit().await
}
