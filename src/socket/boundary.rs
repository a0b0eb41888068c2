//! Follows the bytes on their way to the codec: where frames and messages end, how many frames
//! there were, and which bytes the codec must not get yet.
//!
//! The codec does not say what it holds. The socket drops it between two messages (see `codec`),
//! and must know that no part of a frame or message is lost.
//!
//! And the codec trusts what a client announces: it allocates a whole frame as soon as it has seen
//! its header. So a long frame is *held back* until it is whole ([`Boundary::follow`] returns how
//! much is held), and its memory grows with what has arrived, not with what was announced. Frames
//! that violate the protocol or are too large are left to the codec, and not held back.

/// Opcodes from this one on are control frames (RFC 6455, section 5.2).
const CONTROL: u8 = 8;

/// The state of the client's byte stream.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    /// The header being read: two bytes, up to eight of length, four of mask.
    header: [u8; 14],
    /// How many of them have arrived.
    header_len: u8,
    /// The frame is held back until it is whole.
    is_held: bool,
    /// A message has begun whose last fragment has not ended.
    in_message: bool,
    /// Whether a message is unfinished after the current frame.
    ends_in_message: bool,
    /// Bytes of the payload still to come, once the header is complete.
    payload_left: u64,
    /// Bytes of the current frame that are held back.
    held_len: usize,
    /// Bytes of the current message's fragments that the codec has.
    message_len: usize,
    /// Frames since `take_frames`, except those that end a message: control frames, and all but the
    /// last fragment of a message.
    frames: u32,
    /// A message ended since `take_ended`, and no other was unfinished.
    has_ended: bool,
}

/// Which frames are held back: longer than `above`, and not longer than `up_to`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub above: usize,
    pub up_to: usize,
}

impl Boundary {
    /// Whether what is not held back ends between two messages.
    pub fn is_between_messages(&self) -> bool {
        !self.in_message && (self.payload_left == 0 || self.is_held)
    }

    /// Whether everything that has arrived ends between two messages.
    pub fn is_whole(&self) -> bool {
        !self.in_message && self.payload_left == 0 && self.header_len == 0
    }

    /// Bytes of an unfinished message that the codec keeps.
    pub fn message_len(&self) -> usize {
        self.message_len
    }

    /// Frames that have begun since the last call, except those that end a message.
    pub fn take_frames(&mut self) -> u32 {
        std::mem::take(&mut self.frames)
    }

    /// Whether a message has ended since the last call, so that an unfinished one is another.
    pub fn take_ended(&mut self) -> bool {
        std::mem::take(&mut self.has_ended)
    }

