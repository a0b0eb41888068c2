//! The close codes of the wire: one table, with when each is sent and what the client should do.
//!
//! It is the only place where a close code has a number. Who decides to close is said where the
//! decision is made.
//!
//! | code | when | the client should |
//! |---|---|---|
//! | 1000, 1001 | normal | nothing |
//! | 1002 | it broke the WebSocket protocol | not reconnect unchanged |
//! | 1003 | it sent a binary frame | not reconnect unchanged |
//! | 1007 | it sent text that is not UTF-8 | not reconnect unchanged |
//! | 1008 | policy: a foreign origin, too many refused frames | not reconnect unchanged |
//! | 1009 | it sent a frame over the limit | not reconnect unchanged |
//! | 1012 | the node restarts; `goodbye` comes first | reconnect after `reconnect_ms`, `resume` |
//! | 4000 | the server lost sync with this socket | reconnect, `resume` |
//! | 4008 | it took nothing for a minute | reconnect, `resume` |
//! | 4009 | nothing was heard of it within two heartbeats | reconnect, `resume` |

/// A close code that may stand in a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The conversation is over and both sides know it.
    pub const NORMAL: Self = Self(1000);
    /// One side goes away: a browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// The client broke RFC 6455.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// The client sent a binary frame; this protocol has only text.
    pub const UNSUPPORTED: Self = Self(1003);
    /// The client sent a text frame that is not UTF-8.
    pub const INVALID_UTF8: Self = Self(1007);
    /// The client may not do what it does: its origin, or the rate of its refused frames.
    pub const POLICY: Self = Self(1008);
    /// The client sent a frame, or a message of several, over the limit.
    pub const TOO_LARGE: Self = Self(1009);
    /// The node restarts.
    pub const RESTART: Self = Self(1012);
    /// The server lost sync with this socket and prefers a clean start.
    pub const RESYNC: Self = Self(4000);
    /// The client took no byte for the stall timeout while there was something to take.
    pub const STALLED: Self = Self(4008);
    /// Nothing was heard of the client within two heartbeats, not even a pong.
    pub const SILENT: Self = Self(4009);
}
