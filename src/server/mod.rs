//! The HTTP side of a node: accepts and admits connections, answers the status paths, the web page
//! and the API, and turns upgrades into sessions.
//!
//! Only `api` knows commands and events. A connection is one task until it upgrades. Then that task
//! ends, with all of HTTP's buffers, and the session's task begins.

mod admission;
mod answer;
pub mod api;
mod connection;
mod door;
mod exchange;
pub mod files;
mod host;
mod lobby;
mod origin;
mod page;
mod preamble;
mod proxies;
mod refusals;
mod routes;
mod status;
mod transport;
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
use self::page::WebPage;
use self::proxies::Proxies;
use self::refusals::Refusals;
use self::routes::Visit;
use self::status::Status;
use self::transport::Transport;
use crate::desk::Desk;
use crate::model::UserId;
use crate::protocol::close::CloseCode;
use crate::rate::Backoff;
use crate::socket;

/// First pause after a failed accept.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause after a failed accept: files may become free at any time.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a stopping node waits for unfinished requests after its last session has ended.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Most connections at the internal listener.
const WATCHERS_MAX: usize = 64;

/// The state that all connections of this node share.
pub struct Server {
    desk: Arc<Desk>,
    api: Api,
    admission: Arc<Admission>,
    /// For the internal listener.
    watchers: Arc<Admission>,
    proxies: Proxies,
    page: WebPage,
    door: Door,
    status: Arc<Status>,
    refusals: Refusals,
}

/// The listener that a connection came in by.
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
        let page = WebPage::new(desk.config.server.page);
        let door = Door::new(&desk.config.server);
        let status = Status::new(desk.clone());
        let mut few = desk.config.clone();
        few.server.connections_max = WATCHERS_MAX;
        // With separate metrics that nobody reads: monitoring connections are not clients.
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
                // The client left before it was accepted. No resource is short.
                Err(err) if err.kind() == io::ErrorKind::ConnectionAborted => {}
                // No free file (EMFILE) or no memory. The server must survive it.
                Err(err) => {
                    if backoff.is_fresh() {
                        tracing::error!(%err, "cannot accept connections; retrying");
                    }
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Logs the end of a session if its client is to blame.
    fn note_closed(&self, client: IpAddr, code: CloseCode, reason: &str, user: Option<&UserId>) {
        let is_to_tell = [CloseCode::POLICY, CloseCode::STALLED].contains(&code);
        if is_to_tell && !self.proxies.trusts(client) {
            self.refusals.closed(client, reason, Some(code), user);
        }
    }

    fn greet(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, entrance: Entrance) {
        // An IPv4 address that arrives as an IPv4-mapped IPv6 address is the same address.
        let address: IpAddr = peer.ip().to_canonical();
        let (admission, counted) = match entrance {
            Entrance::Public => {
                (&self.admission, Some(address).filter(|it| !self.proxies.trusts(*it)))
            }
            Entrance::Internal => (&self.watchers, None),
        };
        let permit = match admission.enter(counted) {
            Ok(permit) => permit,
            // The queue of connections to refuse is full; drop this one.
            Err(limit) => {
                if let Some(address) = counted {
                    self.refusals.refused(address, limit.reason());
                }
                return;
            }
        };
        if let Err(err) = socket::tune(&stream, &self.desk.config.socket) {
            tracing::debug!(%err, "the connection ended before it was served");
            return;
        }
        let tasks = self.desk.tasks.clone();
        // Done here, not in the task: connections accepted before the task first runs may need the
        // slot.
        permit.waits(Wait::FirstByte);
        let transport = Transport::new(stream, &self.desk.budgets.unsent);
        let visit = Visit::new(self, entrance, permit, address, transport.peer());
        tasks.spawn_connection(connection::run(visit, transport));
    }
}
