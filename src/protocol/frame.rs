//! What the server sends: each answer and event is one JSON object in one WebSocket text frame.
//!
//! Keys are in fixed order, `type` first, and nulls are left out. A frame is encoded once, header
//! included, and all recipients share its bytes: nothing in an event frame depends on the
//! recipient.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, Serializer};

use super::table::CommandType;
use crate::budget::Held;
use crate::model::{ClientId, Event, Role, RoomName, Seq, Timestamp, UserId};

/// One unmasked, unfragmented WebSocket text frame (RFC 6455, section 5.2), ready to be sent.
/// Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    header_len: usize,
}

impl Frame {
    /// A frame with a text that is already JSON.
    pub fn text(payload: &[u8]) -> Self {
        let (bytes, header_len) = frame(Opcode::Text, payload);
        Self { bytes, header_len }
    }

    /// A frame with a value as JSON.
    pub fn json<T: Serialize>(value: &T) -> Self {
        Self::text(&to_json(value))
    }

    /// The same frame, counted in a budget as long as any part of it is alive.
    pub fn kept(self, held: Held) -> Self {
        Self { bytes: held.keep(self.bytes), ..self }
    }

    /// Header and payload, as sent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The JSON text.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.header_len..]
    }
}

/// The payload of one complete frame of ours (unmasked).
pub fn payload_of(frame: &[u8]) -> &[u8] {
    let header_len = match frame.get(1) {
        None => 0,
        Some(126) => 4,
        Some(127) => HEADER_BYTES_MAX,
        Some(_) => 2,
    };
    frame.get(header_len..).unwrap_or_default()
}

/// The type of a frame, from its payload: `type` is always first, and a plain word.
pub fn type_of(payload: &[u8]) -> &str {
    let begun = payload.strip_prefix(b"{\"type\":\"").unwrap_or_default();
    let word = begun.split(|byte| *byte == b'"').next().unwrap_or_default();
    std::str::from_utf8(word).unwrap_or_default()
}

/// The opcode of a frame (RFC 6455, section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

/// One frame of a text message of several frames (RFC 6455, section 5.4).
pub fn fragment(payload: &[u8], is_first: bool, is_last: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + HEADER_BYTES_MAX);
    let opcode = if is_first { Opcode::Text } else { Opcode::Continuation };
    put_header(&mut bytes, opcode, is_last, payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

/// One unmasked, unfragmented frame of any kind, as sent. The payload of a control frame has at
/// most 125 bytes.
pub fn encode(opcode: Opcode, payload: &[u8]) -> Bytes {
    frame(opcode, payload).0
}

/// The frame and the length of its header.
fn frame(opcode: Opcode, payload: &[u8]) -> (Bytes, usize) {
    let mut bytes = BytesMut::with_capacity(payload.len() + HEADER_BYTES_MAX);
    put_header(&mut bytes, opcode, true, payload.len());
    let header_len = bytes.len();
    bytes.extend_from_slice(payload);
    (bytes.freeze(), header_len)
}

/// Longest header without a mask: two bytes and an eight-byte length.
const HEADER_BYTES_MAX: usize = 10;

/// Writes FIN and the opcode, no mask, and the shortest of the three length forms.
fn put_header(out: &mut impl BufMut, opcode: Opcode, is_last: bool, payload_len: usize) {
    const FIN: u8 = 0x80;
    out.put_u8(if is_last { FIN } else { 0 } | opcode as u8);
    match payload_len {
        0..=125 => out.put_u8(payload_len as u8),
        126..=0xFFFF => {
            out.put_u8(126);
            out.put_u16(payload_len as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(payload_len as u64);
        }
    }
}

/// The beginning of every event. The fields of its type follow, then the tail.
#[derive(Serialize)]
struct EventHead<'a> {
    r#type: &'a str,
    room: &'a str,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// The end of every event.
#[derive(Serialize)]
struct EventTail<'a> {
    seq: Seq,
    at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
}

/// Encodes an event. The same event always gives the same bytes, on every node.
pub fn event(event: &Event) -> Frame {
    let mut json = to_json(&EventHead {
        r#type: event.kind.name(),
        room: event.room.as_str(),
        user_id: event.user.as_str(),
        message: event.text.as_ref().map(|text| text.as_str()),
    });
    json.pop();
    if let Some(data) = &event.data {
        json.push(b',');
        json.extend_from_slice(data.as_str().as_bytes());
    }
    let tail = json.len();
    append_json(
        &mut json,
        &EventTail {
            seq: event.seq,
            at: &event.at.to_string(),
            client_id: event.client_id.as_ref().map(|id| id.as_str()),
        },
    );
    // The tail's opening brace becomes a comma, because it continues the object.
    json[tail] = b',';
    Frame::text(&json)
}

/// The first bytes of the payload of every event with this type, room and user, and of no other
/// event. They tell whose event it is without parsing.
pub fn event_begin(kind: &str, room: &RoomName, user: &UserId) -> Vec<u8> {
    #[derive(Serialize)]
    struct Begin<'a> {
        r#type: &'a str,
        room: &'a str,
        user_id: &'a str,
    }
    let (room, user_id) = (room.as_str(), user.as_str());
    let mut begin = to_json(&Begin { r#type: kind, room, user_id });
    // An event continues here.
    begin.pop();
    begin.push(b',');
    begin
}

/// The first frame of every socket.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    pub node: &'a str,
    pub heartbeat_ms: u64,
    pub frame_bytes: usize,
    pub message_bytes: usize,
}

/// What this server can do beyond version 1 of the protocol, so that clients need not guess it from
/// a version. Nothing yet.
const FEATURES: [&str; 0] = [];

pub fn hello(hello: &Hello<'_>) -> Frame {
    #[derive(Serialize)]
    struct Limits {
        frame_bytes: usize,
        message_bytes: usize,
    }
    #[derive(Serialize)]
    struct HelloFrame<'a> {
        r#type: &'static str,
        server: &'static str,
        node: &'a str,
        heartbeat_ms: u64,
        limits: Limits,
        features: &'static [&'static str],
    }
    Frame::json(&HelloFrame {
        r#type: "hello",
        server: concat!("verbatim ", env!("CARGO_PKG_VERSION")),
        node: hello.node,
        heartbeat_ms: hello.heartbeat_ms,
        limits: Limits { frame_bytes: hello.frame_bytes, message_bytes: hello.message_bytes },
        features: &FEATURES,
    })
}

