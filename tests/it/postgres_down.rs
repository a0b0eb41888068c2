//! PostgreSQL's bad days under load: killed, restarted, hung, its connections cut, its rows locked
//! by someone else. Commands are answered in time, nobody is shown what is not in the log, nobody
//! is disconnected, and when it is over nothing is missing and nothing is there twice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;
use tokio::sync::watch;
use tokio_postgres::NoTls;
use verbatim::config::Config;

use crate::crowd::{Crowd, Outcome};
use crate::harness::node::TestNode;
use crate::harness::postgres::Postgres;
use crate::harness::{Client, PATIENCE, World, raw, services};
use crate::lossy::LossyLink;
use crate::mirror::cluster::until;

/// How much later than `lane.answer_timeout_ms` an answer may reach a client of a machine that
/// stands still now and then. That answers come while the log is away is what the outages wait for.
const MARGIN: Duration = PATIENCE;

/// A node for a crowd, which talks faster than a person.
async fn node(world: &World) -> TestNode {
    world.node_with(busy).await
}

fn busy(config: &mut Config) {
    config.session.commands_per_second = 1_000_000;
    config.session.commands_burst = 1_000_000;
}

fn at(node: &TestNode) -> watch::Receiver<SocketAddr> {
    watch::channel(node.addr).1
}

async fn sql(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("cannot connect");
    // It ends with the client.
    tokio::spawn(connection);
    client
}

/// What must be true after every outage.
fn assert_survived(outcome: &Outcome, world: &World) {
    outcome.assert_kept();
    assert_eq!(outcome.reconnects, 0, "clients were disconnected");
    let in_time = Duration::from_millis(world.config.lane.answer_timeout_ms) + MARGIN;
    assert!(outcome.slowest < in_time, "an answer took {:?}", outcome.slowest);
}

/// kill -9 loses what was under way, some of it after its COMMIT was sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_killed_under_load_costs_no_word() {
    let mut postgres = Postgres::start(&[]).await;
    let world = World::on(&postgres.database().await).impatient();
    let node = node(&world).await;
    let crowd = Crowd::gather(&[at(&node)], 4, 3, 32).await;
    for _ in 0..2 {
        crowd.answered(200).await;
        postgres.kill();
        // All that was under way, and some of it once more, in vain.
        crowd.unavailable(4 * 32 + 32).await;
        postgres.restart().await;
    }
    crowd.answered(200).await;
    let outcome = crowd.end(&world.config.log).await;
    assert_survived(&outcome, &world);
}

/// A restart by an operator in a hurry: back in a second, so that much of it goes unnoticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_restarted_under_load_costs_no_word() {
    let mut postgres = Postgres::start(&[]).await;
    let world = World::on(&postgres.database().await).impatient();
    let node = node(&world).await;
    let crowd = Crowd::gather(&[at(&node)], 4, 3, 32).await;
    for _ in 0..5 {
        crowd.answered(200).await;
        postgres.restart().await;
    }
    crowd.answered(200).await;
    let outcome = crowd.end(&world.config.log).await;
    assert_survived(&outcome, &world);
}

/// A hung machine: connections stand and nothing answers, which only a timeout can tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_hangs_under_load_costs_no_word() {
    let postgres = Postgres::start(&[]).await;
    let world = World::on(&postgres.database().await).impatient();
    let node = node(&world).await;
    let crowd = Crowd::gather(&[at(&node)], 4, 3, 32).await;
    for _ in 0..2 {
        crowd.answered(200).await;
        postgres.pause();
        crowd.unavailable(4 * 32 + 32).await;
        postgres.resume();
    }
    crowd.answered(200).await;
    let outcome = crowd.end(&world.config.log).await;
    assert_survived(&outcome, &world);
}

