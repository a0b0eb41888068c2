//! The log on PostgreSQL, which any number of nodes share.
//!
//! Each lane writes on its own connection (`append`, `lane`), and reads use a pool (`read`). The
//! row lock of each room keeps them consistent. Nothing is cached: another node may write to any
//! room at any time.

mod append;
mod connect;
mod error;
mod floor;
mod hosts;
mod lane;
mod mark;
mod outbox;
mod parameters;
mod ping;
mod read;
mod rows;
mod schema;
mod session;
mod tls;
mod unannounced;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use self::append::Appender;
use self::connect::Connector;
pub use self::error::OpenError;
pub use self::mark::Marker;
pub use self::outbox::{Outbox, Sweep};
use self::read::Reads;
use super::health::Health;
use super::{LogError, Member, RoomSummary};
use crate::config::LogConfig;
use crate::model::{Event, LogIdentity, RoomName, Seq, UserId};
use crate::rules::Standing;

/// A node's access to the database. Clones share everything.
#[derive(Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    identity: LogIdentity,
    lane_connector: Connector,
    reads: Reads,
    health: Arc<Health>,
    ping: ping::Ping,
    unannounced: unannounced::Unannounced,
    append_timeout: Duration,
    /// Whether there is a mirror. If so, each batch also writes to the outbox.
    mirrored: bool,
}

impl Postgres {
    /// Checks the server, and applies the schema if it is missing. Lanes and reads connect when
    /// they are first used, and reconnect after an outage.
    pub async fn open(
        config: &LogConfig,
        lanes: usize,
        node_id: &str,
        mirrored: bool,
    ) -> Result<Self, OpenError> {
        let connector = Connector::new(config, node_id)?;
        let readers = config.readers.max(1);
        let (lane_connector, read_connector) =
            (connector.for_lane(config), connector.for_reads(config));
        let connectors = (&lane_connector, &read_connector);
        let identity = schema::prepare(&connector, connectors, lanes + readers).await?;
        let health = Arc::new(Health::new("PostgreSQL"));
        let reads = Reads::new(
            read_connector,
            u32::try_from(readers).unwrap_or(u32::MAX),
            Duration::from_millis(config.read_timeout_ms),
            Arc::clone(&health),
        );
        let append_timeout = Duration::from_millis(config.append_timeout_ms);
        let shared = Shared {
            identity,
            lane_connector,
            reads,
            health,
            ping: ping::Ping::default(),
            unannounced: unannounced::Unannounced::default(),
            append_timeout,
            mirrored,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub fn appender(&self) -> Appender {
        Appender::new(Arc::clone(&self.shared))
    }

    pub(in crate::log) fn health(&self) -> &Health {
        &self.shared.health
    }

    pub fn identity(&self) -> &LogIdentity {
        &self.shared.identity
    }

    /// The outbox; `None` without a mirror, since nothing is written to it then.
    pub fn outbox(&self) -> Option<Outbox> {
        self.shared.mirrored.then(|| Outbox::new(Arc::clone(&self.shared)))
    }

    pub fn marker(&self) -> Marker {
        Marker::new(Arc::clone(&self.shared))
    }

    pub async fn last_seqs(&self, rooms: &[RoomName]) -> Result<Vec<Option<Seq>>, LogError> {
        self.shared.reads.last_seqs(rooms).await
    }

    pub async fn read_page(
        &self,
        room: &RoomName,
        after: Seq,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        self.shared.reads.read_page(room, after, limit, bytes_max).await
    }

    pub async fn read_before(
        &self,
        room: &RoomName,
        before: Option<Seq>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogError> {
        self.shared.reads.read_before(room, before, limit, bytes_max).await
    }

    pub async fn standing(
        &self,
        room: &RoomName,
        user: &UserId,
    ) -> Result<Option<Standing>, LogError> {
        self.shared.reads.standing(room, user).await
    }

    pub async fn standings(
        &self,
        rooms: &[RoomName],
        user: &UserId,
    ) -> Result<Vec<Option<Standing>>, LogError> {
        self.shared.reads.standings(rooms, user).await
    }

    pub async fn last_seq(&self, room: &RoomName) -> Result<Option<Seq>, LogError> {
        self.shared.reads.last_seq(room).await
    }

    pub async fn rooms(
        &self,
        user: Option<&UserId>,
        after: Option<&RoomName>,
        limit: usize,
    ) -> Result<Vec<RoomSummary>, LogError> {
        self.shared.reads.rooms(user, after, limit).await
    }

    pub async fn members(
        &self,
        room: &RoomName,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>, LogError> {
        self.shared.reads.members(room, after, limit).await
    }

    pub async fn ping_writes(&self) -> Result<(), LogError> {
        self.shared.ping.ask(&self.shared).await
    }

    pub async fn time(&self) -> Result<SystemTime, LogError> {
        self.shared.reads.time().await
    }

    pub async fn ping(&self) -> Result<(), LogError> {
        self.shared.reads.ping().await
    }
}
