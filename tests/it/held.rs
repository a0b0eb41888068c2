//! One room's trouble is one room's: whoever holds its row, or whatever became of a commit in it,
//! the other rooms of its lane go on.

use serde_json::json;
use tokio_postgres::NoTls;

use crate::harness::node::TestNode;
use crate::harness::{Client, World};

const FREE: [&str; 6] = ["free-1", "free-2", "free-3", "free-4", "free-5", "free-6"];

/// A commit in which somebody says "hang" waits until there is a row in `gate`.
const GATE: &str = "
    create table gate ();
    create function hang() returns trigger language plpgsql as $$
    begin
        while new.body = 'hang' and not exists (select from gate) loop
            perform pg_sleep(0.02);
        end loop;
        return null;
    end $$;
    create constraint trigger hang after insert on events
    deferrable initially deferred for each row execute function hang();";

async fn sql(world: &World) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&world.config.log.url.0, NoTls).await.expect("cannot connect");
    // It ends with the client.
    tokio::spawn(connection);
    client
}

/// A node whose rooms are all in one lane; a client that made "held" and the free ones.
async fn one_lane(world: &World) -> (TestNode, Client) {
    let node = world.node_with(|config| {
        config.lane.count = 1;
        config.log.statement_timeout_ms = 600_000;
    });
    let node = node.await;
    let mut client = node.client().await;
    for room in FREE.iter().chain(&["held"]) {
        client.send(json!({"type": "create", "user_id": "1", "room": room})).await;
        client.expect(json!({"type": "ack", "seq": 1})).await;
    }
    (node, client)
}

fn message(room: &str, id: &str, text: &str) -> serde_json::Value {
    json!({"type": "message", "user_id": "1", "room": room, "id": id, "message": text})
}

/// Nobody in the free rooms is told `unavailable`.
async fn others_go_on(node: &TestNode, name: &str) {
    let mut client = node.client().await;
    for round in 0..20 {
        for room in FREE {
            client.send(message(room, &format!("{name}-{round}"), "x")).await;
            client.expect(json!({"type": "ack", "room": room})).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_somebody_has_locked_keeps_no_other_room_waiting() {
    let world = World::postgres().await;
    let (node, mut client) = one_lane(&world).await;
    let someone = sql(&world).await;
    someone.batch_execute("begin; select from rooms where name = 'held' for update").await.unwrap();
    for id in ["a", "b", "c"] {
        client.send(message("held", id, "waits")).await;
    }
    others_go_on(&node, "locked").await;
    for id in ["a", "b", "c"] {
        client.expect(json!({"type": "error", "code": "unavailable", "id": id})).await;
    }
    // What waits when it comes free is written, in its order. (Who was told `unavailable` may be
    // written, too: they may have been at the head of the queue just then.)
    for id in ["d", "e", "f"] {
        client.send(message("held", id, "waits")).await;
    }
    someone.batch_execute("rollback").await.unwrap();
    for id in ["d", "e", "f"] {
        client.expect(json!({"id": id})).await;
    }
    // The room is its lane's again.
    client.send(message("held", "g", "goes on")).await;
    client.expect(json!({"type": "ack", "id": "g"})).await;
    client.send(json!({"type": "history", "user_id": "1", "room": "held"})).await;
    let history = client.expect(json!({"type": "history"})).await;
    let ids =
        history["events"].as_array().unwrap().iter().filter_map(|it| it["client_id"].as_str());
    let ids: Vec<&str> = ids.collect();
    assert!(ids.is_sorted() && ids.last() == Some(&"g"), "{ids:?}");
}

/// Of two that somebody has locked, one comes free: it does not wait for the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_comes_free_does_not_wait_for_another_that_is_held() {
    let world = World::postgres().await;
    let node = world.node_with(|config| {
        config.lane.count = 1;
        // Longer than anybody here waits.
        config.lane.answer_timeout_ms = 600_000;
    });
    let node = node.await;
    let (mut client, mut another) = (node.client().await, node.client().await);
    for room in ["held", "freed"] {
        client.send(json!({"type": "create", "user_id": "1", "room": room})).await;
        client.expect(json!({"type": "ack", "seq": 1})).await;
    }
    let (someone, other) = (sql(&world).await, sql(&world).await);
    for (psql, room) in [(&someone, "held"), (&other, "freed")] {
        let lock = format!("begin; select from rooms where name = '{room}' for update");
        psql.batch_execute(&lock).await.unwrap();
    }
    client.send(message("held", "a", "waits")).await;
    // It has come to wait before the other does.
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
    while sql(&world).await.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
    another.send(message("freed", "b", "waits, too")).await;
    other.batch_execute("rollback").await.unwrap();
    another.expect(json!({"type": "ack", "id": "b", "seq": 2})).await;
    someone.batch_execute("rollback").await.unwrap();
    client.expect(json!({"type": "ack", "id": "a", "seq": 2})).await;
}

/// Also its followers hear of it when it is known, though nothing more is said in the room.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_doubt_holds_back_only_its_room() {
    let world = World::postgres().await;
    let (node, mut client) = one_lane(&world).await;
    let someone = sql(&world).await;
    someone.batch_execute(GATE).await.unwrap();
    let mut follower = node.client().await;
    follower.send(json!({"type": "join", "user_id": "2", "room": "held"})).await;
    follower.read_until(json!({"type": "join", "seq": 2})).await;
    client.send(message("held", "a", "hang")).await;
    client.expect(json!({"type": "error", "code": "unavailable", "id": "a"})).await;
    // It is in doubt from here on.
    client.send(message("held", "b", "waits")).await;
    others_go_on(&node, "in doubt").await;
    client.expect(json!({"type": "error", "code": "unavailable", "id": "b"})).await;
    someone.batch_execute("insert into gate default values").await.unwrap();
    follower.read_until(json!({"type": "message", "seq": 3, "message": "hang"})).await;
    client.send(message("held", "a", "hang")).await;
    client.expect(json!({"type": "ack", "id": "a", "seq": 3, "duplicate": true})).await;
}
