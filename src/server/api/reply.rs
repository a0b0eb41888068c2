//! Turns a reply into an HTTP answer: frames become bodies, and refusals get their status and
//! headers.
//!
//! Which reply it is was decided elsewhere.

use futures_util::stream;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue,
    RETRY_AFTER,
};
use hyper::{Method, Request, StatusCode};

use crate::desk::Reply;
use crate::desk::history::{Pages, Part};
use crate::model::RoomName;
use crate::protocol;
use crate::protocol::error::{Code, Problem};
use crate::protocol::frame::Frame;
use crate::protocol::table::CommandType;
use crate::rules::Outcome;
use crate::server::admission::Limit;
use crate::server::answer::{
    Answer, Content, Why, json_content, json_text, refuse, refuse_method, set,
};
use crate::server::routes;

/// Seconds after which to try again while the log is away.
const RETRY_AFTER_S: u64 = 1;

const EVENT_STREAM: &str = "text/event-stream";
/// Tells nginx, and proxies like it, to pass a stream on without buffering.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Why a request is not carried out.
pub enum Refusal {
    /// An error of the protocol.
    Problem(Problem),
    /// No such path.
    NotFound,
    /// The route does not have the method; it has these.
    Method(&'static str),
    /// The body is not declared as JSON.
    MediaType,
    /// The body is compressed.
    Coding,
    /// The body was not complete in time.
    Slow,
    /// The body was not complete before the node stopped.
    Stopping,
    /// There is no slot for a stream.
    Full(Limit),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Refusal {
    /// Adds the refused command, where it is not known yet.
    pub fn about(self, re: CommandType, room: Option<RoomName>) -> Self {
        match self {
            Self::Problem(problem) => {
                let (re, room) = (problem.re.or(Some(re)), problem.room.or(room));
                Self::Problem(Problem { re, room, ..problem })
            }
            other => other,
        }
    }

    pub fn answer(&self) -> Answer {
        match self {
            Self::Problem(problem) => refused(problem),
            Self::NotFound => refuse(
                StatusCode::NOT_FOUND,
                "not_found",
                "not found; under /api there are /rooms, and under /rooms/{room} there are \
                 /events, /stream, /members and /members/{user}",
            ),
            Self::Method(allow) => refuse_method(allow),
            Self::MediaType => {
                let error = "send JSON, with Content-Type: application/json";
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                let mut answer = refuse(status, "unsupported_media_type", error);
                set(&mut answer, ACCEPT, "application/json");
                answer
            }
            Self::Coding => {
                let error = "send the body uncompressed, without Content-Encoding";
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                let mut answer = refuse(status, "unsupported_media_type", error);
                set(&mut answer, ACCEPT_ENCODING, "identity");
                answer
            }
            Self::Slow => {
                let error = "the body was not complete in time";
                let mut answer = refuse(StatusCode::REQUEST_TIMEOUT, "request_timeout", error);
                set(&mut answer, CONNECTION, "close");
                answer
            }
            Self::Stopping => routes::refuse_full(Limit::Total),
            Self::Full(limit) => routes::refuse_full(*limit),
        }
    }
}

/// A frame as a body, with the same bytes.
pub fn frame(status: StatusCode, frame: &Frame) -> Answer {
    json_text(status, frame.bytes().slice_ref(frame.payload()))
}

/// The answer for a reply of the desk, and its result for the metrics: 201 with the event for what
/// is new, 200 for what existed before.
pub fn answer(reply: Reply) -> Result<(Answer, &'static str), Problem> {
    if let Some((_, answer)) = reply.frame() {
        return Ok((frame(StatusCode::OK, &answer), "ok"));
    }
    Ok(match reply {
        Reply::Problem(problem) => return Err(problem),
        Reply::Pages(pages) => (self::pages(pages), "ok"),
        Reply::Written(_, Outcome::Committed { event, .. }) => {
            // A leave creates nothing.
            let status = if event.left().is_some() { StatusCode::OK } else { StatusCode::CREATED };
            (frame(status, &protocol::frame::event(&event)), "ok")
        }
        Reply::Stored(event) => {
            (frame(StatusCode::OK, &protocol::frame::event(&event)), "duplicate")
        }
        Reply::Joined(joined) => {
            let is_new = joined.event.is_some();
            let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
            (frame(status, &joined.frame(joined.asked.id.as_ref())), "ok")
        }
        // No route makes a command with another reply.
        _ => return Err(Problem::internal()),
    })
}

/// A page of several pieces, each read when the client has taken the one before.
pub fn pages(pages: Box<Pages>) -> Answer {
    let pieces = stream::unfold(Some(pages), async |pages| {
        let mut pages = pages?;
        Some(match pages.next().await {
            Ok(Part { json, held, is_last }) => {
                (Ok(held.keep(json)), Some(pages).filter(|_| !is_last))
            }
            Err(broken) => (Err(broken), None),
        })
    });
    json_content(StatusCode::OK, Content::Pieces(Box::pin(pieces)))
}

/// Whether an `EventSource` asks. It gives up permanently on any answer but a 200.
pub fn is_event_source<B>(request: &Request<B>) -> bool {
    let is_named = |accept: &HeaderValue| {
        accept.to_str().is_ok_and(|it| it.to_ascii_lowercase().contains(EVENT_STREAM))
    };
    request.method() == Method::GET && request.headers().get_all(ACCEPT).iter().any(is_named)
}

/// Turns a temporary refusal into a stream that ends, with the time to reconnect, and the reason in
/// a comment. Other answers stay as they are.
pub fn come_back(answer: Answer, at_least_ms: u64) -> Answer {
    let is_for_now =
        matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let (mut head, content) = answer.into_parts();
    let Content::Whole(why) = content else { return Answer::from_parts(head, content) };
    if !is_for_now {
        return Answer::from_parts(head, Content::Whole(why));
    }
    let seconds = head.headers.remove(RETRY_AFTER);
    let seconds = seconds.and_then(|it| it.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    let retry_ms = at_least_ms.max(seconds.saturating_mul(1000));
    // JSON contains no line breaks.
    let text = [format!("retry: {retry_ms}\n: ").as_bytes(), &why, b"\n\n"].concat();
    head.status = StatusCode::OK;
    let mut answer = Answer::from_parts(head, Content::Whole(text.into()));
    make_event_stream(&mut answer);
    answer
}

pub fn make_event_stream(answer: &mut Answer) {
    set(answer, CONTENT_TYPE, EVENT_STREAM);
    set(answer, CACHE_CONTROL, "no-store");
    set(answer, X_ACCEL_BUFFERING, "no");
}

fn refused(problem: &Problem) -> Answer {
    let status = StatusCode::from_u16(problem.code.status());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = frame(status, &problem.frame());
    let retry_after_s = match (problem.code, problem.retry_after_ms) {
        (_, Some(ms)) => Some(ms.div_ceil(1000)),
        (Code::Unavailable, None) => Some(RETRY_AFTER_S),
        _ => None,
    };
    if problem.code == Code::RateLimited {
        answer.extensions_mut().insert(Why("rate_limited"));
    }
    if let Some(seconds) = retry_after_s {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}
