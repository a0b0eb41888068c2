//! What a command may come to other than its answer.

use std::time::Duration;

use crate::frame::Frame;

/// A command of a [`Client`](crate::Client) was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The client has ended, and nobody knows whether the command was carried out. For a message:
    /// it was, or was not, and will not be later.
    #[error("the client has ended")]
    Closed,
}

/// The server's `error` frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refused {
    /// Which error, as docs/protocol.md lists them, such as `not_member`.
    pub code: String,
    /// A sentence for people, which says what to do.
    pub message: String,
    /// How long to wait before trying again, if the server says so.
    pub retry_after: Option<Duration>,
}

impl Refused {
    pub(crate) fn of(frame: &Frame<'_>) -> Self {
        Self {
            code: frame.code.as_deref().unwrap_or("internal").to_owned(),
            message: frame.error.as_deref().unwrap_or("the server refused it").to_owned(),
            retry_after: frame.retry_after_ms.map(Duration::from_millis),
        }
    }

    /// Whether the same command, with the same id, may be carried out later.
    pub(crate) fn is_for_now(&self) -> bool {
        matches!(&*self.code, "unavailable" | "rate_limited")
    }
}
