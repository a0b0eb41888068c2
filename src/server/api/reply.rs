//! What a request is answered: frames become bodies, and refusals get their status and headers.
//!
//! It does not decide which answer is due.

use futures_util::stream;
use hyper::StatusCode;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, HeaderValue, RETRY_AFTER};

use crate::model::RoomName;
use crate::protocol::error::{Code, Problem};
use crate::protocol::frame::Frame;
use crate::server::admission::Limit;
use crate::server::answer::{Answer, Content, json_content, json_text, refuse, refuse_method, set};
use crate::server::routes;
use crate::session::history::{Pages, Part};

/// Seconds after which it is worth asking again while the log is away.
const RETRY_AFTER_S: u64 = 1;

/// Why a request is not carried out.
pub enum Refusal {
    /// As the protocol has it.
    Problem(Problem),
    /// There is nothing of that name.
    NotFound,
    /// The place does not know the method; it knows these.
    Method(&'static str),
    /// The body is not said to be JSON.
    MediaType,
    /// The body is compressed.
    Coding,
    /// The body did not come in time.
    Slow,
    /// The body did not come before the node stopped.
    Stopping,
    /// There is no place for what would last.
    Full(Limit),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Refusal {
    /// With the command that is refused, as far as it was not known where it was refused.
    pub fn about(self, re: &'static str, room: Option<RoomName>) -> Self {
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
                "under /api there is /rooms and /rooms/{room}/events, /stream, /members, \
                 /members/{user}",
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
                let error = "send the body as it is, without a Content-Encoding";
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                let mut answer = refuse(status, "unsupported_media_type", error);
                set(&mut answer, ACCEPT_ENCODING, "identity");
                answer
            }
            Self::Slow => {
                let error = "the body did not come in time";
                let mut answer = refuse(StatusCode::REQUEST_TIMEOUT, "request_timeout", error);
                set(&mut answer, CONNECTION, "close");
                answer
            }
            Self::Stopping => routes::refuse_full(Limit::Total),
            Self::Full(limit) => routes::refuse_full(*limit),
        }
    }
}

/// A frame as a body: its very bytes.
pub fn frame(status: StatusCode, frame: &Frame) -> Answer {
    json_text(status, frame.bytes().slice_ref(frame.payload()))
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

fn refused(problem: &Problem) -> Answer {
    let status = StatusCode::from_u16(problem.code.status());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = frame(status, &problem.frame());
    let retry_after_s = match (problem.code, problem.retry_after_ms) {
        (_, Some(ms)) => Some(ms.div_ceil(1000)),
        (Code::Unavailable, None) => Some(RETRY_AFTER_S),
        _ => None,
    };
    if let Some(seconds) = retry_after_s {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}
