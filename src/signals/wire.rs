//! Messages between nodes on `chat:signals`: one JSON object each, readable by people.
//!
//! Anybody can publish on a channel, so what makes no sense is ignored, and nothing from there is
//! believed for longer than a lease.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::presence::{Crowd, Said};
use crate::log::Mark;
use crate::model::{RoomName, Seq, UserId};

/// Longest message. A longer list of rooms is split into several.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// One message. Empty fields are omitted.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// The sender.
    pub node: String,
    /// The sender has just subscribed and wants to hear everything.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hello: bool,
    /// The sender is stopping.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
    /// Rooms whose users the sender wants to hear about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    watch: Vec<String>,
    /// Rooms whose users the sender wants to hear about now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ask: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    online: Vec<Online>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    typing: Vec<Typing>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    read: Vec<Read>,
}

/// All users who are online in a room through the sender: by name or, if they are many, by number.
#[derive(Debug, Serialize, Deserialize)]
struct Online {
    room: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    users: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Typing {
    room: String,
    user_id: String,
    /// The room's edge on the sender's node when the user typed. A later message of the user ends
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Read {
    room: String,
    user_id: String,
    seq: u64,
}

/// What a node sends.
#[derive(Debug, Default)]
pub struct Words {
    pub hello: bool,
    pub said: Said,
    pub typing: Vec<(RoomName, UserId, Option<Seq>)>,
    pub read: Vec<Mark>,
}

impl Words {
    /// The messages that contain it: one, unless there is very much.
    pub fn messages(self, node: &str) -> Vec<Vec<u8>> {
        let Self { hello, said, typing, read } = self;
        let mut pages = Pages { node, page: Message::default(), bytes: 0, messages: Vec::new() };
        (pages.page.hello, pages.page.gone) = (hello, said.gone);
        for room in &said.watch {
            pages.put(room.as_str().len(), |page| page.watch.push(room.to_string()));
        }
        for room in &said.ask {
            pages.put(room.as_str().len(), |page| page.ask.push(room.to_string()));
        }
        for (room, crowd) in &said.online {
            let (users, count) = match crowd {
                Crowd::Listed(users) => (Some(users.iter().map(UserId::to_string).collect()), None),
                Crowd::Counted(count) => (None, Some(*count)),
            };
            let users: Option<Vec<String>> = users;
            let bytes: usize = users.iter().flatten().map(|user| user.len() + 3).sum();
            let online = Online { room: room.to_string(), users, count };
            pages.put(room.as_str().len() + bytes, |page| page.online.push(online));
        }
        for (room, user, since) in &typing {
            let (room, user_id) = (room.to_string(), user.to_string());
            let (bytes, seq) = (room.len() + user_id.len(), since.map(|seq| seq.0));
            pages.put(bytes, |page| page.typing.push(Typing { room, user_id, seq }));
        }
        for Mark { room, user, seq } in &read {
            let (room, user_id) = (room.to_string(), user.to_string());
            let bytes = room.len() + user_id.len();
            pages.put(bytes, |page| page.read.push(Read { room, user_id, seq: seq.0 }));
        }
        pages.end()
    }
}

/// Messages, of which the last one is being filled.
struct Pages<'a> {
    node: &'a str,
    page: Message,
    bytes: usize,
    messages: Vec<Vec<u8>>,
}

impl Pages<'_> {
    /// Keys, braces and quotes of one item, rounded up.
    const ITEM_BYTES: usize = 48;

    fn put(&mut self, bytes: usize, put: impl FnOnce(&mut Message)) {
        let bytes = bytes + Self::ITEM_BYTES;
        if self.bytes > 0 && self.bytes + bytes > MESSAGE_BYTES_MAX {
            self.turn();
        }
        self.bytes += bytes;
        put(&mut self.page);
    }

    fn turn(&mut self) {
        let page = std::mem::take(&mut self.page);
        let message = Message { node: self.node.to_owned(), ..page };
        let json = serde_json::to_vec(&message).expect("our messages have string keys only");
        self.messages.push(json);
        self.bytes = 0;
    }

    fn end(mut self) -> Vec<Vec<u8>> {
        self.turn();
        self.messages
    }
}

