//! Signals as frames: who is online, who is typing, how far others have read.
//!
//! No signal is in the log or has a `seq` of its own. Signals are sent to those who can take them
//! now; a client that misses one asks again. Who gets them is decided in `signals`.

use serde::Serialize;

use super::frame::Frame;
use super::table::CommandType;
use crate::model::{ClientId, RoomName, Seq, UserId};

/// Who is online in a room: the answer to `who`, and what a follower gets instead of differences
/// when it has missed some. `online` is absent if there are too many to list.
pub fn who(room: &RoomName, online: Option<&[UserId]>, count: u64, id: Option<&ClientId>) -> Frame {
    #[derive(Serialize)]
    struct WhoFrame<'a> {
        r#type: &'static str,
        room: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        online: Option<Vec<&'a str>>,
        count: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    let (room, online) = (room.as_str(), online.map(texts));
    Frame::json(&WhoFrame { r#type: "who", room, online, count, id: id.map(ClientId::as_str) })
}

/// Who came online and who went offline since the last such frame.
pub fn presence(room: &RoomName, online: &[UserId], offline: &[UserId], count: u64) -> Frame {
    #[derive(Serialize)]
    struct PresenceFrame<'a> {
        r#type: &'static str,
        room: &'a str,
        online: Vec<&'a str>,
        offline: Vec<&'a str>,
        count: u64,
    }
    let (online, offline) = (texts(online), texts(offline));
    let (r#type, room) = ("presence", room.as_str());
    Frame::json(&PresenceFrame { r#type, room, online, offline, count })
}

/// How many are online, if there are too many to list.
pub fn presence_count(room: &RoomName, count: u64) -> Frame {
    #[derive(Serialize)]
    struct CountFrame<'a> {
        r#type: &'static str,
        room: &'a str,
        count: u64,
    }
    Frame::json(&CountFrame { r#type: "presence", room: room.as_str(), count })
}

/// A user is typing. It holds for `expires_ms`, unless it is sent again.
pub fn typing(room: &RoomName, user: &UserId, expires_ms: u64) -> Frame {
    #[derive(Serialize)]
    struct TypingFrame<'a> {
        r#type: &'static str,
        room: &'a str,
        user_id: &'a str,
        expires_ms: u64,
    }
    let (room, user_id) = (room.as_str(), user.as_str());
    Frame::json(&TypingFrame { r#type: "typing", room, user_id, expires_ms })
}

/// How far a user has read; already stored.
pub fn read(room: &RoomName, user: &UserId, seq: Seq) -> Frame {
    #[derive(Serialize)]
    struct ReadFrame<'a> {
        r#type: &'static str,
        room: &'a str,
        user_id: &'a str,
        seq: Seq,
    }
    Frame::json(&ReadFrame { r#type: "read", room: room.as_str(), user_id: user.as_str(), seq })
}

/// A `typing` or `read` was accepted. Without `seq`: there is no event.
pub fn taken(re: CommandType, room: &RoomName, id: Option<&ClientId>) -> Frame {
    #[derive(Serialize)]
    struct TakenFrame<'a> {
        r#type: &'static str,
        re: CommandType,
        room: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    let (room, id) = (room.as_str(), id.map(ClientId::as_str));
    Frame::json(&TakenFrame { r#type: "ack", re, room, id })
}

fn texts(users: &[UserId]) -> Vec<&str> {
    users.iter().map(UserId::as_str).collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn keys_stand_in_fixed_order() {
        let (room, id) = (RoomName::stored("r"), ClientId::stored("c"));
        let users = ["1", "2"].map(UserId::stored);
        let [one, two] = &users;
        for (frame, json) in [
            (
                who(&room, Some(&users), 2, Some(&id)),
                r#"{"type":"who","room":"r","online":["1","2"],"count":2,"id":"c"}"#,
            ),
            (who(&room, None, 1001, None), r#"{"type":"who","room":"r","count":1001}"#),
            (
                presence(&room, from_ref(one), from_ref(two), 1),
                r#"{"type":"presence","room":"r","online":["1"],"offline":["2"],"count":1}"#,
            ),
            (
                presence(&room, from_ref(one), &[], 1),
                r#"{"type":"presence","room":"r","online":["1"],"offline":[],"count":1}"#,
            ),
            (presence_count(&room, 1001), r#"{"type":"presence","room":"r","count":1001}"#),
            (
                typing(&room, one, 6000),
                r#"{"type":"typing","room":"r","user_id":"1","expires_ms":6000}"#,
            ),
            (read(&room, one, Seq(7)), r#"{"type":"read","room":"r","user_id":"1","seq":7}"#),
            (taken(CommandType::Read, &room, None), r#"{"type":"ack","re":"read","room":"r"}"#),
            (
                taken(CommandType::Typing, &room, Some(&id)),
                r#"{"type":"ack","re":"typing","room":"r","id":"c"}"#,
            ),
        ] {
            assert_eq!(std::str::from_utf8(frame.payload()).unwrap(), json);
        }
    }
}
