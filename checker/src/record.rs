//! What may be recorded of a run: one type for each thing that a client, a reader or the log said.
//!
//! All times are nanoseconds of one monotonic clock, that of the recording process. A time of
//! sending is taken before the bytes leave, a time of receiving after they came: so "received
//! before it was sent" is never a matter of the recorder's own delay.

use crate::event::Kind;
use crate::names::{Command, Connection, Frame, Node, Room, Text, User};

/// Nanoseconds of the recording process' monotonic clock.
pub type Nanos = u64;

/// What the run was allowed to take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// After the last fault, each follower has each event within this time of when it was known to
    /// be written. 5 s is the promise.
    pub heal: Nanos,
    /// Resident memory of a node, in bytes. `None`: it is not judged.
    pub memory_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { heal: 5_000_000_000, memory_bytes: None }
    }
}

/// A command as a client is about to send it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub kind: Kind,
    pub room: Room,
    pub user: User,
    pub id: Option<&'a str>,
    /// Of a message. Without an `id`, a text that comes once tells most.
    pub text: Option<&'a str>,
}

/// What is known of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommandOf {
    pub room: Room,
    pub user: User,
    /// The idempotency key. `None`: it has none, or it is a join.
    pub id: Option<Text>,
    /// What a client sent under this key. `None`: nobody did, it only stood in a frame.
    pub sent_as: Option<(Kind, Option<Text>)>,
    /// Its sender went away before it had an answer, and never sent it again.
    pub abandoned: bool,
}

/// A command on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub command: Command,
    pub connection: Connection,
    pub at: Nanos,
}

/// An `ack`, and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub command: Command,
    pub connection: Connection,
    /// When it was received.
    pub at: Nanos,
    pub re: Kind,
    pub seq: u64,
    /// Its `at`, in milliseconds since 1970, as `at_ms` reads it.
    pub event_at_ms: i64,
    pub duplicate: bool,
}

/// An `error` that answers a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub command: Command,
    pub connection: Connection,
    pub at: Nanos,
    /// `not_member`, `unavailable`, …
    pub code: Text,
    /// It says for certain that this attempt wrote nothing, and why the rules are against it.
    pub is_definite: bool,
}

/// What came for a command, in the order of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Ack(Ack),
    Refusal(Refusal),
}

impl Answer {
    pub fn command(&self) -> Command {
        match self {
            Self::Ack(ack) => ack.command,
            Self::Refusal(refusal) => refusal.command,
        }
    }

    pub fn connection(&self) -> Connection {
        match self {
            Self::Ack(ack) => ack.connection,
            Self::Refusal(refusal) => refusal.connection,
        }
    }

    pub fn at(&self) -> Nanos {
        match self {
            Self::Ack(ack) => ack.at,
            Self::Refusal(refusal) => refusal.at,
        }
    }
}

/// What one client is shown of one room.
#[derive(Clone, Copy, Debug)]
pub struct ViewOf<'a> {
    /// Who looks, for the report: `follower-3`.
    pub who: &'a str,
    pub room: Room,
    /// As whom it follows, if that is one user: then what comes after their leave is one too many.
    pub user: Option<User>,
    /// It reads slowly, by its own will: it may be late, but must not miss anything.
    pub slow: bool,
}

/// Where a client's following begins, by what it asked for and was told in `joined`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// `since`, or `resume`: everything above this seq.
    After(u64),
    /// A `join` with `last`; without it, `Last(0)`: so many before its own position.
    Last(u64),
    /// A `join` of a room that this connection follows already moves nothing.
    Unmoved,
}

/// `joined`, and what was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follow {
    pub connection: Connection,
    /// When the asking was sent: what was known before must not be answered with a `reset`. For a
    /// `join`, the time of its attempt, to the nanosecond: by it the two are known for a pair.
    pub asked_at: Nanos,
    /// When `joined` was received.
    pub at: Nanos,
    pub start: Start,
    /// What `joined` said.
    pub last_seq: u64,
    /// What `reset` said, when it came.
    pub reset: Option<u64>,
    /// The deliveries of the view before this.
    pub begins: usize,
    /// It did not want to follow before this: nothing was owed to it until it asked.
    pub is_return: bool,
}

/// An event frame that came. There are millions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub at: Nanos,
    pub frame: Frame,
}

const _: () = assert!(size_of::<Delivery>() == 16, "five million of them are 80 MB");

/// Where something was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The `events` table, behind the server's back.
    Table,
    /// `history` or `rooms`, through a node.
    Node(Node),
}

/// How far a room went at some moment. Read from the table during the run, it says what was not
/// committed yet; read through a node, it must have whatever anybody knew before.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub place: Place,
    pub room: Room,
    /// Before the question left.
    pub asked_at: Nanos,
    /// 0: the room was not there.
    pub last_seq: u64,
}

/// What a page of history was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Newest,
    Before(u64),
    After(u64),
}

/// A `history` frame.
#[derive(Clone, Debug)]
pub struct Page {
    pub node: Node,
    pub room: Room,
    pub asked: Asked,
    /// Before the question left.
    pub asked_at: Nanos,
    /// Its events, each as the bytes between its braces.
    pub events: Vec<Frame>,
    pub more: bool,
}

/// A row of `rooms`, read at the end.
#[derive(Clone, Copy, Debug)]
pub struct RoomRow {
    pub room: Room,
    pub last_seq: u64,
    pub message_count: u64,
    pub member_count: u64,
}

/// A row of `events`, read at the end.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub room: Room,
    pub seq: u64,
    /// As it stands there.
    pub kind: &'a str,
    pub user: &'a str,
    pub client_id: Option<&'a str>,
    pub body: Option<&'a str>,
    /// What only its type has: members of its JSON object.
    pub data: Option<&'a str>,
    pub at_ms: i64,
}

/// The log was set back, as by a failover to a standby that had not everything: what was above `to`
/// is gone, and its seqs are given out again. Once per room at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetBack {
    pub room: Room,
    /// The last seq that was left.
    pub to: u64,
    /// Before the deed and after it.
    pub from: Nanos,
    pub until: Nanos,
}

/// A row of `members`, read at the end.
#[derive(Clone, Copy, Debug)]
pub struct MembersRow {
    pub room: Room,
    pub user: User,
}

/// An entry of the stream, read at the end.
#[derive(Clone, Copy, Debug)]
pub struct StreamEntry {
    /// Its ID: milliseconds, and the number within them.
    pub id: (u64, u64),
    /// Its fields `room` and `seq`.
    pub room: Room,
    pub seq: u64,
    /// Its field `event`.
    pub frame: Frame,
}

/// What is known of the stream beside its entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamEnd {
    pub outbox_rows: u64,
    pub whole_since: Nanos,
}
