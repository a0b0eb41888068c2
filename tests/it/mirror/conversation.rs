//! Nodes at peace: one order and the same bytes, whichever node one speaks to or listens at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::cluster::{Cluster, addresses, assert_unnoticed, at, gather, metric};
use crate::crowd::{Crowd, ROOMS};
use crate::harness::Client;

/// The last word in each room.
const THE_END: &str = "the end";

/// Every event of its rooms, byte for byte, from the first to the end.
async fn listen(node: SocketAddr, user: String, rooms: [&'static str; 2]) -> Client {
    let mut client = Client::greeted(node).await;
    for room in rooms {
        let join = json!({"type": "join", "user_id": user, "room": room, "since": 0});
        client.send(join).await;
    }
    client
}

async fn transcript(mut client: Client, rooms: usize) -> BTreeMap<String, Vec<String>> {
    let (mut heard, mut ends) = (BTreeMap::<String, Vec<String>>::new(), 0);
    while ends < rooms {
        let text = client.next_text().await;
        let frame: Value = serde_json::from_str(&text).unwrap();
        if frame["seq"].is_u64() {
            heard.entry(frame["room"].as_str().unwrap().to_owned()).or_default().push(text);
        }
        ends += usize::from(frame["message"] == THE_END);
    }
    heard
}

/// Says so many things in the room, all at once, and goes when all were written.
async fn chat(node: SocketAddr, user: String, room: &'static str, count: usize) {
    let mut client = Client::greeted(node).await;
    client.send(json!({"type": "join", "user_id": user, "room": room})).await;
    for id in 0..count {
        let text = format!("{user} says \"{id}\" \u{1}ü\\");
        let mut message = json!({"type": "message", "user_id": user, "room": room});
        (message["id"], message["message"]) = (id.to_string().into(), text.into());
        client.send(message).await;
    }
    client.read_until(json!({"type": "ack", "id": (count - 1).to_string()})).await;
    client.send(json!({"type": "leave", "user_id": user, "room": room, "id": "bye"})).await;
    client.read_until(json!({"type": "ack", "id": "bye"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_follower_of_every_node_gets_the_same_bytes_in_the_same_order() {
    const ROOMS: [&str; 2] = ["one", "two"];
    let cluster = Cluster::shared().await;
    let nodes = cluster.three_nodes().await;
    let mut founder = nodes[0].client().await;
    for room in ROOMS {
        founder.send(json!({"type": "create", "user_id": "0", "room": room})).await;
        founder.expect(json!({"type": "ack"})).await;
    }
    let mut listeners = Vec::new();
    for number in 0..6 {
        let client = listen(nodes[number % 3].addr, format!("listener {number}"), ROOMS).await;
        listeners.push(tokio::spawn(transcript(client, ROOMS.len())));
    }
    let mut chats = Vec::new();
    for number in 0..12 {
        let (node, room) = (nodes[number % 3].addr, ROOMS[number / 3 % 2]);
        chats.push(tokio::spawn(chat(node, format!("talker {number}"), room, 50)));
    }
    for chat in chats {
        chat.await.unwrap();
    }
    for room in ROOMS {
        let end = json!({"type": "message", "user_id": "0", "room": room, "message": THE_END});
        founder.send(end).await;
    }

    let mut transcripts = Vec::new();
    for listener in listeners {
        transcripts.push(listener.await.unwrap());
    }
    for room in ROOMS {
        let first = &transcripts[0][room];
        // Created; six talkers come, say fifty words each and go; six listeners; the end.
        assert_eq!(first.len(), 1 + 6 * 52 + 6 + 1);
        for (text, seq) in first.iter().zip(1..) {
            let event: Value = serde_json::from_str(text).unwrap();
            assert_eq!(event["seq"], seq, "{text}");
        }
        for other in &transcripts[1..] {
            assert_eq!(&other[room], first);
        }
    }
    for node in nodes {
        node.stop().await;
    }
}

/// The real program, three times, with real sockets between everything.
#[tokio::test(flavor = "multi_thread")]
async fn three_processes_keep_every_word_under_load() {
    let cluster = Cluster::shared().await.trusting();
    let (one, two, three) =
        tokio::join!(cluster.process("n1"), cluster.process("n2"), cluster.process("n3"));
    let nodes = [&one, &two, &three].map(|process| process.addr);
    let mut crowd = Crowd::gather(&nodes.map(at), 2, 1, 32).await;
    crowd.answered(3000).await;
    crowd.hush().await;
    let ends = crowd.ends(&cluster.world.config.log).await;
    let outcome = crowd.outcome(ends.clone(), &cluster.world.config.log).await;
    assert_unnoticed(&outcome);
    cluster.outbox_is_empty().await;
    let streamed: BTreeSet<_> = cluster.stream().await.into_iter().collect();
    for room in ROOMS {
        let in_room = streamed.iter().filter(|(name, _)| name == room).count() as u64;
        assert_eq!(in_room, ends[room], "{room} in the stream");
    }
    for node in nodes {
        assert_eq!(metric(node, "verbatim_mirror_dropped_total").await, 0);
    }
}

/// A client that was told nothing sends again, by whatever node it reaches.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_by_three_nodes_at_once_is_one_event_a_thousand_times() {
    const IDS: u64 = 1000;
    const AT_ONCE: u64 = 50;
    let cluster = Cluster::shared().await;
    let nodes = cluster.three_nodes().await;
    let places = [&nodes[0], &nodes[1], &nodes[2]].map(|node| node.addr);
    let mut listeners = gather("once", &places).await;
    let mut talkers = Vec::new();
    for place in places {
        talkers.push(Client::greeted(place).await);
    }
    let (mut seqs, mut firsts) = (BTreeMap::<u64, BTreeSet<u64>>::new(), 0);
    for round in 0..IDS / AT_ONCE {
        let ids = round * AT_ONCE..(round + 1) * AT_ONCE;
        for id in ids.clone() {
            let text = format!("word {id}");
            let message = json!({"type": "message", "user_id": "0", "room": "once",
                                 "message": text, "id": id.to_string()});
            for talker in &mut talkers {
                talker.send(message.clone()).await;
            }
        }
        for talker in &mut talkers {
            for id in ids.clone() {
                let ack = talker.expect(json!({"type": "ack", "id": id.to_string()})).await;
                seqs.entry(id).or_default().insert(ack["seq"].as_u64().unwrap());
                firsts += u64::from(ack["duplicate"] != true);
            }
        }
    }
    assert_eq!(firsts, IDS);
    assert!(seqs.values().all(|seqs| seqs.len() == 1), "an id has two seqs: {seqs:?}");
    for listener in &mut listeners {
        let mut words = BTreeSet::new();
        for _ in 0..IDS {
            let event = listener.expect(json!({"type": "message"})).await;
            words.insert(event["message"].as_str().unwrap().to_owned());
        }
        assert_eq!(words.len() as u64, IDS);
        listener.expect_nothing().await;
    }
}

/// PostgreSQL is the one thing that all of them need.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_restarts_under_three_nodes_costs_no_word() {
    let mut postgres = crate::harness::postgres::Postgres::start(&[]).await;
    let redis = crate::harness::services::redis_url().await;
    let mut cluster = Cluster::on(&postgres.database().await, &redis);
    cluster.world = cluster.world.impatient();
    let nodes = cluster.three_nodes().await;
    let crowd = Crowd::gather(&addresses(&nodes), 2, 1, 32).await;
    for _ in 0..2 {
        crowd.answered(300).await;
        postgres.restart().await;
    }
    crowd.answered(100).await;
    postgres.kill();
    crowd.unavailable(50).await;
    postgres.restart().await;
    crowd.answered(300).await;
    let outcome = crowd.end(&cluster.world.config.log).await;
    assert_unnoticed(&outcome);
    cluster.outbox_is_empty().await;
}
