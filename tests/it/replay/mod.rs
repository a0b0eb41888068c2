//! Join and replay while others write: none lost, none twice, in thousands of random runs.
//!
//! A run is a few rooms, a few writers, and a few followers that join from random places, join
//! again, leave, vanish, come back and resume, all at the same time. The settings are so small that
//! every page, ring and queue has its boundary in the middle of everything. Each follower is sent
//! last + 1 and nothing else, and in the end it has, byte for byte, what `history` has.
//!
//! The choices come from a seed, which a failure names; the timing is the machine's.

mod follower;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::watch;
use verbatim::config::Config;

use self::follower::Follower;
use crate::harness::raw::get;
use crate::harness::{Client, World, on_both_logs};

on_both_logs!(
    every_follower_gets_last_plus_one_and_nothing_else,
    a_follower_that_falls_behind_gets_everything_all_the_same,
);

/// Runs that share a node at the same time, so that they meet in batches.
const RUNS_AT_ONCE: usize = 16;

/// Settings of one node: page, ring, batch.
const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (1, 8, 512), (2, 3, 2), (3, 1, 512), (5, 2, 3), (4, 7, 512)];

/// Runs on each of these nodes.
const RUNS: u64 = 85;

async fn every_follower_gets_last_plus_one_and_nothing_else(world: World) {
    for (number, (page_len, ring_len_max, batch_len_max)) in (0..).zip(SIZES) {
        let node = world
            .node_with(|config| {
                unlimited(config);
                config.hub.page_len = page_len;
                config.hub.ring_len_max = ring_len_max;
                config.hub.room_linger_ms = 0;
                config.lane.batch_len_max = batch_len_max;
                // So small that several messages are more than a page of the ring's bytes.
                config.session.message_bytes_max = 16;
                config.socket.queue_bytes_max = 16 * 6 + 1024;
                config.hub.ring_bytes_max = 16 * 6 + 1024;
            })
            .await;
        let runs = number * RUNS..(number + 1) * RUNS;
        let plan = Plan { followers: 3, bursts: 6, message_bytes: 12, waits: false };
        stream::iter(runs)
            .map(|seed| tokio::spawn(run(node.addr, seed, plan)))
            .buffer_unordered(RUNS_AT_ONCE)
            .for_each(async |run| run.unwrap())
            .await;
        assert_catch_ups(node.addr).await;
        node.stop().await;
    }
}

/// The followers read nothing until more was written than all queues on the way can hold.
async fn a_follower_that_falls_behind_gets_everything_all_the_same(world: World) {
    for (number, (page_len, ring_len_max)) in (0..).zip([(1, 8), (7, 40), (200, 1024)]) {
        let node = world
            .node_with(|config| {
                unlimited(config);
                config.hub.page_len = page_len;
                config.hub.ring_len_max = ring_len_max;
                config.session.message_bytes_max = 2000;
                config.socket.queue_bytes_max = 2000 * 6 + 1024;
                config.hub.ring_bytes_max = 2000 * 20;
            })
            .await;
        let plan = Plan { followers: 2, bursts: 40, message_bytes: 2000, waits: true };
        stream::iter(0..6)
            .map(|seed| tokio::spawn(run(node.addr, 1_000_000 + number * 100 + seed, plan)))
            .buffer_unordered(2)
            .for_each(async |run| run.unwrap())
            .await;
        assert_catch_ups(node.addr).await;
        node.stop().await;
    }
}

/// Nothing is refused for its rate.
fn unlimited(config: &mut Config) {
    config.session.commands_per_second = 1_000_000;
    config.session.commands_burst = 1_000_000;
}

/// Both ways of catching up were gone, or the test tests nothing.
async fn assert_catch_ups(addr: SocketAddr) {
    let (_, metrics) = get(addr, "/metrics").await;
    for source in ["ring", "log"] {
        let series = format!("verbatim_catch_ups_total{{source=\"{source}\"}}");
        assert!(metrics.contains(&series), "no catch-up from the {source}:\n{metrics}");
    }
}

/// What a run is made of.
#[derive(Clone, Copy)]
struct Plan {
    followers: usize,
    /// Of each writer.
    bursts: usize,
    message_bytes: usize,
    /// Whether followers stop reading until the writers have finished.
    waits: bool,
}

async fn run(addr: SocketAddr, seed: u64, plan: Plan) {
    let mut random = StdRng::seed_from_u64(seed);
    let rooms: Arc<[String]> =
        (0..random.random_range(1..=3)).map(|n| format!("run {seed} room {n}")).collect();
    make(addr, &rooms).await;
    let (written, done) = watch::channel(false);
    let followers: Vec<_> = (0..plan.followers)
        .map(|n| {
            let follower = Follower::new(addr, n, rooms.clone(), random.random(), plan.waits);
            tokio::spawn(follower.live(done.clone()))
        })
        .collect();
    let writers: Vec<_> = (0..2)
        .map(|n| tokio::spawn(write(addr, n, rooms.clone(), random.random(), plan)))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    written.send_replace(true);
    let mut ended = Vec::new();
    for follower in followers {
        ended.push(follower.await.unwrap());
    }
    // Nobody writes any more: what is in the log now is the truth.
    let mut truth = HashMap::new();
    let mut reader = Client::greeted(addr).await;
    for room in &*rooms {
        truth.insert(room.clone(), history(&mut reader, room).await);
    }
    for follower in ended {
        follower.check(&truth).await;
    }
}

/// Makes the rooms, with both writers as members.
async fn make(addr: SocketAddr, rooms: &[String]) {
    let mut client = Client::greeted(addr).await;
    for room in rooms {
        client.send(json!({"type": "create", "user_id": "writer 0", "room": room})).await;
        client.send(json!({"type": "join", "user_id": "writer 1", "room": room})).await;
    }
    for room in rooms {
        client.read_until(json!({"type": "joined", "room": room})).await;
    }
}

/// One writer: bursts of messages to random rooms, on a socket that follows none.
async fn write(addr: SocketAddr, number: usize, rooms: Arc<[String]>, seed: u64, plan: Plan) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut client = Client::greeted(addr).await;
    for burst in 0..plan.bursts {
        let len = random.random_range(1..=6);
        for n in 0..len {
            let room = &rooms[random.random_range(0..rooms.len())];
            let user = format!("writer {number}");
            let text = format!("{burst}.{n} {}", "x".repeat(plan.message_bytes));
            let text = &text[..plan.message_bytes];
            let mut command =
                json!({"type": "message", "user_id": user, "room": room, "message": text});
            if random.random() {
                command["id"] = format!("{number}.{burst}.{n}").into();
            }
            client.send(command).await;
        }
        for _ in 0..len {
            client.expect(json!({"type": "ack", "re": "message"})).await;
        }
    }
}

/// A `history` frame with its events as the bytes they are.
#[derive(Deserialize)]
struct Page {
    events: Vec<Box<RawValue>>,
    last: Option<u64>,
    more: bool,
}

/// The whole room: the event of seq n stands at n − 1.
async fn history(client: &mut Client, room: &str) -> Vec<String> {
    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        client
            .send(json!({"type": "history", "user_id": "writer 0", "room": room, "after": after,
                "limit": 200}))
            .await;
        let page: Page = serde_json::from_str(&client.next_text().await).unwrap();
        events.extend(page.events.iter().map(|event| event.get().to_owned()));
        after = page.last.unwrap_or(after);
        if !page.more {
            return events;
        }
    }
}
