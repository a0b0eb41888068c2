//! Commands sent in one breath, whose events and answers reach the session by different ways and in
//! any order. Each test repeats its race, because a race is lost only now and then.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use verbatim::config::Config;

use crate::harness::proxy::{Pieces, Proxy, Way};
use crate::harness::{Client, World, on_both_logs, services};
use crate::mirror::cluster::metric;

on_both_logs!(
    joining_again_and_leaving_in_one_breath_sends_nothing_twice,
    one_more_user_and_the_first_ones_leave_in_one_breath_send_nothing_twice,
    a_user_who_joined_and_left_in_one_breath_is_not_followed_as,
    leaving_and_joining_in_one_breath_goes_on_without_a_hole,
    a_message_behind_a_reset_gets_its_answer,
    a_refused_join_does_not_keep_a_room_that_was_left,
    answers_wait_for_a_client_that_does_not_read,
    what_a_closing_socket_asked_for_keeps_nobody_waiting,
    users_of_one_follower_are_bounded,
    rooms_that_are_left_in_one_long_breath_are_bounded,
);

/// Often enough to lose each of these races several times, had they not been closed.
const ROUNDS: usize = 40;

fn command(kind: &str, user: &str, room: &str) -> Value {
    json!({"type": kind, "user_id": user, "room": room})
}

/// Sends all of them and a ping, without waiting in between.
async fn breath(client: &mut Client, commands: &[Value]) -> Vec<Value> {
    for command in commands {
        client.send(command.clone()).await;
    }
    client.send(json!({"type": "ping"})).await;
    client.read_until(json!({"type": "pong"})).await
}

/// What is still on its way: everybody has seen it when one more event has been seen.
async fn rest(client: &mut Client) -> Vec<Value> {
    let mut frames = breath(client, &[]).await;
    tokio::task::yield_now().await;
    frames.extend(breath(client, &[]).await);
    frames
}

/// A new room, made by u1 and followed by this socket as u1.
async fn room(client: &mut Client, name: &str) {
    let both = [command("create", "u1", name), command("join", "u1", name)];
    let frames = breath(client, &both).await;
    assert!(frames.iter().any(|frame| frame["type"] == "joined"));
}

/// The seqs of the events among the frames: acks are not events.
fn seqs(frames: &[Value]) -> Vec<u64> {
    let events = frames.iter().filter(|frame| frame["type"] != "ack");
    events.filter_map(|event| event["seq"].as_u64()).collect()
}

fn assert_ascending(seqs: &[u64], frames: &[Value]) {
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?} of {frames:#?}");
}

async fn joining_again_and_leaving_in_one_breath_sends_nothing_twice(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for round in 0..ROUNDS {
        let name = format!("r{round}");
        room(&mut client, &name).await;
        let both = [command("join", "u1", &name), command("leave", "u1", &name)];
        let mut frames = breath(&mut client, &both).await;
        frames.extend(rest(&mut client).await);
        assert_eq!(seqs(&frames), [2], "{frames:#?}");
    }
}

async fn one_more_user_and_the_first_ones_leave_in_one_breath_send_nothing_twice(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for round in 0..ROUNDS {
        let name = format!("r{round}");
        room(&mut client, &name).await;
        let both = [command("join", "u2", &name), command("leave", "u1", &name)];
        let mut frames = breath(&mut client, &both).await;
        // It still follows as u2.
        let message = json!({"type": "message", "user_id": "u2", "room": name, "message": "m"});
        frames.extend(breath(&mut client, &[message]).await);
        assert_eq!(seqs(&frames), [2, 3, 4], "{frames:#?}");
    }
}

async fn a_user_who_joined_and_left_in_one_breath_is_not_followed_as(world: World) {
    let node = world.node().await;
    let (mut client, mut other) = (node.client().await, node.client().await);
    for round in 0..ROUNDS {
        let name = format!("r{round}");
        room(&mut client, &name).await;
        breath(&mut client, &[command("join", "u2", &name), command("leave", "u2", &name)]).await;
        breath(&mut client, &[command("leave", "u1", &name)]).await;
        let secret = json!({"type": "message", "user_id": "u3", "room": name, "message": "secret"});
        let frames = breath(&mut other, &[command("join", "u3", &name), secret]).await;
        assert!(frames.iter().any(|frame| frame["message"] == "secret"), "{frames:#?}");
        let frames = rest(&mut client).await;
        assert!(!frames.iter().any(|frame| frame["message"] == "secret"), "{frames:#?}");
    }
}

