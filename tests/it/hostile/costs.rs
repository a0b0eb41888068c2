//! What is asked for is paid for: by whoever asked, before the next answer, and not by the others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::raw::{Raw, masked_frame};
use crate::harness::{Client, PATIENCE, World, on_both_logs};
use crate::protocol::create;

on_both_logs!(
    frames_that_have_no_answer_end_a_socket_that_sends_nothing_else,
    the_rooms_of_a_resume_that_are_refused_count,
    a_long_answer_is_paid_for_before_the_next_and_nobody_is_refused_for_it,
    a_node_stops_in_time_whatever_it_was_asked_for,
    what_a_user_asked_for_is_paid_for_by_all_their_sockets,
    a_message_that_never_comes_whole_ends_its_socket,
);

/// Reads to the close frame: its code.
async fn close_code(socket: &mut Raw) -> u16 {
    loop {
        let frame = socket.read_frame().await;
        if frame.first == 0x88 {
            return u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
        }
    }
}

/// What was done: pings, pongs and empty fragments as fast as a socket takes them. They had no rate
/// at all, and the neighbours waited for 130 to 390 ms.
async fn frames_that_have_no_answer_end_a_socket_that_sends_nothing_else(world: World) {
    let node = world
        .node_with(|config| {
            (config.session.commands_per_second, config.session.commands_burst) = (100, 200);
            config.session.refused_seconds_max = 2;
        })
        .await;
    let first_and_then = [(None, 0x89), (None, 0x8A), (Some(masked_frame(0x01, b"{")), 0x00)];
    for (first, then) in first_and_then {
        let mut socket = Raw::upgrade(node.addr).await;
        if let Some(first) = first {
            socket.send(first).await;
        }
        // It is closed while it is still sending.
        let _ = socket.try_send(masked_frame(then, b"").repeat(5_000)).await;
        assert_eq!(close_code(&mut socket).await, 1008, "{then:#x}");
    }
    // Whoever does so now and then is not.
    let mut socket = Raw::upgrade(node.addr).await;
    socket.read_frame().await;
    for _ in 0..100 {
        socket.send(masked_frame(0x89, b"x")).await;
        assert_eq!(socket.read_frame().await.payload, b"x");
    }
}

/// What was done: `resume` of 3,800 rooms that are not there, again and again: 3,800 answers, of
/// which none counted as refused.
async fn the_rooms_of_a_resume_that_are_refused_count(world: World) {
    let node = world
        .node_with(|config| {
            config.session.refused_seconds_max = 2;
            config.session.commands_per_second = 1_000_000;
        })
        .await;
    let mut client = node.client().await;
    let rooms: serde_json::Map<_, _> =
        (0..100).map(|number| (format!("none {number}"), json!(0))).collect();
    let resume = json!({"type": "resume", "user_id": "1", "rooms": rooms});
    let deadline = Instant::now() + PATIENCE;
    let code = 'closed: loop {
        client.send(resume.clone()).await;
        for _ in 0..=100 {
            match client.next_or_close().await {
                Ok(_) => assert!(Instant::now() < deadline, "it goes on and on"),
                Err(code) => break 'closed code,
            }
        }
    };
    assert_eq!(code, 1008);
}

/// Makes rooms, so that a list of them weighs 10 for one who wants to know what is unread there.
async fn make_rooms(client: &mut Client) {
    for number in 0..40 {
        create(client, "1", &format!("r{number}")).await;
    }
}

fn rooms() -> Value {
    json!({"type": "rooms", "user_id": "1", "limit": 40})
}

/// What was done: `rooms` with a limit of 1,000 weighed as much as `ping`, and took 20 to 45 ms.
/// Nor is a client closed that reads all it asked for, waits for it, and pings meanwhile.
async fn a_long_answer_is_paid_for_before_the_next_and_nobody_is_refused_for_it(world: World) {
    let node = world
        .node_with(|config| {
            (config.session.commands_per_second, config.session.commands_burst) = (100, 100);
            (config.session.refused_per_second_max, config.session.refused_seconds_max) = (1, 1);
        })
        .await;
    make_rooms(&mut node.client().await).await;
    let mut client = node.client().await;
    let begun = Instant::now();
    for _ in 0..30 {
        client.send(rooms()).await;
    }
    for _ in 0..30 {
        client.try_send(Message::Ping(Vec::new().into())).await.unwrap();
        client.expect(json!({"type": "rooms"})).await;
    }
    // 100 at once, and 100 for each second since.
    assert!(begun.elapsed() > Duration::from_millis(1700), "in {:?}", begun.elapsed());
}

/// What was done: answers that are not paid for, and then SIGTERM. The node waited for its whole
/// time, and the client got neither `goodbye` nor a close.
async fn a_node_stops_in_time_whatever_it_was_asked_for(world: World) {
    let node = world
        .node_with(|config| {
            (config.session.commands_per_second, config.session.commands_burst) = (1, 300);
            config.server.shutdown_timeout_ms = 60_000;
        })
        .await;
    let mut client = node.client().await;
    make_rooms(&mut client).await;
    for _ in 0..200 {
        client.send(rooms()).await;
    }
    client.expect(json!({"type": "rooms"})).await;
    let stopping = tokio::spawn(node.stop());
    let frames = client.read_to_close(1012).await;
    assert!(frames.iter().any(|frame| frame["type"] == "goodbye"), "{}", frames.len());
    timeout(PATIENCE, stopping).await.expect("it does not stop").unwrap();
}

/// The same by many sockets: a user is one user.
async fn what_a_user_asked_for_is_paid_for_by_all_their_sockets(world: World) {
    let node = world
        .node_with(|config| {
            config.session.user_commands_per_second = 1;
            config.session.user_commands_burst = 100;
        })
        .await;
    let mut other = node.client().await;
    make_rooms(&mut other).await;
    let mut refused = Value::Null;
    for _ in 0..12 {
        let mut client = node.client().await;
        client.send(rooms()).await;
        refused = client.next().await;
    }
    assert_eq!(refused["code"], "rate_limited", "{refused}");
    other.send(json!({"type": "rooms", "user_id": "2", "limit": 40})).await;
    other.expect(json!({"type": "rooms"})).await;
}

/// What was done: a byte of a frame now and then, for as long as one likes.
async fn a_message_that_never_comes_whole_ends_its_socket(world: World) {
    let node = world.node_with(|config| config.socket.frame_timeout_ms = 300).await;
    let whole = masked_frame(0x81, br#"{"type":"ping"}"#);
    // In the middle of a frame, and between two of one message.
    for begun in [whole[..10].to_vec(), masked_frame(0x01, b"{")] {
        let mut socket = Raw::upgrade(node.addr).await;
        socket.send(begun).await;
        assert_eq!(close_code(&mut socket).await, 1008);
    }
}
