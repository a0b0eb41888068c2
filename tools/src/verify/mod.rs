//! Clients that test what a cluster promises, and the record of what they saw.
//!
//! It knows only URLs. Nodes, processes and faults are outside: cause faults while it runs.
//! `verbatim_checker` judges the record. Only the description of the protocol is shared with the
//! server.
//!
//! It uses the connections and frames of `verbatim_client`, but not its `Client`, which drops
//! duplicates and repairs holes: the checker must see them.
//!
//! - `plan`: what a seed decides; `text`: the texts of messages
//! - `client`: what every client does
//! - `talker`, with its `shadow`s, and `follower`
//! - `recorder`: the history while it is recorded
//! - `run`: a run, from creating rooms to reading them back
//! - `report`: the result, for people

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

/// The seq up to which every follower must have seen each room.
pub type Ends = BTreeMap<String, u64>;

/// What the clients do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// What their plans say.
    Talk,
    /// Nothing new. Commands get their answers, and users who left join again.
    Hush,
    /// They wait for missing events.
    End(Arc<Ends>),
    /// Nothing: the run is over.
    Over,
}

/// The time between two progress lines.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A finished run, and the checker's verdict.
pub struct Verified {
    pub history: History,
    pub report: Report,
    pub reconnects: u64,
    /// What did not finish in time.
    pub troubles: Vec<&'static str>,
}

impl Verified {
    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.report.is_clean() && self.troubles.is_empty()
    }

    /// The result as text for people.
    pub fn table(&self) -> String {
        report::table(self)
    }
}

/// Lets the clients talk for the time `planned`, reads everything back, and has it judged. `tell`
/// gets progress lines.
pub async fn run(
    settings: Settings,
    planned: Duration,
    tell: impl Fn(&str),
) -> Result<Verified, NotReady> {
    tell("creating rooms");
    let mut run = Run::begin(settings).await?;
    let begun = Instant::now();
    while begun.elapsed() < planned {
        tell(&report::progress(run.recorder(), begun.elapsed(), planned));
        tokio::time::sleep(TELL_EVERY.min(planned.saturating_sub(begun.elapsed()))).await;
    }
    // People who disturb the cluster by hand do so while the clients talk.
    run.healed();
    tell("waiting for the last answers");
    run.hush().await;
    tell("reading everything back");
    run.end().await;
    let reconnects = run.recorder().counters.reconnects.load(Ordering::Relaxed);
    let troubles = std::mem::take(&mut run.troubles);
    let history = run.over().await;
    tell("checking");
    let report = check(&history);
    Ok(Verified { history, report, reconnects, troubles })
}