/// A failover of a proxy in between, or an administrator: each connection ends at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_under_load_cost_no_word() {
    let world = World::postgres().await.impatient();
    let node = node(&world).await;
    let crowd = Crowd::gather(&[at(&node)], 4, 3, 32).await;
    let administrator = sql(&world.config.log.url.0).await;
    let mut cut = 0;
    for _ in 0..20 {
        crowd.answered(50).await;
        let rows = administrator
            .query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()",
                &[],
            )
            .await
            .unwrap();
        cut += rows.len();
    }
    assert!(cut > 20, "only {cut} connections were there to be cut");
    crowd.answered(200).await;
    let outcome = crowd.end(&world.config.log).await;
    assert_survived(&outcome, &world);
}

/// The worst moment to lose a connection: nobody can know whether it is committed. Each loss is
/// told as such, nobody is acked what is not there, and what is there is not written again.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_loses_commits_and_their_answers_costs_no_word() {
    let direct = services::database().await;
    let port = services::postgres().await.port();
    let link = LossyLink::to(port).await;
    let through = direct.replace(&format!(":{port}/"), &format!(":{}/", link.port));
    let world = World::on(&through).impatient();
    let node = node(&world).await;
    let crowd = Crowd::gather(&[at(&node)], 4, 3, 32).await;
    link.begin_losing();
    while link.losses() < 15 {
        crowd.answered(100).await;
    }
    let outcome = crowd.end(&World::on(&direct).config.log).await;
    assert_survived(&outcome, &world);
    assert!(outcome.progress.unavailable > 0, "nobody was told of a loss");
    assert!(outcome.progress.duplicates > 0, "nothing that was lost was there");
}

/// Somebody's forgotten psql holds one room's row. Its commands get their answers in time, the
/// other rooms go on, and so does everything when the row is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_someone_else_has_locked_costs_no_word() {
    let world = World::postgres().await.impatient();
    let node = node(&world).await;
    let crowd = Crowd::gather(&[at(&node)], 4, 3, 32).await;
    let someone = sql(&world.config.log.url.0).await;
    for _ in 0..2 {
        crowd.answered(200).await;
        someone
            .batch_execute("begin; select 1 from rooms where name = 'general' for update")
            .await
            .unwrap();
        crowd.unavailable(32).await;
        someone.batch_execute("rollback").await.unwrap();
    }
    crowd.answered(200).await;
    let outcome = crowd.end(&world.config.log).await;
    assert_survived(&outcome, &world);
}

/// A part of the URL with which every commit waits for a standby that does not exist.
const CONFIRMED: &str = "?options=-csynchronous_commit%3Don";

/// A node on which writes may take so long, and reads, and a room "r".
async fn node_with_times(write: Duration, read: Duration) -> (World, TestNode, Client) {
    let world = World::postgres().await;
    let node = world.node_with(|config| {
        let write_ms = write.as_millis() as u64;
        let log = &mut config.log;
        (log.append_timeout_ms, log.read_timeout_ms) = (write_ms, read.as_millis() as u64);
        (log.statement_timeout_ms, log.lock_timeout_ms) = (write_ms, write_ms);
        config.lane.answer_timeout_ms = write_ms;
    });
    let node = node.await;
    let mut client = node.client().await;
    client.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "ack"})).await;
    (world, node, client)
}

/// A join is a write and then reads. A write that took nearly as long as it may leaves little time
/// for them, and not as much again.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_whose_write_and_whose_reads_are_slow_is_answered_in_the_time_of_one() {
    const TIMEOUT: Duration = Duration::from_secs(6);
    let (world, _node, mut client) = node_with_times(TIMEOUT, TIMEOUT).await;
    let url = &world.config.log.url.0;
    let (writer, reader, watcher) = (sql(url).await, sql(url).await, sql(url).await);
    writer.batch_execute("begin; select 1 from rooms for update").await.unwrap();
    let asked = Instant::now();
    client.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    // The lane waits for the row. Whoever locks the whole table waits for the lane, and whoever
    // reads it later waits for them.
    is_waiting(&watcher, 1).await;
    let lock = tokio::spawn(async move {
        reader.batch_execute("begin; lock table rooms in access exclusive mode").await.unwrap();
        reader
    });
    is_waiting(&watcher, 2).await;
    tokio::time::sleep_until((asked + TIMEOUT * 5 / 6).into()).await;
    writer.batch_execute("commit").await.unwrap();
    client.expect(json!({"type": "error", "code": "unavailable", "re": "join"})).await;
    // With as much again for the reads it were 5 s more.
    let took = asked.elapsed();
    assert!(took < TIMEOUT + Duration::from_millis(4500), "the answer took {took:?}");
    // The write was in time all the same, and with it the join.
    lock.await.unwrap().batch_execute("rollback").await.unwrap();
    client.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    client.expect(json!({"type": "joined", "last_seq": 2})).await;
}

