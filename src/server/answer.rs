//! The shape of an HTTP answer: a status, a JSON body, nothing kept by caches.
//!
//! It does not decide which answer is due.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::api::Events;

/// An answer that is there as a whole.
pub type Answer = Response<Full<Bytes>>;
/// What any answer may have: a whole, or events as they come.
pub type Body = Either<Full<Bytes>, Events>;

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

pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    let body = serde_json::to_vec(body).expect("our bodies have string keys only");
    json_text(status, body.into())
}

/// A body that is JSON already.
pub fn json_text(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, "application/json");
    set(&mut answer, CACHE_CONTROL, "no-store");
    answer
}

pub fn set(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}
