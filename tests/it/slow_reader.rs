//! A client that does not read costs its position and nothing else: the others notice nothing, the
//! server keeps no backlog for it, and when it reads again it gets everything, in order.
//!
//! The server is the real program, so that its memory is its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use verbatim::config::Config;

use crate::harness::process::Process;
use crate::harness::raw::get;
use crate::harness::{Client, PATIENCE, World, on_both_logs};
use crate::protocol;

on_both_logs!(
    a_reader_that_stops_delays_nobody_and_gets_everything_later,
    a_reader_that_takes_nothing_is_closed_with_4008_and_others_are_not,
    a_reader_that_takes_little_at_a_time_is_never_closed,
    a_client_that_reads_no_answers_is_not_read_from,
    a_client_that_stops_reading_in_the_middle_of_an_answer_keeps_nothing_from_others,
);

const MESSAGE_BYTES: usize = 16 * 1024;
/// 50 MB, for each of the readers that stop.
const MESSAGES: u64 = 3200;
/// What the kernel takes for a reader that has stopped: more than a segment, or reading it is slow.
const RECEIVE_BYTES: u32 = 128 * 1024;
/// Messages that are sent before the first of them is seen.
const WINDOW: u64 = 16;

/// The program on this world's log, with more settings.
async fn serve(world: &World, settings: &[(&str, &str)]) -> Process {
    let mut environment = world.environment();
    let fast = ("VERBATIM_SESSION__COMMANDS_PER_SECOND", "1000000");
    let settings = settings.iter().chain([&fast]);
    environment.extend(settings.map(|&(name, value)| (name.to_owned(), value.to_owned())));
    Process::start(environment).await
}

async fn metric(process: &Process, series: &str) -> u64 {
    let (_, metrics) = get(process.addr, "/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// Waits for a metric to be that much, and fails if it never is.
async fn wait_metric(process: &Process, series: &str, value: u64) {
    let deadline = Instant::now() + PATIENCE;
    while metric(process, series).await != value {
        assert!(Instant::now() < deadline, "{series} is not {value}");
    }
}

/// The seq of an event, without reading all of its JSON, of which this test has hundreds of MB.
fn seq(text: &str) -> u64 {
    let (_, rest) = text.rsplit_once("\"seq\":").unwrap_or_else(|| panic!("no event: {text}"));
    rest.split(',').next().unwrap().parse().unwrap()
}

fn message(text: &str) -> Value {
    json!({"type": "message", "user_id": "1", "room": "r", "message": text})
}

/// Makes the room, and joins it without an event.
async fn member(client: &mut Client) {
    client.send(json!({"type": "join", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "joined", "room": "r"})).await;
}

async fn create(process: &Process) {
    let mut client = Client::greeted(process.addr).await;
    client.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
}

/// Resident memory of the program, where the system tells.
fn resident_bytes(process: &Process) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Sends messages on a socket that follows, and takes each one's event: how long the slowest took.
async fn write(client: &mut Client, count: u64, first_seq: u64) -> Duration {
    let text = "x".repeat(MESSAGE_BYTES);
    let mut sent = std::collections::VecDeque::new();
    let mut slowest = Duration::ZERO;
    for n in 0..count + WINDOW {
        if n < count {
            client.send(message(&text)).await;
            sent.push_back(Instant::now());
        }
        if n >= WINDOW {
            assert_eq!(seq(&client.next_text().await), first_seq + n - WINDOW);
            slowest = slowest.max(sent.pop_front().unwrap().elapsed());
        }
    }
    slowest
}

async fn a_reader_that_stops_delays_nobody_and_gets_everything_later(world: World) {
    let process = serve(&world, &[]).await;
    create(&process).await;
    let mut stopped = Vec::new();
    for _ in 0..3 {
        let mut client = Client::narrow(process.addr, RECEIVE_BYTES).await;
        member(&mut client).await;
        stopped.push(client);
    }
    let (mut writer, mut watcher) =
        (Client::greeted(process.addr).await, Client::greeted(process.addr).await);
    member(&mut writer).await;
    member(&mut watcher).await;
    // Until the rings and buffers are what they will be.
    let watch = async |watcher: &mut Client, from: u64, count: u64| {
        for n in from..from + count {
            assert_eq!(seq(&watcher.next_text().await), n);
        }
    };
    tokio::join!(write(&mut writer, 200, 2), watch(&mut watcher, 2, 200));
    let before = resident_bytes(&process);
    // All of it passes while they read nothing at all, so it waits for none of them.
    let (slowest, ()) =
        tokio::join!(write(&mut writer, MESSAGES, 202), watch(&mut watcher, 202, MESSAGES));
    assert!(slowest < PATIENCE / 2, "{slowest:?} from sending to seeing it");

    // Each has its queue full at most: 256 KiB, and a page in the kernel's hands.
    let queued = metric(&process, "verbatim_queue_bytes").await;
    assert!((1..=3 * (256 + 64) * 1024).contains(&queued), "{queued} bytes wait");
    if let (Some(before), Some(after)) = (before, resident_bytes(&process)) {
        let grown = after.saturating_sub(before) / 1024 / 1024;
        assert!(grown < 20, "it has grown by {grown} MiB");
    }
    // Now they read, all at once, while it goes on.
    let readers: Vec<_> = stopped
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                for n in 2..202 + MESSAGES + 50 {
                    assert_eq!(seq(&client.next_text().await), n);
                }
                client.expect_nothing().await;
            })
        })
        .collect();
    let next = 202 + MESSAGES;
    tokio::join!(write(&mut writer, 50, next), watch(&mut watcher, next, 50));
    watcher.expect_nothing().await;
    for reader in readers {
        reader.await.unwrap();
    }
    wait_metric(&process, "verbatim_queue_bytes", 0).await;
    for source in ["ring", "log"] {
        let series = format!("verbatim_catch_ups_total{{source=\"{source}\"}}");
        assert!(metric(&process, &series).await > 0, "nobody caught up from the {source}");
    }
}

