//! Many nodes, one conversation: what they owe their clients while Redis, PostgreSQL and the nodes
//! themselves come and go.
//!
//! Two kinds of tests. Under load, a `Crowd` judges everything that was sent, told and shown. In
//! silence, one event is all there is, so that no later event can show that it is missing; and the
//! node that must hear it does not look into the log by itself (`by_redis_alone`).

mod away;
pub mod cluster;
mod conversation;
mod cut_off;
mod doubt;
mod first;
mod foreign;
mod full;
mod locked;
mod neighbours;
mod outbox;
mod probe;
mod restart;
mod silence;
mod slow;
mod version;
