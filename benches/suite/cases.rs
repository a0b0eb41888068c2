//! What is measured: each case is one kind of server under one load.

use anyhow::Result;
use serde_json::Value;

use crate::rig::{Running, Server};
use crate::{commit, generator};

pub struct Case {
    /// What the load is called. Cases of one load are beside each other in the tables.
    pub load: String,
    pub server: Server,
    /// Of `verbatim bench`.
    pub arguments: String,
    /// What is done besides.
    pub twist: Twist,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    None,
    /// The first node is killed.
    Kill,
    /// Times are counted from the commit.
    FromCommit,
}

pub const FANOUT_RATES: [u32; 4] = [20, 100, 200, 300];
/// Of messages a second that Socket.IO can be asked for at a thousand followers.
const SOCKETIO_RATE_MAX: u32 = 100;
pub const CONNECTIONS: [u32; 4] = [1000, 5000, 10_000, 15_000];
pub const PEERS: [Server; 3] = [Server::Nats, Server::SocketIo, Server::Floor];
const ONE: Server = Server::Postgres(1);
const THREE: Server = Server::Postgres(3);

impl Case {
    fn new(load: impl Into<String>, server: Server, arguments: impl Into<String>) -> Self {
        let (load, arguments) = (load.into(), arguments.into());
        Self { load, server, arguments, twist: Twist::None }
    }

    /// A fresh server, the load, and the report.
    pub async fn run(&self) -> Result<Value> {
        let running = Running::start(self.server).await?;
        let dialect = self.server.dialect();
        match self.twist {
            Twist::None => generator::run(&self.arguments, dialect, &running, None).await,
            Twist::Kill => {
                let arguments = format!("{} --kill {}", self.arguments, running.pids[0]);
                generator::run(&arguments, dialect, &running, None).await
            }
            Twist::FromCommit => commit::run(&self.arguments, &running).await,
        }
    }
}

/// All of them; `is_quick` is to see that everything works, and its figures mean little.
pub fn all(is_quick: bool) -> Vec<Case> {
    let seconds = if is_quick { 3 } else { 10 };
    let mut cases = Vec::new();
    for rate in FANOUT_RATES {
        for server in [Server::Embedded, ONE, THREE, Server::Nats, Server::SocketIo, Server::Floor]
        {
            if server != Server::SocketIo || rate <= SOCKETIO_RATE_MAX {
                let arguments =
                    format!("fanout --clients 1000 --rate {rate} --duration {seconds}s");
                cases.push(Case::new(format!("fanout-{rate}"), server, arguments));
            }
        }
    }
    for count in CONNECTIONS {
        for server in [Server::Embedded].into_iter().chain(PEERS) {
            let arguments = format!("idle --clients {count} --duration 3s");
            cases.push(Case::new(format!("idle-{count}"), server, arguments));
        }
    }
    // Two rounds of pings.
    let pings = if is_quick { 26 } else { 50 };
    let arguments = format!("idle --clients 15000 --duration {pings}s");
    cases.push(Case::new("idle-pings", Server::Embedded, arguments));
    for (load, more) in [("write-64", "--rooms 64"), ("write-1", "--rooms 1")] {
        for server in [Server::Embedded, ONE] {
            let arguments =
                format!("write --clients 200 --in-flight 32 {more} --duration {seconds}s");
            cases.push(Case::new(load, server, arguments));
        }
    }
    let write = format!("write --clients 200 --rooms 64 --rate 500 --duration {seconds}s");
    cases.push(Case::new("ack-500", Server::Embedded, &write));
    cases.push(Case::new("ack-500", ONE, &write));
    cases.extend(across_nodes(seconds));
    let storm = "storm --clients 10000 --rooms 100 --missed 100";
    cases.push(Case::new("storm", Server::Embedded, storm));
    cases.push(Case::new("storm", ONE, storm));
    let kill = Case::new("kill", THREE, "storm --clients 5000 --rooms 50 --missed 20");
    cases.push(Case { twist: Twist::Kill, ..kill });
    let slow = format!("fanout --clients 1000 --rate 200 --duration {seconds}s");
    cases.push(Case::new("slow-0", Server::Embedded, &slow));
    cases.push(Case::new("slow-1", Server::Embedded, format!("{slow} --slow 1")));
    let chatter = format!("chatter --clients 1000 --rooms 100 --rate 500 --duration {seconds}s");
    let jitter = format!("jitter --clients 1000 --rooms 10 --rate 100 --duration {}s", 2 * seconds);
    for server in [Server::Embedded, ONE, THREE] {
        cases.push(Case::new("chatter", server, &chatter));
        cases.push(Case::new("jitter", server, &jitter));
    }
    cases
}

/// Each message to ten followers of a hundred, or to all of them.
pub fn across_nodes(seconds: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    for (load, rooms, rate) in
        [("cross-500", 10, 500), ("cross-1000", 10, 1000), ("cross-1000-all", 1, 1000)]
    {
        for server in [ONE, THREE] {
            let arguments =
                format!("fanout --clients 100 --rooms {rooms} --rate {rate} --duration {seconds}s");
            let case = Case::new(load, server, arguments);
            cases.push(Case { twist: Twist::FromCommit, ..case });
        }
    }
    cases
}
