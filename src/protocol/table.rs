//! The table of all commands: their fields, what they do, and how `help` shows them.
//!
//! The parser, `help`, HTTP's routes, the metrics and the tests of the documents use it. Which
//! facts a write needs and who may do it is for `rules`.

use serde::{Serialize, Serializer};

use super::fields::Key;
use super::frame::Frame;
use crate::model::ClientId;

/// The type of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandType {
    Create,
    Join,
    Message,
    Leave,
    History,
    Resume,
    Rooms,
    Members,
    Who,
    Typing,
    Read,
    Ping,
    Help,
    /// Follows a room over HTTP. Over a socket, `join` does.
    Stream,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Appends an event, once for each `id`.
    Write,
    /// Appends an event unless the state is already as asked. Its `id` is not an idempotency key.
    Idempotent,
    /// Reads the log.
    Read,
    /// A signal: leaves no event.
    Signal,
    /// Concerns only the client and the node.
    Local,
}

/// One command.
pub struct Row {
    pub command: CommandType,
    /// Its name on the wire and in metrics.
    pub name: &'static str,
    pub effect: Effect,
    /// Required fields, besides `type`.
    pub needs: &'static [Key],
    /// Optional fields, besides `id`.
    pub takes: &'static [Key],
    /// Items of its answer (events, members, rooms) that weigh as much as a small command. 0: only
    /// the bytes of the answer weigh.
    pub items_per_weight: usize,
    /// What only a member may do, for the sentence "join … before …".
    pub doing: &'static str,
    /// The example in `help`.
    pub example: &'static str,
}

/// The commands in the order of `help`; those for HTTP only come last.
pub const TABLE: [Row; 14] = [
    Row {
        command: CommandType::Create,
        name: "create",
        effect: Effect::Write,
        needs: &[Key::UserId, Key::Room],
        takes: &[],
        items_per_weight: 0,
        doing: "",
        example: r#"{"user_id":"1","type":"create","room":"general"}"#,
    },
    Row {
        command: CommandType::Join,
        name: "join",
        effect: Effect::Idempotent,
        needs: &[Key::UserId, Key::Room],
        takes: &[Key::Since, Key::Last],
        items_per_weight: 0,
        doing: "reading it",
        example: r#"{"user_id":"1","type":"join","room":"general","since":0}"#,
    },
    Row {
        command: CommandType::Message,
        name: "message",
        effect: Effect::Write,
        needs: &[Key::UserId, Key::Room, Key::Message],
        takes: &[],
        items_per_weight: 0,
        doing: "sending to it",
        example: concat!(
            r#"{"user_id":"1","type":"message","room":"general","#,
            r#""message":"Hello World!","id":"c1"}"#
        ),
    },
    Row {
        command: CommandType::Leave,
        name: "leave",
        effect: Effect::Write,
        needs: &[Key::UserId, Key::Room],
        takes: &[],
        items_per_weight: 0,
        doing: "leaving it",
        example: r#"{"user_id":"1","type":"leave","room":"general"}"#,
    },
    Row {
        command: CommandType::History,
        name: "history",
        effect: Effect::Read,
        needs: &[Key::UserId, Key::Room],
        takes: &[Key::Before, Key::After, Key::Limit],
        items_per_weight: 50,
        doing: "reading it",
        example: r#"{"user_id":"1","type":"history","room":"general","before":120,"limit":50}"#,
    },
    Row {
        command: CommandType::Resume,
        name: "resume",
        effect: Effect::Read,
        needs: &[Key::UserId, Key::Rooms],
        takes: &[],
        items_per_weight: 5,
        doing: "reading it",
        example: r#"{"user_id":"1","type":"resume","rooms":{"general":41}}"#,
    },
    Row {
        command: CommandType::Rooms,
        name: "rooms",
        effect: Effect::Read,
        needs: &[],
        takes: &[Key::UserId, Key::After, Key::Limit],
        items_per_weight: 20,
        doing: "",
        example: r#"{"user_id":"1","type":"rooms","after":"general","limit":100}"#,
    },
    Row {
        command: CommandType::Members,
        name: "members",
        effect: Effect::Read,
        needs: &[Key::UserId, Key::Room],
        takes: &[Key::After],
        items_per_weight: 50,
        doing: "reading it",
        example: r#"{"user_id":"1","type":"members","room":"general"}"#,
    },
    Row {
        command: CommandType::Who,
        name: "who",
        effect: Effect::Signal,
        needs: &[Key::UserId, Key::Room],
        takes: &[],
        items_per_weight: 0,
        doing: "asking who is there",
        example: r#"{"user_id":"1","type":"who","room":"general"}"#,
    },
    Row {
        command: CommandType::Typing,
        name: "typing",
        effect: Effect::Signal,
        needs: &[Key::UserId, Key::Room],
        takes: &[],
        items_per_weight: 0,
        doing: "typing in it",
        example: r#"{"user_id":"1","type":"typing","room":"general"}"#,
    },
    Row {
        command: CommandType::Read,
        name: "read",
        effect: Effect::Signal,
        needs: &[Key::UserId, Key::Room, Key::Seq],
        takes: &[],
        items_per_weight: 0,
        doing: "reading it",
        example: r#"{"user_id":"1","type":"read","room":"general","seq":41}"#,
    },
    Row {
        command: CommandType::Ping,
        name: "ping",
        effect: Effect::Local,
        needs: &[],
        takes: &[],
        items_per_weight: 0,
        doing: "",
        example: r#"{"type":"ping"}"#,
    },
    Row {
        command: CommandType::Help,
        name: "help",
        effect: Effect::Local,
        needs: &[],
        takes: &[],
        items_per_weight: 0,
        doing: "",
        example: r#"{"type":"help"}"#,
    },
    Row {
        command: CommandType::Stream,
        name: "stream",
        effect: Effect::Read,
        needs: &[Key::UserId, Key::Room],
        takes: &[Key::After],
        items_per_weight: 0,
        doing: "reading it",
        example: "",
    },
];

