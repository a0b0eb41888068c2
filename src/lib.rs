//! Verbatim: a self-hosted chat server that keeps every word.

pub mod config;
pub mod decide;
pub mod model;
pub mod protocol;
