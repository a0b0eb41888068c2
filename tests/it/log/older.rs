//! A log of an older version is brought to this one by steps, and one of a newer version is carried
//! where it says that it can be.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use verbatim::log::Log;
use verbatim::log::sqlite::Sqlite;
use verbatim::model::{EventKind, Seq};
use verbatim::protocol::frame;
use verbatim::rules::{Outcome, Refusal};

use super::appending::Appending;
use super::postgres::{open, refusal};
use super::private_postgres::{PrivatePostgres, client};
use super::reading::check_every_mark;
use super::sqlite::settings_of;
use super::suite::{committed, join, room, say, seqs};
use crate::harness::PATIENCE;

/// By version, from 1.
const POSTGRES: [&str; 3] = [
    include_str!("older/postgres_1.sql"),
    include_str!("older/postgres_2.sql"),
    include_str!("older/postgres_3.sql"),
];
const SQLITE: [&str; 2] = [include_str!("older/sqlite_1.sql"), include_str!("older/sqlite_2.sql")];

/// What a database has but the order of its columns: a step can only add one at the end.
const CATALOG: &str = "
    select format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default)
    from information_schema.columns where table_schema = 'public'
    union all
    select indexdef from pg_indexes where schemaname = 'public'
    union all
    select format('%s %s', relname, reloptions::text)
    from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'
    union all
    select definition from pg_views where schemaname = 'public'";

/// Written by a node of a newer version; `{at}` is a time as the log has them.
const NEWER: &str = r#"
    insert into events (room_id, seq, type, user_id, client_id, body, data, messages, at)
    select id, 8, 'poll', '1', 'p1', 'a or b?', '"target":5,"of":{"a": [1.50]}', 3, {at}
    from rooms;
    insert into events (room_id, seq, type, user_id, messages, at)
    select id, 9, 'wave', '3', 3, {at} from rooms;
    update rooms set last_seq = 9;"#;

/// The room of the files, in which people go on.
async fn goes_on(log: &Log) {
    let events = log.read(&room("r"), Seq(0), 100).await.unwrap();
    assert_eq!(seqs(&events), [1, 2, 3, 4, 5, 6, 7]);
    let texts: Vec<_> = events.iter().filter_map(|event| event.text.as_ref()).collect();
    assert_eq!(texts.iter().map(|text| text.as_str()).collect::<Vec<_>>(), ["a", "b", "ü"]);
    check_every_mark(log, "r").await;
    let batch = [say("r", "1", "c1", "a"), join("r", "2"), say("r", "2", "c3", "d")];
    let outcomes = log.appender().append_all(&batch).await.unwrap();
    assert!(matches!(&outcomes[0], Outcome::Duplicate(it) if it.seq == Seq(3)));
    assert_eq!(committed(&outcomes[2]).seq, Seq(9));
    check_every_mark(log, "r").await;
}

/// What a newer node wrote is read as it is, and people go on behind it.
async fn carries(log: &Log) {
    let events = log.read(&room("r"), Seq(7), 100).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event.kind.clone()).collect();
    assert_eq!(kinds, [EventKind::Other("poll".into()), EventKind::Other("wave".into())]);
    let begin = r#"{"type":"poll","room":"r","user_id":"1","message":"a or b?","target":5,"#;
    let end = r#""of":{"a": [1.50]},"seq":8,"at":"2026-01-02T03:04:05.008Z","client_id":"p1"}"#;
    let shown = frame::event(&events[0]);
    assert_eq!(std::str::from_utf8(shown.payload()).unwrap(), [begin, end].concat());
    check_every_mark(log, "r").await;
    let batch = [say("r", "1", "p1", "x"), say("r", "1", "c4", "x")];
    let outcomes = log.appender().append_all(&batch).await.unwrap();
    let first = "poll".into();
    assert_eq!(outcomes[0], Outcome::Refused(Refusal::IdReused { first }));
    assert_eq!(committed(&outcomes[1]).seq, Seq(10));
    assert_eq!(seqs(&log.read(&room("r"), Seq(7), 100).await.unwrap()), [8, 9, 10]);
}

