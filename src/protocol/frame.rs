//! What the server sends: each answer and event as one JSON object in one WebSocket text frame.
//!
//! Keys stand in fixed order, `type` first, and nulls are left out. A frame is encoded once,
//! header and all, and its bytes are shared by every recipient: nothing in an event frame depends
//! on who receives it. It does not know sockets; it only knows what the bytes are.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use crate::model::{Event, Seq};

/// One unmasked, unfragmented WebSocket text frame (RFC 6455, section 5.2), ready to be written.
/// Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    header_len: usize,
}

impl Frame {
    /// Frames a text that is already JSON.
    pub fn text(payload: &[u8]) -> Self {
        let mut bytes = BytesMut::with_capacity(payload.len() + 10);
        let header_len = put_header(&mut bytes, payload.len());
        bytes.extend_from_slice(payload);
        Self { bytes: bytes.freeze(), header_len }
    }

    /// Frames a value. Serializing our own types cannot fail: no map has a key that is not text.
    pub fn json<T: Serialize>(value: &T) -> Self {
        let json = serde_json::to_vec(value).expect("our frames have string keys only");
        Self::text(&json)
    }

    /// Header and payload, as they go on the wire.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The JSON text alone.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.header_len..]
    }
}

/// FIN and opcode 1, no mask, and the shortest of the three length forms.
fn put_header(out: &mut BytesMut, payload_len: usize) -> usize {
    const FIN_TEXT: u8 = 0x81;
    out.put_u8(FIN_TEXT);
    match payload_len {
        0..=125 => out.put_u8(payload_len as u8),
        126..=0xFFFF => {
            out.put_u8(126);
            out.put_u16(payload_len as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(payload_len as u64);
        }
    }
    out.len()
}

/// The one shape of every durable event: the command's own fields, then `seq` and `at`.
#[derive(Serialize)]
struct EventFrame<'a> {
    r#type: &'static str,
    room: &'a str,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    seq: Seq,
    at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
}

/// Encodes an event; the same event always gives the same bytes, on every node and at every time.
pub fn event(event: &Event) -> Frame {
    Frame::json(&EventFrame {
        r#type: event.kind.name(),
        room: event.room.as_str(),
        user_id: event.user.as_str(),
        message: event.kind.body(),
        seq: event.seq,
        at: &event.at.to_string(),
        client_id: event.client_id.as_ref().map(|id| id.as_str()),
    })
}
