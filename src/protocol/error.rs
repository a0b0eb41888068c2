//! The closed set of refusals a client can get, and the `error` frame that tells it.
//!
//! It does not decide who gets which: the parser, the rules and the log do.

use std::borrow::Cow;

use serde::Serialize;

use super::frame::Frame;
use super::table::CommandType;
use crate::model::{ClientId, RoomName};

/// What went wrong, as a program reads it. The table of docs/protocol.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Not one JSON object.
    BadJson,
    /// A field is missing, of the wrong type or out of bounds.
    BadRequest,
    UnknownType,
    RoomExists,
    RoomNotFound,
    /// The `id` names another command.
    IdReused,
    NotMember,
    /// A `message` over the limit.
    TooLarge,
    RateLimited,
    /// The log cannot be reached, did not answer in time, or is damaged where the command needs it:
    /// written or not, the same `id` may be sent again safely.
    Unavailable,
    /// A bug of ours.
    Internal,
}

/// One refusal, with as much of the command in it as was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: Code,
    /// A sentence for a person that says what to do.
    pub error: Cow<'static, str>,
    /// The field that is at fault.
    pub field: Option<&'static str>,
    /// The limit that was exceeded, in the unit of the field.
    pub limit: Option<u64>,
    pub retry_after_ms: Option<u64>,
    /// The type of the command that is refused.
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

    /// The word for it on the wire and in metrics.
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

    /// The HTTP status of the same meaning.
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

    /// Whether the frame itself was at fault: more than a few of these a second, for seconds, and
    /// the client is not one that a person sits at.
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

    /// The log cannot be reached, or did not answer in time.
    pub fn unavailable() -> Self {
        Self::new(
            Code::Unavailable,
            "the log did not answer: it may or may not have been written; \
             send it again with the same \"id\"",
        )
    }

    /// The log takes nothing just now.
    pub fn unwritten() -> Self {
        let error = "the log cannot be written to just now: nothing was written; try again later";
        Self::new(Code::Unavailable, error)
    }

    /// A read of the log failed, or took too long.
    pub fn unanswered() -> Self {
        Self::new(Code::Unavailable, "the log does not answer: try again in a moment")
    }

    /// What a read needs is damaged in the log.
    pub fn unreadable() -> Self {
        Self::new(
            Code::Unavailable,
            "the log is damaged here and cannot be read: trying again does not help until the \
             operator has repaired it",
        )
    }

    /// What a write needs is damaged in the log.
    pub fn unwritable() -> Self {
        Self::new(
            Code::Unavailable,
            "the log is damaged here, and nothing was written: trying again does not help until \
             the operator has repaired it",
        )
    }

    /// What the node holds for clients that do not read is at its limit.
    pub fn no_room() -> Self {
        let error = "this node holds too much for clients that do not read: try again in a moment";
        Self::new(Code::Unavailable, error)
    }

    /// A bug of ours; the node's log says more.
    pub fn internal() -> Self {
        Self::new(Code::Internal, "something went wrong in the server; its operator can read more")
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
