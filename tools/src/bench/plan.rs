//! What a run will do: the rooms, the clients, who follows and who sends. Arguments come in, and a
//! checked plan comes out. Only looking up host names uses the network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::args::{Args, Shape};
use super::stamp;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shape: Shape,
    pub targets: Vec<Target>,
    pub rooms: Rooms,
    pub clients: Vec<Client>,
    /// Who sends to which room, in turn.
    pub speeches: Vec<Speech>,
    /// Messages per second; 0: each ack sends the next.
    pub rate: f64,
    pub size: usize,
    pub with_ids: bool,
    pub in_flight: usize,
    pub warm_up: Duration,
    pub duration: Duration,
    /// A client that loses its connection reconnects and resumes. Otherwise a lost connection is a
    /// failure.
    pub resumes: bool,
}

/// A node to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub url: String,
    pub host: String,
    /// As in the URL; empty: the dialect's default.
    pub path: String,
    pub address: SocketAddr,
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    pub user: String,
    /// Its index in the list of targets.
    pub target: usize,
    pub follows: Vec<u32>,
    pub speaks: bool,
    /// It reads nothing during the measurement.
    pub is_slow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speech {
    pub client: u32,
    pub room: u32,
}

/// The names of the rooms. Each contains the room's number.
#[derive(Clone, Debug)]
pub struct Rooms {
    prefix: String,
    names: Vec<String>,
}

/// An argument is wrong; the message is one line.
#[derive(Debug, thiserror::Error)]
#[error("--{argument}: {what}")]
pub struct Wrong {
    argument: &'static str,
    what: String,
}

fn wrong(argument: &'static str, what: impl Into<String>) -> Wrong {
    Wrong { argument, what: what.into() }
}

/// Digits of a room's number in its name.
const ROOM_DIGITS: usize = 6;
/// Most connections of one process. Room numbers have no more digits, and the source addresses have
/// few more ports.
const CLIENTS_MAX: usize = 1_000_000;
/// A server accepts 1,000 commands per second from a socket. A sender uses half of that.
const RATE_PER_SENDER_MAX: f64 = 500.0;
/// The user who owns the rooms, and sends where the followers do not.
const OWNER: &str = "owner";

impl Rooms {
    /// `run` makes the names differ from those of other runs.
    pub fn new(run: &str, count: usize) -> Self {
        let prefix = format!("bench-{run}-");
        let names = (0..count).map(|room| format!("{prefix}{room:0ROOM_DIGITS$}")).collect();
        Self { prefix, names }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub fn name(&self, room: u32) -> &str {
        &self.names[room as usize]
    }

    /// The room whose name `bytes` begins with.
    pub fn index_of(&self, bytes: &[u8]) -> Option<u32> {
        let digits = bytes.strip_prefix(self.prefix.as_bytes())?.get(..ROOM_DIGITS)?;
        let index = digits.iter().try_fold(0, |index: u32, digit| {
            digit.is_ascii_digit().then(|| index * 10 + u32::from(digit - b'0'))
        })?;
        ((index as usize) < self.names.len()).then_some(index)
    }
}

/// What a shape does by default.
struct Defaults {
    clients: usize,
    rooms: usize,
    rate: f64,
    in_flight: usize,
}

impl Defaults {
    fn of(shape: Shape) -> Self {
        let (clients, rooms, rate, in_flight) = match shape {
            Shape::Fanout => (1000, 1, 20.0, 256),
            Shape::Chatter => (1000, 100, 500.0, 256),
            Shape::Write => (200, 64, 0.0, 32),
            Shape::Idle => (1000, 1, 0.0, 1),
            Shape::Storm => (1000, 10, 2000.0, 256),
            Shape::Jitter => (1000, 10, 100.0, 256),
        };
        Self { clients, rooms, rate, in_flight }
    }
}

impl Plan {
    /// `run` is a word that no other run has. Only a dialect that numbers events (`is_numbered`)
    /// allows every shape.
    pub fn new(args: &Args, run: &str, is_numbered: bool) -> Result<Self, Wrong> {
        let defaults = Defaults::of(args.shape);
        let clients = args.clients.unwrap_or(defaults.clients);
        let rooms = args.rooms.unwrap_or(defaults.rooms);
        let rate = args.rate.unwrap_or(defaults.rate);
        let in_flight = args.in_flight.unwrap_or(defaults.in_flight);
        check(args, clients, rooms, rate, in_flight)?;
        let is_simple = matches!(args.shape, Shape::Fanout | Shape::Idle);
        if !is_numbered && (!is_simple || args.follows.unwrap_or(1) > 1) {
            let what = "other servers can only be measured with fanout and idle, in one room";
            return Err(wrong("dialect", what));
        }
        let targets = args.urls.iter().map(|url| Target::parse(url)).collect::<Result<_, _>>()?;
        let mut plan = Self {
            shape: args.shape,
            targets,
            rooms: Rooms::new(run, rooms),
            clients: Vec::new(),
            speeches: Vec::new(),
            rate,
            size: args.size,
            with_ids: matches!(args.shape, Shape::Write | Shape::Chatter),
            in_flight,
            warm_up: args.warm_up,
            duration: args.duration,
            resumes: matches!(args.shape, Shape::Storm | Shape::Jitter) || args.slow > 0.0,
        };
        let senders = args.senders.unwrap_or_else(|| plan.senders());
        match args.shape {
            Shape::Fanout | Shape::Jitter | Shape::Storm => {
                plan.add_followers(clients, args);
                plan.add_senders(senders, usize::from(args.kill.is_some()));
            }
            Shape::Idle => plan.add_followers(clients, args),
            Shape::Chatter => {
                plan.add_followers(clients, args);
                plan.let_followers_speak();
            }
            Shape::Write => plan.add_writers(clients),
        }
        Ok(plan)
    }

