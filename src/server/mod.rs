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
pub mod files;
mod host;
mod line;
mod lobby;
mod origin;
mod page;
mod preamble;
mod proxies;
mod refusals;
mod routes;
mod status;
pub mod upgrade;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use self::admission::{Admission, Wait};
use self::api::Api;
use self::door::Door;
use self::line::Line;
use self::page::Page;
use self::proxies::Proxies;
use self::refusals::Refusals;
use self::routes::Visit;
use self::status::Status;
use crate::desk::Desk;
use crate::model::UserId;
use crate::protocol::close::CloseCode;
use crate::rate::Backoff;
use crate::socket;

/// First pause after a failed accept.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause after a failed accept: files come free at any time.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a stopping node waits for what is left of requests, when its last client has gone.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Connections at once of those who watch the node, where they have a listener of their own.
const WATCHERS_MAX: usize = 64;

/// What every connection of this node needs.
pub struct Server {
    desk: Arc<Desk>,
    api: Api,
    admission: Arc<Admission>,
    /// Of those who come in by the internal entrance.
    watchers: Arc<Admission>,
    proxies: Proxies,
    page: Page,
    door: Door,
    status: Arc<Status>,
    refusals: Refusals,
}

/// By which listener somebody comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// `server.listen`
    Public,
    /// `server.internal_listen`
    Internal,
}

impl Server {
    pub fn new(desk: Arc<Desk>) -> Arc<Self> {
        let admission = Admission::new(&desk.config, desk.metrics.clone());
        let api = Api::new(desk.clone());
        let page = Page::new(desk.config.server.page);
        let door = Door::new(&desk.config.server);
        let status = Status::new(desk.clone());
        let mut few = desk.config.clone();
        few.server.connections_max = WATCHERS_MAX;
        // With numbers of their own, which nobody reads: they are no clients.
        let watchers = Admission::new(&few, Arc::default());
        let proxies = Proxies::new(&desk.config.server);
        let refusals = Refusals::new(Instant::now());
        Arc::new(Self { desk, api, admission, watchers, proxies, page, door, status, refusals })
    }

    /// Accepts until the node stops.
    pub async fn run(self: Arc<Self>, listener: TcpListener, entrance: Entrance) {
        let tasks = self.desk.tasks.clone();
        let mut stopping = pin!(tasks.stopping());
        let mut backoff = Backoff::new(ACCEPT_PAUSE_MIN, ACCEPT_PAUSE_MAX);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stopping => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if !backoff.is_fresh() {
                        tracing::info!("accepting connections again");
                        backoff.reset();
                    }
                    self.clone().greet(stream, peer, entrance);
                    if self.admission.is_crowded() || self.watchers.is_crowded() {
                        tokio::task::yield_now().await;
                    }
                }
                // The client was gone before we came: nothing of ours is short.
                Err(err) if err.kind() == io::ErrorKind::ConnectionAborted => {}
                // No file is free (EMFILE), or no memory. Never a reason to end the server.
                Err(err) => {
                    if backoff.is_fresh() {
                        tracing::error!(%err, "cannot accept connections; trying again");
                    }
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// A session has ended: a line, if it is for what its client did or did not do.
    fn note_closed(&self, client: IpAddr, code: CloseCode, reason: &str, user: Option<&UserId>) {
        let is_to_tell = [CloseCode::POLICY, CloseCode::STALLED].contains(&code);
        if is_to_tell && !self.proxies.trusts(client) {
            self.refusals.closed(client, reason, Some(code), user);
        }
    }

    fn greet(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, entrance: Entrance) {
        // A client that comes by IPv6 to an IPv4 address is the same address.
        let address: IpAddr = peer.ip().to_canonical();
        let (admission, counted) = match entrance {
            Entrance::Public => {
                (&self.admission, Some(address).filter(|it| !self.proxies.trusts(*it)))
            }
            Entrance::Internal => (&self.watchers, None),
        };
        let permit = match admission.enter(counted) {
            Ok(permit) => permit,
            // Too many wait to be refused: not even a refusal is to be had.
            Err(limit) => {
                if let Some(address) = counted {
                    self.refusals.refused(address, limit.reason());
                }
                return;
            }
        };
        if let Err(err) = socket::tune(&stream, &self.desk.config.socket) {
            tracing::debug!(%err, "the connection was gone before it was served");
            return;
        }
        let tasks = self.desk.tasks.clone();
        // At once, not when its task is first run: those who come meanwhile need the place.
        permit.waits(Wait::FirstByte);
        let line = Line::new(stream, &self.desk.budgets.unsent);
        let visit = Visit::new(self, entrance, permit, address, line.peer());
        tasks.spawn_connection(connection::run(visit, line));
    }
}
