//! The wire protocol, version 1: what clients may say and what they are told.
//!
//! It does no I/O and decides nothing. `table` lists the commands, `command` is the way in,
//! `frame`, `page`, `signal` and `error` are the way out, `close` is the end; docs/protocol.md says
//! the same for people.

pub mod close;
pub mod command;
pub mod error;
pub mod fields;
pub mod frame;
pub mod page;
pub mod signal;
pub mod table;
