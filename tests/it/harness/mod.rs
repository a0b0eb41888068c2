//! What the tests stand on: private databases, a node in this process or as a real one, clients.
//!
//! It mocks nothing. There are no fixed ports and no sleeps for luck: whoever waits, waits for an
//! event, at most `PATIENCE`, and then says what it saw. Not every test file uses every part, nor
//! does `benches/suite`, which runs the same servers.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod client;
pub mod daemon;
#[cfg(target_os = "linux")]
pub mod disk;
pub mod http;
pub mod node;
pub mod pooler;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod redis;
pub mod sandbox;
pub mod services;

#[cfg(test)]
mod smoke;

use std::time::Duration;

pub use client::Client;
pub use node::World;

/// How long a test waits for what must happen. Long, because it is only ever waited out by a test
/// that fails, and a machine that builds something else meanwhile is slow, and stands still now and
/// then, for seconds. Shorter than a heartbeat: whoever hears nothing else has waited in vain.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes two tests of each `async fn name(world: World)`: `sqlite::name` and `postgres::name`.
/// A function that is not listed is never used, which the compiler says.
macro_rules! on_both_logs {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::harness::World::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::harness::World::postgres().await).await;
            })+
        }
    };
}
pub(crate) use on_both_logs;
