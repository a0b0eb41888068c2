//! Both logs against a model of a chat that fits on a page: any commands, in any batches.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use verbatim::log::Log;
use verbatim::log::sqlite::Sqlite;
use verbatim::model::{Role, Seq, Text, UserId};
use verbatim::protocol::command::Verb;
use verbatim::rules::{Outcome, Refusal, Write};

use super::appending::Appending;
use super::postgres::open;
use super::private_postgres::PrivatePostgres;
use super::sqlite::settings_of;
use super::suite::{room, user, write};

/// Enough for every pair of commands to meet in one batch and in two, many times over.
const CASES: u32 = 150;

#[derive(Default)]
struct Room {
    owner: String,
    /// Type and user of seq 1, 2, 3, …
    events: Vec<(&'static str, String)>,
    members: BTreeSet<String>,
    receipts: HashMap<(String, String), u64>,
}

/// What a command should come to.
#[derive(Debug, PartialEq)]
enum Answer {
    Event(u64),
    Joined { event: Option<u64>, last_seq: u64, members: u64 },
    Duplicate(u64),
    Refused(Refusal),
}

fn answer(rooms: &mut BTreeMap<String, Room>, write: &Write) -> Answer {
    let (name, user) = (write.room.to_string(), write.caller.to_string());
    let key = write.id.as_ref().filter(|_| write.verb != Verb::Join);
    let key = key.map(|id| (user.clone(), id.as_str().to_owned()));
    if write.verb == Verb::Create && !rooms.contains_key(&name) {
        rooms.insert(name.clone(), Room { owner: user.clone(), ..Room::default() });
    }
    let Some(room) = rooms.get_mut(&name) else { return Answer::Refused(Refusal::RoomNotFound) };
    if let Some(seq) = key.as_ref().and_then(|key| room.receipts.get(key)) {
        let first = room.events[*seq as usize - 1].0;
        return match first == write.verb.kind().name() {
            true => Answer::Duplicate(*seq),
            false => Answer::Refused(Refusal::IdReused { first: first.into() }),
        };
    }
    let next = room.events.len() as u64 + 1;
    let member = room.members.contains(&user);
    let kind = match write.verb {
        Verb::Create if next > 1 => return Answer::Refused(Refusal::RoomExists),
        Verb::Create => "create",
        Verb::Join if member => {
            let (last_seq, members) = (next - 1, room.members.len() as u64);
            return Answer::Joined { event: None, last_seq, members };
        }
        Verb::Join => "join",
        _ if !member => return Answer::Refused(Refusal::NotMember),
        Verb::Leave => "leave",
        Verb::Message(_) => "message",
    };
    room.events.push((kind, user.clone()));
    room.receipts.extend(key.map(|key| (key, next)));
    if kind == "leave" {
        room.members.remove(&user);
    } else {
        room.members.insert(user);
    }
    match kind {
        "join" => {
            Answer::Joined { event: Some(next), last_seq: next, members: room.members.len() as u64 }
        }
        _ => Answer::Event(next),
    }
}

fn answered(outcome: &Outcome) -> Answer {
    match outcome {
        Outcome::Committed { event, .. } => Answer::Event(event.seq.0),
        Outcome::Joined { event, last_seq, members, .. } => Answer::Joined {
            event: event.as_ref().map(|event| event.seq.0),
            last_seq: last_seq.0,
            members: *members,
        },
        Outcome::Duplicate(receipt) => Answer::Duplicate(receipt.seq.0),
        Outcome::Refused(refusal) => Answer::Refused(refusal.clone()),
    }
}

/// A command of a small world, so that commands meet.
fn command() -> impl Strategy<Value = (u8, u8, u8, u8)> {
    // Rooms are few and creates are rare: most commands should find their room.
    (0..3_u8, 0..3_u8, 0..5_u8, 0..8_u8)
}

fn to_write(case: usize, (room, user, id, verb): (u8, u8, u8, u8)) -> Write {
    let verb = match verb {
        0 => Verb::Create,
        1 | 2 => Verb::Join,
        3 => Verb::Leave,
        _ => Verb::Message(Text::parse("text", 16).unwrap()),
    };
    let id = if id < 2 { String::new() } else { format!("id{id}") };
    write(&format!("{case} {room}"), &format!("u{user}"), &id, verb)
}

async fn check(log: &Log, batches: &[Vec<Write>]) {
    let mut rooms = BTreeMap::new();
    let mut appenders = [log.appender(), log.appender()];
    for (n, batch) in batches.iter().enumerate() {
        let expected: Vec<Answer> = batch.iter().map(|write| answer(&mut rooms, write)).collect();
        let outcomes = appenders[n % 2].append_all(batch).await.unwrap();
        assert_eq!(outcomes.iter().map(answered).collect::<Vec<_>>(), expected, "{batch:?}");
    }
    for (name, expected) in &rooms {
        let name = room(name);
        let events = log.read(&name, Seq(0), 1000).await.unwrap();
        for (n, event) in events.iter().enumerate() {
            assert_eq!(event.seq, Seq(n as u64 + 1));
        }
        let shown: Vec<_> =
            events.iter().map(|event| (event.kind.name(), event.user.to_string())).collect();
        assert_eq!(shown, expected.events);
        let members = log.members(&name, None, 1000).await.unwrap();
        let listed: BTreeSet<String> = members.iter().map(|it| it.user.to_string()).collect();
        assert_eq!(listed, expected.members);
        for member in members {
            let owner = member.user == UserId::parse(&expected.owner).unwrap();
            assert_eq!(member.role == Role::Owner, owner);
        }
        let standing = log.standing(&name, &user("u0")).await.unwrap().unwrap();
        assert_eq!(standing.members, expected.members.len() as u64);
        assert_eq!(standing.last_seq.0, expected.events.len() as u64);
        assert_eq!(standing.role.is_some(), expected.members.contains("u0"));
    }
}

#[test]
fn both_logs_do_what_the_model_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = PrivatePostgres::start();
    let folder = tempfile::tempdir().unwrap();
    let postgres = runtime.block_on(async { open(&server.database("model").await).await });
    let sqlite = Sqlite::open(&settings_of(&folder.path().join("log.db"))).unwrap();
    let logs = [postgres, Log::Sqlite(sqlite)];
    let case = Cell::new(0);
    let batches = prop::collection::vec(prop::collection::vec(command(), 1..12), 1..6);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let run = |batches: Vec<Vec<(u8, u8, u8, u8)>>| {
        // Each case has rooms of its own, so that all of them can share a database.
        case.set(case.get() + 1);
        let to_batch = |batch: Vec<_>| {
            batch.into_iter().map(|command| to_write(case.get(), command)).collect::<Vec<_>>()
        };
        let batches: Vec<Vec<Write>> = batches.into_iter().map(to_batch).collect();
        for log in &logs {
            runtime.block_on(check(log, &batches));
        }
        Ok(())
    };
    TestRunner::new(config).run(&batches, run).unwrap();
    drop((logs, runtime));
}
