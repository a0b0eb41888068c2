//! An event that no node can read: one room's trouble.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client as Sql;
use verbatim_tools::verify::Run;

use super::Effect;
use crate::bystander::{Bystander, PREFIX};
use crate::fault::Mend;
use crate::site::Site;

/// To make a room, before anything is wrong with it: other faults may be under way.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Until its follower has everything, once the row can be read: faults may be under way again.
const FLOW_TIMEOUT: Duration = Duration::from_secs(20);

/// The next event of the room, which has no frame, and its batch in the outbox.
const SPOIL: &str = "
    with room as (
        update rooms set last_seq = last_seq + 1, message_count = message_count + 1
        where name = $1
        returning id, last_seq
    ), event as (
        insert into events (room_id, seq, type, user_id, body, data, at)
        select id, last_seq, 'message', 'runner one', 'poll', 'bad', now() from room
    )
    insert into outbox (room_id, first_seq, last_seq, at)
    select id, last_seq, last_seq, now() - interval '1 hour' from room where $2::boolean";

const MAKE_RIGHT: &str = "
    update events e set data = null from rooms r
    where r.name = $1 and e.room_id = r.id and e.data = 'bad'";

const REMOVE: &str = "
    with event as (
        delete from events e using rooms r
        where r.name = $1 and e.room_id = r.id and e.data = 'bad' returning e.room_id, e.seq
    ), batch as (
        delete from outbox o using event
        where o.room_id = event.room_id and o.first_seq = event.seq
    )
    update rooms r set last_seq = last_seq - 1, message_count = message_count - 1
    from event where r.id = event.room_id";

/// It hits when somebody was told that it cannot be read.
pub async fn inject(site: &Site<'_>, run: &Run, mend: Mend, lasting: Duration) -> Effect {
    static NUMBER: AtomicUsize = AtomicUsize::new(1);
    let room = format!("{PREFIX}{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let (mut writer, mut reader) =
        (Bystander::new(&site.urls(), &room), Bystander::new(&site.urls(), &room));
    let begun = async {
        writer.say(None, BEGIN_TIMEOUT).await?;
        writer.say(Some("before"), BEGIN_TIMEOUT).await
    };
    if begun.await.is_none() || !reader.read("before", BEGIN_TIMEOUT).await {
        return Effect::default();
    }
    // Nobody else does anything to PostgreSQL meanwhile.
    let held = site.postgres.lock().await;
    let Some(sql) = site.sql().await else { return Effect::default() };
    if sql.execute(SPOIL, &[&room, &site.has_redis]).await.is_err() {
        return Effect::default();
    }
    if mend == Mend::MakeRight {
        // It is noticed at once, behind this.
        let (_, ()) = tokio::join!(writer.say(Some("behind"), lasting), reader.watch(lasting));
    } else {
        reader.watch(lasting).await;
    }
    mended(&sql, &room, mend).await;
    let ended_at = Some(run.recorder().now());
    let damaged = site.metric_sum("verbatim_outbox_damaged").await;
    drop(held);
    let has_hit = reader.closed + reader.refused > 0 || damaged > 0;
    let said = writer.say(Some("after"), FLOW_TIMEOUT).await;
    let is_shown = said.is_some() && reader.read("after", FLOW_TIMEOUT).await;
    let is_whole = reader.shown.iter().zip(1..).all(|((seq, _), wanted)| *seq == wanted);
    let has_poll = reader.shown.iter().any(|(_, text)| text == "poll");
    let is_right = is_shown && is_whole && has_poll == (mend == Mend::MakeRight);
    let broken =
        format!("{room}: after {mend:?} {said:?} was said, and shown was {:?}", reader.shown);
    let broken = (!is_right).then_some(broken);
    Effect { has_hit, ended_at, broken, ..Effect::default() }
}

async fn mended(sql: &Sql, room: &str, mend: Mend) {
    let mend = if mend == Mend::Remove { REMOVE } else { MAKE_RIGHT };
    // A row that cannot be locked just now is tried again.
    while sql.execute(mend, &[&room]).await.is_err() {
        sleep(super::LOOK_PAUSE).await;
    }
}