impl Message {
    /// `None`: not written by a node.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let message: Self = serde_json::from_slice(json).ok()?;
        (!message.node.is_empty()).then_some(message)
    }

    /// What the message says about presence.
    pub fn said(&self) -> Said {
        let rooms = |names: &[String]| names.iter().filter_map(|name| room(name)).collect();
        let online = |Online { room: name, users, count }: &Online| {
            let users = users.iter().flatten().filter_map(|id| user(id));
            let crowd =
                count.map_or_else(|| Crowd::Listed(users.collect::<BTreeSet<_>>()), Crowd::Counted);
            Some((room(name)?, crowd))
        };
        Said {
            watch: rooms(&self.watch),
            ask: rooms(&self.ask),
            online: self.online.iter().filter_map(online).collect(),
            gone: self.gone,
        }
    }

    pub fn typing(&self) -> impl Iterator<Item = (RoomName, UserId, Option<Seq>)> {
        let typing = |it: &Typing| Some((room(&it.room)?, user(&it.user_id)?, it.seq.map(Seq)));
        self.typing.iter().filter_map(typing)
    }

    pub fn read(&self) -> impl Iterator<Item = Mark> {
        let mark = |read: &Read| {
            let (room, user) = (room(&read.room)?, user(&read.user_id)?);
            Some(Mark { room, user, seq: Seq(read.seq) })
        };
        self.read.iter().filter_map(mark)
    }
}

fn room(name: &str) -> Option<RoomName> {
    RoomName::parse(name).ok()
}

fn user(id: &str) -> Option<UserId> {
    UserId::parse(id).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(users: &[&str]) -> Crowd {
        Crowd::Listed(users.iter().map(|id| UserId::stored(id)).collect())
    }

    #[test]
    fn what_is_said_is_what_is_heard_and_a_person_can_read_it() {
        let (one, two) = (RoomName::stored("r\"1"), RoomName::stored("r2"));
        let said = Said {
            watch: vec![one.clone()],
            ask: vec![two.clone()],
            online: vec![
                (one.clone(), listed(&["ü", "2"])),
                (two.clone(), Crowd::Counted(1001)),
                (two.clone(), listed(&[])),
            ],
            gone: false,
        };
        let user = UserId::stored("7");
        let typing = vec![(one, user.clone(), Some(Seq(8))), (two.clone(), user.clone(), None)];
        let read = vec![Mark { room: two, user, seq: Seq(9) }];
        let words =
            Words { said: said.clone(), typing: typing.clone(), read: read.clone(), hello: false };
        let messages = words.messages("n1");
        assert_eq!(messages.len(), 1);
        let json = std::str::from_utf8(&messages[0]).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"node":"n1","watch":["r\"1"],"ask":["r2"],"online":["#,
                r#"{"room":"r\"1","users":["2","ü"]},{"room":"r2","count":1001},"#,
                r#"{"room":"r2","users":[]}],"#,
                r#""typing":[{"room":"r\"1","user_id":"7","seq":8},"#,
                r#"{"room":"r2","user_id":"7"}],"#,
                r#""read":[{"room":"r2","user_id":"7","seq":9}]}"#,
            )
        );
        let message = Message::parse(&messages[0]).unwrap();
        assert_eq!((message.node.as_str(), message.hello, message.said()), ("n1", false, said));
        assert!(message.typing().eq(typing));
        assert!(message.read().eq(read));
        let hello = Words { hello: true, ..Words::default() }.messages("n1");
        assert_eq!(hello, [br#"{"node":"n1","hello":true}"#]);
    }

    #[test]
    fn very_much_goes_in_several_messages_and_nothing_is_left_out() {
        let rooms: Vec<_> = (0..3000).map(|n| RoomName::stored(&format!("room {n}"))).collect();
        let users: Vec<_> = (0..100).map(|n| format!("a user's long id {n}")).collect();
        let users: Vec<_> = users.iter().map(String::as_str).collect();
        let online: Vec<_> = rooms.iter().map(|room| (room.clone(), listed(&users))).collect();
        let said = Said { watch: rooms, online, ..Said::default() };
        let messages = Words { said: said.clone(), ..Words::default() }.messages("n1");
        let mut heard = Said::default();
        for message in &messages {
            assert!(message.len() <= MESSAGE_BYTES_MAX + 1024, "{}", message.len());
            let part = Message::parse(message).unwrap().said();
            heard.watch.extend(part.watch);
            heard.online.extend(part.online);
        }
        assert!(messages.len() > 10);
        assert_eq!(heard, said);
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let json = br#"{"node":"x","watch":["","ok"],"more":[1],
            "online":[{"room":"a\u0000"},{"room":"b","users":["","1"]}],
            "typing":[{"room":"","user_id":"1"}],"read":[{"room":"r","user_id":"","seq":1}]}"#;
        let message = Message::parse(json).unwrap();
        let said = message.said();
        assert_eq!(said.watch, [RoomName::stored("ok")]);
        assert_eq!(said.online, [(RoomName::stored("b"), listed(&["1"]))]);
        assert_eq!((message.typing().count(), message.read().count()), (0, 0));
        assert!(Message::parse(b"{}").is_none());
        assert!(Message::parse(br#"{"node":"x","read":[{"seq":-1}]}"#).is_none());
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Message::parse(&bytes).map(|message| message.said());
        }
    }
}
