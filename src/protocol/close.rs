//! The close codes of the wire: one table of when each is sent and what the client should do.
//!
//! This is the only place where a close code has a number. The reasons for closing are documented
//! where the decision is made.
//!
//! | code | when | the client should |
//! |---|---|---|
//! | 1000, 1001 | normal | nothing |
//! | 1002 | WebSocket protocol error | not reconnect unchanged |
//! | 1003 | binary frame | not reconnect unchanged |
//! | 1007 | text that is not UTF-8 | not reconnect unchanged |
//! | 1008 | policy: refused or endless frames, a message not complete | not reconnect unchanged |
//! | 1009 | frame over the limit | not reconnect unchanged |
//! | 1012 | the node restarts (`goodbye` first) | reconnect after `reconnect_ms`, `resume` |
//! | 4000 | the server lost sync with this socket | reconnect, `resume` |
//! | 4008 | the client accepted no data in time, or while memory was short | reconnect, `resume` |
//! | 4009 | no pong, and nothing else, within two heartbeats | reconnect, `resume` |

/// A close code that is allowed in a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// Both sides ended the connection in order.
    pub const NORMAL: Self = Self(1000);
    /// One side goes away, such as a browser that leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// The client broke RFC 6455.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// The client sent a binary frame; this protocol has only text.
    pub const UNSUPPORTED: Self = Self(1003);
    /// The client sent a text frame that is not UTF-8.
    pub const INVALID_UTF8: Self = Self(1007);
    /// Policy: too many refused frames, endless control frames or fragments, or a message not
    /// complete in time or while memory was short.
    pub const POLICY: Self = Self(1008);
    /// The client sent a frame, or a message of several frames, over the limit.
    pub const TOO_LARGE: Self = Self(1009);
    /// The node restarts.
    pub const RESTART: Self = Self(1012);
    /// The server lost sync with this socket and prefers a clean start.
    pub const RESYNC: Self = Self(4000);
    /// There was data to send, and the client accepted none for the stall timeout, or while the
    /// node needed its memory.
    pub const STALLED: Self = Self(4008);
    /// Nothing arrived from the client within two heartbeats, not even a pong.
    pub const SILENT: Self = Self(4009);
}
