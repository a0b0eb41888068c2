//! The HTTP side of a node: accepts connections, admits them, answers the few routes and the API,
//! and turns an upgrade into a session.
//!
//! It does not know commands or events, except in `api`. A connection is one task until it
//! upgrades; then that task ends with all of HTTP's buffers, and the session's task begins.

mod admission;
mod answer;
pub mod api;
mod connection;
mod door;
mod exchange;
mod host;
mod line;
mod lobby;
mod origin;
mod page;
mod routes;
mod status;
pub mod upgrade;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use self::admission::Admission;
use self::api::Api;
use self::door::Door;
use self::line::Line;
use self::page::Page;
use self::routes::Visit;
use self::status::Status;
use crate::lane::Lanes;
use crate::session::Shared;
use crate::socket;

/// First pause after a failed accept. It doubles up to `ACCEPT_PAUSE_MAX`.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause after a failed accept: files come free at any time.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a stopping node waits for what is left of requests, when its last client has gone.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// What every connection of this node needs.
pub struct Server {
    shared: Arc<Shared>,
    lanes: Lanes,
    api: Api,
    admission: Arc<Admission>,
    page: Page,
    door: Door,
    status: Arc<Status>,
}

impl Server {
    pub fn new(shared: Arc<Shared>, lanes: Lanes) -> Self {
        let admission = Admission::new(&shared.config, shared.metrics.clone());
        let api = Api::new(shared.clone(), lanes.clone());
        let page = Page::new(shared.config.server.page);
        let door = Door::new(&shared.config.server);
        let status = Status::new(shared.clone());
        Self { shared, lanes, api, admission, page, door, status }
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
        let Some(permit) = self.admission.enter(Some(address)) else { return };
        if let Err(err) = socket::tune(&stream, &self.shared.config.socket) {
            tracing::debug!(%err, "the connection was gone before it was served");
            return;
        }
        let tasks = self.shared.tasks.clone();
        let line = Line::new(stream, &self.shared.budgets.unsent);
        let visit = Visit::new(self, permit, address, line.peer());
        tasks.spawn_connection(connection::run(visit, line));
    }
}