    /// Enough that the server's rate limits none of them, and at least one per node.
    fn senders(&self) -> usize {
        let for_the_rate = (self.rate / RATE_PER_SENDER_MAX).ceil() as usize;
        for_the_rate.max(self.targets.len())
    }

    fn add_followers(&mut self, count: usize, args: &Args) {
        let rooms = self.rooms.len();
        let follows = args.follows.unwrap_or(1);
        // Spread evenly. The first ones would all be on one node or in one room.
        let slow_every = (args.slow > 0.0).then(|| (100.0 / args.slow).max(1.0) as usize);
        for index in 0..count {
            // Consecutive clients are in different rooms, and the clients of a room on different
            // nodes.
            let first = index * follows;
            let target = (index % rooms + index / rooms) % self.targets.len();
            self.clients.push(Client {
                user: format!("u{index}"),
                target,
                follows: (first..first + follows).map(|room| (room % rooms) as u32).collect(),
                speaks: false,
                is_slow: slow_every.is_some_and(|every| index % every == every - 1),
            });
        }
    }

    /// Connections that send as the rooms' owner, and follow nothing. The first `skip` nodes get
    /// none, because they will be killed.
    fn add_senders(&mut self, count: usize, skip: usize) {
        let first = self.clients.len();
        let (targets, rooms) = (self.targets.len(), self.rooms.len());
        for index in 0..count {
            let target = if skip < targets { skip + index % (targets - skip) } else { 0 };
            let user = OWNER.to_owned();
            self.clients.push(Client { user, target, speaks: true, ..Client::default() });
        }
        for turn in 0..count * rooms {
            let client = (first + turn / rooms % count) as u32;
            self.speeches.push(Speech { client, room: (turn % rooms) as u32 });
        }
    }

    fn let_followers_speak(&mut self) {
        for (index, client) in self.clients.iter_mut().enumerate() {
            client.speaks = true;
            let room = client.follows[0];
            self.speeches.push(Speech { client: index as u32, room });
        }
    }

    /// Each is a user of its own, a member of one room, and follows none.
    fn add_writers(&mut self, count: usize) {
        for index in 0..count {
            let target = index % self.targets.len();
            let user = format!("u{index}");
            self.clients.push(Client { user, target, speaks: true, ..Client::default() });
            let room = (index % self.rooms.len()) as u32;
            self.speeches.push(Speech { client: index as u32, room });
        }
    }

