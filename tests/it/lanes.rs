//! Three nodes' worth of lanes on one PostgreSQL, writing to the same rooms at the same time: one
//! order, no hole, no deadlock, and an id is one event whichever node it comes by.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::crowd::{Crowd, Line};
use crate::harness::World;
use crate::harness::node::TestNode;
use crate::stored::stored;

type Address = watch::Receiver<SocketAddr>;

async fn three_nodes(world: &World) -> ([TestNode; 3], [Address; 3]) {
    let node = |id: &'static str| {
        world.node_with(move |config| {
            config.node.id = id.to_owned();
            // So that a batch has all rooms, each of which another node holds or waits for.
            config.lane.count = 1;
            // The crowd talks faster than a person.
            config.session.commands_per_second = 1_000_000;
            config.session.commands_burst = 1_000_000;
        })
    };
    // The first three starts on an empty database, at once.
    let nodes: [TestNode; 3] = tokio::join!(node("n1"), node("n2"), node("n3")).into();
    let addresses = [&nodes[0], &nodes[1], &nodes[2]].map(|node| watch::channel(node.addr).1);
    (nodes, addresses)
}

/// The same command by all three nodes at once.
async fn ask_all(lines: &mut [Line; 3], command: &Value) -> [Value; 3] {
    let [one, two, three] = lines;
    let command = || command.clone();
    tokio::join!(one.ask(command()), two.ask(command()), three.ask(command())).into()
}

async fn open_all([one, two, three]: &[Address; 3]) -> [Line; 3] {
    tokio::join!(Line::open(one), Line::open(two), Line::open(three)).into()
}

async fn sql(world: &World) -> tokio_postgres::Client {
    let connect = tokio_postgres::connect(&world.config.log.url.0, tokio_postgres::NoTls);
    let (client, connection) = connect.await.unwrap();
    // It ends with the client.
    tokio::spawn(connection);
    client
}

/// PostgreSQL finds a deadlock before anyone's patience ends, and counts it.
async fn watch_for_deadlocks(world: &World) {
    let name = "do $$ begin execute format(
        'alter database %I set deadlock_timeout = ''50ms''', current_database()); end $$";
    sql(world).await.batch_execute(name).await.unwrap();
}

/// Call it when the nodes have stopped: a session reports what it counted when it ends.
async fn assert_no_deadlock(world: &World) {
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    let row = sql(world).await.query_one(deadlocks, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0, "PostgreSQL had to break deadlocks");
}

