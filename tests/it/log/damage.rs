//! A page of the log is damaged: whoever needs it is told so, and nobody else notices.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;
use verbatim::log::sqlite::Sqlite;
use verbatim::log::{Log, LogError, Mark};
use verbatim::model::Seq;
use verbatim::rules::{Outcome, Write};

use super::appending::Appending;
use super::postgres::open as open_postgres;
use super::private_postgres::{PrivatePostgres, client};
use super::sqlite::settings_of;
use super::suite::{committed, create, join, room, say, user};
use crate::harness::process::Process;
use crate::harness::raw::get;
use crate::harness::{Client, World};

const PAGE: usize = 4096;

async fn open(path: &Path) -> Log {
    Log::Sqlite(Sqlite::open(&settings_of(path)).unwrap())
}

async fn close(log: Log) {
    let closed = log.closed();
    drop(log);
    closed.wait().await;
}

/// Makes zeros of the pages of the file that are such; there is at least one.
fn damage(path: &Path, is_such: impl Fn(&[u8]) -> bool) {
    let bytes = fs::read(path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let such = bytes.chunks(PAGE).enumerate().filter(|(_, page)| is_such(page));
    let places: Vec<_> = such.map(|(number, _)| number * PAGE).collect();
    for place in &places {
        file.write_all_at(&[0; PAGE], *place as u64).unwrap();
    }
    assert!(!places.is_empty(), "there is no such page");
}

fn has(page: &[u8], text: &str) -> bool {
    page.windows(text.len()).any(|window| window == text.as_bytes())
}

/// What is stored in a leaf of a tree whose entries are keys: of an index, or of a table without
/// rowid. Nothing of what a page held once, and may still be seen in it.
fn cells(page: &[u8]) -> Vec<&[u8]> {
    let number = |at: usize| usize::from(u16::from_be_bytes([page[at], page[at + 1]]));
    let cell = |n: usize| {
        // Its length, in one byte or two, and so many bytes.
        let (at, more) = (number(8 + 2 * n), 0x80);
        let [high, low] = [page[at], page[at + 1]].map(usize::from);
        let is_long = high & more != 0;
        let len = if is_long { (high & !more) << 7 | low } else { high };
        let begin = at + 1 + usize::from(is_long);
        &page[begin..PAGE.min(begin + len)]
    };
    let is_leaf = page[0] == 10;
    (0..if is_leaf { number(3) } else { 0 }).map(cell).collect()
}

fn id(n: usize) -> String {
    format!("id-{n:03}{}", "-".repeat(40))
}

fn member(n: usize) -> String {
    format!("user-{n:03}{}", "-".repeat(40))
}

/// A room whose ids, texts and members fill pages of their own, and one beside it.
fn sick_and_well() -> Vec<Write> {
    let mut batch = vec![create("sick", "1"), create("well", "1")];
    let text = |n| format!("text-{n} {}", "x".repeat(100));
    batch.extend((0..400).map(|n| say("sick", "1", &id(n), &text(n))));
    batch.extend((0..400).map(|n| join("sick", &member(n))));
    batch.push(say("well", "1", "id", "x"));
    batch
}

const WELL_LAST: Seq = Seq(2);

/// The page of the index in which an id is looked up; the text stands elsewhere. It is far from the
/// index's end, where new ids go: a page that is full is divided with its neighbours.
fn is_of_ids(page: &[u8]) -> bool {
    cells(page).iter().any(|cell| has(cell, "id-050") && !has(cell, "text-"))
}

#[tokio::test]
async fn a_batch_says_which_of_its_commands_meet_damage_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = open(&path).await;
    log.appender().append_all(&sick_and_well()).await.unwrap();
    close(log).await;
    damage(&path, is_of_ids);

    let log = open(&path).await;
    let mut appender = log.appender();
    let mut batch = vec![
        create("new", "1"),
        say("sick", "1", &id(50), "x"),
        say("new", "1", "", "x"),
        say("well", "1", "id", "x"),
        say("sick", "1", &id(300), "x"),
        say("sick", "1", &id(50), "x"),
        say("sick", "2", "", "x"),
        say("well", "1", "next", "x"),
    ];
    let result = appender.append_all(&batch).await;
    let Err(LogError::Culprits(culprits)) = result else { panic!("{result:?}") };
    let places: Vec<_> = culprits.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [1, 5]);
    let errors = culprits.iter().map(|(_, error)| error);
    assert!(errors.clone().all(|error| matches!(error, LogError::Damaged(_))), "{culprits:?}");
    assert_eq!(log.last_seq(&room("new")).await.unwrap(), None);
    assert_eq!(log.last_seq(&room("well")).await.unwrap(), Some(WELL_LAST));

    let sick = batch.remove(5);
    batch.remove(1);
    let outcomes = appender.append_all(&batch).await.unwrap();
    assert_eq!(committed(&outcomes[1]).seq, Seq(2));
    for (place, seq) in [(2, WELL_LAST), (3, Seq(302))] {
        assert!(matches!(&outcomes[place], Outcome::Duplicate(it) if it.seq == seq));
    }
    assert!(matches!(outcomes[4], Outcome::Refused(_)), "not a member");
    assert_eq!(committed(&outcomes[5]).seq, WELL_LAST.next());
    let alone = appender.append_all(&[sick]).await;
    assert!(matches!(alone, Err(LogError::Damaged(_))), "{alone:?}");
}

