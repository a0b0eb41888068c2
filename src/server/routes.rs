//! The routes: `/ws`, `/api`, the web page, and the status paths.
//!
//! Connections are accepted and WebSocket is spoken elsewhere. Every refusal is a JSON body in the
//! shape of an `error` frame.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::admission::{Limit, Permit, site};
use super::answer::{self, Answer, Body, Content, Why, finish, refuse, set};
use super::api::{Api, Visitor, body};
use super::door::DoorRefused;
use super::origin::Source;
use super::preamble::Malformed;
use super::refusals::Refusals;
use super::transport::{Answering, Peer};
use super::{Entrance, LAST_REQUEST, Server, origin, upgrade};
use crate::budget::Budgets;
use crate::config::ServerConfig;
use crate::metrics::{Gauge, Metrics, ReasonLabel};
use crate::session::Session;
use crate::socket::{Queues, Socket};
use crate::tasks::Tasks;

/// For `Allow`: methods of the node as a whole, and of the WebSocket.
const ALL_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS";
const UPGRADES: &str = "GET, OPTIONS";

/// Seconds after which a client that found the server full may try again.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("5");

/// The stream of a connection that becomes a WebSocket, and what was already read from it.
type Bare = (TcpStream, Bytes);

/// One connection, as the routes see it.
pub struct Visit {
    server: Arc<Server>,
    entrance: Entrance,
    permit: Arc<Permit>,
    /// The address of the other end, which may be a proxy.
    from: IpAddr,
    /// The client's address, as the proxy named it before everything else.
    introduced: OnceLock<IpAddr>,
    peer: Peer,
    /// The session that waits for the connection.
    promised: Mutex<Option<oneshot::Sender<Bare>>>,
}

impl Visit {
    pub fn new(
        server: Arc<Server>,
        entrance: Entrance,
        permit: Permit,
        from: IpAddr,
        peer: Peer,
    ) -> Arc<Self> {
        let (permit, introduced, promised) = (Arc::new(permit), OnceLock::new(), Mutex::default());
        Arc::new(Self { server, entrance, permit, from, introduced, peer, promised })
    }

    /// Whether the connection begins with the PROXY protocol.
    pub fn is_introduced(&self) -> bool {
        self.entrance == Entrance::Public && self.server.proxies.introduces(self.from)
    }

    /// The client that the proxy named; `None`: it does not know, or the connection is its own.
    pub fn introduce(&self, client: Option<IpAddr>) {
        let _ = self.introduced.set(client.unwrap_or(self.from));
    }

    /// Logs, for the person who configured the proxy, that the preamble is missing.
    pub fn is_not_introduced(&self, err: &Malformed) {
        self.server.proxies.is_not_introduced(self.from, err);
    }

    /// Logs a refusal, if the client is known.
    pub fn note_refused(&self, reason: &str) {
        self.note(self.introduced(), |refusals, client| refusals.refused(client, reason));
    }

    /// As `note_refused`, for a connection that was ended while it was served.
    pub fn note_closed(&self, reason: &str) {
        self.note(self.introduced(), |refusals, client| {
            refusals.closed(client, reason, None, None)
        });
    }

    /// A proxy's own address is not logged: it is not to blame for its clients.
    fn note(&self, client: IpAddr, write: impl FnOnce(&Refusals, IpAddr)) {
        if !self.server.proxies.trusts(client) && !self.tasks().is_stopping() {
            write(&self.server.refusals, client);
        }
    }

    fn introduced(&self) -> IpAddr {
        self.introduced.get().copied().unwrap_or(self.from)
    }

    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    pub fn config(&self) -> &ServerConfig {
        &self.server.desk.config.server
    }

    pub fn tasks(&self) -> &Tasks {
        &self.server.desk.tasks
    }

    /// A request has been read. From this moment on, not only when the answer is first polled, the
    /// connection is not given up for another.
    pub fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> {
        self.permit.heard();
        let answering = self.peer.answering();
        let method = request.method().clone();
        Box::pin(async move {
            let answer = self.answer(request).await;
            Ok(answer.map(|content| self.body(&method, content, answering)))
        })
    }

