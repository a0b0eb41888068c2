//! An answer as values, which an entry point turns into bytes.

use super::asked::Asked;
use super::follow::Follow;
use super::history::Pages;
use super::resume::Resuming;
use crate::budget::Held;
use crate::log::{Member, RoomSummary};
use crate::model::{ClientId, Event, Seq};
use crate::protocol::error::Problem;
use crate::protocol::frame::{self, Frame, ListedRoom};
use crate::protocol::table::{self, CommandType};
use crate::protocol::{page, signal};
use crate::rules::{Outcome, Reading};

/// How much heavier a list of rooms is if it says what is unread, which takes a query for each.
const READING_WEIGHT: usize = 5;

pub enum Reply {
    /// Placeholder while the work begins.
    Nothing,
    Problem(Problem),
    /// A write was decided: committed now or before.
    Written(Asked, Outcome),
    /// The event of a write, for a repeated request.
    Stored(Box<Event>),
    /// The user is a member now.
    Joined(Box<Joined>),
    /// The same, and the socket is to follow the room.
    Follow(Box<Follow>),
    /// A part of a `resume`: its list from this index on.
    Resumed(Box<Resuming>, usize),
    /// A member follows the room by an event stream.
    Stream(Box<Follow>),
    /// A whole page of history.
    Page(Asked, Listed<(Seq, Frame)>),
    /// A page of several pieces.
    Pages(Box<Pages>),
    Members(Asked, Listed<Member>),
    /// `has_reading`: the rooms include what is unread.
    Rooms {
        id: Option<ClientId>,
        rooms: Listed<RoomSummary>,
        has_reading: bool,
    },
    /// `who` of a member. The entry point asks `signals` for the users.
    Who(Asked),
    /// A signal was accepted.
    Taken(Asked),
    /// `ping` and `help`.
    Local(CommandType, Option<ClientId>),
}

/// A list, and whether there is more.
pub struct Listed<T> {
    pub items: Vec<T>,
    pub more: bool,
    /// Counts it in the budget until it is encoded.
    pub held: Held,
}

/// A membership, and how far its user has read.
pub struct Joined {
    pub asked: Asked,
    /// The event that created it, unless it existed before.
    pub event: Option<Event>,
    pub last_seq: Seq,
    pub members: u64,
    /// Up to `last_seq`.
    pub reading: Reading,
}

impl Joined {
    pub fn frame(&self, id: Option<&ClientId>) -> Frame {
        let Self { asked: Asked { room, user, .. }, last_seq, members, reading, .. } = self;
        let (last_seq, members, Reading { read, unread }) = (*last_seq, *members, *reading);
        frame::joined(&frame::Joined { room, user, last_seq, members, read, unread, id })
    }
}

impl Reply {
    /// The weight of the work, beside the answer's bytes.
    pub fn weight(&self) -> u32 {
        match self {
            Self::Page(_, page) => CommandType::History.weight(page.items.len()),
            Self::Pages(pages) => pages.weight,
            Self::Members(_, members) => CommandType::Members.weight(members.items.len()),
            Self::Rooms { rooms, has_reading, .. } => {
                let times = if *has_reading { READING_WEIGHT } else { 1 };
                CommandType::Rooms.weight(rooms.items.len() * times)
            }
            _ => 0,
        }
    }

    /// The frame that is the whole answer at every entry point, and its command. `None`: the entry
    /// point has more to do.
    pub fn frame(&self) -> Option<(CommandType, Frame)> {
        Some(match self {
            Self::Page(Asked { room, id, .. }, Listed { items, more, .. }) => {
                (CommandType::History, page::whole(room, items, *more, id.as_ref()))
            }
            Self::Members(Asked { room, id, .. }, Listed { items, more, .. }) => {
                let members: Vec<_> = items.iter().map(|it| (it.user.clone(), it.role)).collect();
                (CommandType::Members, frame::members(room, &members, *more, id.as_ref()))
            }
            Self::Rooms { id, rooms: Listed { items, more, .. }, .. } => {
                let rooms: Vec<_> = items.iter().map(listed).collect();
                (CommandType::Rooms, frame::rooms(&rooms, *more, id.as_ref()))
            }
            Self::Taken(Asked { re, room, id, .. }) => (*re, signal::taken(*re, room, id.as_ref())),
            Self::Local(re @ CommandType::Help, id) => (*re, table::help(id.as_ref())),
            Self::Local(re, id) => (*re, frame::pong(id.as_ref())),
            _ => return None,
        })
    }
}

fn listed(summary: &RoomSummary) -> ListedRoom<'_> {
    let RoomSummary { room, last_seq, members, reading } = summary;
    ListedRoom {
        room: room.as_str(),
        last_seq: *last_seq,
        members: *members,
        read: reading.map(|reading| reading.read),
        unread: reading.map(|reading| reading.unread),
    }
}
