//! Those who follow a room come to an event that cannot be read.

use std::net::SocketAddr;

use serde_json::json;

use super::{harm, rooms};
use crate::harness::http::Stream;
use crate::harness::process::Process;
use crate::harness::raw::{get, ready};
use crate::harness::{Client, World, on_both_logs};

on_both_logs!(
    a_follower_gets_what_is_before_the_damage_and_is_closed_then,
    a_stream_ends_at_the_damage_and_is_refused_until_it_is_healed,
);

/// The first of ten events that cannot be read.
const DAMAGED: u64 = 6;

async fn resume(client: &mut Client, rooms: serde_json::Value) {
    client.send(json!({"type": "resume", "user_id": "1", "rooms": rooms, "id": "r"})).await;
}

async fn follows_damaged(addr: SocketAddr) -> String {
    let (_, metrics) = get(addr, "/metrics").await;
    let name = "verbatim_follows_damaged_total ";
    metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned()
}

async fn a_follower_gets_what_is_before_the_damage_and_is_closed_then(world: World) {
    let process = Process::start(world.environment()).await;
    let addr = process.addr;
    rooms(addr, &["sick", "well"], 9).await;
    harm::event(&world, DAMAGED).await;

    let mut client = Client::greeted(addr).await;
    resume(&mut client, json!({"sick": 0, "well": 0})).await;
    let frames = client.read_to_close(4000).await;
    let shown = frames.iter().filter(|frame| frame["room"] == "sick" && frame["seq"].is_u64());
    let seqs: Vec<_> = shown.map(|frame| frame["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..DAMAGED).collect::<Vec<_>>());

    // Back again, it is told which room it cannot have, and has the other.
    for _ in 0..2 {
        let mut client = Client::greeted(addr).await;
        resume(&mut client, json!({"sick": DAMAGED - 1, "well": 10})).await;
        let mut answers = [client.next().await, client.next().await];
        answers.sort_by_key(|answer| answer["room"].to_string());
        assert_eq!(
            (&answers[0]["code"], &answers[1]["type"]),
            (&"unavailable".into(), &"joined".into())
        );
        client.expect(json!({"type": "resumed", "rooms": {"well": 10}})).await;
        let join = json!({"type": "join", "user_id": "1", "room": "sick", "since": 0});
        client.send(join).await;
        client.expect(json!({"type": "error", "code": "unavailable", "room": "sick"})).await;
        // What lies behind the damage can be followed.
        resume(&mut client, json!({"sick": DAMAGED})).await;
        client.expect(json!({"type": "joined", "room": "sick"})).await;
        for seq in DAMAGED + 1..=10 {
            client.expect(json!({"room": "sick", "seq": seq})).await;
        }
        client.expect(json!({"type": "resumed", "rooms": {"sick": 10}})).await;
        client.close().await;
    }

    assert_eq!(follows_damaged(addr).await, "1");
    let (head, _) = ready(addr).await;
    assert_eq!(head.status, 200);
    let output = process.output();
    let told: Vec<_> = output.lines().filter(|line| line.contains("ERROR")).collect();
    let [told] = told[..] else { panic!("it must be told once: {output}") };
    assert!(told.contains("found damaged data") && told.contains("sick"), "{told}");

    harm::heal_event(&world, DAMAGED).await;
    let mut client = Client::greeted(addr).await;
    resume(&mut client, json!({"sick": DAMAGED - 1})).await;
    client.expect(json!({"type": "joined", "room": "sick"})).await;
    for seq in DAMAGED..=10 {
        client.expect(json!({"room": "sick", "seq": seq})).await;
    }
    client.expect(json!({"type": "resumed", "rooms": {"sick": 10}})).await;
}

async fn a_stream_ends_at_the_damage_and_is_refused_until_it_is_healed(world: World) {
    let node = world.node().await;
    rooms(node.addr, &["sick", "well"], 9).await;
    harm::event(&world, DAMAGED).await;
    let path = |room| format!("/api/rooms/{room}/stream?user_id=1&after=0");
    let mut stream = Stream::open(node.addr, &path("sick"), &[]).await;
    for seq in 1..DAMAGED {
        stream.expect(seq).await;
    }
    stream.expect_end().await;
    assert_eq!(follows_damaged(node.addr).await, "1");

    let refused = Stream::open(node.addr, &path("sick"), &[]).await;
    assert_eq!(refused.head.status, 503);
    assert!(refused.head.body.contains("damaged"), "{}", refused.head.body);
    let mut well = Stream::open(node.addr, &path("well"), &[]).await;
    for seq in 1..=10 {
        well.expect(seq).await;
    }

    harm::heal_event(&world, DAMAGED).await;
    let mut healed = Stream::open(node.addr, &path("sick"), &[]).await;
    for seq in 1..=10 {
        healed.expect(seq).await;
    }
}
