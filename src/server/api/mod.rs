//! HTTP for curl and for programs without WebSockets: everything under `/api`.
//!
//! It has no rules of its own. A request becomes the command of its route (`route`, `ask`), goes to
//! the desk as a session's commands do, and is answered with the same frames as bodies (`reply`).
//! What HTTP adds is here: methods, origins, rates, bodies, event streams (`stream`).

mod ask;
pub(super) mod body;
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
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};

use self::ask::Said;
use self::reply::Refusal;
pub use self::route::Route;
use self::route::Target;
use super::admission::{Limit, Permit, Wait};
use super::answer::{self, Answer, Content, Pieces, set};
use super::origin::{self, Source};
use super::routes;
use super::transport::Peer;
use crate::desk::pace::weight_of;
use crate::desk::{Desk, Reply};
use crate::metrics::{self, ReasonLabel};
use crate::model::UserId;
use crate::protocol::command;
use crate::protocol::error::{Code, Problem};
use crate::protocol::fields::Fields;
use crate::protocol::table::CommandType;

/// Headers that requests from other origins may send.
const CROSS_ORIGIN_HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, \
                                    traceparent, tracestate, baggage";
/// How long browsers may cache a preflight: ten minutes, the most that many of them allow.
const CROSS_ORIGIN_MAX_AGE_S: &str = "600";

/// One per node.
pub struct Api {
    desk: Arc<Desk>,
}

/// The client of a request.
pub struct Visitor<'v> {
    /// Of the client.
    pub client: IpAddr,
    /// Its address for limits: with IPv6, the /64 network.
    pub address: IpAddr,
    /// The slot of its connection.
    pub permit: &'v Arc<Permit>,
    pub peer: &'v Peer,
}

