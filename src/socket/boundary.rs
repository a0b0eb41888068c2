//! Follows the bytes on their way to the codec, to know when it holds none of them.
//!
//! The codec cannot be asked what is in it. The socket lets go of it between two messages (see
//! `codec`), and must know that nothing is lost with it: no part of a frame, and no part of a
//! message. It checks nothing; what breaks the protocol is the codec's business.

/// Where the stream of the client's bytes stands.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    /// The header being read: two bytes, up to eight of length, four of mask.
    header: [u8; 14],
    /// How many of them have come.
    header_len: u8,
    /// Bytes still to come of the payload whose header is complete.
    payload_left: u64,
    /// A message has begun whose last fragment has not.
    in_message: bool,
}

impl Boundary {
    /// Whether the next byte begins a message.
    pub fn is_between_messages(&self) -> bool {
        self.header_len == 0 && self.payload_left == 0 && !self.in_message
    }

    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skip = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= skip;
                bytes = &bytes[skip as usize..];
                continue;
            }
            self.header[usize::from(self.header_len)] = bytes[0];
            self.header_len += 1;
            bytes = &bytes[1..];
            if self.header_len == self.header_size() {
                self.on_header();
            }
        }
    }

    /// The size of the header, as far as can be told by now; more than two only from the second
    /// byte on.
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

    fn on_header(&mut self) {
        let long = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        self.payload_left = match self.header[1] & 0x7F {
            126 => long(&self.header[2..4]),
            127 => long(&self.header[2..10]),
            short => u64::from(short),
        };
        // Control frames (from 8 on) may stand between fragments, and are never fragments.
        if self.header[0] & 0x0F < 8 {
            self.in_message = self.header[0] & 0x80 == 0;
        }
        self.header_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each text is a stream of frames, `first byte, payload length, masked`; the answer is whether
    /// its end lies between messages, and no other place does but the ends of those listed.
    #[test]
    fn only_the_ends_of_messages_lie_between_messages() {
        let stream: &[(u8, usize, bool, bool)] = &[
            (0x81, 5, true, true),
            (0x81, 0, false, true),
            (0x01, 200, true, false),
            (0x89, 4, true, false),
            (0x00, 70_000, true, false),
            (0x80, 0, true, true),
            (0x82, 125, true, true),
            (0x89, 0, true, true),
            (0x82, 65_535, false, true),
        ];
        let mut boundary = Boundary::default();
        assert!(boundary.is_between_messages());
        for (first, len, masked, ends_between) in stream {
            let mut frame = vec![*first];
            let mask_bit = if *masked { 0x80 } else { 0 };
            match *len {
                0..=125 => frame.push(mask_bit | *len as u8),
                126..=65_535 => {
                    frame.push(mask_bit | 126);
                    frame.extend((*len as u16).to_be_bytes());
                }
                _ => {
                    frame.push(mask_bit | 127);
                    frame.extend((*len as u64).to_be_bytes());
                }
            }
            frame.resize(frame.len() + if *masked { 4 } else { 0 } + len, 0xFF);
            let (last, before) = frame.split_last().unwrap();
            for byte in before {
                boundary.follow(&[*byte]);
                assert!(!boundary.is_between_messages());
            }
            boundary.follow(&[*last]);
            assert_eq!(boundary.is_between_messages(), *ends_between, "{first:#x}, {len} bytes");
        }
    }
}
