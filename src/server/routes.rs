//! What is asked over HTTP, and its answers: `/ws`, `/api`, `/healthz`, `/readyz`, `/metrics`, and
//! the page.
//!
//! It does not accept connections and does not speak WebSocket. Every refusal is a JSON body of
//! the same shape as an `error` frame.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::admission::{Limit, Permit};
use super::answer::{self, Answer, Body, Content, finish, json, refuse, set};
use super::api::{Api, Visitor, body};
use super::door::{Door, DoorRefused};
use super::line::Peer;
use super::origin::Source;
use super::page::Page;
use super::{LAST_REQUEST, Server, origin, upgrade};
use crate::budget::Budgets;
use crate::lane::Lanes;
use crate::metrics::{Gauge, Metrics, Reason};
use crate::mirror::Status;
use crate::session::{Session, Shared};
use crate::socket::{Queues, Socket};
use crate::tasks::Tasks;

/// For `Allow`: of the node as a whole, of what can be read, and of the WebSocket.
const ALL_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS";
const READS: &str = "GET, HEAD, OPTIONS";
const UPGRADES: &str = "GET, OPTIONS";

/// Seconds after which a client that found the server full may come again.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("5");

/// One connection as the routes see it.
pub struct Visit {
    shared: Arc<Shared>,
    lanes: Lanes,
    api: Arc<Api>,
    page: Arc<Page>,
    door: Arc<Door>,
    /// The connection's place among the admitted; it moves on into the session.
    permit: Mutex<Option<Permit>>,
    visitor: Visitor,
}

