//! Clients that put the promise of a cluster to the test, and the record of what they saw.
//!
//! It knows URLs, and nothing of nodes, processes or faults: whoever wants some, makes them while
//! it runs. It judges nothing: `verbatim_checker` does. It shares nothing with the server but the
//! description of the protocol.
//!
//! Of `verbatim_client` it uses the connections and frames, and not the `Client` above them, which
//! drops duplicates and mends holes: the checker must see them.
//!
//! - `plan`: what a seed decides; `text`: what is said
//! - `client`: what every client does
//! - `talker`, with its `shadow`s, and `follower`
//! - `recorder`: the history while it is made
//! - `run`: from the first room to the last event
//! - `report`: what came of it, for a person

mod client;
mod follower;
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
pub use verbatim_client::{BadUrl, Target};

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
    /// What did not come to an end in its time.
    pub troubles: Vec<&'static str>,
}

impl Verified {
    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.report.is_clean() && self.troubles.is_empty()
    }

    /// What it came to, as lines for a person.
    pub fn table(&self) -> String {
        report::table(self)
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
    let troubles = std::mem::take(&mut run.troubles);
    let history = run.over().await;
    tell("judging");
    let report = check(&history);
    Ok(Verified { history, report, reconnects, troubles })
}
