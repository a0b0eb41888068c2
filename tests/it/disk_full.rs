//! The embedded log on a disk that is full: nothing can be written, everything can be read, nothing
//! is damaged, and it goes on by itself when there is room.
//!
//! The disk is as full as `RLIMIT_FSIZE` says, which needs no rights and can be lowered and raised
//! while the process runs: a write ends short at the limit, and the next one is an error. Only
//! Linux lets one process set it for another.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use verbatim_checker::{Command, Connection, Kind, check};

use crate::crowd::{Record, assert_kept};
use crate::harness::process::{Exit, Process};
use crate::harness::{Client, World};
use crate::stored::{assert_sound, stored};

/// No file of the process grows beyond so many bytes; `None`: there is room again.
pub fn limit_files(process: &Process, bytes: Option<u64>) {
    let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

fn message(id: usize) -> Value {
    let (id, text) = (format!("m{id}"), "x".repeat(1000 + id % 7 * 2500));
    json!({"type": "message", "user_id": "1", "room": "r", "message": text, "id": id})
}

/// One who writes, and notes every answer.
struct Writer {
    client: Client,
    record: Record,
    mouth: Connection,
    /// The number of the next message.
    next: usize,
    last_seq: u64,
}

impl Writer {
    async fn send(&mut self, command: Value) -> Command {
        let kind = Kind::named(command["type"].as_str().unwrap());
        let recorded = self.record.command(kind, &command);
        self.record.sent(recorded, self.mouth);
        self.client.send(command).await;
        recorded
    }

    /// Takes the answer to that command; `false`: it is `unavailable`.
    async fn is_acked(&mut self, command: Command, id: String) -> bool {
        let answer = self.client.expect(json!({"id": id})).await;
        self.record.answered(command, self.mouth, &answer);
        if answer["type"] != "ack" {
            assert_eq!(answer["code"], "unavailable", "{answer}");
            return false;
        }
        self.last_seq = answer["seq"].as_u64().unwrap();
        true
    }

    async fn write(&mut self, id: usize) -> bool {
        let command = self.send(message(id)).await;
        self.is_acked(command, format!("m{id}")).await
    }

    /// Batches of any size, until one does not fit; says from where on it was refused.
    async fn fill(&mut self) -> usize {
        loop {
            let batch = self.next..self.next + rand::random_range(1..6);
            self.next = batch.end;
            let mut commands = Vec::new();
            for id in batch {
                commands.push((id, self.send(message(id)).await));
            }
            let mut refused = None;
            for (id, command) in commands {
                if !self.is_acked(command, format!("m{id}")).await {
                    refused.get_or_insert(id);
                }
            }
            if let Some(refused) = refused {
                return refused;
            }
        }
    }
}

/// Reads go on, of everything that was acked, for old clients and new ones.
async fn assert_reads(process: &Process, writer: &mut Writer) {
    let last = writer.last_seq;
    writer.client.send(json!({"type": "history", "user_id": "1", "room": "r", "limit": 1})).await;
    writer.client.expect(json!({"type": "history", "last": last})).await;
    let mut newcomer = Client::greeted(process.addr).await;
    newcomer.send(json!({"type": "resume", "user_id": "1", "rooms": {"r": 0}})).await;
    newcomer.read_until(json!({"type": "resumed", "rooms": {"r": last}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_writes_only_and_damages_nothing() {
    let world = World::sqlite().await;
    let path = &world.config.log.path;
    let len = |suffix: &str| fs::metadata(format!("{path}{suffix}")).unwrap().len();
    let mut process = Process::start(world.environment()).await;
    let client = Client::greeted(process.addr).await;
    let record = Record::new();
    let mouth = record.mouth("n1", "writer");
    let mut writer = Writer { client, record, mouth, next: 0, last_seq: 0 };
    let create = json!({"type": "create", "user_id": "1", "room": "r", "id": "c"});
    let create = writer.send(create).await;
    assert!(writer.is_acked(create, "c".to_owned()).await);
    let mut follower = Client::greeted(process.addr).await;
    follower.send(json!({"type": "join", "user_id": "1", "room": "r"})).await;
    follower.expect(json!({"type": "joined", "last_seq": 1})).await;

    // Full in the write-ahead log, at one and another place of a commit; then, once the file itself
    // is longer than that, where SQLite copies the one into the other.
    for room in [Some(10_000), Some(11_111), Some(4_096), None] {
        match room {
            Some(room) => limit_files(&process, Some(len("-wal") + room)),
            None => {
                while len("") < len("-wal") {
                    assert!(writer.write(writer.next).await);
                    writer.next += 1;
                }
                limit_files(&process, Some(len("")));
            }
        }
        let refused = writer.fill().await;
        assert_reads(&process, &mut writer).await;
        limit_files(&process, None);
        // What was refused is sent again, with the same ids; what was not is acked once more.
        for id in refused..writer.next {
            assert!(writer.write(id).await, "there is room again");
        }
        follower.read_until(json!({"client_id": format!("m{}", writer.next - 1)})).await;
        assert_sound(&world.config.log);
    }
    process.kill9();
    assert_eq!(process.wait_exit().await, Exit::Signal(9));
    assert_sound(&world.config.log);
    let mut history = writer.record.into_history();
    stored(&world.config.log).await.record(&mut history);
    let report = check(&history);
    assert_kept(&history, &report);
    assert_eq!(report.counts.acked, writer.next + 1);
}

/// A node that is killed by the disk that it filled, or restarted by who looks into it, comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_on_a_full_disk_serves_what_is_there() {
    let world = World::sqlite().await;
    let mut process = Process::start(world.environment()).await;
    let mut client = Client::greeted(process.addr).await;
    client.send(json!({"type": "create", "user_id": "1", "room": "r", "id": "c"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
    for id in 0..20 {
        client.send(message(id)).await;
        client.expect(json!({"type": "ack", "seq": id + 2})).await;
    }
    process.kill9();
    process.wait_exit().await;

    // 40 KiB: enough for what readers share, and not for what the write-ahead log holds.
    let mut process = Process::start_after("ulimit -S -f 80", world.environment()).await;
    let mut client = Client::greeted(process.addr).await;
    client.send(json!({"type": "history", "user_id": "1", "room": "r", "limit": 1})).await;
    client.expect(json!({"type": "history", "last": 21})).await;
    client.send(message(20)).await;
    client.expect(json!({"type": "error", "code": "unavailable"})).await;
    limit_files(&process, None);
    client.send(message(20)).await;
    client.expect(json!({"type": "ack", "seq": 22})).await;
    process.sigterm();
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
    assert!(process.output().contains("the disk of the log is full"), "{}", process.output());
    assert_sound(&world.config.log);
}
