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
//! neither case if something has arrived: what was read is answered.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::Wait;
use super::exchange;
use super::line::Line;
use super::routes::Visit;

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
    permit.waits(Wait::FirstByte);
    let mut came = comes(&visit, &line, head_time).await;
    // Silence is part of the time that the first head may take.
    let mut left = head_time.saturating_sub(accepted.elapsed());
    while came && permit.speaks() {
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
