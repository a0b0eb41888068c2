//! The shape of an HTTP answer (a status, a JSON body, no caching), and how its body goes to hyper
//! and is counted meanwhile.
//!
//! Which answer a request gets is decided elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::Stream;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

use super::transport::{Answering, Peer};
use crate::budget::Budget;
use crate::desk::history::Broken;

/// The answer to a request.
pub type Answer = Response<Content>;
/// The body that hyper writes. hyper drops it when it is written or given up.
pub struct Body {
    text: Text,
    _answering: Answering,
}

enum Text {
    Whole(Full<Bytes>),
    Pieces(Pin<Box<dyn Stream<Item = Chunk> + Send>>),
}
/// Pieces in order, already counted. An error breaks the connection off, because there is no other
/// way to say that an answer is incomplete.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Broken>> + Send>>;
type Chunk = Result<Frame<Bytes>, Broken>;

/// Smaller answers are not counted: hyper copies them into a buffer that it has anyway.
const COUNTED_BYTES_MIN: usize = 1024;

/// The body of an answer.
pub enum Content {
    /// Part of the program, so it takes no memory of its own.
    Static(&'static [u8]),
    Whole(Bytes),
    Pieces(Pieces),
}

impl Default for Content {
    fn default() -> Self {
        Self::Static(&[])
    }
}

impl Content {
    /// The body for hyper; `unsent` counts it until the client has it.
    ///
    /// For `HEAD`, hyper sends the length of the body but not the body, so nothing is owed: the
    /// kernel would never take it. Once, a connection with a thousand such requests seemed to hold
    /// the most memory of all, and was closed for memory that nobody held.
    pub fn body(
        self,
        method: &Method,
        peer: &Peer,
        unsent: &Arc<Budget>,
        answering: Answering,
    ) -> Body {
        let is_head = method == Method::HEAD;
        let owes = move |peer: &Peer, len| {
            if !is_head {
                peer.owes(len);
            }
        };
        let text = match self {
            Self::Static(bytes) => {
                owes(peer, bytes.len());
                Text::Whole(Bytes::from_static(bytes).into())
            }
            Self::Whole(bytes) if bytes.len() < COUNTED_BYTES_MIN => Text::Whole(bytes.into()),
            Self::Whole(bytes) => {
                owes(peer, bytes.len());
                Text::Whole(unsent.hold(bytes.len()).keep(bytes).into())
            }
            Self::Pieces(pieces) => {
                let peer = peer.clone();
                let chunks = pieces.map(move |piece| {
                    piece.map(|bytes| {
                        owes(&peer, bytes.len());
                        Frame::data(bytes)
                    })
                });
                Text::Pieces(Box::pin(chunks))
            }
        };
        Body { text, _answering: answering }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        match &mut self.text {
            Text::Whole(text) => Pin::new(text)
                .poll_frame(cx)
                .map(|chunk| chunk.map(|chunk| chunk.map_err(|never| match never {}))),
            Text::Pieces(pieces) => pieces.as_mut().poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.text, Text::Whole(text) if text.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.text {
            Text::Whole(text) => text.size_hint(),
            Text::Pieces(_) => SizeHint::default(),
        }
    }
}

/// Attached to a refusal: the reason, for the log. hyper does not send it.
#[derive(Clone, Copy)]
pub struct Why(pub &'static str);

/// A refusal: the body has the shape of an `error` frame.
pub fn refuse(status: StatusCode, code: &'static str, error: &str) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        r#type: &'static str,
        code: &'static str,
        status: u16,
        error: &'a str,
    }
    json(status, &Body { r#type: "error", code, status: status.as_u16(), error })
}

/// `Allow` for what can only be read.
pub const READS: &str = "GET, HEAD, OPTIONS";

/// The answer to a method other than GET and HEAD, for what can only be read.
pub fn for_reading(method: &Method) -> Option<Answer> {
    match *method {
        Method::GET | Method::HEAD => None,
        Method::OPTIONS => Some(options(READS)),
        _ => Some(refuse_method(READS)),
    }
}

/// The answer to a method that a path does not have.
pub fn refuse_method(allow: &'static str) -> Answer {
    let methods: Vec<_> = allow.split(", ").filter(|method| *method != "OPTIONS").collect();
    let error = format!("method not allowed; use {}", methods.join(" or "));
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &error);
    set(&mut answer, ALLOW, allow);
    answer
}

/// The answer to `OPTIONS`: the methods that a path has.
pub fn options(allow: &'static str) -> Answer {
    let mut answer = Response::new(Content::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    set(&mut answer, ALLOW, allow);
    answer
}

pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    let body = serde_json::to_vec(body).expect("our bodies have string keys only");
    json_text(status, body.into())
}

/// An answer whose body is already JSON.
pub fn json_text(status: StatusCode, body: Bytes) -> Answer {
    json_content(status, Content::Whole(body))
}

pub fn json_content(status: StatusCode, content: Content) -> Answer {
    let mut answer = Response::new(content);
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, "application/json");
    set(&mut answer, CACHE_CONTROL, "no-store");
    answer
}

/// Whether pages of other origins may load the answer (besides CORS, which says whether they may
/// read it).
pub const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// The headers of every answer: no content sniffing, and no loading by other origins.
pub fn finish(answer: &mut Answer) {
    set(answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
    let policy = answer.headers_mut().entry(CROSS_ORIGIN_RESOURCE_POLICY);
    policy.or_insert(HeaderValue::from_static("same-origin"));
}

pub fn set(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}
