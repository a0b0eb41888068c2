//! The body of a request: read completely, within limits of size and time, and not while the node
//! stops.

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

/// How much of a body that is too long is still read and dropped. A connection that is closed while
/// the client still sends is reset, and many clients then never see the answer.
const DROPPED_BYTES_MAX: usize = 1024 * 1024;
/// Memory is reserved in steps of this size, as the body arrives, not for its declared length.
const STEP_BYTES: usize = 8 * 1024;
/// How long an answer waits for a body that is being dropped.
const DROPPED_TIME: Duration = Duration::from_secs(1);

/// Reads the whole body, or says why not. A stopping node waits for requests in progress, and must
/// not wait for one that may never be complete.
pub async fn read(
    body: &mut Incoming,
    config: &ApiConfig,
    inbound: &Arc<Budget>,
    stopping: impl Future<Output = ()>,
) -> Result<Bytes, Refusal> {
    let max = config.body_bytes_max;
    let too_large = || Problem {
        limit: Some(max as u64),
        ..Problem::new(Code::TooLarge, format!("the body is longer than {max} bytes"))
    };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max + DROPPED_BYTES_MAX {
        return Err(too_large().into());
    }
    let budget = Duration::from_millis(config.body_timeout_ms);
    let read = tokio::select! {
        // Data that is there is taken.
        biased;
        read = tokio::time::timeout(budget, gather(body, max, inbound)) => read,
        () = stopping => return Err(Refusal::Stopping),
    };
    match read {
        Ok(Ok(Some(text))) => Ok(text),
        Ok(Ok(None)) => Err(too_large().into()),
        Ok(Err(_)) => Err(Problem::new(Code::BadJson, "the body ended early").into()),
        Err(_) => Err(Refusal::Slow),
    }
}

/// Drops the body of a request that is already refused. A client that waits for permission to send
/// it (`Expect: 100-continue`) gets none.
pub async fn pass(body: &mut Incoming, parts: &Parts, permit: &Permit) {
    if !body.is_end_stream() && !parts.headers.contains_key(EXPECT) {
        permit.waits(Wait::Body);
        // It may be too long, break off or never come: the answer is the same.
        let _ = tokio::time::timeout(DROPPED_TIME, drop_all(body)).await;
        permit.heard();
    }
}

/// `None`: longer than `max`. What has arrived counts until it is dropped. While the node's memory
/// for input is full, no more is read.
async fn gather(
    body: &mut Incoming,
    max: usize,
    inbound: &Arc<Budget>,
) -> Result<Option<Bytes>, hyper::Error> {
    let mut text = Vec::new();
    let mut held = inbound.hold(0);
    while let Some(frame) = body.frame().await {
        // Trailers are ignored.
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

/// Reads on from `len` bytes, and keeps nothing.
async fn drop_rest(body: &mut Incoming, mut len: usize) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        len += frame?.into_data().map_or(0, |data| data.len());
        if len > DROPPED_BYTES_MAX {
            break;
        }
    }
    Ok(())
}
