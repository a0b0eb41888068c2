//! The errors of commands.

use std::time::Duration;

use crate::frame::Frame;

/// A command of a [`Client`](crate::Client) was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The client has ended, and it is unknown whether the command was carried out. It will not be
    /// carried out later.
    #[error("the client has ended")]
    Closed,
}

/// The server's `error` frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refused {
    /// One of the codes in docs/protocol.md, such as `not_member`.
    pub code: String,
    /// A sentence for people that says what to do.
    pub message: String,
    /// How long to wait before trying again, if the server says.
    pub retry_after: Option<Duration>,
}

impl Refused {
    pub(crate) fn of(frame: &Frame<'_>) -> Self {
        Self {
            code: frame.code.as_deref().unwrap_or("internal").to_owned(),
            message: frame.error.as_deref().unwrap_or("the server refused the command").to_owned(),
            retry_after: frame.retry_after_ms.map(Duration::from_millis),
        }
    }

    /// Whether the same command, with the same id, may succeed later.
    pub(crate) fn is_for_now(&self) -> bool {
        matches!(&*self.code, "unavailable" | "rate_limited")
    }
}
