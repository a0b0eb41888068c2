//! Why a socket is over, and what is said about it.

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;

use crate::protocol::close::CloseCode;

/// Why a socket is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed, with this code (1005 if it sent none).
    Peer(u16),
    /// The connection broke, or ended without a close frame, as mobile clients often do.
    Lost,
    /// The client violated RFC 6455 or a limit.
    Refused(CloseCode, &'static str),
    /// The client took nothing for the stall timeout.
    Stalled,
    /// The client took nothing for a while, and the node needs the memory of its queue.
    Evicted,
    /// Nothing was heard from the client for two heartbeats.
    Silent,
}

impl CloseReason {
    /// The client began a message and did not finish it.
    pub const UNFINISHED: Self = Self::Refused(CloseCode::POLICY, "message not complete in time");
    /// The client began a message, and the node needs the memory of what has arrived.
    pub const UNFINISHED_EVICTED: Self =
        Self::Refused(CloseCode::POLICY, "message not complete while memory was short");

    /// The code to close with. For `Peer` and `Lost` it is never sent: nobody is there to read it.
    pub fn code(self) -> CloseCode {
        match self {
            Self::Peer(_) | Self::Lost => CloseCode::NORMAL,
            Self::Refused(code, _) => code,
            Self::Stalled | Self::Evicted => CloseCode::STALLED,
            Self::Silent => CloseCode::SILENT,
        }
    }

    /// The close frame's text; at most 123 bytes fit.
    pub fn text(self) -> &'static str {
        match self {
            Self::Peer(_) | Self::Lost => "",
            Self::Refused(_, text) => text,
            Self::Stalled => "accepted no data for too long",
            Self::Evicted => "accepted no data while memory was short",
            Self::Silent => "no pong within two heartbeats",
        }
    }

    /// What the codec's error means for the client.
    pub(super) fn of(error: &Error) -> Self {
        use ProtocolError as Breach;
        match error {
            Error::Capacity(_) => Self::Refused(CloseCode::TOO_LARGE, "frame too large"),
            Error::Utf8(_) => Self::Refused(CloseCode::INVALID_UTF8, "text is not UTF-8"),
            Error::Protocol(Breach::ResetWithoutClosingHandshake) => Self::Lost,
            Error::Protocol(breach) => Self::Refused(
                CloseCode::PROTOCOL_ERROR,
                match breach {
                    Breach::UnmaskedFrameFromClient => "client frames must be masked",
                    Breach::NonZeroReservedBits => "reserved bits without an extension",
                    Breach::FragmentedControlFrame => "fragmented control frame",
                    Breach::ControlFrameTooBig => "control frame over 125 bytes",
                    Breach::UnexpectedContinueFrame => "continuation frame without a message",
                    Breach::ExpectedFragment(_) => "new message inside a fragmented one",
                    Breach::InvalidCloseSequence => "malformed close frame",
                    _ => "WebSocket protocol error",
                },
            ),
            // The connection's own errors. The others belong to the handshake or to writing, and
            // reading does not return them.
            _ => Self::Lost,
        }
    }
}
