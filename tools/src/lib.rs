//! The clients behind `verbatim bench`, which measures a server, and `verbatim verify`, which tests
//! what it promises.
//!
//! They connect to URLs like any client and share no code with the server. Each module says in
//! which order to read it.

/// The load generator of `verbatim bench`.
pub mod bench;
/// The clients of `verbatim verify`, which test what a cluster promises.
pub mod verify;
