//! The wire protocol, version 1.
//!
//! It does no I/O and decides nothing. `table` lists the commands; `command` parses what clients
//! send; `frame`, `page`, `signal` and `error` encode what the server sends; `close` has the close
//! codes. docs/protocol.md describes the same for client authors.

pub mod close;
pub mod command;
pub mod error;
pub mod fields;
pub mod frame;
pub mod page;
pub mod signal;
pub mod table;
