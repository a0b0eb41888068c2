//! Clients that put the promise of a cluster to the test, and the record of what they saw.
//!
//! It knows URLs, and nothing of nodes, processes or faults: whoever wants some, makes them while
//! it runs. It judges nothing: `verbatim_checker` does. It shares nothing with the server but the
//! description of the protocol.
//!
//! - `plan`: what a seed decides; `text`: what is said
//! - `line`: one connection; `client`: what every client does; `frame`: what is on the wire
//! - `talker`, with its `shadow`s, and `follower`
//! - `recorder`: the history while it is made
//! - `run`: from the first room to the last event
//! - `report`: what came of it, for a person

mod client;
mod follower;
mod frame;
mod line;
pub mod plan;
pub mod recorder;
mod report;
mod run;
mod shadow;
mod talker;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::line::{BadUrl, Target};
pub use self::report::{progress, table};
pub use self::run::{NotReady, Run, Settings};

/// The seq up to which everybody must have seen each room.
pub type Ends = BTreeMap<String, u64>;

/// What the clients are to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// What they like.
    Talk,
    /// Nothing new: what is under way gets its answer, and who left comes back.
    Hush,
    /// Waiting for what is missing.
    End(Arc<Ends>),
    /// Nothing any more.
    Over,
}
