//! A message on the channel of events, where anybody can publish.
//!
//! As it is, nothing in it may be believed: it has no seal. With the head that a node of this log
//! writes, what was believed must be the bytes that were sealed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use verbatim::mirror::{Seal, read_message};

fuzz_target!(|message: &[u8]| {
    let ours = Seal::new(b"the secret of a log");
    assert_eq!(read_message(message.to_vec(), &ours), None);
    let Some((b'{', inside)) = message.split_first() else { return };
    let head = format!("{{\"seal\":\"{}\",\"stream_id\":\"1-2\",", ours.of(message));
    if let Some(event) = read_message([head.as_bytes(), inside].concat(), &ours) {
        assert_eq!(event.frame.payload(), message);
    }
});
