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
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use verbatim_checker::{History, Report, check};

pub use self::line::{BadUrl, Target};
pub use self::report::thousands;
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

/// Between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A run that is over and judged.
pub struct Verified {
    pub history: History,
    pub report: Report,
    pub reconnects: u64,
}

impl Verified {
    /// What it came to, as lines for a person.
    pub fn table(&self) -> String {
        report::table(&self.history, &self.report, self.reconnects)
    }
}

/// Lets the clients talk for so long, reads everything back, and judges it. `tell` gets a line of
/// progress now and then.
pub async fn run(
    settings: Settings,
    planned: Duration,
    tell: impl Fn(&str),
) -> Result<Verified, NotReady> {
    tell("making rooms");
    let mut run = Run::begin(settings).await?;
    let begun = Instant::now();
    while begun.elapsed() < planned {
        tell(&report::progress(run.recorder(), begun.elapsed(), planned));
        tokio::time::sleep(TELL_EVERY.min(planned.saturating_sub(begun.elapsed()))).await;
    }
    // Whoever disturbs it by hand does so while they talk.
    run.healed();
    tell("waiting for the last answers");
    run.hush().await;
    tell("reading everything back");
    run.end().await;
    let reconnects = run.recorder().counters.reconnects.load(Ordering::Relaxed);
    let history = run.over().await;
    tell("judging");
    let report = check(&history);
    Ok(Verified { history, report, reconnects })
}
