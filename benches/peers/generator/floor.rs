//! The bare broadcaster of `benches/peers/floor`: whoever is connected gets what senders say.
//!
//! What it is given to broadcast is as long as the event that Verbatim would send for the same
//! text, so that both write the same bytes.

use verbatim_tools::bench::dialect::{Dialect, Position, Seen, Template};
use verbatim_tools::bench::stamp::Stamps;
use verbatim_tools::bench::wire::{self, Opcode};
use verbatim_tools::bench::{Client, Rooms};

#[derive(Default)]
pub struct Floor {
    stamps: Stamps,
}

impl Dialect for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn path(&self, client: &Client) -> &'static str {
        if client.follows.is_empty() { "/send" } else { "/" }
    }

    fn is_numbered(&self) -> bool {
        false
    }

    fn greets(&self) -> bool {
        false
    }

    fn opening(&self, _: &Client, _: &Rooms) -> Vec<u8> {
        Vec::new()
    }

    fn follow(&self, _: &Client, _: &Rooms, _: Option<&[Position]>) -> Vec<u8> {
        Vec::new()
    }

    fn joins(&self, _: &Client) -> usize {
        0
    }

    fn message(&self, user: &str, room: &str, text: &str, _: bool) -> Template {
        let payload =
            format!(r#"{{"type":"message","room":"{room}","user_id":"{user}","message":"{text}","#);
        let stamp_at = payload.len() - 2 - text.len();
        let payload = payload + r#""seq":100,"at":"2026-01-02T03:04:05.678Z"}"#;
        let mut frame = Vec::new();
        let start = wire::put(&mut frame, Opcode::Text, payload.as_bytes());
        Template { frame, stamp_at: start + stamp_at, id_at: None }
    }

    fn scan<'a>(&self, payload: &'a [u8], _: &Rooms, see: &mut dyn FnMut(Seen<'a>)) {
        match self.stamps.first(payload) {
            Some(stamp) => see(Seen::Message { at: None, stamp }),
            None => see(Seen::Trouble { error: payload }),
        }
    }
}
