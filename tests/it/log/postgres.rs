//! What is special to the log on PostgreSQL: its schema, what it refuses at the start, and many
//! nodes on one database.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;
use verbatim::config::LogConfig;
use verbatim::log::postgres::{OpenError, Postgres};
use verbatim::log::{Log, LogError, Mark, Marked};
use verbatim::model::{EventKind, RoomName, Seq};
use verbatim::rules::{Outcome, Write};

use super::appending::Appending;
use super::private_postgres::{PASSWORD, PrivatePostgres, client, settings};
use super::reading::check_every_mark;
use super::suite::{create, join, leave, room, say, seqs, suite, user};

pub async fn open(settings: &LogConfig) -> Log {
    Log::Postgres(Postgres::open(settings, 4, "n1", false).await.unwrap())
}

pub async fn refusal(settings: &LogConfig) -> String {
    let error: OpenError =
        Postgres::open(settings, 4, "n1", false).await.err().expect("it must not be opened");
    let (shown, debug) = (error.to_string(), format!("{error:?}"));
    assert!(!shown.contains(PASSWORD) && !debug.contains(PASSWORD), "{shown} {debug}");
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_the_contract() {
    let server = PrivatePostgres::start();
    suite(&open(&server.database("suite").await).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_at_once_make_one_schema() {
    let server = PrivatePostgres::start();
    // Whatever isolation a database gives to those who do not ask for one.
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let settings = server.database(&isolation.replace(' ', "_")).await;
        let admin = client(&settings.url.0).await;
        let set = "do $$ begin execute format('alter database %I
            set default_transaction_isolation = %L', current_database(), 'ISOLATION'); end $$";
        admin.batch_execute(&set.replace("ISOLATION", isolation)).await.unwrap();
        for _ in 0..2 {
            let nodes = (0..6).map(|_| {
                let settings = settings.clone();
                let open = async move { Postgres::open(&settings, 4, "n", false).await.map(drop) };
                tokio::spawn(open)
            });
            for node in nodes.collect::<Vec<_>>() {
                node.await.unwrap().unwrap();
            }
        }
        // By hand, too.
        admin.batch_execute(include_str!("../../../schema.sql")).await.unwrap();
        let versions = admin.query("select version from verbatim_schema", &[]).await.unwrap();
        assert_eq!(versions.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_with_a_sentence() {
    let server = PrivatePostgres::start();
    let admin = client(&server.url("postgres")).await;

    let newer = server.database("newer").await;
    open(&newer).await;
    let inside = client(&newer.url.0).await;
    inside.batch_execute("insert into verbatim_schema values (5)").await.unwrap();
    assert!(refusal(&newer).await.contains("prepared by a newer verbatim (schema 5"));

    let foreign = server.database("another").await;
    let inside = client(&foreign.url.0).await;
    inside.batch_execute("create table events (x int)").await.unwrap();
    assert!(refusal(&foreign).await.contains("has a table events that is not verbatim's"));

    admin
        .batch_execute("create database latin encoding 'LATIN1' locale 'C' template template0")
        .await
        .unwrap();
    assert!(refusal(&settings(&server.url("latin"))).await.contains("encoded in LATIN1"));

    admin.batch_execute("create database standby").await.unwrap();
    admin
        .batch_execute("alter database standby set default_transaction_read_only = on")
        .await
        .unwrap();
    let sentence = refusal(&settings(&server.url("standby"))).await;
    assert!(sentence.contains("is read-only (a standby?)"), "{sentence}");

    let guest = "create role guest login password 's3cret-word';
                 create database closed; revoke all on database closed from public";
    for statement in guest.split(';') {
        admin.batch_execute(statement).await.unwrap();
    }
    let inside = client(&server.url("closed")).await;
    inside.batch_execute("revoke create on schema public from public").await.unwrap();
    inside.batch_execute("grant connect on database closed to guest").await.unwrap();
    let url = server.url("closed").replace("postgres:s3cret", "guest:s3cret");
    assert!(refusal(&settings(&url)).await.contains("may not create tables"));

    let url = server.url("nowhere");
    assert!(refusal(&settings(&url)).await.contains("has no such database"));
    let url = server.url("postgres").replace(PASSWORD, "wrong");
    assert!(refusal(&settings(&url)).await.contains("refused the user or the password"));
    for url in ["postgres://u:s3cret-word@h:port/x", "mysql://x", "host=h pass=s3cret-word"] {
        assert!(refusal(&settings(url)).await.contains("is not a PostgreSQL URL"), "{url}");
    }
    for (words, told) in [
        ("sslmode=verify-ca", "has an sslmode that is not one of"),
        ("sslmode=verify-full&sslrootcert=/nowhere.pem", "/nowhere.pem"),
        ("gssencmode=require", "log.url has gssencmode, which"),
        ("target_session_attrs=standby", "log.url has target_session_attrs, which"),
        ("sslkey=s3cret-word", "log.url has sslkey, which"),
    ] {
        let sentence = refusal(&settings(&format!("{}?{words}", server.url("postgres")))).await;
        assert!(sentence.contains(told), "{sentence}");
    }
    let agreed = "gssencmode=disable&target_session_attrs=primary&connect_timeout=9";
    open(&settings(&format!("{}?{agreed}", server.url("postgres")))).await;
    server.stop();
    let sentence = refusal(&settings(&server.url("postgres"))).await;
    assert!(sentence.contains("cannot be reached"), "{sentence}");
}

/// Three nodes of two lanes each, on the same twenty rooms, all of which they make together.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_on_the_same_rooms_leave_no_hole_and_never_deadlock() {
    const ROUNDS: usize = 60;
    let server = PrivatePostgres::start();
    let settings = server.database("shared").await;
    let mut lanes = Vec::new();
    for node in 0..3 {
        let log = open(&settings).await;
        for lane in 0..2 {
            let mut appender = log.appender();
            let me = format!("{node}-{lane}");
            lanes.push(tokio::spawn(async move {
                for round in 0..ROUNDS {
                    // Rooms in another order for each lane, so that only the log's own order helps.
                    let name = |k: usize| {
                        let k = if lane == 0 { k } else { 4 - k };
                        format!("r{:02}", (round / 3 + k * 7) % 20)
                    };
                    let mut batch: Vec<Write> = (0..5).map(|k| create(&name(k), &me)).collect();
                    batch.extend((0..5).map(|k| join(&name(k), &me)));
                    batch.extend((0..5).map(|k| say(&name(k), &me, &format!("{round} {k}"), "x")));
                    let outcomes = appender.append_all(&batch).await.unwrap();
                    assert!(outcomes[10..].iter().all(|outcome| outcome.events().count() == 1));
                }
            }));
        }
    }
    for lane in lanes {
        lane.await.unwrap();
    }
    let log = open(&settings).await;
    let mut messages = 0;
    for summary in log.rooms(None, None, 100).await.unwrap() {
        let events = log.read(&summary.room, Seq(0), 100_000).await.unwrap();
        let seqs: Vec<u64> = events.iter().map(|event| event.seq.0).collect();
        assert_eq!(seqs, (1..=summary.last_seq.0).collect::<Vec<_>>());
        assert_eq!(events.iter().filter(|event| event.kind == EventKind::Create).count(), 1);
        let members: BTreeSet<_> = events.iter().map(|event| event.user.clone()).collect();
        assert_eq!(summary.members, members.len() as u64);
        messages += events.iter().filter(|event| event.is_message()).count();
    }
    assert_eq!(messages, 6 * ROUNDS * 5);
    let admin = client(&settings.url.0).await;
    // Statistics of a database are published when its sessions are idle; a deadlock's are sent
    // with the error, which would have failed an append's first try, and cost it a second.
    let row = admin
        .query_one("select deadlocks from pg_stat_database where datname = 'shared'", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrored_log_announces_each_room_of_each_batch() {
    let server = PrivatePostgres::start();
    let settings = server.database("mirrored").await;
    let mirrored = Log::Postgres(Postgres::open(&settings, 1, "n1", true).await.unwrap());
    let mut appender = mirrored.appender();
    let batch =
        [create("a", "1"), create("b", "1"), say("a", "1", "m", "x"), say("c", "1", "", "x")];
    appender.append_all(&batch).await.unwrap();
    appender.append_all(&[say("a", "1", "m", "x"), join("a", "1")]).await.unwrap();
    appender.append_all(&[say("a", "1", "", "y")]).await.unwrap();
    open(&settings)
        .await
        .appender()
        .append_all(&[say("a", "1", "", "not mirrored")])
        .await
        .unwrap();
    let admin = client(&settings.url.0).await;
    let rows = admin
        .query(
            "select r.name, o.first_seq, o.last_seq
             from outbox o
             join rooms r on r.id = o.room_id
             order by o.id",
            &[],
        )
        .await
        .unwrap();
    let mut rows: Vec<(String, i64, i64)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    rows[..2].sort();
    assert_eq!(rows, [("a".into(), 1, 2), ("b".into(), 1, 1), ("a".into(), 3, 3)]);
}

/// A row that was written by hand takes the seq that the next event needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_tables_refuse_is_refused_and_leaves_nothing() {
    let server = PrivatePostgres::start();
    let settings = server.database("poison").await;
    let log = open(&settings).await;
    let mut appender = log.appender();
    appender.append_all(&[create("a", "1"), create("b", "1")]).await.unwrap();
    let admin = client(&settings.url.0).await;
    let by_hand = "insert into events (room_id, seq, type, user_id, at)
                   select id, 2, 'message', '1', now() from rooms where name = 'a'";
    admin.batch_execute(by_hand).await.unwrap();
    let batch = [create("c", "1"), say("b", "1", "", "x"), say("a", "1", "", "x")];
    let result = appender.append_all(&batch).await;
    assert!(matches!(result, Err(LogError::Refused(_))), "{result:?}");
    assert_eq!(log.last_seq(&room("b")).await.unwrap(), Some(Seq(1)));
    assert_eq!(log.last_seq(&room("c")).await.unwrap(), None);
    let alone = appender.append_all(&batch[..2]).await.unwrap();
    assert!(
        matches!(alone[..], [Outcome::Committed { .. }, Outcome::Committed { .. }]),
        "{alone:?}"
    );
}

/// A transaction that nobody waits for any more still holds its room. Until it has ended, nobody
/// can say where the room stands.
#[tokio::test(flavor = "multi_thread")]
async fn settling_waits_for_a_transaction_that_holds_or_makes_the_room() {
    let server = PrivatePostgres::start();
    let settings = server.database("zombie").await;
    let log = open(&settings).await;
    log.appender().append_all(&[create("old", "1")]).await.unwrap();
    let zombie = client(&settings.url.0).await;
    for (name, ending, expected) in
        [("old", "commit", Some(2)), ("new", "rollback", None), ("new", "commit", Some(1))]
    {
        let name: RoomName = room(name);
        let write = format!(
            "begin;
             select pg_try_advisory_xact_lock(hashtextextended('{name}', 0));
             insert into rooms (name, created_by, last_seq, message_count, member_count, created_at)
             values ('{name}', '1', 1, 0, 1, now())
             on conflict (name) do update set last_seq = rooms.last_seq + 1"
        );
        zombie.batch_execute(&write).await.unwrap();
        let mut lane = log.appender();
        let asked = [name.clone()];
        let settle = lane.settled(&asked);
        tokio::pin!(settle);
        let early = timeout(Duration::from_millis(200), &mut settle).await;
        assert!(early.is_err(), "settled while the transaction was open: {early:?}");
        zombie.batch_execute(ending).await.unwrap();
        let expected: Vec<_> = expected.map(|seq| (name, Seq(seq))).into_iter().collect();
        assert_eq!(settle.await.unwrap(), expected);
    }
}

/// Somebody's psql has one room, another node makes a second one: neither keeps the others waiting.
#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_somebody_else_holds_leave_the_batch() {
    let server = PrivatePostgres::start();
    let settings = server.database("held").await;
    let log = open(&settings).await;
    let mut appender = log.appender();
    appender.append_all(&[create("held", "1"), create("free", "1")]).await.unwrap();
    let someone = client(&settings.url.0).await;
    someone
        .batch_execute(
            "begin;
             select from rooms where name = 'held' for update;
             select pg_try_advisory_xact_lock(hashtextextended('made', 0));
             insert into rooms (name, created_by, last_seq, message_count, member_count, created_at)
             values ('made', '1', 1, 0, 1, now())",
        )
        .await
        .unwrap();
    let batch = [
        say("held", "1", "a", "x"),
        say("free", "1", "b", "x"),
        create("made", "2"),
        create("new", "2"),
        say("nowhere", "1", "c", "x"),
        say("held", "1", "d", "x"),
    ];
    for wait_for in [None, Some(room("free")), Some(room("held")), Some(room("made"))] {
        let outcomes = appender.append(&batch, wait_for.as_ref()).await.unwrap();
        let left_out: Vec<_> = outcomes.iter().map(Option::is_none).collect();
        // Who waits for the one that is held has waited for nothing, and is told so.
        let in_vain = wait_for == Some(room("held"));
        let expected = [true, in_vain, true, in_vain, in_vain, true];
        assert_eq!(left_out, expected, "{wait_for:?}");
    }
    someone.batch_execute("rollback").await.unwrap();
    let outcomes = appender.append(&batch, None).await.unwrap();
    assert!(outcomes.iter().all(Option::is_some), "{outcomes:?}");
    assert_eq!(seqs(&log.read(&room("held"), Seq(0), 9).await.unwrap()), [1, 2, 3]);
    assert_eq!(seqs(&log.read(&room("free"), Seq(0), 9).await.unwrap()), [1, 2]);
}

/// What a node of version 1 left behind, and goes on to write while this one is here already.
const AS_VERSION_1: &str = "
    drop view event_log;
    drop table verbatim_log;
    drop index events_by_turn;
    alter table events drop column messages, drop column data;
    alter table verbatim_schema drop column carried_by;
    alter table members reset (fillfactor);
    delete from verbatim_schema;
    insert into verbatim_schema (version) values (1)";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_version_1_is_brought_to_this_one_and_unread_is_exact() {
    let server = PrivatePostgres::start();
    let settings = server.database("older").await;
    let talk = |n: usize| {
        let name = |k: usize| format!("{}", k % 3);
        let mut batch = vec![join("r", &name(n)), say("r", &name(n), "", "x")];
        batch.push(if n.is_multiple_of(2) {
            leave("r", &name(n))
        } else {
            join("r", &name(n + 1))
        });
        batch
    };
    let log = open(&settings).await;
    let mut appender = log.appender();
    appender.append_all(&[create("r", "owner")]).await.unwrap();
    for n in 0..10 {
        appender.append_all(&talk(n)).await.unwrap();
    }
    let admin = client(&settings.url.0).await;
    admin.batch_execute(AS_VERSION_1).await.unwrap();
    drop((log, appender));

    let log = open(&settings).await;
    let versions = admin.query("select version from verbatim_schema order by 1", &[]).await;
    let versions: Vec<i32> = versions.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(versions, [1, 2, 3, 4]);
    check_every_mark(&log, "r").await;
    let mut appender = log.appender();
    for n in 0..10 {
        appender.append_all(&talk(n)).await.unwrap();
        // As one that is still there writes it.
        if n % 3 == 0 {
            let nulls =
                "update events set messages = null where seq > (select max(seq) - 4 from events)";
            admin.batch_execute(nulls).await.unwrap();
        }
    }
    check_every_mark(&log, "r").await;
}

/// A lane that holds a member's row waits for nothing that a mark holds, and a mark does not wait
/// for it: it is left for the next time.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_does_not_wait_for_a_member_who_is_locked() {
    let server = PrivatePostgres::start();
    let settings = server.database("busy").await;
    let log = open(&settings).await;
    let batch = [create("r", "1"), join("r", "2"), say("r", "1", "", "x")];
    log.appender().append_all(&batch).await.unwrap();
    let holder = client(&settings.url.0).await;
    holder.batch_execute("begin; delete from members where user_id = '1'").await.unwrap();
    let mark = |id: &str, seq| Mark { room: room("r"), user: user(id), seq: Seq(seq) };
    let mut marker = log.marker();
    let marks = [mark("1", 9), mark("2", 9)];
    let marking = marker.mark(&marks);
    let marked = timeout(Duration::from_secs(10), marking).await.expect("it waited").unwrap();
    assert_eq!(marked, Marked { moved: vec![mark("2", 3)], busy: vec![mark("1", 3)] });
    holder.batch_execute("rollback").await.unwrap();
    let marked = marker.mark(&marked.busy).await.unwrap();
    assert_eq!(marked, Marked { moved: vec![mark("1", 3)], busy: vec![] });
}

/// Marks of two nodes and leaves and joins of the same users, all at once.
#[tokio::test(flavor = "multi_thread")]
async fn marks_and_leaves_of_the_same_users_never_deadlock() {
    const ROUNDS: usize = 60;
    let server = PrivatePostgres::start();
    let settings = server.database("crossed").await;
    let log = open(&settings).await;
    let rooms: Vec<String> = (0..8).map(|n| format!("r{n}")).collect();
    let users: Vec<String> = (0..8).map(|n| format!("u{n}")).collect();
    let pairs = || rooms.iter().flat_map(|room| users.iter().map(move |user| (room, user)));
    log.appender()
        .append_all(&rooms.iter().map(|it| create(it, "u0")).collect::<Vec<_>>())
        .await
        .unwrap();
    let mut tasks = Vec::new();
    for side in 0..2 {
        let (log, mut marks): (Log, Vec<Mark>) = (
            log.clone(),
            pairs()
                .map(|(it, id)| Mark { room: room(it), user: user(id), seq: Seq(1_000_000) })
                .collect(),
        );
        if side == 1 {
            marks.reverse();
        }
        let mut writes: Vec<Write> = pairs().map(|(it, id)| join(it, id)).collect();
        writes.extend(pairs().map(|(it, id)| say(it, id, "", "x")));
        writes.extend(pairs().filter(|(_, id)| *id != "u0").map(|(it, id)| leave(it, id)));
        let another = log.clone();
        tasks.push(tokio::spawn(async move {
            let mut marker = log.marker();
            for _ in 0..ROUNDS * 4 {
                marker.mark(&marks).await.unwrap();
            }
        }));
        tasks.push(tokio::spawn(async move {
            let mut appender = another.appender();
            for _ in 0..ROUNDS {
                appender.append_all(&writes).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let admin = client(&settings.url.0).await;
    let row = admin
        .query_one("select deadlocks from pg_stat_database where datname = 'crossed'", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
}