async fn leaving_and_joining_in_one_breath_goes_on_without_a_hole(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for round in 0..ROUNDS {
        let name = format!("r{round}");
        room(&mut client, &name).await;
        let both = [command("leave", "u1", &name), command("join", "u1", &name)];
        let mut frames = breath(&mut client, &both).await;
        let message = json!({"type": "message", "user_id": "u1", "room": name, "message": "m"});
        frames.extend(breath(&mut client, &[message]).await);
        let seqs = seqs(&frames);
        assert_ascending(&seqs, &frames);
        assert_eq!(seqs, [2, 3, 4], "{frames:#?}");
    }
}

async fn a_message_behind_a_reset_gets_its_answer(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for round in 0..ROUNDS {
        let name = format!("r{round}");
        breath(&mut client, &[command("create", "u1", &name)]).await;
        let resume = json!({"type": "resume", "user_id": "u1", "rooms": {name.as_str(): 1000}});
        let message = json!({"type": "message", "user_id": "u1", "room": name, "message": "m"});
        let mut frames = breath(&mut client, &[resume, message]).await;
        frames.extend(rest(&mut client).await);
        let answer = |frame: &&Value| frame["message"] == "m" || frame["re"] == "message";
        assert_eq!(frames.iter().filter(answer).count(), 1, "{frames:#?}");
        breath(&mut client, &[command("leave", "u1", &name)]).await;
    }
}

/// While an answer is owed the follower only pauses; when it comes to nothing, it stops.
async fn a_refused_join_does_not_keep_a_room_that_was_left(world: World) {
    let node = world.node().await;
    let (mut client, mut other) = (node.client().await, node.client().await);
    for round in 0..ROUNDS {
        let name = format!("r{round}");
        room(&mut client, &name).await;
        // u9 is not a member, so there is nothing to resume.
        let resume = json!({"type": "resume", "user_id": "u9", "rooms": {name.as_str(): 0}});
        breath(&mut client, &[command("leave", "u1", &name), resume]).await;
        let hidden = json!({"type": "message", "user_id": "u3", "room": name, "message": "hidden"});
        breath(&mut other, &[command("join", "u3", &name), hidden]).await;
        let frames = rest(&mut client).await;
        assert!(!frames.iter().any(|frame| frame["message"] == "hidden"), "{frames:#?}");
    }
}

/// Pages of history that were asked for in one breath are worked out as they are read.
async fn answers_wait_for_a_client_that_does_not_read(world: World) {
    const PAGES: usize = 60;
    let node = world.node().await;
    let mut writer = node.client().await;
    room(&mut writer, "big").await;
    let text = "x".repeat(16 * 1024);
    for _ in 0..100 {
        let message = json!({"type": "message", "user_id": "u1", "room": "big", "message": text});
        writer.send(message).await;
    }
    breath(&mut writer, &[]).await;
    let mut reader = Client::narrow(node.addr, 4096).await;
    for _ in 0..PAGES {
        let history = json!({"type": "history", "user_id": "u1", "room": "big", "limit": 200});
        reader.send(history).await;
    }
    // The server has read them all when it answers another client's command that came later.
    breath(&mut writer, &[]).await;
    let (_, metrics) = crate::harness::raw::get(node.addr, "/metrics").await;
    let queued = metrics.lines().find_map(|line| line.strip_prefix("verbatim_queue_bytes "));
    let queued: u64 = queued.unwrap().parse().unwrap();
    assert!(queued < 3 * 1024 * 1024, "{queued} bytes are queued: more than two pages");
    for _ in 0..PAGES {
        reader.expect(json!({"type": "history", "last": 101, "more": true})).await;
    }
}

async fn what_a_closing_socket_asked_for_keeps_nobody_waiting(world: World) {
    let few_readers = |config: &mut Config| config.log.readers = 1;
    let node = world.node_with(few_readers).await;
    let mut client = node.client().await;
    room(&mut client, "r").await;
    for _ in 0..ROUNDS {
        // It asks, breaks the protocol, and does not answer the close.
        let mut rude = node.client().await;
        let history = json!({"type": "history", "user_id": "u1", "room": "r"});
        let resume = json!({"type": "resume", "user_id": "u1", "rooms": {"r": 0}});
        rude.send(history.clone()).await;
        rude.send(resume).await;
        rude.send_binary(vec![0]).await;
        client.send(history).await;
        client.expect(json!({"type": "history"})).await;
        // Kept open until here.
        drop(rude);
    }
}