async fn catalog(client: &Client) -> BTreeSet<String> {
    let rows = client.query(CATALOG, &[]).await.unwrap();
    // PostgreSQL prints a view with the names its columns had.
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_is_brought_to_this_version() {
    let server = PrivatePostgres::start();
    let fresh = server.database("fresh").await;
    open(&fresh).await;
    let wanted = catalog(&client(&fresh.url.0).await).await;
    for (older, version) in POSTGRES.into_iter().zip(1..) {
        let settings = server.database(&format!("version_{version}")).await;
        let admin = client(&settings.url.0).await;
        admin.batch_execute(older).await.unwrap();
        let log = open(&settings).await;
        let rows = admin.query("select version from verbatim_schema order by 1", &[]).await;
        let versions: Vec<i32> = rows.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(versions, (version..=4).collect::<Vec<i32>>());
        let found = catalog(&admin).await;
        assert_eq!(found, wanted, "version {version}");
        goes_on(&log).await;
        open(&settings).await;
    }
}

/// Somebody reads a table for long (pg_dump). If the step waited behind them, everybody would wait
/// behind the step.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_has_to_wait_keeps_nobody_else_waiting() {
    let server = PrivatePostgres::start();
    let settings = server.database("busy").await;
    let admin = client(&settings.url.0).await;
    admin.batch_execute(POSTGRES[2]).await.unwrap();
    let reader = client(&settings.url.0).await;
    reader.batch_execute("begin; select * from events").await.unwrap();
    let opening = {
        let settings = settings.clone();
        tokio::spawn(async move { open(&settings).await })
    };
    // As a node of the older version goes on, at least once while the step is waiting.
    let waits = "select count(*) from pg_stat_activity
                 where wait_event_type = 'Lock' and query like '%add column data%'";
    let goes_on = async {
        let mut has_waited = 0;
        for n in 8.. {
            let is_waiting = admin.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0;
            has_waited += usize::from(is_waiting);
            let write = format!(
                "insert into events (room_id, seq, type, user_id, body, at)
                 values (1, {n}, 'message', '1', 'x', now())"
            );
            admin.batch_execute(&write).await.unwrap();
            if has_waited > 1 {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, goes_on).await.expect("who writes waits behind the step");
    reader.batch_execute("commit").await.unwrap();
    opening.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_database_is_carried_where_it_says_so() {
    let server = PrivatePostgres::start();
    let settings = server.database("newer").await;
    let admin = client(&settings.url.0).await;
    admin.batch_execute(POSTGRES[2]).await.unwrap();
    open(&settings).await;
    admin.batch_execute("insert into verbatim_schema values (5, now(), 4)").await.unwrap();
    open(&settings).await;
    admin.batch_execute("insert into verbatim_schema values (6, now(), 5)").await.unwrap();
    assert!(refusal(&settings).await.contains("prepared by a newer verbatim (schema 6"));
    admin
        .batch_execute("update verbatim_schema set carried_by = 3 where version = 6")
        .await
        .unwrap();
    let at = "'2026-01-02 03:04:05.008+00'";
    admin.batch_execute(&NEWER.replace("{at}", at)).await.unwrap();
    carries(&open(&settings).await).await;
}

fn made(path: &Path, older: &str) -> Connection {
    let shell = Connection::open(path).unwrap();
    shell.execute_batch(older).unwrap();
    shell
}

/// Every table, index and view, its words in one line.
fn sqlite_catalog(shell: &Connection) -> BTreeSet<String> {
    let columns = "
        select format('%s.%s %s %s %s', m.name, c.name, c.type, c.\"notnull\", c.pk)
        from sqlite_schema m, pragma_table_info(m.name) c
        union all
        select sql from sqlite_schema where type <> 'table' and sql is not null";
    let mut rows = shell.prepare(columns).unwrap();
    let texts = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
    texts.map(|text| text.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_file_is_brought_to_this_version() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Log::Sqlite(Sqlite::open(&settings_of(path)).unwrap());
    let fresh = folder.path().join("fresh.db");
    drop(open(&fresh));
    let wanted = sqlite_catalog(&Connection::open(&fresh).unwrap());
    for (older, version) in SQLITE.into_iter().zip(1..) {
        let path = folder.path().join(format!("version_{version}.db"));
        drop(made(&path, older));
        let log = open(&path);
        assert_eq!(sqlite_catalog(&Connection::open(&path).unwrap()), wanted, "{version}");
        goes_on(&log).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_file_is_carried_where_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    drop(made(&path, SQLITE[1]));
    let open = || Sqlite::open(&settings_of(&path));
    drop(open().unwrap());
    let shell = Connection::open(&path).unwrap();
    shell
        .execute_batch("insert into verbatim_schema values (4, 3); pragma user_version = 4")
        .unwrap();
    drop(open().unwrap());
    shell
        .execute_batch("insert into verbatim_schema values (5, 4); pragma user_version = 5")
        .unwrap();
    let sentence = open().err().expect("it must not be opened").to_string();
    assert!(sentence.contains("was written by a newer verbatim (schema 5"), "{sentence}");
    shell.execute_batch("update verbatim_schema set carried_by = 2 where version = 5").unwrap();
    shell.execute_batch(&NEWER.replace("{at}", "1767323045008")).unwrap();
    carries(&Log::Sqlite(open().unwrap())).await;
}
