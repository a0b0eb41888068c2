//! The judge: a [`History`] of what clients sent, were told and were shown, and of what the log
//! held in the end, goes into [`check`], and every broken promise comes out as a [`Violation`].
//!
//! It is pure. It talks to no server, reads no clock and knows nothing of sockets, databases or
//! faults, and it shares no code with the server it judges: even the bytes of an event's frame are
//! worked out anew from its row. It is exact: every delivery is looked at, and no rule is a guess
//! (where two orders of events are both allowed, both are let through, and nothing else is). It is
//! linear in the number of deliveries, each of which takes 16 bytes.
//!
//! Read in this order:
//! - `names`: numbers for texts, so that records are small and comparing them is cheap
//! - `at`: the time in a frame
//! - `event`: an event, from and to the bytes of its frame
//! - `record`: what may be recorded
//! - `history`: the records of one run
//! - `violation`: every promise that can be broken, each with its name
//! - `check`: the rules
//! - `context`: the shortest excerpt of a history that shows what went wrong

mod at;
mod check;
mod context;
mod event;
mod history;
mod names;
mod record;
mod violation;

pub use self::check::{Counts, Report, check};
pub use self::event::{Event, Kind};
pub use self::history::{History, at_ms};
pub use self::names::{Command, Connection, Frame, Node, Room, Text, User, View};
pub use self::record::{
    Ack, Asked, Limits, MembersRow, Nanos, Page, Place, Read, RoomRow, Row, SetBack, Start,
    StreamEntry, ViewOf, Wanted,
};
pub use self::violation::{Rule, Violation};