#[tokio::test]
async fn a_read_says_that_it_met_damage_and_other_rooms_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = open(&path).await;
    log.appender().append_all(&sick_and_well()).await.unwrap();
    close(log).await;
    damage(&path, |page| cells(page).iter().any(|cell| has(cell, "text-200")));

    let log = open(&path).await;
    let page = log.read(&room("sick"), Seq(0), 1000).await;
    assert!(matches!(page, Err(LogError::Damaged(_))), "{page:?}");
    let page = log.read_before(&room("sick"), Some(Seq(300)), 1000, usize::MAX).await;
    assert!(matches!(page, Err(LogError::Damaged(_))), "{page:?}");
    assert_eq!(log.read(&room("sick"), Seq(0), 10).await.unwrap().len(), 10);
    assert_eq!(log.read(&room("well"), Seq(0), 10).await.unwrap().len(), 2);
}

/// Each page in turn: whoever gets an answer gets a true one, and nothing is stored twice.
#[tokio::test]
async fn whichever_page_is_damaged_nothing_untrue_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = open(&path).await;
    log.appender().append_all(&sick_and_well()).await.unwrap();
    let sick = log.read(&room("sick"), Seq(0), 1000).await.unwrap();
    let well = log.read(&room("well"), Seq(0), 1000).await.unwrap();
    close(log).await;
    let whole = fs::read(&path).unwrap();
    let (mut reads_failed, mut appends_failed) = (0, 0);
    for (page, byte) in (0..whole.len() / PAGE).flat_map(|page| [(page, 0), (page, 0xff)]) {
        let mut bytes = whole.clone();
        bytes[page * PAGE..][..PAGE].fill(byte);
        fs::write(&path, &bytes).unwrap();
        let log = match Sqlite::open(&settings_of(&path)) {
            Ok(log) => Log::Sqlite(log),
            Err(refused) => {
                assert_eq!(page, 0, "{refused}");
                assert!(refused.to_string().contains("restore a backup"), "{refused}");
                continue;
            }
        };
        for (name, stored) in [("sick", &sick), ("well", &well)] {
            match log.read(&room(name), Seq(0), 1000).await {
                Ok(read) => assert_eq!(&read, stored, "page {page}"),
                Err(LogError::Damaged(_)) => reads_failed += 1,
                other => panic!("page {page}: {other:?}"),
            }
        }
        let mut appender = log.appender();
        let id = |n| say("sick", "1", &id(n), "x");
        for (write, seq) in [
            (id(0), 2),
            (id(50), 52),
            (id(399), 401),
            (say("well", "1", "id", "x"), WELL_LAST.0),
            (say("well", "1", "new", "x"), WELL_LAST.0 + 1),
            (join("well", "2"), WELL_LAST.0 + 2),
        ] {
            let is_new = seq > WELL_LAST.0 && write.room == room("well");
            match appender.append_all(&[write]).await.as_deref() {
                Ok([Outcome::Duplicate(it)]) if !is_new => assert_eq!(it.seq.0, seq, "page {page}"),
                // One less if the one before it failed.
                Ok([outcome]) if is_new => assert!(committed(outcome).seq.0 <= seq),
                Err(LogError::Damaged(_)) => appends_failed += 1,
                other => panic!("page {page}, seq {seq}: {other:?}"),
            }
        }
        drop(appender);
        close(log).await;
    }
    assert!(reads_failed > 0 && appends_failed > 0, "{reads_failed}, {appends_failed}");
}

