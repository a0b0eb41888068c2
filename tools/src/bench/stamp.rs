//! The stamp in the text of a message: when the message was due, and to which node its sender is
//! connected.
//!
//! Latency is counted from the time when a message was due, not from when its bytes were sent.
//! Otherwise, a server that delays the generator would hide its own delay ("coordinated omission").

use memchr::memmem::Finder;

/// The beginning of a stamp. No JSON escape and no name of a room or user contains it.
const MARK: &[u8; 2] = b"@@";
/// The mark, 16 digits of time, and two digits of the node.
pub const LEN: usize = 20;

/// Written as `@@`, the nanoseconds in 16 hexadecimal digits, and the node in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since the generator's start.
    pub nanos: u64,
    /// The index, in the list of URLs, of the node that the sender is connected to.
    pub node: u8,
}

impl Stamp {
    pub fn write(self, out: &mut [u8]) {
        out[..2].copy_from_slice(MARK);
        put_hex(&mut out[2..18], self.nanos);
        put_hex(&mut out[18..LEN], u64::from(self.node));
    }

    /// The stamp at the beginning of `bytes`.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let digits = bytes.get(..LEN)?.strip_prefix(MARK)?;
        let nanos = hex(&digits[..16])?;
        Some(Self { nanos, node: hex(&digits[16..])? as u8 })
    }
}

/// Finds stamps anywhere in a frame, without parsing it.
pub struct Stamps(Finder<'static>);

impl Default for Stamps {
    fn default() -> Self {
        Self(Finder::new(MARK))
    }
}

impl Stamps {
    pub fn first(&self, bytes: &[u8]) -> Option<Stamp> {
        Stamp::read(&bytes[self.0.find(bytes)?..])
    }
}

/// The lowest digits of `value`, as many as there is room for.
pub fn put_hex(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 0xF) as usize];
        value >>= 4;
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_as_it_was_written() {
        let stamp = Stamp { nanos: 0x0123_4567_89ab_cdef, node: 2 };
        let mut text = b"{\"message\":\"....................xx@\"}".to_vec();
        stamp.write(&mut text[12..32]);
        assert_eq!(&text[12..32], b"@@0123456789abcdef02");
        assert_eq!(Stamps::default().first(&text), Some(stamp));
        assert_eq!(Stamps::default().first(b"@@0123456789abcdeX02"), None);
    }
}
