//! The HTTP side of a node: accepts connections, admits them, answers the few routes and the API,
//! and turns an upgrade into a session.
//!
//! It does not know commands or events, except in `api`. A connection is one task until it
//! upgrades; then that task ends with all of HTTP's buffers, and the session's task begins.

mod admission;
mod answer;
pub mod api;
mod door;
mod host;
pub mod line;
mod origin;
mod page;
mod routes;
pub mod upgrade;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use self::admission::Admission;
use self::api::Api;
use self::door::Door;
use self::line::Line;
use self::page::Page;
use self::routes::Visit;
use crate::lane::Lanes;
use crate::session::Shared;
use crate::socket;

/// First pause after a failed accept. It doubles up to `ACCEPT_PAUSE_MAX`.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause after a failed accept: files come free at any time.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a stopping node waits for what is left of requests, when its last client has gone.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// Headers in a request; browsers send about 20.
const HEADERS_LEN_MAX: usize = 64;
/// The smallest buffer that hyper accepts.
const HEADER_BYTES_MIN: usize = 8192;

/// What every connection of this node needs.
pub struct Server {
    shared: Arc<Shared>,
    lanes: Lanes,
    api: Arc<Api>,
    admission: Arc<Admission>,
    page: Arc<Page>,
    door: Arc<Door>,
}

impl Server {
    pub fn new(shared: Arc<Shared>, lanes: Lanes) -> Self {
        let admission = Admission::new(&shared.config.server, shared.metrics.clone());
        let api = Arc::new(Api::new(shared.clone(), lanes.clone()));
        let page = Arc::new(Page::new(shared.config.server.page));
        let door = Arc::new(Door::new(&shared.config.server));
        Self { shared, lanes, api, admission, page, door }
    }

    /// Accepts until the node stops.
    pub async fn run(self, listener: TcpListener) {
        let tasks = self.shared.tasks.clone();
        let server = Arc::new(self);
        let mut stopping = pin!(tasks.stopping());
        let mut pause = ACCEPT_PAUSE_MIN;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stopping => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if pause > ACCEPT_PAUSE_MIN {
                        tracing::info!("accepting connections again");
                        pause = ACCEPT_PAUSE_MIN;
                    }
                    server.clone().greet(stream, peer);
                }
                // The client was gone before we came: nothing of ours is short.
                Err(err) if err.kind() == io::ErrorKind::ConnectionAborted => {}
                // No file is free (EMFILE), or no memory. Never a reason to end the server.
                Err(err) => {
                    if pause == ACCEPT_PAUSE_MIN {
                        tracing::error!(%err, "cannot accept connections; trying again");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
    }

    fn greet(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // A client that comes by IPv6 to an IPv4 address is the same address.
        let address: IpAddr = peer.ip().to_canonical();
        // Too many wait to be refused: not even a refusal is to be had.
        let Some(permit) = self.admission.enter(address) else { return };
        if let Err(err) = socket::tune(&stream, &self.shared.config.socket) {
            tracing::debug!(%err, "the connection was gone before it was served");
            return;
        }
        let tasks = self.shared.tasks.clone();
        let line = Line::new(stream, &self.shared.budgets.unsent);
        let visit = Visit::new(&self, permit, line.peer());
        tasks.spawn_connection(serve(self.shared.clone(), line, Arc::new(visit)));
    }
}

/// HTTP on one connection, until it ends or upgrades.
async fn serve(shared: Arc<Shared>, line: Line, visit: Arc<Visit>) {
    let config = &shared.config.server;
    let service = service_fn(|request| {
        let visit = visit.clone();
        async move { Ok::<_, Infallible>(visit.answer(request).await) }
    });
    let mut http = http1::Builder::new();
    // Without the timer hyper ignores the time-out. It also ends a kept-alive connection that asks
    // for nothing more.
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.header_timeout_ms))
        .max_headers(HEADERS_LEN_MAX)
        .max_buf_size(config.header_bytes_max.max(HEADER_BYTES_MIN))
        .keep_alive(true)
        // A client that has sent all it wants to send is answered: its commands are carried out.
        .half_close(true);
    let evicted = line.evicted();
    let mut connection = pin!(http.serve_connection(TokioIo::new(line), service).with_upgrades());
    let served = tokio::select! {
        served = &mut connection => served,
        () = evicted.notified() => {
            tracing::debug!("a connection is ended for what waits for it");
            Ok(())
        }
        // Not before the last client has left: until then a load balancer that keeps a connection
        // to ask `/readyz` on is told that this node stops.
        () = shared.tasks.sessions_ended() => {
            connection.as_mut().graceful_shutdown();
            // A request that is not complete by now is not worth the rest of the time to stop.
            tokio::time::timeout(LAST_REQUEST, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(err) = served {
        tracing::debug!(%err, "a connection ended badly");
    }
}
