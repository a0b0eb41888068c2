//! HTTP for curl and for programs without WebSockets: everything under `/api`.
//!
//! It has no rules of its own. A request is the command that its route says (`route`, `ask`), goes
//! where a session's commands go (`act`), and is answered with the same frames, as bodies
//! (`reply`). What HTTP adds is here: methods, origins, rates, bodies, event streams (`stream`).

mod act;
mod ask;
mod body;
mod reply;
mod route;
mod stream;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONTENT_TYPE,
    HeaderName, HeaderValue, ORIGIN, VARY,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};

use self::ask::Said;
use self::reply::Refusal;
pub use self::route::Route;
use self::route::{Place, STREAM};
use self::stream::Wish;
use super::admission::Limit;
use super::answer::{Answer, Content, Pieces};
use super::line::Peer;
use super::{origin, routes};
use crate::lane::Lanes;
use crate::metrics::{self, Reason};
use crate::model::UserId;
use crate::protocol::command;
use crate::protocol::error::{Code, Problem};
use crate::session::Shared;
use crate::session::pace::weight_of;

/// What any request from another origin may send.
const CROSS_ORIGIN_HEADERS: &str = "Content-Type, Idempotency-Key, Last-Event-ID";
/// How long a browser may remember that it may ask: the ten minutes that most of them grant.
const CROSS_ORIGIN_MAX_AGE_S: &str = "600";
/// nginx, and those that learned from it, pass a stream on as it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// One to a node.
pub struct Api {
    shared: Arc<Shared>,
    lanes: Lanes,
}

/// Whose connection a request came by.
#[derive(Debug)]
pub struct Visitor {
    pub address: IpAddr,
    /// The limit of connections that this one is beyond.
    pub beyond: Option<Limit>,
    pub peer: Peer,
}

impl Api {
    pub fn new(shared: Arc<Shared>, lanes: Lanes) -> Self {
        Self { shared, lanes }
    }

    /// Whether a path is for here to answer.
    pub fn owns(path: &str) -> bool {
        path == "/api" || path.starts_with("/api/")
    }

    pub async fn answer(&self, request: Request<Incoming>, visitor: &Visitor) -> Answer {
        let route = route::find(request.uri().path()).map_or("other", |p| p.route.template());
        let method = route::method_name(request.method());
        let origin = request.headers().get(ORIGIN).cloned();
        let allowed = &self.shared.config.server.allowed_origins;
        let answer = if origin::is_allowed(request.headers(), allowed) {
            let answer = self.shared.tasks.answer(self.respond(request, visitor)).await;
            origin.into_iter().fold(answer, admit_origin)
        } else {
            let reason = Reason { reason: "origin" };
            self.shared.metrics.connections_refused.get_or_create(&reason).inc();
            let (parts, mut body) = request.into_parts();
            body::pass(&mut body, &parts).await;
            origin::refusal()
        };
        let status = answer.status().as_u16();
        let request = metrics::Request { route, method, status };
        self.shared.metrics.requests.get_or_create(&request).inc();
        answer
    }

    async fn respond(&self, request: Request<Incoming>, visitor: &Visitor) -> Answer {
        let (parts, mut body) = request.into_parts();
        let stopping = self.shared.tasks.is_stopping().then_some(Limit::Total);
        let answer = match visitor.beyond.or(stopping) {
            Some(limit) => Err(routes::refuse_full(limit)),
            None => {
                let answer = self.carry_out(&parts, &mut body, visitor).await;
                answer.map_err(|refusal| refusal.answer())
            }
        };
        match answer {
            Ok(answer) => answer,
            Err(refused) => {
                body::pass(&mut body, &parts).await;
                refused
            }
        }
    }

    async fn carry_out(
        &self,
        parts: &Parts,
        body: &mut Incoming,
        visitor: &Visitor,
    ) -> Result<Answer, Refusal> {
        let place = route::find(parts.uri.path()).ok_or(Refusal::NotFound)?;
        if parts.method == Method::OPTIONS {
            return Ok(options(place.route));
        }
        let Some(re) = place.route.command(&parts.method) else {
            return Err(Refusal::Method(place.route.allow()));
        };
        let answer = self.command(re, &place, parts, body, visitor).await;
        answer.map_err(|refusal| refusal.about(re, ask::room(&place)))
    }

