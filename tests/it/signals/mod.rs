//! Signs of life as clients see them: who is online, who types, how far others have read; on one
//! node and on three, with a slow reader, and while Redis and nodes come and go.

mod cluster;
mod follower;
mod presence;
mod pressure;
mod read;
mod typing;

use serde_json::{Value, json};

use crate::harness::Client;

pub fn who(user: &str, room: &str) -> Value {
    json!({"type": "who", "user_id": user, "room": room})
}

pub fn typing(user: &str, room: &str) -> Value {
    json!({"type": "typing", "user_id": user, "room": room})
}

pub fn read(user: &str, room: &str, seq: u64) -> Value {
    json!({"type": "read", "user_id": user, "room": room, "seq": seq})
}

/// Asks who is online, and so has the socket told of who comes and goes.
pub async fn watch(client: &mut Client, user: &str, room: &str, online: &[&str]) {
    client.send(who(user, room)).await;
    client.expect(json!({"type": "who", "online": online, "count": online.len()})).await;
}

/// Reads up to the next frame of that type, and gives it.
pub async fn next_of(client: &mut Client, kind: &str) -> Value {
    client.read_until(json!({"type": kind})).await.pop().expect("the one it was read up to")
}

/// Reads `presence` frames until those are online, beginning with these.
pub async fn until_online(client: &mut Client, begin: &[&str], wanted: &[&str]) {
    let mut online: Vec<String> = begin.iter().map(ToString::to_string).collect();
    while online != wanted {
        let frame = next_of(client, "presence").await;
        let names = |key: &str| -> Vec<String> {
            let names = frame[key].as_array().unwrap_or_else(|| panic!("no {key} in {frame}"));
            names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        online.extend(names("online"));
        let gone = names("offline");
        online.retain(|name| !gone.contains(name));
        online.sort();
        online.dedup();
        assert_eq!(frame["count"], online.len(), "{frame}");
    }
}