/// How many of them a socket may send: all but the last.
pub const TYPES_LEN: usize = TABLE.len() - 1;

/// The commands that a socket may send.
pub fn of_socket() -> &'static [Row; TYPES_LEN] {
    static ROWS: [Row; TABLE.len()] = TABLE;
    ROWS.first_chunk().expect("the table is longer")
}

/// The `help` frame: all types, with an example of each.
pub fn help(id: Option<&ClientId>) -> Frame {
    #[derive(Serialize)]
    struct HelpFrame<'a> {
        r#type: &'static str,
        types: [&'static str; TYPES_LEN],
        examples: [&'static str; TYPES_LEN],
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    let rows = of_socket();
    let (types, examples) =
        (rows.each_ref().map(|row| row.name), rows.each_ref().map(|row| row.example));
    let id = id.map(ClientId::as_str);
    Frame::json(&HelpFrame { r#type: "help", types, examples, id })
}

impl CommandType {
    pub fn row(self) -> &'static Row {
        static ROWS: [Row; TABLE.len()] = TABLE;
        &ROWS[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The weight of this many items of its answer.
    pub fn weight(self, items: usize) -> u32 {
        let weight = items.checked_div(self.row().items_per_weight).unwrap_or_default();
        u32::try_from(weight).unwrap_or(u32::MAX)
    }

    /// Whether it appends events.
    pub fn writes(self) -> bool {
        matches!(self.row().effect, Effect::Write | Effect::Idempotent)
    }

    /// The command with this name, if a socket may send it.
    pub fn named(name: &str) -> Option<Self> {
        of_socket().iter().find(|row| row.name == name).map(|row| row.command)
    }
}

impl Serialize for CommandType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::Request;
    use crate::protocol::error::Code;

    #[test]
    fn each_row_stands_at_the_index_of_its_command() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.command as usize, index);
            assert_eq!(row.command.row().name, row.name);
        }
    }

    #[test]
    fn what_a_row_says_of_its_fields_is_what_the_parser_does() {
        for row in of_socket() {
            let request = Request::parse(row.example, 100).unwrap();
            assert_eq!(request.command.kind(), row.command);
            let example: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(row.example).unwrap();
            let known = |name: &str| {
                let keys = row.needs.iter().chain(row.takes);
                ["type", "id"].contains(&name) || keys.into_iter().any(|key| key.name() == name)
            };
            assert!(example.keys().all(|name| known(name)), "{}", row.example);
            for key in row.needs {
                let mut without = example.clone();
                without.remove(key.name()).expect("an example has what it needs");
                let frame = serde_json::to_string(&without).unwrap();
                let problem = Request::parse(&frame, 100).unwrap_err();
                assert_eq!((problem.code, problem.field), (Code::BadRequest, Some(key.name())));
            }
        }
    }
}
