//! Signs of life between nodes, by way of `chat:signals`.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use verbatim::config::Config;

use super::{next_of, read, typing, until_online, watch, who};
use crate::harness::process::{Exit, Process};
use crate::harness::redis::Redis;
use crate::harness::{Client, PATIENCE, services};
use crate::mirror::cluster::{Cluster, gather, metric, mirror_is, say, say_as, until};

/// For tests in which nodes fall silent: shorter than the default, which is to be waited for.
const LEASE: Duration = Duration::from_millis(1500);
/// For the one in which the others must not: what a node says three times meanwhile is heard,
/// though the machine stands still.
const LONG_LEASE: Duration = Duration::from_secs(7);
/// Longer than the time between two looks, in which the nodes may differ.
const SETTLE: Duration = Duration::from_millis(500);

fn quick(config: &mut Config) {
    config.signals.settle_ms = SETTLE.as_millis() as u64;
    config.signals.read_flush_ms = 50;
}

/// That, and soon without those who fall silent.
fn forgetful(config: &mut Config) {
    quick(config);
    config.signals.lease_ms = LEASE.as_millis() as u64;
}

/// Asks until the answer is that: the first one may come before the nodes know each other.
async fn until_who(client: &mut Client, user: &str, online: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        client.send(who(user, "r")).await;
        let answer = next_of(client, "who").await;
        if answer["online"] == json!(online) {
            return;
        }
        assert!(Instant::now() < deadline, "wanted {online:?}, got {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_online_is_the_same_on_every_node() {
    let cluster = Cluster::shared().await;
    let nodes = [
        cluster.node_with("n1", quick).await,
        cluster.node_with("n2", quick).await,
        cluster.node_with("n3", quick).await,
    ];
    let addresses = [&nodes[0], &nodes[1], &nodes[2]].map(|node| node.addr);
    let mut clients = gather("r", &addresses).await;
    for (user, client) in clients.iter_mut().enumerate() {
        until_who(client, &user.to_string(), &["0", "1", "2"]).await;
    }
    // Somebody comes and goes by one node, and is told of on all.
    let mut guest = Client::greeted(addresses[1]).await;
    guest.send(json!({"type": "join", "user_id": "3", "room": "r"})).await;
    for client in &mut clients {
        until_online(client, &["0", "1", "2"], &["0", "1", "2", "3"]).await;
    }
    // By two nodes, and then by the other one only: nobody is told anything.
    let mut second = Client::greeted(addresses[2]).await;
    second.send(json!({"type": "join", "user_id": "3", "room": "r"})).await;
    second.expect(json!({"type": "joined"})).await;
    until_who(&mut second, "3", &["0", "1", "2", "3"]).await;
    guest.close().await;
    let mut last = Client::greeted(addresses[0]).await;
    last.send(json!({"type": "join", "user_id": "4", "room": "r"})).await;
    for client in &mut clients {
        let frame = next_of(client, "presence").await;
        assert_eq!((&frame["online"], &frame["offline"]), (&json!(["4"]), &json!([])));
    }
    // A node that comes later knows as much when it is asked.
    let late = cluster.node_with("n4", quick).await;
    let mut late = late.client().await;
    until_who(&mut late, "0", &["0", "1", "2", "3", "4"]).await;
}

/// A node that died a moment ago is believed for a lease, and answers nothing. Whoever comes from
/// it asks about all their rooms by way of another.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_about_many_rooms_waits_once_for_a_node_that_is_dead() {
    const ROOMS: u32 = 80;
    let url = services::redis_url().await;
    let cluster = Cluster::with_redis(&url).await;
    let channel = format!("{}:signals", cluster.world.config.mirror.prefix);
    // So that it is believed to the end.
    let node = cluster.node_with("n1", |config| config.signals.lease_ms = 300_000).await;
    let mut ann = node.client().await;
    let rooms: Vec<String> = (0..ROOMS).map(|n| format!("r{n}")).collect();
    for room in &rooms {
        ann.send(json!({"type": "create", "user_id": "1", "room": room})).await;
        ann.expect(json!({"type": "ack"})).await;
        ann.send(json!({"type": "join", "user_id": "1", "room": room})).await;
        ann.expect(json!({"type": "joined"})).await;
    }
    let listener = redis::Client::open(url).unwrap();
    let mut listener = listener.get_async_pubsub().await.unwrap();
    listener.subscribe(&channel).await.unwrap();
    let mut messages = listener.on_message();
    // It speaks for the last time; that it was heard shows by the answer.
    let last = json!({"node": "dead", "ask": ["elsewhere"]}).to_string();
    let mut publish = redis::cmd("PUBLISH");
    let publish = publish.arg(&channel).arg(last);
    publish.query_async::<()>(&mut cluster.redis().await).await.unwrap();
    loop {
        let message = timeout(PATIENCE, messages.next()).await.unwrap().unwrap();
        let message: Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        if message["online"][0]["room"] == "elsewhere" {
            break;
        }
    }
    let begun = Instant::now();
    for room in &rooms {
        ann.send(who("1", room)).await;
    }
    ann.send(json!({"type": "ping"})).await;
    let frames = ann.read_until(json!({"type": "pong"})).await;
    let answers = frames.iter().filter(|frame| frame["online"] == json!(["1"]));
    assert_eq!(answers.count(), rooms.len());
    // Once is 250 ms, and the machine may stand still.
    let after = begun.elapsed();
    assert!(after < Duration::from_millis(250) * ROOMS / 2, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_a_node_that_is_killed_are_offline_within_a_lease() {
    let cluster = Cluster::shared().await;
    let lease_ms = LONG_LEASE.as_millis() as u64;
    let near = |config: &mut Config| (quick(config), config.signals.lease_ms = lease_ms).0;
    let near = cluster.node_with("near", near).await;
    let mut environment = cluster.environment("far");
    environment.extend([
        ("VERBATIM_SIGNALS__LEASE_MS".to_owned(), lease_ms.to_string()),
        ("VERBATIM_SIGNALS__SETTLE_MS".to_owned(), SETTLE.as_millis().to_string()),
    ]);
    let mut far = Process::start(environment).await;
    let mut clients = gather("r", &[near.addr, far.addr]).await;
    let mut ann = clients.remove(0);
    until_who(&mut ann, "0", &["0", "1"]).await;
    // Longer than a lease: what is said again and again keeps them online.
    let early = timeout(LONG_LEASE * 5 / 4, next_of(&mut ann, "presence")).await;
    assert!(early.is_err(), "{early:?}");
    far.kill9();
    assert_eq!(far.wait_exit().await, Exit::Signal(9));
    let begun = Instant::now();
    let frame = timeout(PATIENCE, ann.next()).await.unwrap();
    assert_eq!(
        frame,
        json!({"type": "presence", "room": "r", "online": [], "offline": ["1"], "count": 1})
    );
    let after = begun.elapsed();
    assert!(after < LONG_LEASE * 2, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_moves_from_a_node_that_stops_to_another_was_never_away() {
    let cluster = Cluster::shared().await;
    let (near, far) =
        (cluster.node_with("near", quick).await, cluster.node_with("far", quick).await);
    let mut clients = gather("r", &[near.addr, far.addr, far.addr]).await;
    let mut ann = clients.remove(0);
    until_who(&mut ann, "0", &["0", "1", "2"]).await;
    let (mut moves, mut stays) = (clients.remove(0), clients.remove(0));
    let back = async {
        moves.read_to_close(1012).await;
        let mut again = Client::greeted(near.addr).await;
        again.send(json!({"type": "resume", "user_id": "1", "rooms": {"r": 3}})).await;
        again.read_until(json!({"type": "resumed"})).await;
        again
    };
    let (again, _, ()) = tokio::join!(back, stays.read_to_close(1012), far.stop());
    // The one who did not come back is all that is told.
    let frame = next_of(&mut ann, "presence").await;
    assert_eq!((&frame["online"], &frame["offline"]), (&json!([]), &json!(["2"])));
    again.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_node_knows_its_own_and_with_it_again_all() {
    let mut redis = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&redis.url()).await;
    let (one, two) =
        (cluster.node_with("n1", forgetful).await, cluster.node_with("n2", forgetful).await);
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    until_who(&mut clients[0], "0", &["0", "1"]).await;
    until_who(&mut clients[1], "1", &["0", "1"]).await;
    redis.kill();
    mirror_is(one.addr, "away").await;
    mirror_is(two.addr, "away").await;
    until_online(&mut clients[0], &["0", "1"], &["0"]).await;
    until_online(&mut clients[1], &["0", "1"], &["1"]).await;
    watch(&mut clients[0], "0", "r", &["0"]).await;
    // What happens on a node is told there; and what is said and read goes on.
    let mut guest = Client::greeted(one.addr).await;
    guest.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    guest.expect(json!({"type": "joined"})).await;
    until_online(&mut clients[0], &["0"], &["0", "2"]).await;
    guest.send(typing("2", "r")).await;
    next_of(&mut clients[0], "typing").await;
    clients[0].send(read("0", "r", 3)).await;
    clients[0].read_until(json!({"type": "read", "user_id": "0", "seq": 3})).await;
    redis.restart().await;
    mirror_is(one.addr, "ok").await;
    until_online(&mut clients[0], &["0", "2"], &["0", "1", "2"]).await;
    until_online(&mut clients[1], &["1"], &["0", "1", "2"]).await;
}

/// The rooms that a node forgets meanwhile are those that only others ask about.
#[tokio::test(flavor = "multi_thread")]
async fn who_never_asks_is_online_to_others_again_after_a_long_absence_of_redis() {
    let mut redis = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&redis.url()).await;
    let (one, two) =
        (cluster.node_with("n1", forgetful).await, cluster.node_with("n2", forgetful).await);
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    until_who(&mut clients[0], "0", &["0", "1"]).await;
    let rooms = async || metric(two.addr, "verbatim_presence_rooms").await;
    until("a room that is watched", rooms, |rooms| *rooms == 1).await;
    redis.kill();
    until_online(&mut clients[0], &["0", "1"], &["0"]).await;
    until("a room that is forgotten", rooms, |rooms| *rooms == 0).await;
    redis.restart().await;
    until_online(&mut clients[0], &["0"], &["0", "1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_and_marks_reach_every_node() {
    let cluster = Cluster::shared().await;
    let (one, two) = (cluster.node_with("n1", quick).await, cluster.node_with("n2", quick).await);
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    say(&mut clients[0], "r", "hello").await;
    clients[1].expect(json!({"type": "message", "seq": 3})).await;
    // Until the nodes hear each other, which they do not promise to from the first moment.
    let deadline = Instant::now() + PATIENCE;
    let frame = loop {
        clients[0].send(typing("0", "r")).await;
        clients[0].read_until(json!({"type": "ack", "re": "typing"})).await;
        match timeout(Duration::from_secs(4), clients[1].next()).await {
            Ok(frame) => break frame,
            Err(_) => assert!(Instant::now() < deadline, "nobody heard"),
        }
    };
    let typing = json!({"type": "typing", "room": "r", "user_id": "0", "expires_ms": 6000});
    assert_eq!(frame, typing);
    clients[1].send(read("1", "r", 3)).await;
    let told = json!({"type": "read", "room": "r", "user_id": "1", "seq": 3});
    clients[1].expect(json!({"type": "ack", "re": "read"})).await;
    for client in &mut clients {
        assert_eq!(client.next().await, told);
    }
    // On the other node it is as read as on this one.
    let mut other = Client::greeted(one.addr).await;
    other.send(json!({"type": "rooms", "user_id": "1"})).await;
    let rooms = other.expect(json!({"type": "rooms"})).await;
    assert_eq!((&rooms["rooms"][0]["read"], &rooms["rooms"][0]["unread"]), (&json!(3), &json!(0)));
}

/// Somebody's typing and their message come to other nodes by two channels, in any order.
#[tokio::test(flavor = "multi_thread")]
async fn no_typing_comes_behind_its_message_on_any_node() {
    let cluster = Cluster::shared().await;
    let often = |config: &mut Config| config.signals.typing_interval_ms = 10;
    let (one, two) = (cluster.node_with("n1", often).await, cluster.node_with("n2", often).await);
    let mut clients = gather("r", &[one.addr, two.addr, two.addr]).await;
    let [ann, bob, cid] = &mut clients[..] else { panic!("three came") };
    // Until the nodes hear each other.
    let heard = async {
        loop {
            cid.send(typing("2", "r")).await;
            cid.read_until(json!({"type": "ack"})).await;
            if timeout(SETTLE, ann.expect(json!({"type": "typing"}))).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("nobody heard");
    for round in 0..10 {
        bob.send(typing("1", "r")).await;
        say_as(bob, "1", "r", &round.to_string()).await;
        // Before the message it may be told, behind it not.
        ann.read_until(json!({"type": "message", "message": round.to_string()})).await;
        cid.send(typing("2", "r")).await;
        cid.read_until(json!({"type": "ack", "re": "typing"})).await;
        let behind = ann.read_until(json!({"type": "typing", "user_id": "2"})).await;
        let late = behind.iter().find(|frame| frame["user_id"] == "1");
        assert_eq!(late, None, "round {round}");
    }
}

/// The same where the message was so much faster that it has been read.
#[tokio::test(flavor = "multi_thread")]
async fn a_typing_that_its_message_overtook_is_dropped() {
    let cluster = Cluster::shared().await;
    let often = |config: &mut Config| config.signals.typing_interval_ms = 10;
    let (one, two) = (cluster.node_with("n1", often).await, cluster.node_with("n2", often).await);
    let mut clients = gather("r", &[one.addr, two.addr, two.addr]).await;
    let (mut redis, mut seq) = (cluster.redis().await, 3);
    let channel = format!("{}:signals", cluster.world.config.mirror.prefix);
    let mut tell = async |typing: Value| {
        let said = json!({"node": "n3", "typing": typing}).to_string();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&channel).arg(said).query_async::<()>(&mut redis).await.unwrap();
    };
    let of = |user: &str, seq: u64| json!({"room": "r", "user_id": user, "seq": seq});
    let [ann, bob, _] = &mut clients[..] else { panic!("three came") };
    // Until the node hears the channel.
    let heard = async {
        loop {
            tell(json!([of("2", seq)])).await;
            if timeout(SETTLE, ann.expect(json!({"type": "typing"}))).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("nobody heard");
    for round in 0..3 {
        say_as(bob, "1", "r", &round.to_string()).await;
        seq += 1;
        ann.read_until(json!({"type": "message", "seq": seq})).await;
        // Of before the message, and of after it.
        tell(json!([of("1", seq - 1), of("2", seq)])).await;
        let behind = ann.read_until(json!({"type": "typing", "user_id": "2"})).await;
        assert_eq!(behind.iter().find(|frame| frame["user_id"] == "1"), None);
        tell(json!([of("1", seq)])).await;
        ann.read_until(json!({"type": "typing", "user_id": "1"})).await;
    }
    // From a node of an older version: as of when it comes.
    tell(json!([{"room": "r", "user_id": "0"}, {"room": "r", "user_id": "1"}])).await;
    ann.read_until(json!({"type": "typing", "user_id": "1"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_asks_nodes_say_nothing_of_anybody() {
    let url = services::redis_url().await;
    let cluster = Cluster::with_redis(&url).await;
    let channel = format!("{}:signals", cluster.world.config.mirror.prefix);
    let listener = redis::Client::open(url).unwrap();
    let mut listener = listener.get_async_pubsub().await.unwrap();
    listener.subscribe(&channel).await.unwrap();
    let (one, two) = (cluster.node_with("n1", quick).await, cluster.node_with("n2", quick).await);
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    for round in 0..20 {
        say(&mut clients[0], "r", &round.to_string()).await;
        let mut guest = Client::greeted(two.addr).await;
        guest.send(json!({"type": "join", "user_id": "guest", "room": "r"})).await;
        guest.expect(json!({"type": "joined"})).await;
        guest.close().await;
    }
    let mut messages = listener.on_message();
    let mut heard: Vec<Value> = Vec::new();
    // Signs of life of the nodes themselves, for some rounds.
    while heard.len() < 12 {
        let message = timeout(PATIENCE, messages.next()).await.unwrap().unwrap();
        heard.push(serde_json::from_slice(message.get_payload_bytes()).unwrap());
    }
    for message in &heard {
        let keys: Vec<&String> = message.as_object().unwrap().keys().collect();
        assert!(keys == ["node"] || keys == ["hello", "node"], "{message}");
    }
    // And when somebody asks they do: so the above would have shown it.
    clients[0].send(who("0", "r")).await;
    loop {
        let message = timeout(PATIENCE, messages.next()).await.unwrap().unwrap();
        let message: Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        if message["online"][0]["room"] == "r" {
            break;
        }
    }
}
