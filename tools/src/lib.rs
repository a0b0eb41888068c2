//! What measures a Verbatim server and puts its promise to the test: the clients behind `verbatim
//! bench` and `verbatim verify`.
//!
//! They talk to URLs as any client does and use nothing of the server. Each module says in which
//! order to read it.

/// A load generator, for `verbatim bench`.
pub mod bench;
/// Clients that put a cluster's promise to the test, for `verbatim verify`.
pub mod verify;