/// Confirms that a command's event is durable.
#[derive(Clone, Copy, Debug)]
pub struct Ack<'a> {
    pub re: CommandType,
    pub room: &'a RoomName,
    pub seq: Seq,
    pub id: Option<&'a ClientId>,
    pub at: Timestamp,
    /// This `id` was committed before, with this `seq` and `at`.
    pub duplicate: bool,
}

pub fn ack(ack: &Ack<'_>) -> Frame {
    #[derive(Serialize)]
    struct AckFrame<'a> {
        r#type: &'static str,
        re: CommandType,
        room: &'a str,
        seq: Seq,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        at: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        duplicate: bool,
    }
    Frame::json(&AckFrame {
        r#type: "ack",
        re: ack.re,
        room: ack.room.as_str(),
        seq: ack.seq,
        id: ack.id.map(ClientId::as_str),
        at: &ack.at.to_string(),
        duplicate: ack.duplicate,
    })
}

/// This socket now follows the room. The replay, then live events, come after this frame.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    pub room: &'a RoomName,
    pub user: &'a UserId,
    pub last_seq: Seq,
    pub members: u64,
    /// How far the user has read.
    pub read: Seq,
    /// Messages above `read`, up to `last_seq`.
    pub unread: u64,
    pub id: Option<&'a ClientId>,
}

pub fn joined(joined: &Joined<'_>) -> Frame {
    #[derive(Serialize)]
    struct JoinedFrame<'a> {
        r#type: &'static str,
        room: &'a str,
        user_id: &'a str,
        last_seq: Seq,
        members: u64,
        read: Seq,
        unread: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    Frame::json(&JoinedFrame {
        r#type: "joined",
        room: joined.room.as_str(),
        user_id: joined.user.as_str(),
        last_seq: joined.last_seq,
        members: joined.members,
        read: joined.read,
        unread: joined.unread,
        id: joined.id.map(ClientId::as_str),
    })
}

/// The log is behind the client, which must forget its position.
pub fn reset(room: &RoomName, last_seq: Seq) -> Frame {
    #[derive(Serialize)]
    struct ResetFrame<'a> {
        r#type: &'static str,
        room: &'a str,
        last_seq: Seq,
    }
    Frame::json(&ResetFrame { r#type: "reset", room: room.as_str(), last_seq })
}

/// One room in the list of rooms.
#[derive(Serialize)]
pub struct ListedRoom<'a> {
    pub room: &'a str,
    pub last_seq: Seq,
    pub members: u64,
    /// How far the asking user has read; only if they are a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<u64>,
}