/// Creations, joins, leaves and messages of six talkers, by three nodes, in three rooms.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_write_to_the_same_rooms_as_if_they_were_one() {
    let world = World::postgres().await;
    watch_for_deadlocks(&world).await;
    let (nodes, addresses) = three_nodes(&world).await;
    let mut crowd = Crowd::gather(&addresses, 2, 1, 64).await;
    crowd.answered(4000).await;
    crowd.hush().await;
    let ends = crowd.ends(&world.config.log).await;
    // A node without a mirror hears of what others wrote by what it writes itself.
    crowd.last_words(&addresses).await;
    let outcome = crowd.outcome(ends, &world.config.log).await;
    outcome.assert_kept();
    assert_eq!((outcome.reconnects, outcome.progress.unavailable), (0, 0));
    assert!(outcome.progress.duplicates == 0, "an id was new and taken for an old one");
    for node in nodes {
        node.stop().await;
    }
    assert_no_deadlock(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_sent_to_three_nodes_at_once_is_one_event() {
    const TIMES: u64 = 300;
    let world = World::postgres().await;
    let (_nodes, addresses) = three_nodes(&world).await;
    let mut lines = open_all(&addresses).await;
    let create = json!({"type": "create", "user_id": "1", "room": "r", "id": "create"});
    lines[0].ask(create).await;
    for time in 0..TIMES {
        let message = json!({
            "type": "message", "user_id": "1", "room": "r",
            "message": "hi", "id": format!("m{time}"),
        });
        let acks = ask_all(&mut lines, &message).await;
        let told = acks.each_ref().map(|ack| (&ack["type"], &ack["seq"], &ack["at"]));
        assert_eq!(told[0].0, "ack", "{acks:?}");
        // One after the other, so that each is the next event.
        assert_eq!(told[0].1, time + 2, "{acks:?}");
        assert_eq!((told[0], told[0]), (told[1], told[2]), "the acks differ");
        let firsts = acks.iter().filter(|ack| ack["duplicate"].is_null()).count();
        assert_eq!(firsts, 1, "{acks:?}");
    }
    assert_eq!(stored(&world.config.log).await.rooms["r"].events.len() as u64, TIMES + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_three_nodes_create_at_once_has_one_creator() {
    let world = World::postgres().await;
    watch_for_deadlocks(&world).await;
    let (nodes, addresses) = three_nodes(&world).await;
    let mut lines = open_all(&addresses).await;
    for room in 0..50 {
        let room = format!("room-{room}");
        let create = json!({"type": "create", "user_id": "1", "room": room});
        // By three users it is one room and two refusals; by one user's id, three acks.
        let [one, two, three] = &mut lines;
        let by = |user: &str| {
            let mut create = create.clone();
            (create["user_id"], create["id"]) = (user.into(), user.into());
            create
        };
        let answers = tokio::join!(one.ask(by("1")), two.ask(by("2")), three.ask(by("3")));
        let answers: [Value; 3] = answers.into();
        let acks = answers.iter().filter(|answer| answer["type"] == "ack" && answer["seq"] == 1);
        assert_eq!(acks.count(), 1, "{answers:?}");
        let refusals = answers.iter().filter(|answer| answer["code"] == "room_exists");
        assert_eq!(refusals.count(), 2, "{answers:?}");

        let room = format!("{room} again");
        let create = json!({"type": "create", "user_id": "1", "room": room, "id": "same"});
        let acks = ask_all(&mut lines, &create).await;
        assert!(acks.iter().all(|ack| ack["type"] == "ack" && ack["seq"] == 1), "{acks:?}");
        let firsts = acks.iter().filter(|ack| ack["duplicate"].is_null()).count();
        assert_eq!(firsts, 1, "{acks:?}");
    }
    let stored = stored(&world.config.log).await;
    assert_eq!(stored.rooms.len(), 100);
    assert!(stored.rooms.values().all(|room| room.events.len() == 1 && room.member_count == 1));
    drop(lines);
    for node in nodes {
        node.stop().await;
    }
    assert_no_deadlock(&world).await;
}

/// Refuses to write two messages at once, and takes its time for one.
const ONE_BY_ONE: &str = "
    create function one_by_one() returns trigger language plpgsql as $$
    begin
        if (select count(*) from written) > 1 then
            raise exception 'not together' using errcode = '22000';
        end if;
        perform pg_sleep(2);
        return null;
    end $$;
    create trigger one_by_one after insert on events referencing new table as written
        for each statement execute function one_by_one();";

/// A batch that was refused is written one by one, which may take longer than its commands have.
/// Those whose time is over are told, and are not written behind everybody's back.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_their_turn_after_a_refused_batch_is_answered_in_time() {
    // Between one of them and all.
    const ANSWER: Duration = Duration::from_secs(7);
    const ALL: Duration = Duration::from_secs(16);
    let world = World::postgres().await;
    let node = world.node_with(|config| {
        config.lane.count = 1;
        config.lane.answer_timeout_ms = ANSWER.as_millis() as u64;
        config.log.append_timeout_ms = config.lane.answer_timeout_ms;
    });
    let node = node.await;
    let mut client = node.client().await;
    client.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "ack"})).await;
    let sql = sql(&world).await;
    sql.batch_execute(ONE_BY_ONE).await.unwrap();
    let begun = Instant::now();
    for number in 0..8 {
        let (text, id) = (format!("message {number}"), number.to_string());
        let message =
            json!({"type": "message", "user_id": "1", "room": "r", "message": text, "id": id});
        client.send(message).await;
    }
    let mut codes = Vec::new();
    for number in 0..8 {
        let answer = client.expect(json!({"id": number.to_string()})).await;
        codes.push(answer["code"].as_str().unwrap_or("ack").to_owned());
    }
    assert!(begun.elapsed() < ALL, "{:?}: {codes:?}", begun.elapsed());
    assert!(codes[0] == "ack" && codes[7] == "unavailable", "{codes:?}");
    // Behind all that the lane had to do.
    sql.batch_execute("drop trigger one_by_one on events").await.unwrap();
    client.send(json!({"type": "message", "user_id": "1", "room": "r", "message": "end"})).await;
    client.expect(json!({"type": "ack"})).await;
    let stored = stored(&world.config.log).await;
    let texts: Vec<_> = stored.rooms["r"].events.iter().filter_map(|it| it.text.clone()).collect();
    assert!(texts.contains(&"message 0".to_owned()), "{texts:?}");
    assert!(!texts.contains(&"message 7".to_owned()), "{texts:?}");
}