async fn a_reader_that_takes_nothing_is_closed_with_4008_and_others_are_not(world: World) {
    // Longer than the machine stands still, or the others would be closed as well.
    let process = serve(&world, &[("VERBATIM_SOCKET__STALL_TIMEOUT_MS", "5000")]).await;
    create(&process).await;
    let mut stopped = Client::narrow(process.addr, RECEIVE_BYTES).await;
    member(&mut stopped).await;
    let mut idle = Client::greeted(process.addr).await;
    let mut writer = Client::greeted(process.addr).await;
    member(&mut writer).await;
    write(&mut writer, 300, 2).await;
    // Not before the time, and nobody else: who has nothing to take may take nothing.
    wait_metric(&process, "verbatim_sockets_closed_total{code=\"4008\"}", 1).await;
    // Reading now, it gets what was on the way, whole and in order, and then learns why.
    let (mut next, code) = (2, 4008);
    let closed = loop {
        match stopped.next_or_close().await {
            Ok(event) => assert_eq!(event["seq"], next),
            Err(code) => break code,
        }
        next += 1;
    };
    assert_eq!(closed, code);
    assert!(next < 302, "it had taken everything");
    idle.expect_nothing().await;
    writer.expect_nothing().await;
    wait_metric(&process, "verbatim_queue_bytes", 0).await;
    // And goes on where it was.
    let mut again = Client::greeted(process.addr).await;
    again.send(json!({"type": "resume", "user_id": "1", "rooms": {"r": next - 1}})).await;
    again.expect(json!({"type": "joined", "last_seq": 301})).await;
    for seq in next..=301 {
        again.expect(json!({"type": "message", "seq": seq})).await;
    }
    again.expect(json!({"type": "resumed", "rooms": {"r": 301}})).await;
}

/// Slow is not stalled: what counts is that it takes something.
async fn a_reader_that_takes_little_at_a_time_is_never_closed(world: World) {
    let process = serve(&world, &[("VERBATIM_SOCKET__STALL_TIMEOUT_MS", "6000")]).await;
    create(&process).await;
    let mut slow = Client::narrow(process.addr, RECEIVE_BYTES).await;
    member(&mut slow).await;
    let mut writer = Client::greeted(process.addr).await;
    member(&mut writer).await;
    write(&mut writer, 300, 2).await;
    // Some 64 KiB at a time, for longer than the timeout.
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for n in (2..302).step_by(4) {
        ticks.tick().await;
        for n in n..(n + 4).min(302) {
            assert_eq!(seq(&slow.next_text().await), n);
        }
    }
    slow.expect_nothing().await;
    assert_eq!(metric(&process, "verbatim_sockets_closed_total{code=\"4008\"}").await, 0);
}

/// Who asks and asks and takes no answer is not listened to any more: its own kernel holds it back,
/// and what it gets when it reads is every answer, in order.
async fn a_client_that_reads_no_answers_is_not_read_from(world: World) {
    let process = serve(&world, &[]).await;
    create(&process).await;
    let mut writer = Client::greeted(process.addr).await;
    member(&mut writer).await;
    write(&mut writer, 20, 2).await;
    // An answer of 320 KiB to a question of 60 bytes.
    let mut greedy = Client::narrow(process.addr, RECEIVE_BYTES).await;
    for n in 0..200 {
        let ask = json!({"type": "history", "user_id": "1", "room": "r", "id": n.to_string()});
        greedy.send(ask).await;
    }
    // Once its queue is full it stays as it is: an answer more at most, not 64 MB of them.
    writer.expect_nothing().await;
    let queued = metric(&process, "verbatim_queue_bytes").await;
    assert!(queued <= 2 * (256 + 330) * 1024, "{queued} bytes wait");
    for n in 0..200 {
        let text = greedy.next_text().await;
        assert!(text.ends_with(&format!("\"id\":\"{n}\"}}")), "not the answer to {n}");
    }
    greedy.expect_nothing().await;
}

/// What reads the log for an answer reads to its end, and gives back what it reads with.
async fn a_client_that_stops_reading_in_the_middle_of_an_answer_keeps_nothing_from_others(
    world: World,
) {
    let narrow = |config: &mut Config| {
        config.log.readers = 1;
        config.session.message_bytes_max = 256;
        config.socket.queue_bytes_max = 4096;
    };
    let node = world.node_with(narrow).await;
    let mut ann = node.client().await;
    protocol::create(&mut ann, "1", "r").await;
    protocol::follow(&mut ann, "1", "r").await;
    let mut deaf = Client::narrow(node.addr, 4096).await;
    protocol::follow(&mut deaf, "1", "r").await;
    // Read after read, and meanwhile pongs that fill its queue.
    let rooms: BTreeMap<_, _> = (0..900).map(|number| (format!("nowhere-{number}"), 0)).collect();
    deaf.send(json!({"type": "resume", "user_id": "1", "rooms": rooms})).await;
    let flood = tokio::spawn(async move {
        while deaf.try_send(Message::Ping(vec![0; 125].into())).await.is_ok() {}
    });
    // Each is offered to it as well, so that its session looks whether it still listens.
    for number in 0..200 {
        protocol::say(&mut ann, "1", "r", &number.to_string()).await;
    }
    ann.send(json!({"type": "history", "user_id": "1", "room": "r", "limit": 1})).await;
    ann.expect(json!({"type": "history", "first": 201})).await;
    flood.abort();
}
