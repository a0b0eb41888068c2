//! A stream that is not read costs its position and the page on its way, delays nobody, and misses
//! nothing when it is read again; an answer that is not read costs that answer. The server is the
//! real program, so that its memory is its own.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Caller, opening};
use crate::harness::Client;
use crate::harness::http::{Http, Stream, request};
use crate::harness::process::Process;
use crate::harness::raw::get;
use crate::harness::{PATIENCE, World, on_both_logs};

on_both_logs!(
    a_stream_that_is_not_read_keeps_memory_bounded_and_loses_nothing,
    pages_of_history_that_are_not_read_keep_memory_bounded,
);

const MESSAGE_BYTES: usize = 16 * 1024;
/// 13 MB, for each of the streams that are not read.
const MESSAGES: u64 = 800;
const STOPPED: usize = 8;
/// What the kernel takes for a reader that has stopped.
const RECEIVE_BYTES: u32 = 128 * 1024;

async fn a_stream_that_is_not_read_keeps_memory_bounded_and_loses_nothing(world: World) {
    let mut environment = world.environment();
    // The burst, too: with 2,000 it would be that of two milliseconds, and a task that is not run
    // for so long between its look at the clock and its turn would be refused.
    for setting in ["REQUESTS_PER_SECOND", "REQUESTS_BURST"] {
        environment.push((format!("VERBATIM_API__{setting}"), "1000000".to_owned()));
    }
    let process = Process::start(environment).await;
    let mut caller = Caller::new(process.addr).await;
    caller.create().await;
    let path = "/api/rooms/r/stream?user_id=1&after=0";
    let mut stopped = Vec::new();
    for _ in 0..STOPPED {
        stopped.push(Stream::narrow(process.addr, path, RECEIVE_BYTES).await);
    }
    let mut watcher = Stream::open(process.addr, path, &[]).await;
    opening(&mut watcher).await;
    watcher.expect(1).await;
    let text = "x".repeat(MESSAGE_BYTES);
    let mut say = async |seqs: std::ops::RangeInclusive<u64>| {
        let mut slowest = Duration::ZERO;
        for seq in seqs {
            let begun = Instant::now();
            caller.say(&text).await;
            watcher.expect(seq).await;
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    // Until the rings and buffers are what they will be.
    say(2..=200).await;
    #[cfg(target_os = "linux")]
    let before = process.resident_bytes();
    let slowest = say(201..=200 + MESSAGES).await;
    #[cfg(target_os = "linux")]
    {
        let grown = process.resident_bytes().saturating_sub(before) / 1024 / 1024;
        assert!(grown < 20, "it has grown by {grown} MiB");
    }
    assert!(slowest < PATIENCE / 2, "{slowest:?} from sending to seeing it");
    // Now they read, all at once, while it goes on.
    let last = 200 + MESSAGES + 50;
    let readers: Vec<_> = stopped
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                assert_eq!(opening(&mut stream).await, 0);
                for seq in 1..=last {
                    stream.expect(seq).await;
                }
            })
        })
        .collect();
    say(last - 49..=last).await;
    for reader in readers {
        reader.await.unwrap();
    }
    let (_, metrics) = get(process.addr, "/metrics").await;
    assert!(metrics.contains("verbatim_catch_ups_total{source=\"log\"}"), "nobody read the log");
}

/// What there is to read is the longest that JSON makes of messages: 12 MB in 200 events.
async fn pages_of_history_that_are_not_read_keep_memory_bounded(world: World) {
    const READERS: u64 = 15;
    let process = Process::start(world.environment()).await;
    let mut writer = Client::greeted(process.addr).await;
    writer.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    writer.expect(json!({"type": "ack"})).await;
    let text = "\u{1}".repeat(10_000);
    for _ in 0..200 {
        let message = json!({"type": "message", "user_id": "1", "room": "r", "message": text});
        writer.send(message).await;
        writer.expect(json!({"type": "ack"})).await;
    }
    #[cfg(target_os = "linux")]
    let before = process.resident_bytes();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut reader = Http::narrow(process.addr, RECEIVE_BYTES).await;
        let line = "GET /api/rooms/r/events?user_id=1&limit=200";
        reader.send(request(process.addr, line, &[], None)).await;
        readers.push((reader.try_read_head().await.unwrap(), reader));
    }
    #[cfg(target_os = "linux")]
    {
        // A page each, and what it took to make the last ones.
        let grown = process.resident_bytes().saturating_sub(before) / 1024 / 1024;
        assert!(grown < READERS + 15, "it has grown by {grown} MiB");
    }
    for (head, mut reader) in readers {
        let page = reader.try_read_body(head).await.unwrap().json();
        assert_eq!((&page["last"], &page["more"]), (&json!(201), &json!(true)));
    }
}
