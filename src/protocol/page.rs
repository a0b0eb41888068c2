//! A page of history as a frame: whole, or piece by piece as it is read.
//!
//! Its events are the same bytes that followers get.

use serde::Serialize;

use super::frame::{Frame, to_json};
use crate::model::{ClientId, RoomName, Seq};

/// Approximate size of a `history` beyond its events: names, keys and seqs.
pub const ENVELOPE_BYTES: usize = 512;

/// A page whose events are all there.
pub fn whole(room: &RoomName, events: &[(Seq, Frame)], more: bool, id: Option<&ClientId>) -> Frame {
    let len: usize = events.iter().map(|(_, frame)| frame.payload().len() + 1).sum();
    let mut json = Vec::with_capacity(len + ENVELOPE_BYTES);
    begin(&mut json, room);
    put(&mut json, events);
    let seq = |event: &(Seq, Frame)| event.0;
    end(&mut json, (events.first().map(seq), events.last().map(seq)), more, id);
    Frame::text(&json)
}

/// The beginning of a `history`, up to its first event.
pub fn begin(json: &mut Vec<u8>, room: &RoomName) {
    json.extend_from_slice(b"{\"type\":\"history\",\"room\":");
    json.extend_from_slice(&to_json(room.as_str()));
    json.extend_from_slice(b",\"events\":[");
}

/// Events of a `history`, with commas between them.
pub fn put(json: &mut Vec<u8>, events: &[(Seq, Frame)]) {
    for (index, (_, frame)) in events.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        json.extend_from_slice(frame.payload());
    }
}

/// The end of a `history`, after its last event. `ends`: the seqs of its first and last event, if
/// there are any.
pub fn end(
    json: &mut Vec<u8>,
    (first, last): (Option<Seq>, Option<Seq>),
    more: bool,
    id: Option<&ClientId>,
) {
    #[derive(Serialize)]
    struct Tail<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        first: Option<Seq>,
        #[serde(skip_serializing_if = "Option::is_none")]
        last: Option<Seq>,
        more: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    let tail = Tail { first, last, more, id: id.map(ClientId::as_str) };
    json.extend_from_slice(b"],");
    // Without the tail's opening brace: its keys continue the object.
    json.extend_from_slice(&to_json(&tail)[1..]);
}