    async fn command(
        &self,
        re: &'static str,
        place: &Place<'_>,
        parts: &Parts,
        body: &mut Incoming,
        visitor: &Visitor,
    ) -> Result<Answer, Refusal> {
        let pace = &self.shared.pace;
        pace.request(visitor.address, Instant::now()).map_err(too_fast)?;
        let body = if Route::writes(re) { self.body_of(parts, body).await? } else { None };
        let said = Said::of(re, place, parts)?;
        let fields = said.fields(body.as_ref())?;
        if re == STREAM {
            let wish = Wish::parse(&fields)?;
            let events = stream::open(&self.shared, wish, visitor).await?;
            return Ok(stream_answer(events, parts.method == Method::HEAD));
        }
        let message_bytes_max = self.shared.config.session.message_bytes_max;
        let request = command::Request::of(&fields, message_bytes_max)?;
        let user = request.command.user().cloned();
        pace.take(visitor.address, user.as_ref(), Instant::now()).map_err(too_fast)?;
        let answer = act::act(&self.shared, &self.lanes, request, visitor.address).await?;
        Ok(answer.map(|content| self.charged(content, visitor.address, user)))
    }

    /// What the bytes of an answer turn out to weigh is paid for afterwards.
    fn charged(&self, content: Content, address: IpAddr, user: Option<UserId>) -> Content {
        let shared = self.shared.clone();
        let charge = move |len| {
            let weight = weight_of(len);
            shared.pace.charge_request(address, user.as_ref(), weight, Instant::now());
        };
        match content {
            Content::Pieces(pieces) => Content::Pieces(Box::pin(pieces.inspect(move |piece| {
                charge(piece.as_ref().map_or(0, Bytes::len));
            }))),
            Content::Whole(bytes) => {
                charge(bytes.len());
                Content::Whole(bytes)
            }
            content => content,
        }
    }

    /// The body of a write; `None`: it has none, and its path says all there is to say.
    async fn body_of(&self, parts: &Parts, body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
        let stopping = self.shared.tasks.stopping();
        let inbound = &self.shared.budgets.inbound;
        let body = body::read(body, &self.shared.config.api, inbound, stopping).await;
        if parts.method != Method::POST && body.as_ref().is_ok_and(Bytes::is_empty) {
            return Ok(None);
        }
        ask::check_content(parts)?;
        body.map(Some)
    }
}

fn too_fast(retry_after_ms: u64) -> Problem {
    let error = format!("too many requests from your address: wait {retry_after_ms} ms");
    let retry_after_ms = Some(retry_after_ms);
    Problem { retry_after_ms, ..Problem::new(Code::RateLimited, error) }
}

/// What there is at a place, for whoever asks, and for the browser that asks before it lets a page
/// of another origin send what a form could not.
fn options(route: Route) -> Answer {
    let mut answer = Response::new(Content::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    put(&mut answer, ALLOW, route.allow());
    put(&mut answer, ACCESS_CONTROL_ALLOW_METHODS, route.allow());
    put(&mut answer, ACCESS_CONTROL_ALLOW_HEADERS, CROSS_ORIGIN_HEADERS);
    put(&mut answer, ACCESS_CONTROL_MAX_AGE, CROSS_ORIGIN_MAX_AGE_S);
    answer
}

/// Lets the page of an allowed origin read the answer, also one that is a refusal.
fn admit_origin(mut answer: Answer, origin: HeaderValue) -> Answer {
    answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    put(&mut answer, ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After");
    put(&mut answer, VARY, "Origin");
    answer
}

fn stream_answer(events: Pieces, is_head: bool) -> Answer {
    let content = if is_head { Content::default() } else { Content::Pieces(events) };
    let mut answer = Response::new(content);
    put(&mut answer, CONTENT_TYPE, "text/event-stream");
    put(&mut answer, CACHE_CONTROL, "no-store");
    put(&mut answer, X_ACCEL_BUFFERING, "no");
    answer
}

fn put(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}