/// What every log must say of a row that has no frame.
async fn a_row_that_cannot_be_read(log: &Log, change: impl AsyncFn(&str)) {
    let batch = [create("a", "1"), say("a", "1", "", "x"), say("a", "1", "", "x")];
    log.appender().append_all(&batch).await.unwrap();
    change("update events set data = 'bad' where seq = 2").await;
    let page = log.read(&room("a"), Seq(0), 10).await;
    assert!(matches!(page, Err(LogError::Damaged(_))), "{page:?}");
    assert_eq!(log.read(&room("a"), Seq(2), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn sqlite_calls_a_row_that_cannot_be_read_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = open(&path).await;
    let shell = rusqlite::Connection::open(&path).unwrap();
    a_row_that_cannot_be_read(&log, async |sql| shell.execute_batch(sql).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_calls_a_row_that_cannot_be_read_damaged() {
    let server = PrivatePostgres::start();
    let settings = server.database("unknown").await;
    let log = open_postgres(&settings).await;
    let admin = client(&settings.url.0).await;
    a_row_that_cannot_be_read(&log, async |sql| admin.batch_execute(sql).await.unwrap()).await;
}

/// Its file is damaged while it is stopped; PostgreSQL finds it when it reads the page.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_of_postgres_is_told_as_such() {
    const BLOCK: u64 = 8192;
    let server = PrivatePostgres::start();
    let settings = server.database("sick").await;
    let log = open_postgres(&settings).await;
    log.appender().append_all(&sick_and_well()).await.unwrap();
    let admin = client(&settings.url.0).await;
    let place = "select (ctid::text::point)[0]::bigint,
                        current_setting('data_directory') || '/' || pg_relation_filepath('events')
                 from events where client_id like 'id-200%'";
    let place = admin.query_one(place, &[]).await.unwrap();
    let (block, path): (i64, String) = (place.get(0), place.get(1));
    admin.batch_execute("checkpoint").await.unwrap();
    server.stop();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 24], block as u64 * BLOCK).unwrap();
    server.start_again();

    let log = open_postgres(&settings).await;
    let page = log.read(&room("sick"), Seq(0), 1000).await;
    assert!(matches!(page, Err(LogError::Damaged(_))), "{page:?}");
    assert_eq!(log.read(&room("well"), Seq(0), 10).await.unwrap().len(), 2);
    let mut appender = log.appender();
    let batch = [say("well", "1", "", "x"), say("sick", "1", &id(200), "x")];
    let appended = appender.append_all(&batch).await;
    assert!(matches!(appended, Err(LogError::Damaged(_))), "{appended:?}");
    assert_eq!(log.last_seq(&room("well")).await.unwrap(), Some(WELL_LAST));
    let outcomes = appender.append_all(&batch[..1]).await.unwrap();
    assert_eq!(committed(&outcomes[0]).seq, WELL_LAST.next());
}

/// A mark that cannot be stored would be tried again with all that wait beside it.
#[tokio::test]
async fn a_mark_that_meets_damage_keeps_no_other_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = open(&path).await;
    log.appender().append_all(&sick_and_well()).await.unwrap();
    close(log).await;
    // The table of members: the index on it has no roles, and events have types.
    let is_member = |cell: &&[u8]| has(cell, "user-200") && has(cell, "member");
    damage(&path, |page| cells(page).iter().any(is_member));

    let log = open(&path).await;
    let mark = |name: &str, id: &str, seq| Mark { room: room(name), user: user(id), seq: Seq(seq) };
    let marks = [mark("sick", "1", 9), mark("sick", &member(200), 900), mark("well", "1", 2)];
    let marked = log.marker().mark(&marks).await.unwrap();
    assert_eq!(
        (&marked.moved[..], marked.busy.len()),
        (&[marks[0].clone(), marks[2].clone()][..], 0)
    );
    let marked = log.marker().mark(&marks[1..2]).await.unwrap();
    assert_eq!((marked.moved.len(), marked.busy.len()), (0, 0));
}

