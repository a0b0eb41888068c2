//! All tests that need more than one module: one binary, so that one PostgreSQL and one Redis serve
//! them all. A line per behaviour; `harness` is what they stand on.

mod harness;

mod config;
mod log;
mod program;
mod socket;
mod tidy;
