//! The protocols of Socket.IO 4 over a WebSocket: Engine.IO's digit, then Socket.IO's packet. The
//! server is the one of `benches/peers/socketio`.

use verbatim_tools::bench::dialect::{Dialect, Position, Seen, Template};
use verbatim_tools::bench::stamp::Stamps;
use verbatim_tools::bench::wire::{self, Opcode};
use verbatim_tools::bench::{Client, Rooms};

/// Engine.IO's answer to a ping, framed.
const PONG: &[u8] = b"\x81\x81\0\0\0\x003";

#[derive(Default)]
pub struct SocketIo {
    stamps: Stamps,
}

impl Dialect for SocketIo {
    fn name(&self) -> &'static str {
        "socketio"
    }

    fn path(&self, _: &Client) -> &'static str {
        "/socket.io/?EIO=4&transport=websocket"
    }

    fn is_numbered(&self) -> bool {
        false
    }

    fn greets(&self) -> bool {
        true
    }

    /// Connects to the main namespace.
    fn opening(&self, _: &Client, _: &Rooms) -> Vec<u8> {
        wire::text("40")
    }

    fn follow(&self, client: &Client, rooms: &Rooms, _: Option<&[Position]>) -> Vec<u8> {
        let join = |room: &u32| wire::text(&format!(r#"42{room}["join","{}"]"#, rooms.name(*room)));
        client.follows.iter().flat_map(join).collect()
    }

    fn joins(&self, client: &Client) -> usize {
        client.follows.len()
    }

    fn message(&self, _: &str, room: &str, text: &str, _: bool) -> Template {
        let payload = format!(r#"42["message","{room}","{text}"]"#);
        let mut frame = Vec::new();
        let start = wire::put(&mut frame, Opcode::Text, payload.as_bytes());
        let stamp_at = start + payload.len() - 2 - text.len();
        Template { frame, stamp_at, id_at: None }
    }

    fn scan<'a>(&self, payload: &'a [u8], _: &Rooms, see: &mut dyn FnMut(Seen<'a>)) {
        let seen = match payload {
            [b'4', b'2', ..] => match self.stamps.first(payload) {
                Some(stamp) => Seen::Message { at: None, stamp },
                None => Seen::Trouble { error: payload },
            },
            [b'4', b'3', ..] => Seen::Joined { at: None },
            [b'4', b'0', ..] => Seen::Greeted,
            b"2" => Seen::Respond(PONG),
            // The opening of the lower protocol.
            [b'0', ..] => return,
            _ => Seen::Trouble { error: payload },
        };
        see(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart() {
        let scan = |packet: &'static str| {
            let mut seen = Vec::new();
            SocketIo::default().scan(packet.as_bytes(), &Rooms::new("x", 1), &mut |one| {
                seen.push(one);
            });
            seen
        };
        assert_eq!(scan(r#"0{"sid":"a"}"#), []);
        assert_eq!(scan(r#"40{"sid":"a"}"#), [Seen::Greeted]);
        assert_eq!(scan("430[]"), [Seen::Joined { at: None }]);
        assert_eq!(scan("2"), [Seen::Respond(PONG)]);
        let message = scan(r#"42["message","@@000000000000004d00 and more"]"#);
        assert!(matches!(message[..], [Seen::Message { at: None, stamp }] if stamp.nanos == 77));
        assert!(matches!(scan("44{}")[..], [Seen::Trouble { .. }]));
    }
}
