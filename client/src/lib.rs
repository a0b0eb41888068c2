//! Talks to a Verbatim server, as docs/protocol.md says a client should.
//!
//! A [`Connection`] is one WebSocket, and its frames as they come; it hides nothing. [`frame`] says
//! what the frames have in them.

#![warn(missing_docs)]

mod connection;
pub mod frame;

pub use self::connection::{BadUrl, Connection, Gone, Target, Waits};