impl Api {
    pub fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }

    /// Whether the API answers this path.
    pub fn owns(path: &str) -> bool {
        path == "/api" || path.starts_with("/api/")
    }

    pub async fn answer(
        &self,
        request: Request<Incoming>,
        source: Source,
        visitor: &Visitor<'_>,
    ) -> Answer {
        let target = route::find(request.uri().path()).map(|target| target.route);
        let route = target.map_or("other", Route::template);
        let method = route::method_name(request.method());
        let is_patient = target == Some(Route::Stream) && reply::is_event_source(&request);
        let mut answer = if source != Source::Foreign {
            self.desk.tasks.answer(self.respond(request, visitor)).await
        } else {
            let reason = ReasonLabel { reason: "origin" };
            self.desk.metrics.connections_refused.get_or_create(&reason).inc();
            let (parts, mut body) = request.into_parts();
            body::pass(&mut body, &parts, visitor.permit).await;
            origin::refusal()
        };
        let status = answer.status().as_u16();
        if is_patient {
            let at_least_ms = self.desk.config.server.reconnect_ms;
            answer = reply::come_back(answer, at_least_ms);
        }
        source.admit(&mut answer);
        let request = metrics::RequestLabel { route, method, status };
        self.desk.metrics.requests.get_or_create(&request).inc();
        answer
    }

    async fn respond(&self, request: Request<Incoming>, visitor: &Visitor<'_>) -> Answer {
        let (parts, mut body) = request.into_parts();
        let stopping = self.desk.tasks.is_stopping().then_some(Limit::Total);
        let answer = match visitor.permit.beyond().or(stopping) {
            Some(limit) => Err(routes::refuse_full(limit)),
            None => {
                let answer = self.carry_out(&parts, &mut body, visitor).await;
                answer.map_err(|refusal| refusal.answer())
            }
        };
        match answer {
            Ok(answer) => answer,
            Err(refused) => {
                body::pass(&mut body, &parts, visitor.permit).await;
                refused
            }
        }
    }

    async fn carry_out(
        &self,
        parts: &Parts,
        body: &mut Incoming,
        visitor: &Visitor<'_>,
    ) -> Result<Answer, Refusal> {
        let target = route::find(parts.uri.path()).ok_or(Refusal::NotFound)?;
        if parts.method == Method::OPTIONS {
            return Ok(options(target.route));
        }
        let Some(re) = target.route.command(&parts.method) else {
            return Err(Refusal::Method(target.route.allow()));
        };
        let answer = self.command(re, &target, parts, body, visitor).await;
        answer.map_err(|refusal| refusal.about(re, ask::room(&target)))
    }

    async fn command(
        &self,
        re: CommandType,
        target: &Target<'_>,
        parts: &Parts,
        body: &mut Incoming,
        visitor: &Visitor<'_>,
    ) -> Result<Answer, Refusal> {
        let pace = &self.desk.pace;
        pace.request(visitor.address, Instant::now()).map_err(too_fast)?;
        let body = match re.writes() {
            true => self.body_of(parts, body, visitor).await?,
            false => None,
        };
        let fields = ask::body_of(body.as_ref())?;
        let re = match body {
            Some(_) if target.route == Route::Events => ask::named(&fields)?.unwrap_or(re),
            _ => re,
        };
        let answer = self.execute(re, target, parts, fields, visitor).await;
        answer.map_err(|refusal| refusal.about(re, ask::room(target)))
    }

    async fn execute(
        &self,
        re: CommandType,
        target: &Target<'_>,
        parts: &Parts,
        fields: Fields<'_>,
        visitor: &Visitor<'_>,
    ) -> Result<Answer, Refusal> {
        let pace = &self.desk.pace;
        let said = Said::of(re, target, parts)?;
        let fields = said.fields(fields)?;
        let message_bytes_max = self.desk.config.session.message_bytes_max;
        let request = command::Request::of(re, &fields, message_bytes_max)?;
        if re == CommandType::Stream {
            let events = match self.desk.answer(visitor.address, request).await {
                Reply::Stream(follow) => stream::open(&self.desk, *follow, visitor)?,
                Reply::Problem(problem) => return Err(problem.into()),
                _ => return Err(Problem::internal().into()),
            };
            return Ok(stream_answer(events, parts.method == Method::HEAD));
        }
        let user = request.command.user().cloned();
        pace.take(visitor.address, user.as_ref(), Instant::now()).map_err(too_fast)?;
        let reply = self.desk.answer(visitor.address, request).await;
        let (now, weight) = (Instant::now(), reply.weight());
        pace.charge_request(visitor.address, user.as_ref(), weight, now);
        let answer = reply::answer(reply);
        let result = answer.as_ref().map_or_else(|problem| problem.code.name(), |(_, word)| word);
        let counted = metrics::CommandLabel { r#type: re.name(), result };
        self.desk.metrics.commands.get_or_create(&counted).inc();
        let (answer, _) = answer?;
        Ok(answer.map(|content| self.charged(content, visitor.address, user)))
    }

    /// Charges for the bytes of an answer once they are known.
    fn charged(&self, content: Content, address: IpAddr, user: Option<UserId>) -> Content {
        let desk = self.desk.clone();
        let charge = move |len| {
            let weight = weight_of(len);
            desk.pace.charge_request(address, user.as_ref(), weight, Instant::now());
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

    /// The body of a write; `None`: it has none, because the path says everything.
    async fn body_of(
        &self,
        parts: &Parts,
        body: &mut Incoming,
        visitor: &Visitor<'_>,
    ) -> Result<Option<Bytes>, Refusal> {
        let stopping = self.desk.tasks.stopping();
        let inbound = &self.desk.budgets.inbound;
        visitor.permit.waits(Wait::Body);
        let body = body::read(body, &self.desk.config.api, inbound, stopping).await;
        visitor.permit.heard();
        if parts.method != Method::POST && body.as_ref().is_ok_and(Bytes::is_empty) {
            return Ok(None);
        }
        ask::check_content(parts)?;
        body.map(Some)
    }
}

fn too_fast(retry_after_ms: u64) -> Problem {
    let error = format!("too many requests; wait {retry_after_ms} ms");
    let retry_after_ms = Some(retry_after_ms);
    Problem { retry_after_ms, ..Problem::new(Code::RateLimited, error) }
}

/// The methods of a route, for anyone who asks, and for a browser's preflight before it lets a page
/// of another origin send what a form could not.
fn options(route: Route) -> Answer {
    let mut answer = answer::options(route.allow());
    set(&mut answer, ACCESS_CONTROL_ALLOW_METHODS, route.allow());
    set(&mut answer, ACCESS_CONTROL_ALLOW_HEADERS, CROSS_ORIGIN_HEADERS);
    set(&mut answer, ACCESS_CONTROL_MAX_AGE, CROSS_ORIGIN_MAX_AGE_S);
    answer
}

fn stream_answer(events: Pieces, is_head: bool) -> Answer {
    let content = if is_head { Content::default() } else { Content::Pieces(events) };
    let mut answer = Response::new(content);
    reply::make_event_stream(&mut answer);
    answer
}
