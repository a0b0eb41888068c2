//! What the load generator must know of a server's own protocol above WebSocket.
//!
//! Ours is `verbatim`. Those of other servers, to compare with, are in `benches/peers/generator`,
//! and not in the program. A dialect has no state: the conversation is the line's.

pub(super) mod verbatim;

use super::plan::{Client, Rooms};
use super::stamp::Stamp;

/// Where a client is in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which of the plan's rooms.
    pub room: u32,
    /// The last event it has.
    pub seq: u64,
}

/// What a server said, as far as the generator cares.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// The server is ready for `Dialect::follow`.
    Greeted,
    /// One of the answers that `Dialect::follow` leads to. `at` tells where the client stands now,
    /// in a dialect that numbers events.
    Joined { at: Option<Place> },
    /// The last answer to a resume.
    Resumed,
    /// A message of this run. `at` is told by dialects that number events.
    Message { at: Option<Place>, stamp: Stamp },
    /// Another event of a room.
    Event { at: Place },
    /// The answer to the oldest message that this client has not been answered.
    Acked { at: Place },
    /// The same, and it was not taken.
    Refused { error: &'a [u8] },
    /// This must be sent back.
    Respond(&'static [u8]),
    /// The server said something that should not happen.
    Trouble { error: &'a [u8] },
}

/// A message, framed, whose stamp and id are still to be filled in.
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
    /// As it is called in the report.
    fn name(&self) -> &'static str;

    /// Where the upgrade is asked for, unless the URL says so.
    fn path(&self, client: &Client) -> &'static str;

    /// Events have numbers and messages are acked: whether everything arrived can be checked
    /// exactly. Otherwise it is counted.
    fn is_numbered(&self) -> bool;

    /// The server speaks first, and must be heard before a client may ask for anything.
    fn greets(&self) -> bool;

    /// What a client says right after the upgrade, framed.
    fn opening(&self, client: &Client, rooms: &Rooms) -> Vec<u8>;

    /// What a client says to get its rooms' messages. With `places` it was there before.
    fn follow(&self, client: &Client, rooms: &Rooms, places: Option<&[Place]>) -> Vec<u8>;

    /// How many `Seen::Joined` the answer to a first `follow` has.
    fn joins(&self, client: &Client) -> usize;

    fn message(&self, user: &str, room: &str, text: &str, with_id: bool) -> Template;

    /// Takes a data frame apart.
    fn scan<'a>(&self, payload: &'a [u8], rooms: &Rooms, see: &mut dyn FnMut(Seen<'a>));
}
