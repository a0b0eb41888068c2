//! Why a socket is closed when it cannot be given the next event.

use super::End;
use crate::protocol::close::CloseCode;

/// The socket must start over.
#[derive(Debug, PartialEq, Eq)]
pub enum LostSync {
    /// The log lacks events that the room is known to have.
    Differs,
    /// The next event of a room cannot be read.
    Damaged,
}

pub fn lost_sync(why: LostSync) -> End {
    let text = match why {
        LostSync::Differs => "lost sync with the log: reconnect and resume",
        LostSync::Damaged => "an event cannot be read from the log: reconnect and resume",
    };
    (CloseCode::RESYNC, text)
}