impl Visit {
    pub fn new(server: &Server, permit: Permit, peer: Peer) -> Self {
        let visitor = Visitor { address: permit.address, beyond: permit.beyond, peer };
        Self {
            shared: server.shared.clone(),
            lanes: server.lanes.clone(),
            api: server.api.clone(),
            page: server.page.clone(),
            door: server.door.clone(),
            permit: Mutex::new(Some(permit)),
            visitor,
        }
    }

    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut answer = match self.door.check(&request) {
            Ok(source) if Api::owns(request.uri().path()) => {
                self.api.answer(request, source, &self.visitor).await
            }
            Ok(source) => self.answer_whole(request, source).await,
            Err(refused) => self.turn_away(request, refused).await,
        };
        finish(&mut answer);
        answer.map(|content| content.body(&self.visitor.peer, &self.shared.budgets.unsent))
    }

    async fn turn_away(&self, request: Request<Incoming>, refused: DoorRefused) -> Answer {
        self.count_refused(refused.reason());
        let (parts, mut body) = request.into_parts();
        body::pass(&mut body, &parts).await;
        refused.answer()
    }

    async fn answer_whole(&self, request: Request<Incoming>, source: Source) -> Answer {
        let (method, path) = (request.method(), request.uri().path());
        match path {
            "*" if *method == Method::OPTIONS => answer::options(ALL_METHODS),
            // Balancers ask this unless they are told better, whether or not there is a page.
            "/" if *method == Method::OPTIONS => answer::options(READS),
            "/ws" if *method == Method::OPTIONS => answer::options(UPGRADES),
            "/ws" => self.upgrade(request, &source),
            "/healthz" | "/readyz" | "/metrics" => self.tell(method, path).await,
            _ if !self.page.has(path) => refuse_unknown(),
            _ if *method == Method::OPTIONS => answer::options(READS),
            _ if !reads(method) => answer::refuse_method(READS),
            _ => self.page.answer(path, request.headers()).unwrap_or_else(refuse_unknown),
        }
    }

    /// What the node says of itself.
    async fn tell(&self, method: &Method, path: &str) -> Answer {
        match path {
            _ if *method == Method::OPTIONS => answer::options(READS),
            _ if !reads(method) => answer::refuse_method(READS),
            "/readyz" => self.ready().await,
            "/metrics" => self.metrics(),
            _ => json(StatusCode::OK, &Health { status: "ok" }),
        }
    }

    /// Checks cheap things first, then who may come, then whether there is room.
    fn upgrade(&self, mut request: Request<Incoming>, source: &Source) -> Answer {
        let accept = match upgrade::check(&request) {
            Ok(accept) => accept,
            Err(refused) => return upgrade::refusal(refused),
        };
        if *source == Source::Foreign {
            self.count_refused("origin");
            return origin::refusal();
        }
        if let Some(limit) = self.visitor.beyond {
            return refuse_full(limit);
        }
        if self.shared.tasks.is_stopping() {
            return refuse_full(Limit::Total);
        }
        let permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (shared, lanes) = (self.shared.clone(), self.lanes.clone());
        let on_upgrade = hyper::upgrade::on(&mut request);
        let address = self.visitor.address;
        self.shared.tasks.spawn_session(async move {
            let upgraded = tokio::select! {
                upgraded = upgrade::stream(on_upgrade) => upgraded,
                // It is there when the answer is with the kernel, which a client that reads nothing
                // may keep from happening; and HTTP waits for this session before it gives up.
                () = abandoned(&shared.tasks) => return drop(permit),
            };
            match upgraded {
                Ok((stream, leftover)) => {
                    let bytes = shared.metrics.queue_bytes.clone();
                    let Budgets { unsent, inbound, .. } = shared.budgets.clone();
                    let queues = Arc::new(Queues { bytes, unsent, inbound });
                    let socket = Socket::new(stream, leftover, &shared.config.socket, &queues);
                    let _open = Open::new(&shared.metrics);
                    Session::new(shared, lanes, socket, address).run().await;
                }
                Err(err) => tracing::debug!(%err, "no upgrade after all"),
            }
            drop(permit);
        });
        upgrade::response(&accept)
    }

    fn count_refused(&self, reason: &'static str) {
        let refused = &self.shared.metrics.connections_refused;
        refused.get_or_create(&Reason { reason }).inc();
    }

    async fn ready(&self) -> Answer {
        let log = match self.shared.log.ping().await {
            Ok(()) => "ok",
            Err(_) => "away",
        };
        let (status, word) = if self.shared.tasks.is_stopping() {
            (StatusCode::SERVICE_UNAVAILABLE, "stopping")
        } else if log == "ok" {
            (StatusCode::OK, "ready")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "unready")
        };
        let node = &self.shared.config.node.id;
        let mirror = match self.shared.status.as_ref().map(|status| *status.borrow()) {
            None => "none",
            Some(Status::Live) => "ok",
            // Commands commit, acks go out, and other nodes hear by way of the log.
            Some(Status::Away) => "away",
        };
        json(status, &Ready { status: word, node, log, mirror })
    }

    fn metrics(&self) -> Answer {
        self.shared.budgets.tell(&self.shared.metrics);
        let metrics = self.shared.metrics.render().into();
        let mut answer = Response::new(Content::Whole(metrics));
        // The exposition format that prometheus-client writes.
        set(
            &mut answer,
            CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        );
        answer
    }
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Resolves a moment after the node began to stop.
async fn abandoned(tasks: &Tasks) {
    tasks.stopping().await;
    tokio::time::sleep(LAST_REQUEST).await;
}

/// Counts an open WebSocket for as long as it lives.
struct Open(Gauge);

impl Open {
    fn new(metrics: &Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics.connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

#[derive(Serialize)]
struct Ready<'a> {
    status: &'static str,
    node: &'a str,
    /// `ok` or `away`.
    log: &'static str,
    /// `ok`, `away`, or `none`: this node has no Redis and needs none.
    mirror: &'static str,
}

fn refuse_unknown() -> Answer {
    let error = "there is the page at /, and /ws, /api, /healthz, /readyz, /metrics";
    refuse(StatusCode::NOT_FOUND, "not_found", error)
}

/// To whoever is beyond a limit, or comes while the node stops.
pub fn refuse_full(limit: Limit) -> Answer {
    let mut answer = match limit {
        Limit::Total => {
            let error = "this node is full or stopping: try another, or again later";
            refuse(StatusCode::SERVICE_UNAVAILABLE, "full", error)
        }
        Limit::Address => {
            let error = "too many connections from your address: close some";
            refuse(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", error)
        }
    };
    answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
    set(&mut answer, CONNECTION, "close");
    answer
}
