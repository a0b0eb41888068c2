//! Rows that cannot be read, in a log that a node has open.

use crate::harness::World;

/// Of either log: all that either has of a room, one of them unreadable.
const VIEW: &str = "
    alter table rooms rename to real_rooms;
    create view rooms as
    select id, name, created_by, message_count, member_count, created_at,
           case name when 'sick' then DAMAGE else last_seq end as last_seq
    from real_rooms;";

/// What PostgreSQL says of a page whose checksum is wrong.
const DAMAGED: &str = "
    create function damaged() returns bigint language plpgsql as $$
    begin
        raise exception using errcode = 'XX001', message = 'invalid page in block 7';
    end $$;";

/// Makes the event at `seq` of the room "sick" one that has no frame.
pub async fn event(world: &World, seq: u64) {
    run(world, &with_data("'bad'", seq)).await;
}

/// Makes it a message again.
pub async fn heal_event(world: &World, seq: u64) {
    run(world, &with_data("null", seq)).await;
}

fn with_data(data: &str, seq: u64) -> String {
    format!(
        "update events set data = {data}
         where seq = {seq} and room_id = (select id from rooms where name = 'sick')"
    )
}

/// Makes the row of the room "sick" unreadable. On PostgreSQL before anything was read there.
pub async fn room(world: &World) {
    match world.config.log.url.0.as_str() {
        "" => run(world, &VIEW.replace("DAMAGE", "'x'")).await,
        _ => run(world, &format!("{DAMAGED}{}", VIEW.replace("DAMAGE", "damaged()"))).await,
    }
}

/// On PostgreSQL: the text of the event at `seq` of the room "sick" is on a page that is damaged.
pub async fn text(world: &World, seq: u64) {
    let view = "
        alter table events rename to real_events;
        create view events as
        select room_id, seq, type, user_id, client_id, data, at, case
                   when seq = SEQ and room_id = (select id from rooms where name = 'sick')
                   then damaged()::text else body
               end as body
        from real_events;";
    run(world, &format!("{DAMAGED}{}", view.replace("SEQ", &seq.to_string()))).await;
}

pub async fn heal_text(world: &World) {
    run(world, "drop view events; alter table real_events rename to events;").await;
}

pub async fn run(world: &World, sql: &str) {
    let log = &world.config.log;
    if log.url.0.is_empty() {
        let shell = rusqlite::Connection::open(&log.path).unwrap();
        shell.busy_timeout(crate::harness::PATIENCE).unwrap();
        shell.execute_batch(sql).unwrap();
        return;
    }
    let connected = tokio_postgres::connect(&log.url.0, tokio_postgres::NoTls).await;
    let (client, connection) = connected.expect("no PostgreSQL");
    // It ends with the client.
    tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
}
