//! One connection, from its acceptance to its end or upgrade.
//!
//! Most connections are idle most of the time, and HTTP (`exchange`) takes much memory. So HTTP
//! exists only while something is being said; before and between requests, a connection is a small
//! task that waits:
//!
//! ```text
//! accepted ──▶ waits for the first byte ──▶ HTTP ──▶ a WebSocket, or the end
//!                                            │ ▲
//!                  all requests are          ▼ │
//!                  answered         waits for the next request
//! ```
//!
//! A waiting connection is closed when its time is over or when another needs its slot, but not if
//! something has arrived: what was read is answered, even if only with a refusal because its slot
//! is taken.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::{Limit, Wait};
use super::preamble::BYTES_MAX;
use super::routes::Visit;
use super::transport::Transport;
use super::{exchange, preamble};

/// Time to ask for a connection beyond a limit. Short, because others want an answer as well.
const BEYOND_TIME: Duration = Duration::from_secs(2);

pub async fn run(visit: Arc<Visit>, mut transport: Transport) {
    let (permit, config) = (visit.permit(), visit.config());
    let mut head_time = Duration::from_millis(config.header_timeout_ms);
    if permit.beyond().is_some() {
        head_time = head_time.min(BEYOND_TIME);
    }
    let keep_alive = Duration::from_millis(config.keep_alive_ms);
    let accepted = Instant::now();
    let mut came = comes(&visit, &transport, head_time).await;
    // The wait for the first byte counts towards the time for the first head.
    let mut left = head_time.saturating_sub(accepted.elapsed());
    if came && visit.is_introduced() {
        // Boxed for the same reason as below.
        came = Box::pin(introduced(&visit, &mut transport, left)).await;
        left = head_time.saturating_sub(accepted.elapsed());
        came = came && comes(&visit, &transport, left).await;
        left = head_time.saturating_sub(accepted.elapsed());
    }
    while came {
        if !permit.speaks() {
            visit.note_refused(Limit::Http.reason());
            return;
        }
        // It may have gone beyond a limit only when it spoke.
        if permit.beyond().is_some() {
            left = left.min(BEYOND_TIME);
        }
        // Boxed, so that a waiting connection does not reserve space for it.
        let Some(idle) = Box::pin(exchange::serve(&visit, transport, left)).await else { return };
        if permit.is_last() {
            return;
        }
        transport = idle;
        permit.waits(Wait::NextRequest);
        came = comes(&visit, &transport, keep_alive).await;
        left = head_time;
    }
}

/// Reads the PROXY protocol preamble. `false`: there is none, or not in time.
async fn introduced(visit: &Visit, transport: &mut Transport, patience: Duration) -> bool {
    let introduced = async {
        loop {
            match preamble::parse(transport.ahead()) {
                Ok(Some(said)) => {
                    transport.skip(said.len);
                    visit.introduce(said.client);
                    return true;
                }
                Ok(None) if transport.read_ahead(BYTES_MAX).await.is_ok() => {}
                Ok(None) => return false,
                Err(err) => {
                    visit.is_not_introduced(&err);
                    return false;
                }
            }
        }
    };
    tokio::select! {
        // The first poll may find that the slot was called for; a preamble that has arrived still
        // counts.
        biased;
        introduced = introduced => introduced,
        () = visit.permit().called() => false,
        () = tokio::time::sleep(patience) => false,
        () = visit.tasks().sessions_ended() => false,
    }
}

/// Waits for data. `false`: none comes.
async fn comes(visit: &Visit, transport: &Transport, patience: Duration) -> bool {
    let mut arrives = pin!(transport.arrives());
    let patience = tokio::time::sleep(patience);
    tokio::select! {
        // Data that has arrived is answered, whatever else happens.
        biased;
        arrived = &mut arrives => arrived,
        () = visit.permit().called() => transport.has_arrived(),
        () = patience => transport.has_arrived(),
        () = visit.tasks().sessions_ended() => transport.has_arrived(),
    }
}
