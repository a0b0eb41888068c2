//! What the load generator needs to know of a server's protocol above WebSocket.
//!
//! `verbatim` is our own. Those of other servers, for comparison, are in `benches/peers/generator`,
//! not in the program. A dialect has no state: the line has the state of the conversation.

pub(super) mod verbatim;

use super::plan::{Client, Rooms};
use super::stamp::Stamp;

/// A client's position in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The room's index in the plan.
    pub room: u32,
    /// The last event it has.
    pub seq: u64,
}

/// What a server sent, as far as the generator needs it.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// The server is ready for `Dialect::follow`.
    Greeted,
    /// One of the answers to `Dialect::follow`. `at` is the client's position now, in a dialect
    /// that numbers events.
    Joined { at: Option<Position> },
    /// The last answer to a resume.
    Resumed,
    /// A message of this run. `at` is its position, in a dialect that numbers events.
    Message { at: Option<Position>, stamp: Stamp },
    /// Another event of a room.
    Event { at: Position },
    /// The ack of this client's oldest unanswered message.
    Acked { at: Position },
    /// The refusal of this client's oldest unanswered message.
    Refused { error: &'a [u8] },
    /// The client must send this back.
    Respond(&'static [u8]),
    /// The server sent something unexpected.
    Trouble { error: &'a [u8] },
}

/// A message as a frame, in which the stamp and the id have to be filled in.
#[derive(Clone, Debug)]
pub struct Template {
    pub frame: Vec<u8>,
    /// Where the stamp goes.
    pub stamp_at: usize,
    /// Where the id goes, if messages have one.
    pub id_at: Option<usize>,
}

/// Digits of a message's id.
pub const ID_LEN: usize = 12;

pub trait Dialect: Send + Sync {
    /// The name in the report.
    fn name(&self) -> &'static str;

    /// The path of the upgrade request, if the URL has none.
    fn path(&self, client: &Client) -> &'static str;

    /// Events have numbers and messages are acked, so it can be checked exactly whether everything
    /// arrived. Otherwise messages are only counted.
    fn is_numbered(&self) -> bool;

    /// The server sends the first frame, and the client must wait for it.
    fn greets(&self) -> bool;

    /// What a client sends right after the upgrade, as frames.
    fn opening(&self, client: &Client, rooms: &Rooms) -> Vec<u8>;

    /// What a client sends to get its rooms' messages. With `positions`, it reconnects.
    fn follow(&self, client: &Client, rooms: &Rooms, positions: Option<&[Position]>) -> Vec<u8>;

    /// How many `Seen::Joined` a first `follow` leads to.
    fn joins(&self, client: &Client) -> usize;

    fn message(&self, user: &str, room: &str, text: &str, with_id: bool) -> Template;

    /// Parses a data frame.
    fn scan<'a>(&self, payload: &'a [u8], rooms: &Rooms, see: &mut dyn FnMut(Seen<'a>));
}
