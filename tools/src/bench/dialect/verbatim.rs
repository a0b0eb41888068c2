//! Our own protocol, read by position. The server writes keys in a fixed order, so the beginning of
//! a frame tells what it is. This is not a JSON parser: a frame with another order of keys counts
//! as unexpected.

use std::collections::HashMap;

use memchr::memmem::{self, Finder};
use serde_json::json;

use super::{Dialect, ID_LEN, Position, Seen, Template};
use crate::bench::plan::{Client, Rooms};
use crate::bench::stamp::Stamps;
use crate::bench::wire::{self, Opcode};

pub struct Verbatim {
    stamps: Stamps,
    seq: Finder<'static>,
}

impl Default for Verbatim {
    fn default() -> Self {
        Self { stamps: Stamps::default(), seq: Finder::new("\"seq\":") }
    }
}

impl Dialect for Verbatim {
    fn name(&self) -> &'static str {
        "verbatim"
    }

    fn path(&self, _: &Client) -> &'static str {
        "/ws"
    }

    fn is_numbered(&self) -> bool {
        true
    }

    fn greets(&self) -> bool {
        true
    }

    fn opening(&self, _: &Client, _: &Rooms) -> Vec<u8> {
        Vec::new()
    }

    fn follow(&self, client: &Client, rooms: &Rooms, positions: Option<&[Position]>) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(positions) = positions {
            let at: HashMap<_, _> = positions
                .iter()
                .map(|position| (rooms.name(position.room), position.seq))
                .collect();
            let resume = json!({"type": "resume", "user_id": client.user, "rooms": at});
            wire::put(&mut out, Opcode::Text, resume.to_string().as_bytes());
            return out;
        }
        for &room in &client.follows {
            let room = rooms.name(room);
            let join = json!({"type": "join", "user_id": client.user, "room": room});
            wire::put(&mut out, Opcode::Text, join.to_string().as_bytes());
        }
        out
    }

    fn joins(&self, client: &Client) -> usize {
        client.follows.len()
    }

    fn message(&self, user: &str, room: &str, text: &str, with_id: bool) -> Template {
        let id = "0".repeat(ID_LEN);
        let mut payload =
            format!(r#"{{"type":"message","user_id":"{user}","room":"{room}","message":"{text}""#);
        let stamp_at = payload.len() - 1 - text.len();
        let id_at = with_id.then(|| {
            payload.push_str(&format!(r#","id":"{id}""#));
            payload.len() - 1 - ID_LEN
        });
        payload.push('}');
        let mut frame = Vec::new();
        let start = wire::put(&mut frame, Opcode::Text, payload.as_bytes());
        Template { frame, stamp_at: start + stamp_at, id_at: id_at.map(|at| start + at) }
    }

    fn scan<'a>(&self, payload: &'a [u8], rooms: &Rooms, see: &mut dyn FnMut(Seen<'a>)) {
        let Some(rest) = payload.strip_prefix(b"{\"type\":\"") else {
            return see(Seen::Trouble { error: payload });
        };
        let kind = &rest[..memchr::memchr(b'"', rest).unwrap_or(rest.len())];
        let rest = &rest[kind.len()..];
        let seen = match kind {
            b"message" => self.message_event(rest, rooms),
            b"create" | b"join" | b"leave" => {
                self.position(rest, b"\",\"room\":\"", rooms).map(|at| Seen::Event { at })
            }
            b"ack" => {
                let room = memmem::find(rest, b",\"room\":\"").map(|at| &rest[at..]);
                let position = room.and_then(|room| self.position(room, b",\"room\":\"", rooms));
                position.map(|at| Seen::Acked { at })
            }
            b"joined" => joined(rest, rooms),
            b"resumed" => Some(Seen::Resumed),
            b"hello" => Some(Seen::Greeted),
            b"error" if memmem::find(rest, b",\"re\":\"message\"").is_some() => {
                Some(Seen::Refused { error: payload })
            }
            // Unexpected in a run.
            b"error" | b"reset" | b"goodbye" => None,
            // Signals, and frames that this generator does not know.
            _ => return,
        };
        see(seen.unwrap_or(Seen::Trouble { error: payload }));
    }
}

impl Verbatim {
    fn message_event(&self, rest: &[u8], rooms: &Rooms) -> Option<Seen<'static>> {
        let at = self.position(rest, b"\",\"room\":\"", rooms)?;
        Some(Seen::Message { at: Some(at), stamp: self.stamps.first(rest)? })
    }

    /// Room and seq of a frame whose room follows `before`.
    fn position(&self, rest: &[u8], before: &[u8], rooms: &Rooms) -> Option<Position> {
        let room = rooms.index_of(rest.strip_prefix(before)?)?;
        Some(Position { room, seq: number(&rest[self.seq.find(rest)? + 6..]) })
    }
}

fn joined(rest: &[u8], rooms: &Rooms) -> Option<Seen<'static>> {
    let room = rooms.index_of(rest.strip_prefix(b"\",\"room\":\"")?)?;
    let last = memmem::find(rest, b"\"last_seq\":")? + b"\"last_seq\":".len();
    Some(Seen::Joined { at: Some(Position { room, seq: number(&rest[last..]) }) })
}

/// The number at the beginning of `digits`.
fn number(digits: &[u8]) -> u64 {
    let digits = digits.iter().take_while(|digit| digit.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