    /// How many clients follow each room.
    pub fn followers(&self) -> Vec<u64> {
        let mut followers = vec![0; self.rooms.len()];
        for &room in self.clients.iter().flat_map(|client| &client.follows) {
            followers[room as usize] += 1;
        }
        followers
    }

    /// Who must be a member of which room: its followers, and those who send to it. The owner is
    /// already a member.
    pub fn memberships(&self) -> Vec<(u32, &str)> {
        let mut members = Vec::new();
        for client in &self.clients {
            members.extend(client.follows.iter().map(|&room| (room, client.user.as_str())));
        }
        for speech in &self.speeches {
            let client = &self.clients[speech.client as usize];
            if client.user != OWNER && client.follows.is_empty() {
                members.push((speech.room, &client.user));
            }
        }
        members.sort_unstable();
        members
    }

    pub fn owner(&self) -> &'static str {
        OWNER
    }
}

fn check(
    args: &Args,
    clients: usize,
    rooms: usize,
    rate: f64,
    in_flight: usize,
) -> Result<(), Wrong> {
    let follows = args.follows.unwrap_or(1);
    let rooms_max = 10_usize.pow(ROOM_DIGITS as u32);
    let counts = [
        ("clients", clients, CLIENTS_MAX),
        ("rooms", rooms, rooms_max),
        ("in-flight", in_flight, 1_000_000),
        ("follows", follows, rooms),
        ("threads", args.threads, 64),
        ("opening", args.opening, CLIENTS_MAX),
        ("senders", args.senders.unwrap_or(1), CLIENTS_MAX),
        ("url", args.urls.len(), 100),
    ];
    for (argument, value, max) in counts {
        if value == 0 || value > max {
            return Err(wrong(argument, format!("must be from 1 to {max}, not {value}")));
        }
    }
    if !rate.is_finite() || !(0.0..=1e6).contains(&rate) {
        return Err(wrong("rate", format!("must be from 0 to 1000000, not {rate}")));
    }
    if rate == 0.0 && !matches!(args.shape, Shape::Write | Shape::Idle) {
        return Err(wrong("rate", format!("must be above 0 for {}", args.shape.name())));
    }
    if !(stamp::LEN..=16 * 1024).contains(&args.size) {
        return Err(wrong("size", format!("must be from {} to 16384", stamp::LEN)));
    }
    if !(0.0..=50.0).contains(&args.slow) {
        return Err(wrong("slow", "must be from 0 to 50 percent"));
    }
    if args.duration.is_zero() {
        return Err(wrong("duration", "must be above 0"));
    }
    if args.kill.is_some() && (args.shape != Shape::Storm || args.urls.len() < 2) {
        return Err(wrong("kill", "only works with storm, and needs a second --url"));
    }
    Ok(())
}

impl Target {
    fn parse(url: &str) -> Result<Self, Wrong> {
        let rest = url
            .strip_prefix("ws://")
            .ok_or_else(|| wrong("url", format!("{url}: must begin with ws://")))?;
        let (host, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, ""),
        };
        let with_port = if host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut addresses = with_port
            .to_socket_addrs()
            .map_err(|err| wrong("url", format!("{url}: cannot look up {host}: {err}")))?;
        let address =
            addresses.next().ok_or_else(|| wrong("url", format!("{host} has no address")))?;
        let path = if path == "/" { "" } else { path };
        Ok(Self { url: url.to_owned(), host: host.to_owned(), path: path.to_owned(), address })
    }

    /// The address to connect from. One address has some 28,000 ports to one server. Loopback has
    /// many addresses, and the clients are spread over some of them.
    pub fn source(&self, index: usize) -> Option<IpAddr> {
        /// Enough for as many files as a process may open.
        const SOURCES: usize = 50;
        let IpAddr::V4(to) = self.address.ip() else { return None };
        let spread = cfg!(target_os = "linux") && to.is_loopback();
        spread.then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + (index % SOURCES) as u8)))
    }
}

#[cfg(test)]
impl Plan {
    /// The plan for what is typed after `verbatim bench`, for a run named x.
    pub fn typed(arguments: &str) -> Result<Self, String> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let words = ["bench"].into_iter().chain(arguments.split_whitespace());
        let line: Line = clap::Parser::try_parse_from(words).map_err(|err| err.to_string())?;
        Self::new(&line.args, "x", true).map_err(|err| err.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &str) -> Result<Plan, String> {
        Plan::typed(arguments)
    }

