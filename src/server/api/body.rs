//! The body of a request: read whole, up to a limit and a time, and not while the node stops.
//!
//! It does not know what a body says.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use hyper::http::request::Parts;

use super::reply::Refusal;
use crate::budget::Budget;
use crate::config::ApiConfig;
use crate::protocol::error::{Code, Problem};
use crate::server::admission::{Permit, Wait};

/// How much of a body that is too long is read all the same, and dropped. A connection that is
/// closed while the client still sends is reset, and then many clients never see the answer.
const DROPPED_BYTES_MAX: usize = 1024 * 1024;
/// Room is waited for in steps of this, as the body comes: not for what it is said to be.
const STEP_BYTES: usize = 8 * 1024;
/// How long an answer waits for a body that nobody wants to have come.
const DROPPED_TIME: Duration = Duration::from_secs(1);

/// The whole body, or why not. A node that stops waits for requests under way, and must not wait
/// for one that may never come whole.
pub async fn read(
    body: &mut Incoming,
    config: &ApiConfig,
    inbound: &Arc<Budget>,
    stopping: impl Future<Output = ()>,
) -> Result<Bytes, Refusal> {
    let max = config.body_bytes_max;
    let too_large = || Problem {
        limit: Some(max as u64),
        ..Problem::new(Code::TooLarge, format!("a body may have up to {max} bytes"))
    };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max + DROPPED_BYTES_MAX {
        return Err(too_large().into());
    }
    let budget = Duration::from_millis(config.body_timeout_ms);
    let read = tokio::select! {
        // What is there is taken.
        biased;
        read = tokio::time::timeout(budget, gather(body, max, inbound)) => read,
        () = stopping => return Err(Refusal::Stopping),
    };
    match read {
        Ok(Ok(Some(text))) => Ok(text),
        Ok(Ok(None)) => Err(too_large().into()),
        Ok(Err(_)) => Err(Problem::new(Code::BadJson, "the body did not come whole").into()),
        Err(_) => Err(Refusal::Slow),
    }
}

/// Lets a body go by that is not wanted, for the request is refused already. Whoever waits to be
/// told to send it (`Expect: 100-continue`) is not told.
pub async fn pass(body: &mut Incoming, parts: &Parts, permit: &Permit) {
    if !body.is_end_stream() && !parts.headers.contains_key(EXPECT) {
        permit.waits(Wait::Body);
        // It may be too long, break off or not come: the answer is the same.
        let _ = tokio::time::timeout(DROPPED_TIME, drop_all(body)).await;
        permit.heard();
    }
}

/// `None`: it is longer than `max`. What has come counts until it is let go of, and while the node
/// holds all that it may, more is not read.
async fn gather(
    body: &mut Incoming,
    max: usize,
    inbound: &Arc<Budget>,
) -> Result<Option<Bytes>, hyper::Error> {
    let mut text = Vec::new();
    let mut held = inbound.hold(0);
    while let Some(frame) = body.frame().await {
        // Trailers say nothing to us.
        let Ok(data) = frame?.into_data() else { continue };
        let len = text.len() + data.len();
        if len > max {
            drop((text, held));
            drop_rest(body, len).await?;
            return Ok(None);
        }
        if len > held.bytes() {
            held.join(inbound.room(data.len().max(STEP_BYTES)).await);
        }
        text.reserve_exact(held.bytes().min(max) - text.len());
        text.extend_from_slice(&data);
    }
    Ok(Some(held.keep(text)))
}

async fn drop_all(body: &mut Incoming) -> Result<(), hyper::Error> {
    drop_rest(body, 0).await
}

/// Reads on, from `len` bytes on, and keeps nothing.
async fn drop_rest(body: &mut Incoming, mut len: usize) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        len += frame?.into_data().map_or(0, |data| data.len());
        if len > DROPPED_BYTES_MAX {
            break;
        }
    }
    Ok(())
}
