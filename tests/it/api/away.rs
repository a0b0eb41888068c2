//! The log is away, or hangs: every request is answered 503 within two seconds, streams stay open,
//! and everything goes on by itself when it is back.

use std::time::{Duration, Instant};

use serde_json::json;
use verbatim::config::Config;

use super::{Caller, assert_refused, follow};
use crate::harness::node::TestNode;
use crate::harness::postgres::Postgres;
use crate::harness::{PATIENCE, World};

/// What a client may have to wait for an answer: two seconds, but the machine may stand still.
const SOON: Duration = Duration::from_secs(8);

/// A node that waits for its log as long as the program does, with a room in it.
async fn with_room(postgres: &Postgres, change: impl FnOnce(&mut Config)) -> (TestNode, Caller) {
    let world = World::on(&postgres.database().await);
    let node = world.node().await;
    Caller::new(node.addr).await.create().await;
    node.stop().await;
    let node = world.impatient().node_with(change).await;
    let caller = Caller::new(node.addr).await;
    (node, caller)
}

/// What is read when the log is back, or a moment later.
async fn read_at_last(caller: &mut Caller) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let read = caller.get("/api/rooms/r/events?user_id=1&limit=200").await;
        if read.status == 200 {
            return read.body;
        }
        assert!(read.status == 503 && Instant::now() < deadline, "{read:?}");
    }
}

async fn refused_soon(caller: &mut Caller, line: &str, body: Option<&str>) {
    let begun = Instant::now();
    let headers = [super::JSON, ("Idempotency-Key", "k")];
    let reply = caller.ask(line, &headers, body).await;
    assert!(begun.elapsed() < SOON, "{line} took {:?}", begun.elapsed());
    assert_refused(&reply, 503, "unavailable", None);
    let retry_after = reply.header("retry-after").expect("no Retry-After");
    assert!((1..=60).contains(&retry_after.parse::<u32>().unwrap()));
}

async fn everything_is_refused(caller: &mut Caller) {
    let room = json!({"user_id": "1", "room": "s"}).to_string();
    let hi = json!({"user_id": "1", "message": "hi"}).to_string();
    for (line, body) in [
        ("GET /api/rooms", None),
        ("POST /api/rooms", Some(&*room)),
        ("GET /api/rooms/r/events?user_id=1", None),
        ("POST /api/rooms/r/events", Some(&*hi)),
        ("GET /api/rooms/r/members?user_id=1", None),
        ("PUT /api/rooms/r/members/2", None),
        ("DELETE /api/rooms/r/members/1", None),
        ("GET /api/rooms/r/stream?user_id=1", None),
    ] {
        refused_soon(caller, line, body).await;
    }
}

/// Sends it with one key until it is there.
async fn say_at_last(caller: &mut Caller) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let hi = json!({"user_id": "1", "message": "hi"});
        let said = caller.post_once("/api/rooms/r/events", "k", hi).await;
        if said.status < 300 {
            return said.json()["seq"].as_u64().unwrap();
        }
        assert!(Instant::now() < deadline, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_is_503_and_streams_go_on_when_it_is_back() {
    let mut postgres = Postgres::start(&[]).await;
    let change = |config: &mut Config| config.socket.heartbeat_ms = 500;
    let (node, mut caller) = with_room(&postgres, change).await;
    let (mut stream, _) = follow(node.addr, "", &[]).await;
    postgres.kill();
    everything_is_refused(&mut caller).await;
    assert!(stream.next_block().await.unwrap().is_comment, "the stream is silent");
    postgres.restart().await;
    let seq = say_at_last(&mut caller).await;
    for n in 2..=seq {
        stream.expect(n).await;
    }
    let read = read_at_last(&mut caller).await;
    assert_eq!(read.matches("\"message\":\"hi\"").count(), 1, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_hangs_is_503_in_time() {
    let postgres = Postgres::start(&[]).await;
    let (_node, mut caller) = with_room(&postgres, |_| {}).await;
    postgres.pause();
    everything_is_refused(&mut caller).await;
    postgres.resume();
    say_at_last(&mut caller).await;
    let read = read_at_last(&mut caller).await;
    assert_eq!(read.matches("\"message\":\"hi\"").count(), 1, "{read}");
}

/// A reader that has not caught up when the log goes is told that the connection lives, and gets
/// the rest when the log is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_the_middle_of_the_past_waits_for_the_log() {
    let mut postgres = Postgres::start(&[]).await;
    let change = |config: &mut Config| {
        config.socket.heartbeat_ms = 500;
        (config.hub.ring_len_max, config.hub.page_len) = (1, 10);
    };
    let node = World::on(&postgres.database().await).node_with(change).await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let text = "x".repeat(16_000);
    for _ in 2..=600 {
        caller.say(&text).await;
    }
    let path = "/api/rooms/r/stream?user_id=1&after=0";
    let mut stream = crate::harness::http::Stream::narrow(node.addr, path, 16 * 1024).await;
    super::opening(&mut stream).await;
    stream.expect(1).await;
    postgres.kill();
    // What was read already comes; then comments, until the log is back.
    let (mut seq, mut comments) = (1, 0);
    while comments < 3 {
        let block = stream.next_block().await.expect("the stream ended");
        match block.id {
            Some(id) => {
                seq += 1;
                assert_eq!(id, seq.to_string());
            }
            None => comments += u32::from(block.is_comment),
        }
    }
    assert!(seq < 600, "it had everything");
    postgres.restart().await;
    for n in seq + 1..=600 {
        stream.expect(n).await;
    }
}