    const THREE: &str = "--url ws://127.0.0.1:1 --url ws://127.0.0.1:2 --url ws://127.0.0.1:3";

    #[test]
    fn followers_of_each_room_are_on_all_nodes_alike() {
        for (rooms, each) in [(1, 30), (2, 15), (3, 10), (5, 6)] {
            let plan = plan(&format!("fanout --clients 30 --rooms {rooms} {THREE}")).unwrap();
            assert_eq!(plan.followers(), vec![each; rooms]);
            let mut counts = std::collections::HashMap::<_, u64>::new();
            for client in plan.clients.iter().filter(|client| !client.follows.is_empty()) {
                *counts.entry((client.follows[0], client.target)).or_insert(0) += 1;
            }
            assert_eq!(counts.len(), rooms * 3, "{rooms} rooms");
            assert!(counts.values().all(|count| count.abs_diff(each / 3) <= 1));
        }
    }

    #[test]
    fn senders_are_enough_for_the_rate_and_reach_every_room() {
        let plan = plan(&format!("fanout --clients 1 --rooms 4 --rate 2600 {THREE}")).unwrap();
        let senders: Vec<_> = plan.clients.iter().filter(|client| client.speaks).collect();
        assert_eq!(senders.len(), 6, "500 messages/s each");
        let mut rooms: Vec<_> = plan.speeches.iter().map(|speech| speech.room).collect();
        rooms.sort_unstable();
        rooms.dedup();
        assert_eq!(rooms, [0, 1, 2, 3]);
    }

    #[test]
    fn nobody_speaks_through_a_node_that_will_be_killed() {
        let plan = plan(&format!("storm --clients 9 --kill 1 {THREE}")).unwrap();
        assert!(plan.clients.iter().all(|client| !client.speaks || client.target > 0));
        assert!(plan.clients.iter().any(|client| client.target == 0), "and some listen there");
    }

    #[test]
    fn one_in_a_hundred_is_slow() {
        let plan = plan("fanout --clients 300 --slow 1").unwrap();
        assert_eq!(plan.clients.iter().filter(|client| client.is_slow).count(), 3);
        assert!(plan.resumes, "a server may close those that take nothing");
    }

    #[test]
    fn writers_are_members_and_follow_nothing() {
        let plan = plan("write --clients 3 --rooms 2").unwrap();
        assert_eq!(plan.memberships(), [(0, "u0"), (0, "u2"), (1, "u1")]);
        assert_eq!(plan.followers(), [0, 0]);
        assert!(plan.with_ids);
    }

    #[test]
    fn an_impossible_plan_is_refused_with_the_argument_named() {
        let cases = [
            ("fanout --clients 0", "--clients: must be from 1"),
            ("fanout --rate 0", "--rate: must be above 0 for fanout"),
            ("fanout --rate nan", "--rate: must be from 0"),
            ("fanout --size 19", "--size: must be from 20"),
            ("fanout --rooms 2 --follows 3", "--follows: must be from 1 to 2"),
            ("fanout --slow 51", "--slow: must be from 0 to 50"),
            ("fanout --duration 0s", "--duration: must be above 0"),
            ("fanout --url http://x", "--url: http://x: must begin with ws://"),
            ("storm --kill 1", "--kill: only works with storm, and needs a second --url"),
            ("fan-out", "invalid value 'fan-out'"),
        ];
        for (arguments, wanted) in cases {
            let said = plan(arguments).unwrap_err();
            assert!(said.contains(wanted), "{arguments}: {said}");
        }
    }

    #[test]
    fn a_room_is_known_by_its_name() {
        let rooms = Rooms::new("run", 12);
        assert_eq!(rooms.name(11), "bench-run-000011");
        assert_eq!(rooms.index_of(br#"bench-run-000011","user"#), Some(11));
        assert_eq!(rooms.index_of(br#"bench-run-000012""#), None, "not of this plan");
        assert_eq!(rooms.index_of(br#"bench-other-000011""#), None);
        assert_eq!(rooms.index_of(b"bench-run-0000"), None);
    }
}
