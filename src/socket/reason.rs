//! Why a socket is over, and what is said about it. It does not decide; it names.

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;

use crate::protocol::close::CloseCode;

/// Why a socket is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed, with this code (1005 if it gave none).
    Peer(u16),
    /// The connection broke, or ended without a close frame. Mobile clients do it all the time.
    Lost,
    /// The client sent what is against RFC 6455 or over the limit.
    Refused(CloseCode, &'static str),
    /// The client took nothing for the stall timeout.
    Stalled,
    /// The client took nothing for a while, and the node needs the memory of what waits for it.
    Evicted,
    /// Nothing was heard of the client within two heartbeats.
    Silent,
}

impl CloseReason {
    /// The client began a message and did not finish it.
    pub const UNFINISHED: Self =
        Self::Refused(CloseCode::POLICY, "a message took too long to come whole");

    /// What to close with. For `Peer` and `Lost` it is never sent: nobody is there to read it.
    pub fn code(self) -> CloseCode {
        match self {
            Self::Peer(_) | Self::Lost => CloseCode::NORMAL,
            Self::Refused(code, _) => code,
            Self::Stalled | Self::Evicted => CloseCode::STALLED,
            Self::Silent => CloseCode::SILENT,
        }
    }

    /// The words beside the code; at most 123 bytes, which is what a close frame holds.
    pub fn text(self) -> &'static str {
        match self {
            Self::Peer(_) | Self::Lost => "",
            Self::Refused(_, text) => text,
            Self::Stalled => "took nothing for too long",
            Self::Evicted => "took nothing while memory was short",
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
                    Breach::UnmaskedFrameFromClient => "a client must mask its frames",
                    Breach::NonZeroReservedBits => "reserved bits without an extension",
                    Breach::FragmentedControlFrame => "fragmented control frame",
                    Breach::ControlFrameTooBig => "control frame over 125 bytes",
                    Breach::UnexpectedContinueFrame => "nothing to continue",
                    Breach::ExpectedFragment(_) => "a message inside another's fragments",
                    Breach::InvalidCloseSequence => "malformed close frame",
                    _ => "against the WebSocket protocol",
                },
            ),
            // The connection's own errors; the others belong to the handshake or to writing, and
            // a read does not give them.
            _ => Self::Lost,
        }
    }
}