    /// The body that hyper writes in answer to a request with this method.
    pub fn body(&self, method: &Method, content: Content, answering: Answering) -> Body {
        content.body(method, &self.peer, &self.server.desk.budgets.unsent, answering)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let client = self.client(request.headers());
        let mut answer = match self.server.door.check(&request) {
            Ok(_) if self.entrance == Entrance::Internal => self.answer_watcher(&request).await,
            Ok(source) if Api::owns(request.uri().path()) => {
                self.server.api.answer(request, source, &self.visitor(client)).await
            }
            Ok(source) => self.answer_whole(request, source, client).await,
            Err(refused) => self.turn_away(request, refused).await,
        };
        if let Some(Why(reason)) = answer.extensions_mut().remove() {
            self.note(client, |refusals, client| refusals.refused(client, reason));
        }
        finish(&mut answer);
        if self.permit.is_last() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            set(&mut answer, CONNECTION, "close");
        }
        answer
    }

    /// The client of a request with these headers.
    fn client(&self, headers: &HeaderMap) -> IpAddr {
        match self.introduced.get() {
            Some(introduced) => *introduced,
            None => self.server.proxies.client(self.from, headers),
        }
    }

    fn visitor(&self, client: IpAddr) -> Visitor<'_> {
        let permit = &self.permit;
        Visitor { client, address: site(client), permit, peer: &self.peer }
    }

    async fn turn_away(&self, request: Request<Incoming>, refused: DoorRefused) -> Answer {
        self.count_refused(refused.reason());
        let (parts, mut body) = request.into_parts();
        body::pass(&mut body, &parts, &self.permit).await;
        refused.answer()
    }

    /// The answer at the internal listener.
    async fn answer_watcher(&self, request: &Request<Incoming>) -> Answer {
        let Server { status, admission, .. } = &*self.server;
        let answer = status.answer(request.method(), request.uri().path(), admission).await;
        answer.unwrap_or_else(|| {
            let error = "not found; this listener has only /healthz, /readyz and /metrics";
            refuse(StatusCode::NOT_FOUND, "not_found", error)
        })
    }

    async fn answer_whole(
        &self,
        request: Request<Incoming>,
        source: Source,
        client: IpAddr,
    ) -> Answer {
        let (method, path) = (request.method(), request.uri().path());
        let Server { page, status, admission, .. } = &*self.server;
        let is_elsewhere =
            matches!(path, "/readyz" | "/metrics") && !self.config().internal_listen.is_empty();
        let answer = if is_elsewhere { None } else { status.answer(method, path, admission).await };
        if let Some(answer) = answer {
            return answer;
        }
        match path {
            "*" if *method == Method::OPTIONS => answer::options(ALL_METHODS),
            // Load balancers ask this by default, whether or not there is a page.
            "/" if *method == Method::OPTIONS => answer::options(answer::READS),
            "/ws" if *method == Method::OPTIONS => answer::options(UPGRADES),
            "/ws" => self.upgrade(&request, &source, client),
            _ if !page.has(path) => self.refuse_unknown(),
            _ => answer::for_reading(method)
                .or_else(|| page.answer(path, request.headers()))
                .unwrap_or_else(|| self.refuse_unknown()),
        }
    }

    /// Checks cheap things first, then who may connect, then whether there is a slot.
    fn upgrade(&self, request: &Request<Incoming>, source: &Source, client: IpAddr) -> Answer {
        let accept = match upgrade::check(request) {
            Ok(accept) => accept,
            Err(refused) => return upgrade::refusal(refused),
        };
        if *source == Source::Foreign {
            self.count_refused("origin");
            return origin::refusal();
        }
        if let Some(limit) = self.permit.beyond() {
            return refuse_full(limit);
        }
        if self.tasks().is_stopping() {
            return refuse_full(Limit::Total);
        }
        let place = match self.permit.become_socket(client) {
            Ok(place) => place,
            Err(limit) => return refuse_full(limit),
        };
        let server = self.server.clone();
        let (promise, promised) = oneshot::channel();
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner) = Some(promise);
        self.tasks().spawn_session(async move {
            let bare = tokio::select! {
                bare = promised => bare,
                // The connection arrives when the answer is with the kernel, which a client that
                // reads nothing can prevent; and HTTP waits for this session before it gives up.
                () = abandoned(&server.desk.tasks) => return drop(place),
            };
            match bare {
                Ok((stream, rest)) => {
                    // Not created before: what waits here lives as long as the socket.
                    let desk = server.desk.clone();
                    let bytes = desk.metrics.queue.clone();
                    let Budgets { unsent, inbound, .. } = desk.budgets.clone();
                    let queues = Arc::new(Queues { bytes, unsent, inbound });
                    let socket = Socket::new(stream, rest, &desk.config.socket, &queues);
                    let _open = Open::new(&desk.metrics);
                    let session = Session::new(desk, socket, site(client));
                    let ((code, reason), user) = session.run().await;
                    server.note_closed(client, code, reason, user.as_ref());
                }
                Err(_) => tracing::debug!("the upgrade did not complete"),
            }
            drop(place);
        });
        upgrade::response(&accept)
    }

    /// Whether a session waits for the connection.
    pub fn has_upgraded(&self) -> bool {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub fn hand_over(&self, stream: TcpStream, rest: Bytes) {
        let promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(promised) = promised {
            // The session may have given up meanwhile.
            let _ = promised.send((stream, rest));
        }
    }

    fn count_refused(&self, reason: &'static str) {
        let refused = &self.server.desk.metrics.connections_refused;
        refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    fn refuse_unknown(&self) -> Answer {
        let page = if self.server.page.has("/") { "/ (web page), " } else { "" };
        let is_public = self.config().internal_listen.is_empty();
        let status = if is_public { "/healthz, /readyz, /metrics" } else { "/healthz" };
        let error = format!("not found; this server has {page}/ws, /api, {status}");
        refuse(StatusCode::NOT_FOUND, "not_found", &error)
    }
}

/// Resolves a moment after the node has begun to stop.
async fn abandoned(tasks: &Tasks) {
    tasks.stopping().await;
    tokio::time::sleep(LAST_REQUEST).await;
}

/// Counts an open WebSocket while it lives.
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

/// The answer to a connection beyond a limit, or while the node stops.
pub fn refuse_full(limit: Limit) -> Answer {
    let mut answer = match limit {
        Limit::Streams => {
            let error = "this node has no free slot for another event stream from you; try another \
                         node, or try again later";
            refuse(StatusCode::SERVICE_UNAVAILABLE, "full", error)
        }
        Limit::Total | Limit::Http => {
            let error = "this node is full or stopping; try another node, or try again later";
            refuse(StatusCode::SERVICE_UNAVAILABLE, "full", error)
        }
        Limit::Connects => {
            let error = "too many new connections from your address; wait a moment";
            refuse(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", error)
        }
        Limit::Address => {
            let error = "too many connections from your address; close some";
            refuse(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", error)
        }
    };
    answer.extensions_mut().insert(Why(limit.reason()));
    answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
    set(&mut answer, CONNECTION, "close");
    answer
}