/// Else a lane that asks where they stand would never write again.
#[tokio::test]
async fn a_room_that_cannot_be_read_keeps_no_other_unsettled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = open(&path).await;
    let name = |n| format!("room-{n:03} {}", "x".repeat(50));
    let batch: Vec<Write> = (0..300).map(|n| create(&name(n), "1")).collect();
    log.appender().append_all(&batch).await.unwrap();
    close(log).await;
    damage(&path, |page| cells(page).iter().any(|cell| has(cell, "room-299")));

    let log = open(&path).await;
    let last_seq = log.last_seq(&room(&name(299))).await;
    assert!(matches!(last_seq, Err(LogError::Damaged(_))), "{last_seq:?}");
    let asked = [room(&name(299)), room(&name(0))];
    let settled = log.appender().settled(&asked).await.unwrap();
    assert_eq!(settled, [(room(&name(0)), Seq(1))]);
}

/// Two clients at once, by one lane: one meets the damage again and again.
#[tokio::test(flavor = "multi_thread")]
async fn who_meets_damage_is_told_and_another_room_never_notices() {
    const TIMES: usize = 60;
    let world = World::sqlite().await;
    let path = Path::new(&world.config.log.path);
    let log = open(path).await;
    log.appender().append_all(&sick_and_well()).await.unwrap();
    close(log).await;
    damage(path, is_of_ids);

    let mut environment = world.environment();
    environment.push(("VERBATIM_LANE__COUNT".to_owned(), "1".to_owned()));
    let process = Process::start(environment).await;
    let mut sick = Client::greeted(process.addr).await;
    let mut well = Client::greeted(process.addr).await;
    let message = |room, id: &str| json!({"type": "message", "user_id": "1", "room": room, "message": "x", "id": id});
    for n in 0..TIMES {
        sick.send(message("sick", &id(50))).await;
        sick.send(message("sick", &id(300))).await;
        well.send(message("well", &format!("m{n}"))).await;
    }
    for n in 0..TIMES as u64 {
        let unavailable = json!({"type": "error", "code": "unavailable", "id": id(50)});
        sick.expect(unavailable).await;
        sick.expect(json!({"type": "ack", "id": id(300), "seq": 302, "duplicate": true})).await;
        well.expect(json!({"type": "ack", "id": format!("m{n}"), "seq": WELL_LAST.0 + 1 + n}))
            .await;
    }
    let metrics = get(process.addr, "/metrics").await.1;
    let wanted = format!("\nverbatim_log_errors_total{{kind=\"damaged\"}} {TIMES}\n");
    assert!(metrics.contains(&wanted), "{metrics}");
    let output = process.output();
    let told: Vec<_> = output.lines().filter(|line| line.contains("found damaged data")).collect();
    let [told] = told[..] else { panic!("it must be told once: {output}") };
    for wanted in ["ERROR", "SQLite found damaged data", "room=\"sick\"", "is malformed"] {
        assert!(told.contains(wanted), "no {wanted} in {told}");
    }
}