/// Where commits may take longer than reads, one that did is no reason not to read.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_whose_write_takes_longer_than_a_read_may_is_joined() {
    // Longer than the machine stands still.
    const READ: Duration = Duration::from_millis(4500);
    let (world, _node, mut client) = node_with_times(10 * READ, READ).await;
    let url = &world.config.log.url.0;
    let (writer, watcher) = (sql(url).await, sql(url).await);
    writer.batch_execute("begin; select 1 from rooms for update").await.unwrap();
    let asked = Instant::now();
    client.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    is_waiting(&watcher, 1).await;
    tokio::time::sleep_until((asked + READ * 10 / 9).into()).await;
    writer.batch_execute("commit").await.unwrap();
    client.expect(json!({"type": "joined", "last_seq": 2})).await;
}

/// So many statements wait for a lock.
async fn is_waiting(sql: &tokio_postgres::Client, statements: i64) {
    let count = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'";
    let waiting = async || sql.query_one(count, &[]).await.unwrap().get::<_, i64>(0);
    until("statements that wait", waiting, |waiting| *waiting >= statements).await;
}

/// A server that commits what comes with `CONFIRMED`, and never says so; and the URL of a database
/// with a room in it, made without that.
async fn postgres_that_confirms_nothing() -> (Postgres, String) {
    let settings = ["synchronous_standby_names=nobody", "synchronous_commit=local"];
    let postgres = Postgres::start(&settings).await;
    let url = postgres.database().await;
    let node = World::on(&url).node().await;
    let mut client = node.client().await;
    client.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
    drop(client);
    node.stop().await;
    (postgres, url)
}

/// An administrator ends the wait of commits that hang, and says how many did: others see them from
/// here on.
async fn confirm(url: &str) -> usize {
    let cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
    sql(url).await.query(cancel, &[]).await.unwrap().len()
}

/// An event whose COMMIT was never answered is in the log, and no event comes behind it that would
/// show the hole.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_commit_was_not_confirmed_reaches_its_followers_all_the_same() {
    let (_postgres, url) = postgres_that_confirms_nothing().await;
    let world = World::on(&format!("{url}{CONFIRMED}")).impatient();
    let node = world.node().await;
    let mut follower = node.client().await;
    follower.send(json!({"type": "join", "user_id": "1", "room": "r"})).await;
    follower.expect(json!({"type": "joined", "last_seq": 1})).await;
    let mut sender = node.client().await;
    let message =
        json!({"type": "message", "user_id": "1", "room": "r", "message": "hi", "id": "m"});
    sender.send(message.clone()).await;
    sender.expect(json!({"type": "error", "code": "unavailable", "id": "m"})).await;
    assert_eq!(confirm(&url).await, 1);
    let shown = follower.expect(json!({"type": "message", "seq": 2, "client_id": "m"})).await;
    // Asked again, it is the same event, and nobody is shown it twice.
    sender.send(message).await;
    let duplicate = json!({"type": "ack", "seq": 2, "at": shown["at"], "duplicate": true});
    sender.expect(duplicate).await;
    follower.expect_nothing().await;
}

