//! The closed set of errors that a client can get, and the `error` frame.
//!
//! The parser, the rules and the log decide which one applies.

use std::borrow::Cow;

use serde::Serialize;

use super::frame::Frame;
use super::table::CommandType;
use crate::model::{ClientId, RoomName};

/// What went wrong, for programs. docs/protocol.md has the same table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Not one JSON object.
    BadJson,
    /// A field is missing, of the wrong type or out of bounds.
    BadRequest,
    UnknownType,
    RoomExists,
    RoomNotFound,
    /// The user's `id` names another command.
    IdReused,
    NotMember,
    /// A `message` over the limit.
    TooLarge,
    RateLimited,
    /// The log cannot be reached, did not answer in time, or is damaged where the command needs it.
    /// Whether or not it was written, the same `id` can safely be sent again.
    Unavailable,
    /// A bug in the server.
    Internal,
}

/// One refusal, with as much of the command as was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: Code,
    /// A sentence for people that says what to do.
    pub error: Cow<'static, str>,
    /// The field at fault.
    pub field: Option<&'static str>,
    /// The limit that was exceeded, in the unit of the field.
    pub limit: Option<u64>,
    pub retry_after_ms: Option<u64>,
    /// The type of the refused command.
    pub re: Option<CommandType>,
    pub room: Option<RoomName>,
    pub id: Option<ClientId>,
}

impl Code {
    pub const ALL: [Self; 11] = [
        Self::BadJson,
        Self::BadRequest,
        Self::UnknownType,
        Self::RoomExists,
        Self::RoomNotFound,
        Self::IdReused,
        Self::NotMember,
        Self::TooLarge,
        Self::RateLimited,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Its name on the wire and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadRequest => "bad_request",
            Self::UnknownType => "unknown_type",
            Self::RoomExists => "room_exists",
            Self::RoomNotFound => "room_not_found",
            Self::IdReused => "id_reused",
            Self::NotMember => "not_member",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The corresponding HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::BadJson | Self::BadRequest | Self::UnknownType => 400,
            Self::RoomExists | Self::IdReused => 409,
            Self::RoomNotFound => 404,
            Self::NotMember => 403,
            Self::TooLarge => 413,
            Self::RateLimited => 429,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }

    /// Whether the frame itself was at fault. A client that sends more than a few of these a
    /// second, for seconds, is not one that a person uses.
    pub fn is_refused_frame(self) -> bool {
        matches!(
            self,
            Self::BadJson
                | Self::BadRequest
                | Self::UnknownType
                | Self::TooLarge
                | Self::RateLimited
        )
    }
}

impl Problem {
    pub fn new(code: Code, error: impl Into<Cow<'static, str>>) -> Self {
        let (field, limit, retry_after_ms, re) = (None, None, None, None);
        let error = error.into();
        Self { code, error, field, limit, retry_after_ms, re, room: None, id: None }
    }

    /// A field is missing, of the wrong type or out of bounds.
    pub fn field(field: &'static str, error: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field), ..Self::new(Code::BadRequest, error) }
    }

    /// The log cannot be reached, or did not answer a write in time.
    pub fn unavailable() -> Self {
        Self::new(
            Code::Unavailable,
            "the log did not answer: this may or may not have been written; \
             send it again with the same \"id\"",
        )
    }

    /// The log accepts no writes at the moment; it is known that nothing was written.
    pub fn unwritten() -> Self {
        let error = "the log does not accept writes, and nothing was written; try again later";
        Self::new(Code::Unavailable, error)
    }

    /// A read of the log failed, or took too long.
    pub fn unanswered() -> Self {
        Self::new(Code::Unavailable, "the log does not answer; try again in a moment")
    }

    /// A read needs a damaged part of the log.
    pub fn unreadable() -> Self {
        Self::new(
            Code::Unavailable,
            "this part of the log is damaged and cannot be read; trying again does not help \
             until the operator has restored it",
        )
    }

    /// A write needs a damaged part of the log.
    pub fn unwritable() -> Self {
        Self::new(
            Code::Unavailable,
            "this part of the log is damaged, and nothing was written; trying again does not \
             help until the operator has restored it",
        )
    }

    /// The memory for data that clients have not read is used up.
    pub fn no_room() -> Self {
        let error = "this node already holds too much unsent data; try again in a moment";
        Self::new(Code::Unavailable, error)
    }

    /// A bug in the server; its log has the details.
    pub fn internal() -> Self {
        Self::new(Code::Internal, "internal error; details are in the server log")
    }

    pub fn frame(&self) -> Frame {
        #[derive(Serialize)]
        struct ErrorFrame<'a> {
            r#type: &'static str,
            code: &'static str,
            status: u16,
            error: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            field: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            limit: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after_ms: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            re: Option<CommandType>,
            #[serde(skip_serializing_if = "Option::is_none")]
            room: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a str>,
        }
        Frame::json(&ErrorFrame {
            r#type: "error",
            code: self.code.name(),
            status: self.code.status(),
            error: &self.error,
            field: self.field,
            limit: self.limit,
            retry_after_ms: self.retry_after_ms,
            re: self.re,
            room: self.room.as_ref().map(RoomName::as_str),
            id: self.id.as_ref().map(ClientId::as_str),
        })
    }
}
