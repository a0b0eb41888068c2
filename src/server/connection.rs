//! One connection, from when it was accepted to its end or its upgrade.
//!
//! Most of the time nothing is said on it. So HTTP (`exchange`), which takes much memory, is there
//! only while something is; before and between, a connection is a small task that waits:
//!
//! ```text
//! accepted ──▶ waits for the first byte ──▶ HTTP ──▶ a WebSocket, or the end
//!                                            │ ▲
//!                  all that was asked is     ▼ │
//!                  answered         waits for the next request
//! ```
//!
//! A connection that waits is closed when its time is over, or when another needs its place, and in
//! neither case if something has arrived: what was read is answered, if only with a refusal because
//! its place is another's by now.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::{Limit, Wait};
use super::line::Line;
use super::preamble::BYTES_MAX;
use super::routes::Visit;
use super::{exchange, preamble};

/// How long somebody beyond a limit may take to ask: others want to be told, too.
const BEYOND_TIME: Duration = Duration::from_secs(2);

pub async fn run(visit: Arc<Visit>, mut line: Line) {
    let (permit, config) = (visit.permit(), visit.config());
    let mut head_time = Duration::from_millis(config.header_timeout_ms);
    if permit.beyond().is_some() {
        head_time = head_time.min(BEYOND_TIME);
    }
    let keep_alive = Duration::from_millis(config.keep_alive_ms);
    let accepted = Instant::now();
    let mut came = comes(&visit, &line, head_time).await;
    // Silence is part of the time that the first head may take.
    let mut left = head_time.saturating_sub(accepted.elapsed());
    if came && visit.is_introduced() {
        // Boxed, as what follows.
        came = Box::pin(introduced(&visit, &mut line, left)).await;
        left = head_time.saturating_sub(accepted.elapsed());
        came = came && comes(&visit, &line, left).await;
        left = head_time.saturating_sub(accepted.elapsed());
    }
    while came {
        if !permit.speaks() {
            visit.note_refused(Limit::Http.reason());
            return;
        }
        // Also if it is beyond a limit only since it spoke.
        if permit.beyond().is_some() {
            left = left.min(BEYOND_TIME);
        }
        // Boxed, so that a connection that waits does not have room for it.
        let Some(idle) = Box::pin(exchange::serve(&visit, line, left)).await else { return };
        if permit.is_last() {
            return;
        }
        line = idle;
        permit.waits(Wait::NextRequest);
        came = comes(&visit, &line, keep_alive).await;
        left = head_time;
    }
}

/// Reads what a proxy says in front of its client's own words. `false`: it does not, or not in
/// time.
async fn introduced(visit: &Visit, line: &mut Line, patience: Duration) -> bool {
    let introduced = async {
        loop {
            match preamble::parse(line.ahead()) {
                Ok(Some(said)) => {
                    line.skip(said.len);
                    visit.introduce(said.client);
                    return true;
                }
                Ok(None) if line.read_ahead(BYTES_MAX).await.is_ok() => {}
                Ok(None) => return false,
                Err(err) => {
                    visit.is_not_introduced(&err);
                    return false;
                }
            }
        }
    };
    tokio::select! {
        // It may be called already, and have said all that it has to say.
        biased;
        introduced = introduced => introduced,
        () = visit.permit().called() => false,
        () = tokio::time::sleep(patience) => false,
        () = visit.tasks().sessions_ended() => false,
    }
}

/// Waits for something to come. `false`: nothing does.
async fn comes(visit: &Visit, line: &Line, patience: Duration) -> bool {
    let mut arrives = pin!(line.arrives());
    let patience = tokio::time::sleep(patience);
    tokio::select! {
        // What has arrived is answered, whatever else happens.
        biased;
        arrived = &mut arrives => arrived,
        () = visit.permit().called() => line.has_arrived(),
        () = patience => line.has_arrived(),
        () = visit.tasks().sessions_ended() => line.has_arrived(),
    }
}