    /// Takes what has arrived. Returns how many bytes, at the end of everything so far, are held
    /// back.
    pub fn follow(&mut self, mut bytes: &[u8], held: Held) -> usize {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skip = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= skip;
                self.held_len += skip as usize;
                bytes = &bytes[skip as usize..];
            } else {
                self.header[usize::from(self.header_len)] = bytes[0];
                self.header_len += 1;
                self.held_len += 1;
                bytes = &bytes[1..];
                if self.header_len < self.header_size() {
                    continue;
                }
                self.on_header(held);
            }
            if self.payload_left == 0 {
                self.on_end();
            }
        }
        if self.is_held || self.header_len > 0 { self.held_len } else { 0 }
    }

    /// The size of the header, as far as is known; more than two only from the second byte on.
    fn header_size(&self) -> u8 {
        if self.header_len < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 != 0 { 4 } else { 0 };
        2 + length + mask
    }

    fn on_header(&mut self, held: Held) {
        let long = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        self.payload_left = match self.header[1] & 0x7F {
            126 => long(&self.header[2..4]),
            127 => long(&self.header[2..10]),
            short => u64::from(short),
        };
        // Control frames may come between fragments, and are never fragments.
        let is_control = self.header[0] & 0x0F >= CONTROL;
        self.ends_in_message =
            if is_control { self.in_message } else { self.header[0] & 0x80 == 0 };
        self.message_len = match (self.ends_in_message, is_control) {
            (false, _) => 0,
            (true, true) => self.message_len,
            (true, false) => self
                .message_len
                .saturating_add(usize::try_from(self.payload_left).unwrap_or(usize::MAX)),
        };
        self.is_held =
            self.payload_left > held.above as u64 && self.payload_left <= held.up_to as u64;
        self.header_len = 0;
        if is_control || self.ends_in_message {
            self.frames = self.frames.saturating_add(1);
        }
    }

    fn on_end(&mut self) {
        self.in_message = self.ends_in_message;
        self.has_ended |= !self.in_message;
        self.is_held = false;
        self.held_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELD: Held = Held { above: 300, up_to: 2000 };

    /// A frame, and what is known about it.
    #[derive(Clone, Debug)]
    struct Frame {
        bytes: Vec<u8>,
        payload_len: usize,
        is_control: bool,
        is_last: bool,
    }

    fn frame(opcode: u8, is_last: bool, len: usize, is_masked: bool) -> Frame {
        let mask_bit = if is_masked { 0x80 } else { 0 };
        let mut bytes = vec![opcode | if is_last { 0x80 } else { 0 }];
        match len {
            0..=125 => bytes.push(mask_bit | len as u8),
            126..=65_535 => {
                bytes.push(mask_bit | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask_bit | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.resize(bytes.len() + if is_masked { 4 } else { 0 } + len, 0xFF);
        Frame { bytes, payload_len: len, is_control: opcode >= CONTROL, is_last }
    }

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let len = prop_oneof![0..130_usize, 290..310_usize, 1990..2010_usize, Just(70_000)];
        let one = (0..3_u8, any::<bool>(), any::<bool>(), len, 0..126_usize, any::<bool>());
        let one =
            one.prop_map(|(opcode, is_control, is_last, len, small, is_masked)| match is_control {
                true => frame(CONTROL + opcode, true, small, is_masked),
                false => frame(opcode, is_last, len, is_masked),
            });
        prop::collection::vec(one, 1..12)
    }

    /// A simple model for the first bytes of these frames: how many of them are held back, whether
    /// the others end between two messages, and whether all do.
    fn model(frames: &[Frame], len: usize) -> (usize, bool, bool) {
        let (mut begin, mut in_message) = (0, false);
        for frame in frames {
            let end = begin + frame.bytes.len();
            let header_len = frame.bytes.len() - frame.payload_len;
            if len < end {
                let came = len - begin;
                let is_long = frame.payload_len > HELD.above && frame.payload_len <= HELD.up_to;
                let is_held = came < header_len || is_long;
                let held = if is_held { came } else { 0 };
                return (held, !in_message && is_held, !in_message && came == 0);
            }
            if !frame.is_control {
                in_message = !frame.is_last;
            }
            begin = end;
        }
        (0, !in_message, !in_message)
    }

    proptest! {
        /// However the bytes are cut into reads.
        #[test]
        fn unfinished_frames_are_held_back(
            frames in frames(),
            cuts in prop::collection::vec(1..5000_usize, 1..50),
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes.clone()).collect();
            let (mut boundary, mut len, mut cuts) = (Boundary::default(), 0, cuts.iter().cycle());
            while len < stream.len() {
                let cut = (len + cuts.next().unwrap()).min(stream.len());
                let held = boundary.follow(&stream[len..cut], HELD);
                len = cut;
                let known = (held, boundary.is_between_messages(), boundary.is_whole());
                prop_assert_eq!(known, model(&frames, len), "after {} bytes", len);
            }
            let others = frames.iter().filter(|frame| frame.is_control || !frame.is_last).count();
            prop_assert_eq!(boundary.take_frames() as usize, others);
            prop_assert_eq!(boundary.take_frames(), 0);
        }

        /// Whatever arrives, nothing panics or overflows.
        #[test]
        fn any_bytes_are_followed(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut boundary = Boundary::default();
            let held = boundary.follow(&bytes, HELD);
            prop_assert!(held <= bytes.len());
        }
    }
}