async fn users_of_one_follower_are_bounded(world: World) {
    let node = world.node_with(|config| config.session.users_per_room_max = 3).await;
    let mut client = node.client().await;
    room(&mut client, "r").await;
    for user in ["u2", "u3"] {
        let frames = breath(&mut client, &[command("join", user, "r")]).await;
        assert!(frames.iter().any(|frame| frame["type"] == "joined"), "{frames:#?}");
    }
    client.send(command("join", "u4", "r")).await;
    let refused = json!({"code": "bad_request", "field": "user_id", "limit": 3, "re": "join"});
    client.read_until(refused).await;
    // Whoever is among them may join again, and a place that is given up can be taken.
    let frames =
        breath(&mut client, &[command("join", "u2", "r"), command("leave", "u2", "r")]).await;
    assert!(frames.iter().any(|frame| frame["type"] == "joined"), "{frames:#?}");
    let frames = breath(&mut client, &[command("join", "u4", "r")]).await;
    assert!(frames.iter().any(|frame| frame["type"] == "joined"), "{frames:#?}");
}

/// A client that is never without an owed answer: its rooms are forgotten only when none is owed.
async fn rooms_that_are_left_in_one_long_breath_are_bounded(world: World) {
    const ROOMS: usize = 200;
    const IN_FLIGHT: usize = 8;
    const FOLLOWS: usize = 4;
    let node = world.node_with(|config| {
        config.session.in_flight_max = IN_FLIGHT;
        config.session.follows_max = FOLLOWS;
    });
    let node = node.await;
    let mut client = node.client().await;
    for number in 0..ROOMS {
        for kind in ["create", "join", "leave"] {
            client.send(command(kind, "u1", &format!("room-{number}"))).await;
        }
    }
    client.send(json!({"type": "ping"})).await;
    let mut most = 0;
    let answered = client.read_until(json!({"type": "pong"}));
    let mut answered = std::pin::pin!(answered);
    let frames = loop {
        tokio::select! {
            frames = &mut answered => break frames,
            follows = metric(node.addr, "verbatim_follows") => most = most.max(follows),
        }
    };
    assert!(most <= (FOLLOWS + IN_FLIGHT) as u64, "{most} rooms were held");
    // By its event, or on a slow machine by an ack.
    let is_leave = |frame: &&Value| frame["type"] == "leave" || frame["re"] == "leave";
    assert_eq!(frames.iter().filter(is_leave).count(), ROOMS);
}

/// Each of them waits for its event, which stands at the end of a replay that takes long.
#[tokio::test(flavor = "multi_thread")]
async fn messages_in_one_breath_in_a_long_replay_are_answered_in_the_time_of_one() {
    const EVENTS: usize = 400;
    const MESSAGES: usize = 20;
    // Longer than the machine stands still, and much shorter than the replay.
    const ONE: Duration = Duration::from_secs(5);
    let direct = services::database().await;
    let port = services::postgres().await.port();
    let proxy = Proxy::to(port, Pieces::Chunks).await;
    let behind = direct.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    let world = World::on(&behind);
    let patient = world.node().await;
    let mut writer = patient.client().await;
    room(&mut writer, "long").await;
    let message =
        |user| json!({"type": "message", "user_id": user, "room": "long", "message": "x"});
    breath(&mut writer, &vec![message("u1"); EVENTS]).await;
    breath(&mut writer, &[command("join", "u2", "long")]).await;
    drop(writer);
    patient.stop().await;
    let node = world.node_with(|config| {
        (config.hub.ring_len_max, config.hub.page_len) = (16, 2);
        config.lane.answer_timeout_ms = ONE.as_millis() as u64;
        config.log.append_timeout_ms = config.lane.answer_timeout_ms;
    });
    let node = node.await;
    let mut reader = node.client().await;
    reader.send(json!({"type": "join", "user_id": "u2", "room": "long", "since": 0})).await;
    reader.read_until(json!({"seq": 1})).await;
    proxy.delay(Way::ToServer, Duration::from_millis(100));
    let asked = Instant::now();
    let frames = breath(&mut reader, &vec![message("u2"); MESSAGES]).await;
    let took = asked.elapsed();
    let acks = frames.iter().filter(|frame| frame["type"] == "ack").count();
    assert!(acks > 1, "the replay was too short");
    assert!(took < 2 * ONE, "the answers took {took:?}");
}
