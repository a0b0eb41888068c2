//! The seal on events in Redis: only who knows the log's secret can make it.
//!
//! Redis is shared: with other clusters, with people and their shells, with programs that publish.
//! An event that bears no seal of this log is not shown to anybody; at most it makes a node ask the
//! log. It is HMAC-SHA256 over the event as it is encoded, and costs about a microsecond to make
//! and as much to check.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac::{self, HMAC_SHA256, Key};

/// Its length in Base64.
pub(super) const SEAL_LEN: usize = 43;

/// What makes seals, and knows its own. Cheap to clone.
#[derive(Clone)]
pub struct Seal(Key);

impl Seal {
    /// `secret`: of the log, and of nothing else.
    pub fn new(secret: &[u8]) -> Self {
        Self(Key::new(HMAC_SHA256, secret))
    }

    /// For an event: `SEAL_LEN` letters of Base64, as in a URL.
    pub fn of(&self, event: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, event))
    }

    /// Whether the seal was made for just this event, with just this secret.
    pub fn is_on(&self, event: &[u8], seal: &[u8]) -> bool {
        let mut tag = [0; 32];
        let read = URL_SAFE_NO_PAD.decode_slice(seal, &mut tag);
        read == Ok(tag.len()) && hmac::verify(&self.0, event, &tag).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_seal_holds_for_its_event_and_its_secret_alone() {
        let (ours, theirs) = (Seal::new(b"ours"), Seal::new(b"theirs"));
        let seal = ours.of(b"an event");
        assert_eq!(seal.len(), SEAL_LEN);
        assert!(ours.is_on(b"an event", seal.as_bytes()));
        assert!(!ours.is_on(b"an evenT", seal.as_bytes()));
        assert!(!theirs.is_on(b"an event", seal.as_bytes()));
        assert!(!ours.is_on(b"an event", &seal.as_bytes()[1..]));
    }

    proptest! {
        #[test]
        fn no_other_bytes_are_a_seal(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(!Seal::new(b"secret").is_on(b"an event", &bytes));
        }
    }
}
