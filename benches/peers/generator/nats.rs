//! The protocol of nats-server, whose WebSocket frames hold any number of its lines and messages.
//! A room is a subject.

use memchr::memmem;
use verbatim_tools::bench::dialect::{Dialect, Position, Seen, Template};
use verbatim_tools::bench::stamp::Stamp;
use verbatim_tools::bench::wire::{self, Opcode};
use verbatim_tools::bench::{Client, Rooms};

const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\
                       \"version\":\"1\",\"protocol\":1}\r\n";
/// `PONG`, framed.
const PONG: &[u8] = b"\x82\x86\0\0\0\0PONG\r\n";

pub struct Nats;

impl Dialect for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn path(&self, _: &Client) -> &'static str {
        "/"
    }

    fn is_numbered(&self) -> bool {
        false
    }

    fn greets(&self) -> bool {
        false
    }

    fn opening(&self, _: &Client, _: &Rooms) -> Vec<u8> {
        let mut out = Vec::new();
        wire::put(&mut out, Opcode::Binary, CONNECT.as_bytes());
        out
    }

    fn follow(&self, client: &Client, rooms: &Rooms, _: Option<&[Position]>) -> Vec<u8> {
        let mut lines = String::new();
        for &room in &client.follows {
            lines.push_str(&format!("SUB {} {}\r\n", rooms.name(room), room + 1));
        }
        // Its answer says that the subscription is in force.
        lines.push_str("PING\r\n");
        let mut out = Vec::new();
        wire::put(&mut out, Opcode::Binary, lines.as_bytes());
        out
    }

    fn joins(&self, _: &Client) -> usize {
        1
    }

    fn message(&self, _: &str, room: &str, text: &str, _: bool) -> Template {
        let payload = format!("PUB {room} {}\r\n{text}\r\n", text.len());
        let mut frame = Vec::new();
        let start = wire::put(&mut frame, Opcode::Binary, payload.as_bytes());
        let stamp_at = start + payload.len() - 2 - text.len();
        Template { frame, stamp_at, id_at: None }
    }

    fn scan<'a>(&self, payload: &'a [u8], _: &Rooms, see: &mut dyn FnMut(Seen<'a>)) {
        let mut rest = payload;
        while !rest.is_empty() {
            match take(rest) {
                Some((seen, len)) => {
                    if let Some(seen) = seen {
                        see(seen);
                    }
                    rest = &rest[len..];
                }
                None => return see(Seen::Trouble { error: rest }),
            }
        }
    }
}

/// The first line, with its message if it has one, and their length. `None`: not understood.
fn take(bytes: &[u8]) -> Option<(Option<Seen<'_>>, usize)> {
    let end = memmem::find(bytes, b"\r\n")? + 2;
    let line = &bytes[..end - 2];
    if line.starts_with(b"MSG ") {
        let size = std::str::from_utf8(line.rsplit(|&byte| byte == b' ').next()?).ok()?;
        let size: usize = size.parse().ok()?;
        let stamp = Stamp::read(bytes.get(end..end + size)?)?;
        return Some((Some(Seen::Message { at: None, stamp }), end + size + 2));
    }
    let seen = match line {
        b"PONG" => Some(Seen::Joined { at: None }),
        b"PING" => Some(Seen::Respond(PONG)),
        b"+OK" => None,
        _ if line.starts_with(b"INFO ") => None,
        _ => return None,
    };
    Some((seen, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_many_lines_is_taken_apart() {
        let stamp = Stamp { nanos: 77, node: 0 };
        let mut text = *b"....................and more";
        stamp.write(&mut text);
        let message = format!("MSG room 1 28\r\n{}\r\n", String::from_utf8_lossy(&text));
        let frame = format!("INFO {{\"x\":1}}\r\nPONG\r\n{message}PING\r\n{message}-ERR 'no'\r\n");
        let mut seen = Vec::new();
        Nats.scan(frame.as_bytes(), &Rooms::new("x", 1), &mut |one| seen.push(one));
        let message = || Seen::Message { at: None, stamp };
        let error: &[u8] = b"-ERR 'no'\r\n";
        assert_eq!(
            seen,
            [
                Seen::Joined { at: None },
                message(),
                Seen::Respond(PONG),
                message(),
                Seen::Trouble { error }
            ]
        );
    }
}
