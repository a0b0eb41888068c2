//! Talks to a Verbatim server, as docs/protocol.md says a client should.
//!
//! A [`Client`] is what most programs want. It connects, comes back after every break, follows each
//! room from where it was, and sends each message until it is stored: you get every event once and
//! in order, and every message is written once.
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
//! Below it is a [`Connection`]: one WebSocket, and its frames as they come. Who tests a server
//! wants that one, because it hides nothing. [`frame`] says what the frames have in them.

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

/// The examples in the documentation are compiled with those of this page.
#[cfg(doctest)]
#[doc = include_str!("../../docs/clients.md")]
struct Documentation;
