//! The durable log, tested from outside: one suite for both logs, then what is special to each.

pub mod appending;
mod damage;
mod file;
mod hosts;
mod location;
mod model;
mod older;
mod outbox;
mod pooler;
mod postgres;
mod postgres_faults;
pub mod private_postgres;
mod reading;
mod sqlite;
mod suite;
mod time;