/// A lane that is busy with an old doubt, and then with a new batch, must not forget those who come
/// meanwhile: they did not wait when it last looked, and their time runs all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_comes_while_a_lane_is_stuck_is_answered_in_time() {
    const TIMEOUT: Duration = Duration::from_millis(1500);
    let (postgres, url) = postgres_that_confirms_nothing().await;
    let world = World::on(&format!("{url}{CONFIRMED}"));
    let node = world.node_with(|config| {
        let timeout_ms = TIMEOUT.as_millis() as u64;
        (config.lane.answer_timeout_ms, config.log.append_timeout_ms) = (timeout_ms, timeout_ms);
    });
    let node = node.await;
    let message = |id: &str| {
        let (kind, user, room) = ("message", "1", "r");
        json!({"type": kind, "user_id": user, "room": room, "message": "hi", "id": id})
    };
    let unavailable = json!({"type": "error", "code": "unavailable"});
    let mut client = node.client().await;
    let begun = tokio::time::Instant::now();
    // The first makes the doubt. The second waits behind it, and its time is over soon after the
    // lane has begun to settle that doubt; then nobody waits.
    client.send(message("1")).await;
    tokio::time::sleep_until(begun + TIMEOUT / 30).await;
    client.send(message("2")).await;
    client.expect(unavailable.clone()).await;
    client.expect(unavailable.clone()).await;
    let asked = Instant::now();
    client.send(message("3")).await;
    // The doubt is settled just before the lane gives it up, and the next commit hangs, too. (Where
    // the machine stood still it may have given up before: then the answer is the same.)
    tokio::time::sleep_until(begun + TIMEOUT * 2 - TIMEOUT / 10).await;
    confirm(&url).await;
    client.expect(unavailable).await;
    let took = asked.elapsed();
    assert!(took < TIMEOUT + MARGIN, "the answer took {took:?}");
    drop(postgres);
}

/// One socket asks for everything at once, as a client does that has just come back. However much
/// it asked for, it has all its answers in the time of one.
#[tokio::test(flavor = "multi_thread")]
async fn reads_during_an_outage_are_unavailable_in_time_and_work_again_after_it() {
    let mut postgres = Postgres::start(&[]).await;
    let world = World::on(&postgres.database().await);
    let patient = node(&world).await;
    let mut client = patient.client().await;
    for room in ["a", "b", "c"] {
        client.send(json!({"type": "create", "user_id": "1", "room": room})).await;
        client.expect(json!({"type": "ack", "seq": 1})).await;
    }
    drop(client);
    patient.stop().await;
    let world = world.impatient();
    let node = node(&world).await;
    let mut client = node.client().await;

    postgres.pause();
    tokio::join!(all_are_unavailable(&mut client, &world), not_ready(&node));
    postgres.resume();
    all_work(&mut client).await;

    postgres.kill();
    tokio::join!(all_are_unavailable(&mut client, &world), not_ready(&node));
    postgres.restart().await;
    all_work(&mut client).await;
    // The answer of a moment ago is said again to those who ask while it is being asked.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (head, body) = raw::get(node.addr, "/readyz").await;
        if (head.status, body.contains("\"log\":\"ok\"")) == (200, true) {
            return;
        }
        assert!(Instant::now() < deadline, "{body}");
    }
}

fn reads() -> Vec<Value> {
    vec![
        json!({"type": "history", "user_id": "1", "room": "a", "id": "1"}),
        json!({"type": "history", "user_id": "1", "room": "b", "after": 0, "id": "2"}),
        json!({"type": "members", "user_id": "1", "room": "a", "id": "3"}),
        json!({"type": "rooms", "id": "4"}),
        json!({"type": "resume", "user_id": "1", "rooms": {"a": 1, "b": 1, "c": 1}, "id": "5"}),
        json!({"type": "join", "user_id": "1", "room": "a", "since": 1, "id": "6"}),
    ]
}

async fn all_are_unavailable(client: &mut Client, world: &World) {
    let begun = Instant::now();
    for read in reads() {
        client.send(read).await;
    }
    for (re, id, room) in [
        ("history", "1", Some("a")),
        ("history", "2", Some("b")),
        ("members", "3", Some("a")),
        ("rooms", "4", None),
        ("resume", "5", Some("a")),
        ("resume", "5", Some("b")),
        ("resume", "5", Some("c")),
    ] {
        let error = json!({"type": "error", "code": "unavailable", "re": re, "id": id});
        let error = client.expect(error).await;
        assert_eq!(error["room"].as_str(), room, "{error}");
    }
    // What it could: nothing.
    client.expect(json!({"type": "resumed", "rooms": {}, "id": "5"})).await;
    client.expect(json!({"type": "error", "code": "unavailable", "re": "join", "id": "6"})).await;
    // One after the other they took six times as long.
    let in_time = Duration::from_millis(world.config.lane.answer_timeout_ms) * 4;
    assert!(begun.elapsed() < in_time, "the answers took {:?}", begun.elapsed());
}

