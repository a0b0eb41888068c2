//! WebSocket frames as a client writes and reads them, directly on bytes (RFC 6455, section 5).
//!
//! It checks only what a load generator needs: if a server breaks the framing, the next frame
//! cannot be understood. Frames of servers are not masked, and the measured servers do not
//! fragment.

/// What a frame is (RFC 6455, section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

/// The header of the longest frame a server sends: two bytes and a length of eight.
const SERVER_HEADER_BYTES_MAX: usize = 10;
/// A mask of zeros is valid, and leaves the payload readable, so that it can be patched in place.
/// Masks protect proxies that do not know WebSocket, of which there are none here.
const MASK: [u8; 4] = [0; 4];

/// One frame of a server, and how many bytes it takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// The four bits of the opcode.
    pub opcode: u8,
    pub payload: &'a [u8],
    pub len: usize,
}

/// The first frame in `bytes`; `None` while it is not complete.
pub fn split(bytes: &[u8]) -> Option<Received<'_>> {
    let [first, second, ..] = *bytes else { return None };
    let (header, payload) = match second & 0x7F {
        126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => {
            let len = bytes.get(2..SERVER_HEADER_BYTES_MAX)?;
            (SERVER_HEADER_BYTES_MAX, u64::from_be_bytes(len.try_into().ok()?))
        }
        short => (2, u64::from(short)),
    };
    let len = header.checked_add(usize::try_from(payload).ok()?)?;
    Some(Received { opcode: first & 0x0F, payload: bytes.get(header..len)?, len })
}

/// Appends one masked frame to `out`, and returns where its payload begins.
pub fn put(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) -> usize {
    const FIN: u8 = 0x80;
    const MASKED: u8 = 0x80;
    out.push(FIN | opcode as u8);
    match payload.len() {
        len @ 0..=125 => out.push(MASKED | len as u8),
        len @ 126..=0xFFFF => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    start
}

/// A single text frame.
pub fn text(payload: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, Opcode::Text, payload.as_bytes());
    out
}

/// A frame as servers send it, encoded by another library.
#[cfg(test)]
pub fn from_server(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
    let header = FrameHeader { opcode: (opcode as u8).into(), ..FrameHeader::default() };
    let mut out = Vec::new();
    let frame = Frame::from_payload(header, payload.to_vec().into());
    frame.format(&mut out).expect("a vector takes everything");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_encodes_is_split_into_the_same() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; len];
            let mut bytes = from_server(Opcode::Text, &payload);
            let whole = bytes.len();
            bytes.extend_from_slice(b"\x81\x01y");
            let received = Received { opcode: 1, payload: &payload, len: whole };
            assert_eq!(split(&bytes), Some(received));
            assert_eq!(split(&bytes[..whole - 1]), None, "of {len} bytes");
        }
        assert_eq!(split(b""), None);
        assert_eq!(split(b"\x81\x7f\0\0\0\0"), None);
        assert_eq!(split(b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"), None, "no overflow");
    }

    #[test]
    fn a_masked_frame_says_so_and_where_its_payload_is() {
        for len in [0, 125, 126, 65_536] {
            let payload = vec![b'x'; len];
            let mut out = b"before".to_vec();
            let start = put(&mut out, Opcode::Binary, &payload);
            assert_eq!(out[6], 0x82);
            assert_eq!(out[7] & 0x80, 0x80, "masked");
            assert_eq!(&out[start - 4..start], &MASK);
            assert_eq!(&out[start..], &payload);
        }
    }
}
