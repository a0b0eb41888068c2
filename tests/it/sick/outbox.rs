//! What is damaged does not reach Redis, and keeps nothing else from it.

use std::time::Duration;

use verbatim::log::Log;
use verbatim::log::postgres::Postgres;

use super::{harm, rooms};
use crate::harness::World;
use crate::mirror::cluster::{Cluster, metric, until};

/// As a node leaves it that dies between its commit and Redis: so many rooms, the sick one first,
/// each with two events in a batch of its own. One has data that are none, one is of nobody.
const LEFT: &str = "
    insert into rooms (last_seq, message_count, member_count, created_at, name, created_by)
    select 2, 2, 0, now(), case when n < 2 then 'sick' || n else 'r' || n end, '1'
    from generate_series(0, 599) n;
    insert into events (room_id, seq, type, user_id, body, data, at)
    select r.id, seq, 'message', case when r.name = 'sick1' and seq = 2 then '' else '1' end,
           'left', case when r.name = 'sick0' and seq = 2 then 'bad' end, now()
    from rooms r, generate_series(1, 2) seq;
    insert into outbox (room_id, first_seq, last_seq, at)
    select r.id, 1, 2, now() - interval '1 hour' from rooms r order by r.id;";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_read_keep_no_other_from_the_stream() {
    let cluster = Cluster::shared().await;
    let process = cluster.process("one").await;
    cluster.sql().await.batch_execute(LEFT).await.unwrap();
    let left = "only the damaged in the outbox";
    until(left, async || cluster.outbox_len().await, |len| *len == 2).await;
    for n in [2, 3, 300, 599] {
        cluster.assert_streamed(&format!("r{n}"), 2).await;
    }
    let streamed = cluster.stream().await;
    assert!(streamed.iter().all(|(room, _)| !room.starts_with("sick")));
    let damaged = async || metric(process.addr, "verbatim_outbox_damaged").await;
    until("two rows set aside", damaged, |len| *len == 2).await;
    let output = process.output();
    let told: Vec<_> = output.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(told.len(), 2, "each room is named once: {output}");
    for (wanted, why) in [("sick0", "has data that is not"), ("sick1", "no user")] {
        let is_told = |line: &&&str| line.contains(wanted) && line.contains(why);
        assert!(told.iter().find(is_told).is_some(), "no {wanted}, {why}: {told:?}");
    }
}

/// PostgreSQL says that it cannot read a page, and not whose: it is found by taking fewer.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_finds_what_cannot_be_read_and_takes_the_rest() {
    let world = World::postgres().await;
    let log = Log::Postgres(Postgres::open(&world.config.log, 1, "n1", true).await.unwrap());
    let node = world.node().await;
    rooms(node.addr, &["a", "sick", "b"], 3).await;
    node.stop().await;
    let batches = "insert into outbox (room_id, first_seq, last_seq, at)
         select r.id, n, n, now() - interval '1 hour'
         from generate_series(1, 4) n, rooms r order by n, r.id";
    harm::run(&world, batches).await;
    harm::text(&world, 3).await;
    let swept = async || {
        let (mut outbox, mut swept) = (log.outbox().unwrap(), Vec::new());
        while let Some(sweep) = outbox.sweep(Duration::ZERO).await.unwrap() {
            let event = |event: &verbatim::model::Event| (event.room.to_string(), event.seq.0);
            swept.extend(sweep.events.iter().map(event));
            outbox.swept(sweep).await.unwrap();
        }
        swept.sort();
        (swept, outbox.aside_len())
    };
    let all = ["a", "b", "sick"].iter().flat_map(|room| (1..=4).map(|seq| (room.to_string(), seq)));
    let (is_sick, rest): (Vec<_>, Vec<_>) = all.partition(|it| *it == ("sick".to_owned(), 3));
    assert_eq!(swept().await, (rest, 1));
    harm::heal_text(&world).await;
    assert_eq!(swept().await, (is_sick, 0));
}
