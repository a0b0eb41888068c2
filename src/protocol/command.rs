//! What clients send: one text frame in, one checked `Command` or a typed refusal out.
//!
//! Nothing below checks the fields again, because a `Command` holds only valid values. Whether the
//! room exists and the user may do it is for `rules`.

use super::error::{Code, Problem};
use super::fields::{Fields, Key, Positions, invalid, must};
use super::table::{self, CommandType};
use crate::model::{ClientId, Invalid, RoomName, Seq, Text, UserId};

/// Most events in one `history` frame.
pub const HISTORY_LIMIT_MAX: u64 = 200;
/// Events in a `history` frame when `limit` is not given.
pub const HISTORY_LIMIT_DEFAULT: u64 = 50;
/// How far back `join` can go with `last`.
pub const JOIN_LAST_MAX: u64 = 1000;
/// Most rooms in one `rooms` frame.
pub const ROOMS_LIMIT_MAX: u64 = 1000;
/// Rooms in a `rooms` frame when `limit` is not given.
pub const ROOMS_LIMIT_DEFAULT: u64 = 100;
/// Members in one `members` frame.
pub const MEMBERS_LIMIT: usize = 1000;

/// A command, and the `id` that its answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: Option<ClientId>,
    pub command: Command,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// An action of a user in a room.
    InRoom {
        user: UserId,
        room: RoomName,
        deed: Deed,
    },
    Resume {
        user: UserId,
        rooms: Vec<(RoomName, Seq)>,
    },
    /// With a user, the answer also says what they have not read.
    Rooms {
        user: Option<UserId>,
        after: Option<RoomName>,
        limit: usize,
    },
    Ping,
    Help,
}

/// An action in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Any write except `join`.
    Write(Verb),
    /// Become a member, and follow the room from there.
    Join(Start),
    History {
        page: HistoryPage,
        limit: usize,
    },
    Members {
        after: Option<UserId>,
    },
    Who,
    Typing,
    Read(Seq),
    /// Follow everything above `after`; without it, only new events. Over HTTP only.
    Stream {
        after: Option<Seq>,
    },
}

/// A write: what a command changes in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Join,
    Leave,
    Message(Text),
}

/// Where a follower starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At its own position.
    Here,
    /// Everything above this seq.
    Since(Seq),
    /// This many events before its own position.
    Last(u64),
}

/// Which page of a room's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryPage {
    Newest,
    /// The newest events below this seq.
    Before(Seq),
    /// The oldest events above this seq.
    After(Seq),
}

impl Verb {
    /// Also the type of its event.
    pub fn kind(&self) -> CommandType {
        match self {
            Self::Create => CommandType::Create,
            Self::Join => CommandType::Join,
            Self::Leave => CommandType::Leave,
            Self::Message(_) => CommandType::Message,
        }
    }
}

impl Deed {
    fn kind(&self) -> CommandType {
        match self {
            Self::Write(verb) => verb.kind(),
            Self::Join(_) => CommandType::Join,
            Self::History { .. } => CommandType::History,
            Self::Members { .. } => CommandType::Members,
            Self::Who => CommandType::Who,
            Self::Typing => CommandType::Typing,
            Self::Read(_) => CommandType::Read,
            Self::Stream { .. } => CommandType::Stream,
        }
    }
}

impl Command {
    pub fn kind(&self) -> CommandType {
        match self {
            Self::InRoom { deed, .. } => deed.kind(),
            Self::Resume { .. } => CommandType::Resume,
            Self::Rooms { .. } => CommandType::Rooms,
            Self::Ping => CommandType::Ping,
            Self::Help => CommandType::Help,
        }
    }

    /// Approximate memory that it keeps, in bytes, beyond what every command does.
    pub fn bytes(&self) -> usize {
        /// A name and the seq next to it.
        const ROOM_BYTES: usize = 64;
        match self {
            Self::InRoom { deed: Deed::Write(Verb::Message(text)), .. } => text.as_str().len(),
            Self::Resume { rooms, .. } => {
                rooms.iter().map(|(room, _)| ROOM_BYTES + room.as_str().len()).sum()
            }
            _ => 0,
        }
    }

