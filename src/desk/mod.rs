//! The one executor of commands, between the entry points (sockets, HTTP, event streams) and the
//! lanes, the log, the hub and the signals.
//!
//! An entry point turns its bytes into a `Caller` and a `Request`, and turns the `Reply` into
//! bytes; it does nothing else. Here a command gets its deadline, goes where it belongs, and is
//! answered. Its weight is known with its reply. Whether it is allowed is for `rules`.
//!
//! A write is in a lane from the moment it begins. Everything else begins when its turn has come
//! (`Pending`), so a client that pipelines reads its own writes.

mod asked;
pub mod follow;
pub mod history;
mod lists;
pub mod pace;
mod pending;
mod reader;
mod reading;
mod reply;
pub mod resume;
mod signals;
mod writes;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use self::asked::Asked;
use self::pace::Pace;
pub use self::pending::{Pending, Work};
pub use self::reader::{CommandReader, Outage};
pub use self::reply::{Joined, Reply};
use self::resume::Resuming;
pub use self::writes::written;
use crate::budget::Budgets;
use crate::config::Config;
use crate::hub::{Follower, Hub};
use crate::lane::{Lanes, Parked};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::mirror::Status;
use crate::protocol::command::{Command, Deed, Request, Verb};
use crate::protocol::error::Problem;
use crate::relay::Relay;
use crate::replay::Replay;
use crate::rules::{Outcome, Write};
use crate::signals::Signals;
use crate::tasks::Tasks;

/// One per node: everything that commands work with.
pub struct Desk {
    pub config: Config,
    pub budgets: Budgets,
    pub pace: Pace,
    pub log: Log,
    pub lanes: Lanes,
    pub hub: Arc<Hub>,
    pub relay: Arc<Relay>,
    pub replay: Replay,
    pub signals: Arc<Signals>,
    /// The state of the connection to Redis; `None`: there is no mirror.
    pub status: Option<watch::Receiver<Status>>,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
}

/// Who sends the command, and how.
#[derive(Clone)]
pub struct Caller {
    /// The address for limits.
    pub address: IpAddr,
    /// Failed reads of this caller.
    pub outage: Outage,
    pub way: Way,
}

/// What a caller can get beyond one answer.
#[derive(Clone)]
pub enum Way {
    /// Nothing: an HTTP request.
    Request,
    /// Events of rooms: a socket, with the follower by which it follows the command's room, if it
    /// does.
    Socket(Option<Arc<Follower>>),
}

/// How much longer a request waits than a lane takes at most. The lane's answer is better than our
/// own: it knows whether anything was written.
const GRACE: Duration = Duration::from_millis(50);

impl Desk {
    /// Begins a command. If something is `Parked`, it must be sent before anything else of this
    /// caller.
    pub fn begin(
        self: &Arc<Self>,
        caller: Caller,
        Request { id, command }: Request,
    ) -> (Pending, Option<Parked>) {
        let re = command.kind();
        let reader = CommandReader::new(self.clone(), caller.outage);
        let pending = match command {
            Command::InRoom { user, room, deed } => {
                let asked = Asked { re, room, user, id, came: Instant::now() };
                return self.begin_in_room(reader, asked, deed, caller.address, caller.way);
            }
            Command::Resume { user, rooms } => {
                let resuming = Resuming::new(reader, user, rooms, id);
                Pending::later(|| resume::part(resuming))
            }
            Command::Rooms { user, after, limit } => {
                Pending::later(move || lists::rooms(reader, user, after, limit, id))
            }
            Command::Ping | Command::Help => Pending::Ready(Reply::Local(re, id)),
        };
        (pending, None)
    }

    fn begin_in_room(
        &self,
        reader: CommandReader,
        asked: Asked,
        deed: Deed,
        address: IpAddr,
        way: Way,
    ) -> (Pending, Option<Parked>) {
        let pending = match deed {
            Deed::Write(verb) => return self.write(asked, verb),
            Deed::Join(start) => {
                let before = self.relay.edge(&asked.room);
                let (pending, parked) = self.write(asked, Verb::Join);
                let start = matches!(way, Way::Socket(_)).then_some(start);
                let join = move |pending| follow::join(reader, pending, start, before);
                return (pending.and_then(join), parked);
            }
            Deed::History { page, limit } => {
                Pending::later(move || history::history(reader, asked, page, limit))
            }
            Deed::Members { after } => Pending::later(|| lists::members(reader, asked, after)),
            Deed::Who => Pending::later(move || signals::who(reader, asked, way, address)),
            Deed::Typing => {
                let since = self.hub.room(&asked.room).and_then(|room| room.edge());
                Pending::later(move || signals::typing(reader, asked, way, since, address))
            }
            Deed::Read(seq) => {
                Pending::later(move || signals::read(reader, asked, seq, way, address))
            }
            Deed::Stream { after } => Pending::later(move || follow::stream(reader, asked, after)),
        };
        (pending, None)
    }

    fn write(&self, asked: Asked, verb: Verb) -> (Pending, Option<Parked>) {
        let (room, caller, id) = (asked.room.clone(), asked.user.clone(), asked.id.clone());
        let (answered, parked) = self.lanes.submit(Write { room, caller, id, verb });
        (Pending::Write(asked, answered), parked)
    }

    /// Executes a command for a caller who waits for this one answer, within its deadline.
    pub async fn answer(self: &Arc<Self>, address: IpAddr, request: Request) -> Reply {
        let (re, room) = (request.command.kind(), request.command.room().cloned());
        let id = request.id.clone();
        let budget = Duration::from_millis(self.config.lane.answer_timeout_ms) + GRACE;
        let caller = Caller { address, outage: Outage::default(), way: Way::Request };
        let answer = async {
            let (pending, parked) = self.begin(caller, request);
            if let Some(parked) = parked {
                parked.send().await;
            }
            match pending.end().await {
                // For a repeated key, the answer is the event of the first time.
                Reply::Written(asked, Outcome::Duplicate(receipt)) => {
                    let reader = CommandReader::new(self.clone(), Outage::default());
                    writes::stored(reader, asked, receipt.seq).await
                }
                reply => reply,
            }
        };
        // Also reached if two reads, each in time, took too long together.
        tokio::time::timeout(budget, answer).await.unwrap_or_else(|_| {
            let why = if re.writes() { Problem::unavailable() } else { Problem::unanswered() };
            Reply::Problem(Problem { re: Some(re), room, id, ..why })
        })
    }
}