/// A page of the list of rooms.
pub fn rooms(rooms: &[ListedRoom<'_>], more: bool, id: Option<&ClientId>) -> Frame {
    #[derive(Serialize)]
    struct RoomsFrame<'a> {
        r#type: &'static str,
        rooms: &'a [ListedRoom<'a>],
        more: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    Frame::json(&RoomsFrame { r#type: "rooms", rooms, more, id: id.map(ClientId::as_str) })
}

/// A page of a room's members.
pub fn members(
    room: &RoomName,
    members: &[(UserId, Role)],
    more: bool,
    id: Option<&ClientId>,
) -> Frame {
    #[derive(Serialize)]
    struct Member<'a> {
        user_id: &'a str,
        role: &'static str,
    }
    #[derive(Serialize)]
    struct MembersFrame<'a> {
        r#type: &'static str,
        room: &'a str,
        members: Vec<Member<'a>>,
        more: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    let members = members
        .iter()
        .map(|(user, role)| Member { user_id: user.as_str(), role: role.name() })
        .collect();
    let (room, id) = (room.as_str(), id.map(ClientId::as_str));
    Frame::json(&MembersFrame { r#type: "members", room, members, more, id })
}

pub fn pong(id: Option<&ClientId>) -> Frame {
    #[derive(Serialize)]
    struct PongFrame<'a> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    Frame::json(&PongFrame { r#type: "pong", id: id.map(ClientId::as_str) })
}

/// All rooms of a `resume` are live; `rooms` has the seq up to which each was replayed.
pub fn resumed(rooms: &[(RoomName, Seq)], id: Option<&ClientId>) -> Frame {
    struct Rooms<'a>(&'a [(RoomName, Seq)]);
    impl Serialize for Rooms<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().map(|(room, seq)| (room.as_str(), seq)))
        }
    }
    #[derive(Serialize)]
    struct ResumedFrame<'a> {
        r#type: &'static str,
        rooms: Rooms<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    let id = id.map(ClientId::as_str);
    Frame::json(&ResumedFrame { r#type: "resumed", rooms: Rooms(rooms), id })
}

/// Announces that the node is about to close this socket.
pub fn goodbye(reason: &str, reconnect_ms: u64) -> Frame {
    #[derive(Serialize)]
    struct GoodbyeFrame<'a> {
        r#type: &'static str,
        reason: &'a str,
        reconnect_ms: u64,
    }
    Frame::json(&GoodbyeFrame { r#type: "goodbye", reason, reconnect_ms })
}

/// Cannot fail for our own types: all map keys are strings.
pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our frames have string keys only")
}

fn append_json<T: Serialize>(json: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(json, value).expect("our frames have string keys only");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Data, EventKind, Text};

    #[test]
    fn an_event_has_its_types_own_members_between_what_all_have() {
        let mut said = Event {
            room: RoomName::stored("r"),
            seq: Seq(4),
            user: UserId::stored("1"),
            client_id: Some(ClientId::stored("c1")),
            at: Timestamp(1_767_323_045_678),
            kind: EventKind::Message,
            text: Some(Text::stored("a\n")),
            data: None,
        };
        let shown = |event: &Event| {
            let frame = super::event(event);
            String::from_utf8(frame.payload().to_vec()).unwrap()
        };
        let end = r#""seq":4,"at":"2026-01-02T03:04:05.678Z","client_id":"c1"}"#;
        let begin = r#"{"type":"message","room":"r","user_id":"1","message":"a\n","#;
        assert_eq!(shown(&said), [begin, end].concat());
        said.data = Some(Data::stored(r#""reply_to":2,"data":{"ä": 1}"#));
        let data = r#""reply_to":2,"data":{"ä": 1},"#;
        assert_eq!(shown(&said), [begin, data, end].concat());
        (said.kind, said.text) = (EventKind::Other("wave \"".into()), None);
        let begin = r#"{"type":"wave \"","room":"r","user_id":"1","#;
        assert_eq!(shown(&said), [begin, data, end].concat());
        (said.data, said.client_id) = (None, None);
        let end = r#""seq":4,"at":"2026-01-02T03:04:05.678Z"}"#;
        assert_eq!(shown(&said), [begin, end].concat());
    }

    #[test]
    fn a_frame_of_any_length_gives_back_its_payload_and_type() {
        for len in [0, 1, 100, 125, 126, 200, 65_535, 65_536, 100_000] {
            let payload = format!("{{\"type\":\"message\",\"x\":\"{}\"}}", "x".repeat(len));
            let frame = Frame::text(payload.as_bytes());
            assert_eq!(payload_of(frame.bytes()), payload.as_bytes());
            assert_eq!(payload_of(frame.bytes()), frame.payload());
            assert_eq!(type_of(frame.payload()), "message");
        }
        assert_eq!(payload_of(Frame::text(b"").bytes()), b"");
        assert_eq!((payload_of(b""), type_of(b"{}")), (&b""[..], ""));
    }

    #[test]
    fn an_event_begins_as_those_of_its_type_room_and_user_do_and_no_others() {
        let texts = ["a", "a\"", "ä\\", "\u{1F980}", "a\",\"user_id\":\"a"];
        let all = texts.iter().flat_map(|room| texts.map(|user| (*room, user)));
        for (room, user) in all.clone() {
            let (room, user) = (RoomName::stored(room), UserId::stored(user));
            let begins = ["message", "leave"].map(|kind| event_begin(kind, &room, &user));
            for (kind, text) in [(EventKind::Message, Some("x")), (EventKind::Leave, None)] {
                let of = |(room, user): (&str, &str)| {
                    let (room, user) = (RoomName::stored(room), UserId::stored(user));
                    let (seq, at, kind) = (Seq(7), Timestamp(0), kind.clone());
                    let (text, data) = (text.map(Text::stored), None);
                    event(&Event { room, seq, user, client_id: None, at, kind, text, data })
                };
                for other in all.clone() {
                    let frame = of(other);
                    let begun = begins.iter().position(|it| frame.payload().starts_with(it));
                    let is_same = other == (room.as_str(), user.as_str());
                    let place = usize::from(kind == EventKind::Leave);
                    assert_eq!(begun, is_same.then_some(place), "{other:?}");
                }
            }
        }
    }
}