    /// The user who sends it, if it names one.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::InRoom { user, .. } | Self::Resume { user, .. } => Some(user),
            Self::Rooms { user, .. } => user.as_ref(),
            Self::Ping | Self::Help => None,
        }
    }

    pub fn room(&self) -> Option<&RoomName> {
        match self {
            Self::InRoom { room, .. } => Some(room),
            _ => None,
        }
    }
}

impl Request {
    /// Reads one text frame. `message_bytes_max` is the setting `session.message_bytes_max`.
    pub fn parse(frame: &str, message_bytes_max: usize) -> Result<Self, Problem> {
        let fields = Fields::parse(frame).map_err(|err| bad_json(&err))?;
        Self::read(&fields, parse_type, message_bytes_max)
    }

    /// Reads the fields of a command whose type is known from its origin, such as an HTTP route.
    pub fn of(
        kind: CommandType,
        fields: &Fields<'_>,
        message_bytes_max: usize,
    ) -> Result<Self, Problem> {
        Self::read(fields, |_| Ok(kind), message_bytes_max)
    }

    fn read(
        fields: &Fields<'_>,
        kind: impl FnOnce(&Fields<'_>) -> Result<CommandType, Problem>,
        message_bytes_max: usize,
    ) -> Result<Self, Problem> {
        if let Some(key) = fields.twice {
            let error = format!("\"{}\" is given twice", key.name());
            return Err(Problem::field(key.name(), error));
        }
        // The id first, so that the answer can repeat it whatever else is wrong.
        let id = match fields.raw(Key::Id) {
            None => None,
            Some(_) => {
                let text = fields.string(Key::Id)?;
                Some(ClientId::parse(&text).map_err(|why| invalid(Key::Id, why))?)
            }
        };
        match kind(fields).and_then(|kind| parse_command(kind, fields, message_bytes_max)) {
            Ok(command) => Ok(Self { id, command }),
            Err(problem) => Err(Problem { id, ..problem }),
        }
    }
}

fn bad_json(err: &serde_json::Error) -> Problem {
    // A type error's text would quote the value, however long it is.
    let error = if err.is_data() {
        "a frame must be one JSON object, such as {\"type\":\"help\"}".to_owned()
    } else {
        format!("a frame must be one JSON object, such as {{\"type\":\"help\"}}: {err}")
    };
    Problem::new(Code::BadJson, error)
}

fn parse_type(fields: &Fields<'_>) -> Result<CommandType, Problem> {
    let text = fields.string(Key::Type)?;
    CommandType::named(&text).ok_or_else(|| {
        let shown = serde_json::Value::from(text.chars().take(32).collect::<String>());
        let known = table::of_socket().each_ref().map(|row| row.name).join(", ");
        Problem::new(Code::UnknownType, format!("there is no type {shown}; use one of {known}"))
    })
}

fn parse_command(
    kind: CommandType,
    fields: &Fields<'_>,
    message_bytes_max: usize,
) -> Result<Command, Problem> {
    parse_fields(kind, fields, message_bytes_max).map_err(|problem| {
        let room = fields.room(Key::Room).ok().filter(|_| problem.field != Some("room"));
        Problem { re: Some(kind), room, ..problem }
    })
}

fn parse_fields(
    kind: CommandType,
    fields: &Fields<'_>,
    message_bytes_max: usize,
) -> Result<Command, Problem> {
    match kind {
        CommandType::Resume => {
            let user = fields.user(Key::UserId)?;
            Ok(Command::Resume { user, rooms: positions(fields)? })
        }
        CommandType::Rooms => {
            let user = fields.raw(Key::UserId).map(|_| fields.user(Key::UserId)).transpose()?;
            let after = fields.raw(Key::After).map(|_| fields.room(Key::After)).transpose()?;
            let limit = fields.integer(Key::Limit, 1, ROOMS_LIMIT_MAX)?;
            let limit = limit.unwrap_or(ROOMS_LIMIT_DEFAULT) as usize;
            Ok(Command::Rooms { user, after, limit })
        }
        CommandType::Ping => Ok(Command::Ping),
        CommandType::Help => Ok(Command::Help),
        CommandType::Create => {
            let user = fields.new_user(Key::UserId)?;
            let (room, deed) = (fields.new_room(Key::Room)?, Deed::Write(Verb::Create));
            Ok(Command::InRoom { user, room, deed })
        }
        _ => {
            let (user, room) = (fields.user(Key::UserId)?, fields.room(Key::Room)?);
            Ok(Command::InRoom { user, room, deed: deed(kind, fields, message_bytes_max)? })
        }
    }
}

fn deed(kind: CommandType, fields: &Fields<'_>, message_bytes_max: usize) -> Result<Deed, Problem> {
    Ok(match kind {
        CommandType::Join => Deed::Join(start(fields)?),
        CommandType::Leave => Deed::Write(Verb::Leave),
        CommandType::Message => Deed::Write(Verb::Message(message(fields, message_bytes_max)?)),
        CommandType::History => {
            let page = page(fields)?;
            let limit = fields.integer(Key::Limit, 1, HISTORY_LIMIT_MAX)?;
            Deed::History { page, limit: limit.unwrap_or(HISTORY_LIMIT_DEFAULT) as usize }
        }
        CommandType::Members => {
            let after = fields.raw(Key::After).map(|_| fields.user(Key::After)).transpose()?;
            Deed::Members { after }
        }
        CommandType::Who => Deed::Who,
        CommandType::Typing => Deed::Typing,
        CommandType::Read => {
            Deed::Read(fields.seq(Key::Seq)?.ok_or_else(|| fields.missing(Key::Seq))?)
        }
        CommandType::Stream => Deed::Stream { after: fields.seq(Key::After)? },
        // These have no room, or are parsed elsewhere.
        CommandType::Create
        | CommandType::Resume
        | CommandType::Rooms
        | CommandType::Ping
        | CommandType::Help => return Err(Problem::internal()),
    })
}

fn start(fields: &Fields<'_>) -> Result<Start, Problem> {
    let since = fields.seq(Key::Since)?;
    let last = fields.integer(Key::Last, 0, JOIN_LAST_MAX)?;
    match (since, last) {
        (Some(_), Some(_)) => Err(must(Key::Last, "not be given together with \"since\"")),
        (Some(seq), None) => Ok(Start::Since(seq)),
        (None, Some(n)) => Ok(Start::Last(n)),
        (None, None) => Ok(Start::Here),
    }
}

fn page(fields: &Fields<'_>) -> Result<HistoryPage, Problem> {
    match (fields.seq(Key::Before)?, fields.seq(Key::After)?) {
        (Some(_), Some(_)) => Err(must(Key::After, "not be given together with \"before\"")),
        (Some(seq), None) => Ok(HistoryPage::Before(seq)),
        (None, Some(seq)) => Ok(HistoryPage::After(seq)),
        (None, None) => Ok(HistoryPage::Newest),
    }
}

fn message(fields: &Fields<'_>, bytes_max: usize) -> Result<Text, Problem> {
    Text::parse(&fields.string(Key::Message)?, bytes_max).map_err(|why| match why {
        Invalid::TooLong(limit) => Problem {
            limit: Some(limit as u64),
            ..Problem::new(Code::TooLarge, format!("the message is longer than {limit} bytes"))
        },
        // The only character that a message must not contain.
        Invalid::Character(_) => must(Key::Message, "not contain the character U+0000"),
        why => invalid(Key::Message, why),
    })
}

fn positions(fields: &Fields<'_>) -> Result<Vec<(RoomName, Seq)>, Problem> {
    let wrong = || must(Key::Rooms, "be an object with a seq for each room, {\"general\":41}");
    let raw = fields.raw(Key::Rooms).ok_or_else(wrong)?;
    let Positions(pairs) = serde_json::from_str(raw).map_err(|_| wrong())?;
    let mut rooms: Vec<(RoomName, Seq)> = Vec::with_capacity(pairs.len());
    let mut seen = std::collections::HashSet::with_capacity(pairs.len());
    for (name, seq) in pairs {
        let room = RoomName::parse(&name).map_err(|why| invalid(Key::Rooms, why))?;
        if seq > i64::MAX as u64 || !seen.insert(room.clone()) {
            return Err(wrong());
        }
        rooms.push((room, Seq(seq)));
    }
    Ok(rooms)
}

#[cfg(test)]
mod tests;
