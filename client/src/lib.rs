//! A client for Verbatim servers that does what docs/protocol.md asks of clients.
//!
//! Most programs want a [`Client`]. It connects, reconnects when a connection is lost, follows each
//! room from its position, and sends each message until it is stored. You get every event once and
//! in order, and every message is stored once.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use verbatim_client::{Client, Settings, Start, Update};
//!
//! let (client, mut updates) = Client::start(Settings::new("ws://127.0.0.1:8080/ws", "ada")?);
//! client.join("general", Start::Last(50)).await?;
//! client.send("general", "Hello World!").await?;
//! while let Some(update) = updates.next().await {
//!     if let Update::Event(event) = update {
//!         println!("{} {:?}", event.seq, event.message);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Below it is a [`Connection`]: one WebSocket, and its frames as they come. Programs that test a
//! server want this one, because it hides nothing. [`frame`] has the members of the frames.

#![warn(missing_docs)]

mod backoff;
mod client;
mod connection;
mod error;
mod event;
pub mod frame;
mod state;

pub use self::backoff::Backoff;
pub use self::client::{Client, Receipt, Settings, Updates};
pub use self::connection::{BadUrl, Connection, Gone, Target, Waits};
pub use self::error::{Error, Refused};
pub use self::event::{Event, Page, Update};
pub use self::state::Start;

/// Compiles the examples of docs/clients.md along with those in this package.
#[cfg(doctest)]
#[doc = include_str!("../../docs/clients.md")]
struct Documentation;
