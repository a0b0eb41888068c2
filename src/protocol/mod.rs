//! The wire protocol, version 1: what clients may say and what they are told. No I/O.

pub mod frame;