async fn all_work(client: &mut Client) {
    // The log may be away for as long as the machine stands still.
    let deadline = Instant::now() + PATIENCE;
    loop {
        client.send(json!({"type": "rooms", "id": "0"})).await;
        let answer = client.next().await;
        if answer["type"] == "rooms" {
            break;
        }
        assert!(answer["code"] == "unavailable" && Instant::now() < deadline, "{answer}");
    }
    // On one socket, joining again moves nothing, so each time is like the first.
    for read in reads() {
        client.send(read).await;
    }
    client.expect(json!({"type": "history", "id": "1", "first": 1, "last": 1})).await;
    client.expect(json!({"type": "history", "id": "2", "first": 1, "last": 1})).await;
    client.expect(json!({"type": "members", "id": "3"})).await;
    client.expect(json!({"type": "rooms", "id": "4"})).await;
    for room in ["a", "b", "c"] {
        client.expect(json!({"type": "joined", "room": room, "last_seq": 1})).await;
    }
    let rooms = json!({"a": 1, "b": 1, "c": 1});
    client.expect(json!({"type": "resumed", "rooms": rooms, "id": "5"})).await;
    client.expect(json!({"type": "joined", "room": "a", "id": "6"})).await;
}

async fn not_ready(node: &TestNode) {
    let (head, body) = raw::get(node.addr, "/readyz").await;
    assert_eq!((head.status, body.contains("\"log\":\"away\"")), (503, true), "{body}");
}

/// A newcomer reads a room's past, and the log goes away in the middle of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_catch_up_goes_on_by_itself_after_an_outage() {
    /// More bytes than all the buffers on the way can hold.
    const MESSAGES: u64 = 200;
    let mut postgres = Postgres::start(&[]).await;
    let world = World::on(&postgres.database().await);
    let node = world.node_with(|config| {
        busy(config);
        config.hub.ring_len_max = 16;
        // So that reads fail many times over during the outage.
        config.log.read_timeout_ms = 200;
    });
    let node = node.await;
    let mut writer = node.client().await;
    writer.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    writer.expect(json!({"type": "ack", "seq": 1})).await;
    let text = "x".repeat(world.config.session.message_bytes_max);
    for _ in 0..MESSAGES / 100 {
        for _ in 0..100 {
            let message = json!({"type": "message", "user_id": "1", "room": "r", "message": text});
            writer.send(message).await;
        }
        for _ in 0..100 {
            writer.expect(json!({"type": "ack"})).await;
        }
    }

    let mut reader = node.client().await;
    SockRef::from(reader.stream()).set_recv_buffer_size(16 * 1024).unwrap();
    // It may take more than one: on a machine that stands still, so short a read is none.
    let deadline = Instant::now() + PATIENCE;
    loop {
        reader.send(json!({"type": "join", "user_id": "1", "room": "r", "since": 0})).await;
        let answer = reader.next().await;
        if answer["type"] == "joined" {
            break assert_eq!(answer["last_seq"], MESSAGES + 1);
        }
        assert!(answer["code"] == "unavailable" && Instant::now() < deadline, "{answer}");
    }
    reader.expect(json!({"seq": 1})).await;
    postgres.kill();
    let mut last = 1;
    // That nothing comes can only be seen by waiting; too short a wait cannot fail falsely.
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(700), reader.next()).await {
        assert_eq!(event["seq"], last + 1);
        last += 1;
    }
    assert!(last < MESSAGES, "everything was on its way before the outage");
    postgres.restart().await;
    while last < MESSAGES + 1 {
        reader.expect(json!({"seq": last + 1})).await;
        last += 1;
    }
    reader.expect_nothing().await;
}
