//! Names that are new must not look like another; names that are in a log already are taken.

use serde_json::{Value, json};
use verbatim::log::Log;
use verbatim::model::{RoomName, UserId};
use verbatim::protocol::command::Verb;
use verbatim::rules::Write;

use super::{create, exact, join};
use crate::harness::{Client, World, on_both_logs};
use crate::log::appending::Appending;

on_both_logs!(
    a_new_name_that_looks_like_another_is_refused,
    a_user_of_such_a_name_does_not_come_into_a_room,
    names_of_an_older_log_go_on,
);

/// Each with what is said of it.
const LOOK_ALIKE: [(&str, &str); 8] = [
    ("admin ", "must not begin or end with a space"),
    (" admin", "must not begin or end with a space"),
    ("ad\u{A0}min", "contains U+00A0, which looks like a space: use U+0020"),
    ("admin\u{FE0F}", "contains U+FE0F, which is invisible"),
    ("admin\u{180B}", "contains U+180B, which is invisible"),
    ("admin\u{E000}", "contains U+E000, which is a private-use character"),
    ("admin\u{FFFE}", "contains U+FFFE, which is not a character"),
    ("admin\u{378}", "contains U+0378, which is not assigned to a character"),
];

fn problem(re: &str, field: &str, why: &str) -> Value {
    json!({"type": "error", "code": "bad_request", "status": 400, "field": field,
        "error": format!("\"{field}\" {why}"), "re": re, "id": "i"})
}

async fn a_new_name_that_looks_like_another_is_refused(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    for (name, why) in LOOK_ALIKE {
        ann.send(json!({"type": "create", "user_id": "1", "room": name, "id": "i"})).await;
        assert_eq!(ann.next().await, problem("create", "room", why));
        ann.send(json!({"type": "create", "user_id": name, "room": "r", "id": "i"})).await;
        let mut wanted = problem("create", "user_id", why);
        wanted["room"] = json!("r");
        assert_eq!(ann.next().await, wanted);
    }
    ann.send(json!({"type": "rooms"})).await;
    ann.expect(json!({"rooms": []})).await;
}

async fn a_user_of_such_a_name_does_not_come_into_a_room(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    for (name, why) in LOOK_ALIKE {
        for room in ["r", "nowhere"] {
            ann.send(json!({"type": "join", "user_id": name, "room": room, "id": "i"})).await;
            let mut wanted = problem("join", "user_id", why);
            wanted["room"] = json!(room);
            assert_eq!(ann.next().await, wanted);
        }
    }
    // The socket follows nothing by that, and is as good as before.
    assert_eq!(join(&mut ann, "2", "r").await, 2);
    ann.send(json!({"type": "members", "user_id": "2", "room": "r"})).await;
    let members = json!([{"user_id": "1", "role": "owner"}, {"user_id": "2", "role": "member"}]);
    ann.expect(json!({"type": "members", "members": members})).await;
}

/// Rooms with their makers, as an older version let them in.
async fn an_older_log(world: &World, rooms: &[(&str, &str)]) {
    let log = Log::open(&world.config).await.unwrap();
    let create = |(room, user): &(&str, &str)| Write {
        room: RoomName::parse(room).unwrap(),
        caller: UserId::parse(user).unwrap(),
        id: None,
        verb: Verb::Create,
    };
    let creates: Vec<Write> = rooms.iter().map(create).collect();
    let outcomes = log.appender().append_all(&creates).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.events().count() == 1), "{outcomes:?}");
}

async fn names_of_an_older_log_go_on(world: World) {
    let (room, user) = ("gen\u{A0}eral ", "admin\u{FE0F}");
    an_older_log(&world, &[(room, user), ("of another", "other ")]).await;
    let node = world.node().await;
    let (mut ann, mut bob): (Client, Client) = (node.client().await, node.client().await);
    let say = |kind: &str| json!({"type": kind, "user_id": user, "room": room});
    // A member who joins again comes from nowhere.
    ann.send(say("join")).await;
    ann.expect(json!({"type": "joined", "last_seq": 1, "members": 1})).await;
    // Others come into the room, whatever it is called.
    assert_eq!(join(&mut bob, "2", room).await, 2);
    ann.expect(json!({"type": "join", "user_id": "2"})).await;
    let mut message = say("message");
    (message["message"], message["id"]) = (json!("hi"), json!("c1"));
    ann.send(message.clone()).await;
    bob.expect(json!({"type": "message", "room": room, "user_id": user, "seq": 3})).await;
    ann.read_until(json!({"type": "ack", "seq": 3})).await;
    ann.send(json!({"type": "ping"})).await;
    ann.read_until(json!({"type": "pong"})).await;
    ann.send(message).await;
    ann.expect(json!({"type": "ack", "seq": 3, "duplicate": true})).await;
    for kind in ["history", "members", "who"] {
        ann.send(say(kind)).await;
        ann.expect(json!({"type": kind, "room": room})).await;
    }
    let mut read = say("read");
    read["seq"] = json!(3);
    for command in [say("typing"), read] {
        ann.send(command).await;
        ann.expect(json!({"type": "ack"})).await;
    }
    bob.read_until(json!({"type": "typing", "user_id": user})).await;
    let mut again = node.client().await;
    again.send(json!({"type": "resume", "user_id": user, "rooms": {room: 1}})).await;
    again.read_until(json!({"type": "resumed", "rooms": {room: 3}})).await;
    again.send(json!({"type": "rooms", "after": room})).await;
    // How far they have read is told when it is stored, which may be now.
    again.read_until(json!({"type": "rooms"})).await;
    again.send(say("leave")).await;
    again.read_until(json!({"type": "leave", "seq": 4})).await;
    // Gone is gone: who comes back comes into the room.
    let mut back = node.client().await;
    back.send(say("join")).await;
    exact(
        &mut back,
        "{\"type\":\"error\",\"code\":\"bad_request\",\"status\":400,\"error\":\"\\\"user_id\\\" \
         contains U+FE0F, which is invisible\",\"field\":\"user_id\",\"re\":\"join\",\
         \"room\":\"gen\u{A0}eral \"}",
    )
    .await;
    // Nor does one come into another room who is a member of this.
    back.send(json!({"type": "join", "user_id": "other ", "room": "of another"})).await;
    back.expect(json!({"type": "joined", "members": 1})).await;
    back.send(json!({"type": "join", "user_id": "other ", "room": room})).await;
    back.expect(json!({"code": "bad_request", "field": "user_id"})).await;
}
