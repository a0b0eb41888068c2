//! docs/protocol.md line by line, through real sockets, on both logs.
//!
//! Where the page shows a frame, the test wants those bytes. It tests what a client sees and not
//! how the server does it.

mod answers;
mod commands;
mod errors;
mod fields;
mod framing;
mod history;
mod idempotency;
mod join;
mod leave;
mod limits;
mod lists;
mod names;
mod resume;
mod table;

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::Client;

/// Commands sent before their answers are read: below every limit of the defaults.
const PIPELINED: usize = 100;

/// The next frame must be these bytes, where `AT` stands for a time that is now.
pub async fn exact(client: &mut Client, wanted: &str) -> Value {
    let text = client.next_text().await;
    let frame: Value = serde_json::from_str(&text).expect("a frame that is not JSON");
    match frame["at"].as_str() {
        Some(at) => {
            assert_eq!(text, wanted.replace("AT", at));
            assert_now(at);
        }
        None => assert_eq!(text, wanted),
    }
    frame
}

/// RFC 3339, UTC, milliseconds, and not long ago.
fn assert_now(at: &str) {
    assert_eq!((at.len(), &at[23..]), (24, "Z"), "{at}");
    let time = humantime::parse_rfc3339(at).unwrap_or_else(|err| panic!("{at}: {err}"));
    let age = SystemTime::now().duration_since(time).unwrap_or_default();
    assert!(age < Duration::from_secs(60), "{at} is not now");
}

/// Makes a room, which this socket does not follow.
pub async fn create(client: &mut Client, user: &str, room: &str) {
    client.send(json!({"type": "create", "user_id": user, "room": room})).await;
    client.expect(json!({"type": "ack", "re": "create", "room": room, "seq": 1})).await;
}

/// Joins as someone who is not a member, and takes the `joined` and the event, whose seq it is.
pub async fn join(client: &mut Client, user: &str, room: &str) -> u64 {
    client.send(json!({"type": "join", "user_id": user, "room": room})).await;
    let joined = client.expect(json!({"type": "joined", "room": room, "user_id": user})).await;
    let event = json!({"type": "join", "room": room, "user_id": user, "seq": joined["last_seq"]});
    client.expect(event).await["seq"].as_u64().unwrap()
}

/// Joins as one more user on a socket that follows already: the event is live for it, so it may
/// come before the `joined`.
pub async fn join_too(client: &mut Client, user: &str, room: &str) -> u64 {
    client.send(json!({"type": "join", "user_id": user, "room": room})).await;
    let (one, two) = (client.next().await, client.next().await);
    let (joined, event) = if one["type"] == "joined" { (one, two) } else { (two, one) };
    assert_eq!((&joined["type"], &joined["user_id"]), (&json!("joined"), &json!(user)));
    assert_eq!((&event["type"], &event["user_id"]), (&json!("join"), &json!(user)));
    assert_eq!(joined["last_seq"], event["seq"]);
    event["seq"].as_u64().unwrap()
}

/// Joins as someone who is a member, which makes no event.
pub async fn follow(client: &mut Client, user: &str, room: &str) {
    client.send(json!({"type": "join", "user_id": user, "room": room})).await;
    client.expect(json!({"type": "joined", "room": room, "user_id": user})).await;
}

/// Sends a message to a room that this socket follows: its event is the answer.
pub async fn say(client: &mut Client, user: &str, room: &str, text: &str) -> u64 {
    client.send(message(user, room, text)).await;
    let event = json!({"type": "message", "room": room, "user_id": user, "message": text});
    client.expect(event).await["seq"].as_u64().unwrap()
}

/// Sends messages to a room that this socket does not follow, and takes the acks.
pub async fn fill(client: &mut Client, user: &str, room: &str, count: usize) {
    let numbers: Vec<_> = (0..count).collect();
    for chunk in numbers.chunks(PIPELINED) {
        for number in chunk {
            client.send(message(user, room, &format!("message {number}"))).await;
        }
        for _ in chunk {
            client.expect(json!({"type": "ack", "re": "message", "room": room})).await;
        }
    }
}

pub fn message(user: &str, room: &str, text: &str) -> Value {
    json!({"type": "message", "user_id": user, "room": room, "message": text})
}

/// The next frames must be the room's events with these seqs.
pub async fn expect_seqs(client: &mut Client, room: &str, seqs: impl IntoIterator<Item = u64>) {
    for seq in seqs {
        client.expect(json!({"room": room, "seq": seq})).await;
    }
}

/// The next two frames, in any order: an event and the ack of the command that made it.
pub async fn event_and_ack(client: &mut Client) -> (Value, Value) {
    let (one, two) = (client.next().await, client.next().await);
    if one["type"] == "ack" { (two, one) } else { (one, two) }
}
