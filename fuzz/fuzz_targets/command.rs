//! A text frame, or what a request says: text in, a checked command or a refusal out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use verbatim::model::{RoomName, UserId};
use verbatim::protocol::command::Request;
use verbatim::protocol::table::CommandType;

/// The default of `session.message_bytes_max`.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

fuzz_target!(|text: &str| {
    let Ok(Request { command, .. }) = Request::parse(text, MESSAGE_BYTES_MAX) else { return };
    assert_eq!(CommandType::named(command.kind().name()), Some(command.kind()));
    // What was taken is valid: nothing behind the parser checks it again.
    let room = command.room().map(|room| RoomName::parse(room.as_str()));
    assert!(room.is_none_or(|room| room.is_ok()));
    let user = command.user().map(|user| UserId::parse(user.as_str()));
    assert!(user.is_none_or(|user| user.is_ok()));
});
