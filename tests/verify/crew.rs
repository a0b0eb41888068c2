//! Clients that mean harm, all at once: they ask and do not read, flood, trickle, ask for what is
//! dear, and come and go. Nothing they send may be felt by anybody else.
//!
//! It judges nothing, except how long the others wait for a `pong` meanwhile.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::Client;
use crate::harness::raw::{masked_frame, upgrade_request};

/// What the names of its rooms and users begin with: nobody else's do.
pub const PREFIX: &str = "crew ";

/// So many connections of each deed that holds memory; the others have `BUSY`. A build for tests is
/// ten times slower, and is given less to do.
const HOLDING: usize = if cfg!(debug_assertions) { 10 } else { 60 };
const BUSY: usize = if cfg!(debug_assertions) { 1 } else { 2 };
/// What the kernel keeps for a client that does not read.
const NARROW_BYTES: u32 = 4096;
/// How long a connection goes on that nobody ends, in milliseconds.
const LASTING_MS: std::ops::Range<u64> = 3_000..20_000;
/// Before the next.
const PAUSE_MS: std::ops::Range<u64> = 10..300;
/// Between two bytes of what trickles.
const TRICKLE: Duration = Duration::from_millis(200);
/// Between two pings of a neighbour.
const PING_PAUSE: Duration = Duration::from_millis(20);
/// Messages of a page of the past: with 16 KB each a page is as large as it may be.
const FILLED: usize = 70;
const TEXT_BYTES: usize = 16_000;
const MANY_ROOMS: usize = 600;
/// Commands that are sent before the first of them is answered, while it makes itself at home.
const BREATH: usize = 50;

/// What is sent, beginning with the first byte of a connection or after the upgrade.
struct Deed {
    name: &'static str,
    connections: usize,
    is_upgraded: bool,
    reads: bool,
    once: Vec<u8>,
    /// Sent again and again after that.
    burst: Vec<u8>,
    pace: Pace,
}

#[derive(Clone, Copy, PartialEq)]
enum Pace {
    /// As fast as it is taken.
    Flood,
    /// Byte by byte.
    Trickle,
    /// A burst now and then.
    Bursts,
    /// It ends at once.
    HangUp,
}

pub struct Crew {
    attackers: JoinSet<()>,
    neighbours: JoinSet<()>,
    waits: Arc<Mutex<Vec<Duration>>>,
}

/// How long the neighbours of a crew waited for their pongs.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    pub count: usize,
    pub median: Duration,
    pub p99: Duration,
}

impl Crew {
    /// Sends the crew to these nodes.
    pub fn board(nodes: &[SocketAddr], seed: u64) -> Self {
        let waits = Arc::default();
        let (mut attackers, mut neighbours) = (JoinSet::new(), JoinSet::new());
        let mut rng = StdRng::seed_from_u64(seed ^ 0xC4E3);
        let only = std::env::var("DEED").unwrap_or_default();
        let deeds = deeds().into_iter().filter(|deed| deed.name.contains(&only));
        for (number, deed) in deeds.enumerate() {
            let deed = Arc::new(deed);
            for place in 0..deed.connections {
                let addr = nodes[(number + place) % nodes.len()];
                let rng = StdRng::seed_from_u64(rng.random());
                attackers.spawn(attack(addr, address(number), deed.clone(), rng));
            }
        }
        for addr in nodes {
            neighbours.spawn(wait_for_pongs(*addr, Arc::clone(&waits)));
        }
        Self { attackers, neighbours, waits }
    }

    /// All of them go at once.
    pub async fn leave(mut self) -> Waits {
        self.neighbours.shutdown().await;
        self.attackers.shutdown().await;
        let mut waits = std::mem::take(&mut *self.waits.lock().expect("nobody panicked"));
        waits.sort_unstable();
        let at = |share: f64| {
            let wait = waits.get((waits.len() as f64 * share) as usize);
            wait.copied().unwrap_or(Duration::MAX)
        };
        Waits { count: waits.len(), median: at(0.5), p99: at(0.99) }
    }
}

/// Each deed comes from an address of its own, where the system has so many.
fn address(number: usize) -> IpAddr {
    let last = u8::try_from(number + 2).expect("there are few deeds");
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// The rooms that they ask for: one that is full, and many that are empty.
pub async fn furnish(addr: SocketAddr) {
    let mut client = Client::greeted(addr).await;
    let create =
        |number| json!({"type": "create", "user_id": user(), "room": room(number), "id": "1"});
    let fill = |number: usize| {
        let (text, id) = ("x".repeat(TEXT_BYTES), number.to_string());
        let message = json!({"type": "message", "user_id": user(), "message": text, "id": id});
        with_room(message, 0)
    };
    let commands: Vec<_> = (0..MANY_ROOMS).map(create).chain((2..FILLED + 2).map(fill)).collect();
    for breath in commands.chunks(BREATH) {
        for command in breath {
            client.send(command.clone()).await;
        }
        for _ in breath {
            client.read_until(json!({"type": "ack"})).await;
        }
    }
}

fn with_room(mut command: Value, number: usize) -> Value {
    command["room"] = room(number).into();
    command
}

fn room(number: usize) -> String {
    format!("{PREFIX}{number}")
}

fn user() -> String {
    format!("{PREFIX}one")
}

fn text(command: &Value) -> Vec<u8> {
    masked_frame(0x81, command.to_string().as_bytes())
}

fn positions(names: impl Iterator<Item = String>) -> Value {
    names.map(|name| (name, json!(0))).collect::<serde_json::Map<_, _>>().into()
}

fn deeds() -> Vec<Deed> {
    let history = json!({"type": "history", "user_id": user(), "room": room(0), "limit": 200});
    let page = format!(
        "GET /api/rooms/{}/events?limit=200&user_id={} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        room(0).replace(' ', "%20"),
        user().replace(' ', "%20"),
    );
    let join = text(&json!({"type": "join", "user_id": user(), "room": room(0), "since": 0}));
    let said = |number: usize| {
        let message = "x".repeat(TEXT_BYTES);
        json!({"type": "message", "user_id": user(), "room": room(number), "message": message})
    };
    let holding = |name, is_upgraded, once| Deed {
        name,
        connections: HOLDING,
        is_upgraded,
        reads: false,
        once,
        burst: Vec::new(),
        pace: Pace::Bursts,
    };
    let flood = |name, once: Vec<u8>, frame: Vec<u8>, times| Deed {
        name,
        connections: BUSY,
        is_upgraded: true,
        reads: true,
        once,
        burst: frame.repeat(times),
        pace: Pace::Flood,
    };
    let dear = |name, command: Value| flood(name, Vec::new(), text(&command), 20);
    let trickle = |name, is_upgraded, burst: Vec<u8>| Deed {
        name,
        connections: HOLDING,
        is_upgraded,
        reads: true,
        once: Vec::new(),
        burst,
        pace: Pace::Trickle,
    };
    let unknown = positions((0..3800).map(|number| format!("u{number}")));
    let known = positions((0..MANY_ROOMS).map(room));
    let resume = |rooms: Value| json!({"type": "resume", "user_id": user(), "rooms": rooms});
    let mut head = b"POST /api/rooms/x/messages HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    let mut body = head.clone();
    head.extend(b"X-Nothing: ".iter().chain(&[b'x'; 4000]));
    body.extend(b"Content-Length: 16000\r\nContent-Type: application/json\r\n\r\n{");
    body.extend(b" ".repeat(4000));
    let mut begun = masked_frame(0x81, &[b' '; 16_000]);
    begun.truncate(8000);
    vec![
        holding("pages unread", true, text(&history).repeat(200)),
        holding("answers unread over HTTP", false, page.repeat(20).into_bytes()),
        holding("a room's past and present unread", true, join),
        holding("nothing said over HTTP", false, Vec::new()),
        Deed {
            pace: Pace::Bursts,
            ..flood("long messages in many rooms", Vec::new(), Vec::new(), 0)
        }
        .bursting((0..MANY_ROOMS / 20).flat_map(|number| text(&said(number))).collect()),
        flood("pings", Vec::new(), masked_frame(0x89, b""), 2000),
        flood("pongs", Vec::new(), masked_frame(0x8A, b""), 2000),
        flood("empty parts", masked_frame(0x01, b"{"), masked_frame(0x00, b""), 2000),
        flood("nonsense", Vec::new(), masked_frame(0x81, b"{"), 2000),
        flood("binary frames", Vec::new(), masked_frame(0x82, &[0; 4096]), 20),
        flood("commands", Vec::new(), text(&json!({"type": "ping"})), 2000),
        dear("resumes of nothing", resume(unknown)),
        dear("resumes of much", resume(known)),
        dear("lists of rooms", json!({"type": "rooms", "user_id": user(), "limit": 1000})),
        dear("lists of members", json!({"type": "members", "user_id": user(), "room": room(0)})),
        dear("who is there", json!({"type": "who", "user_id": user(), "room": room(0)})),
        dear("pages read", history),
        trickle("a frame byte by byte", true, begun),
        trickle("a head byte by byte", false, head),
        trickle("a body byte by byte", false, body),
        Deed { pace: Pace::HangUp, ..flood("coming and going", Vec::new(), Vec::new(), 0) },
    ]
}

impl Deed {
    fn bursting(self, burst: Vec<u8>) -> Self {
        Self { burst, ..self }
    }

    async fn once(&self, addr: SocketAddr, from: IpAddr, lasting: Duration) -> std::io::Result<()> {
        let mut stream = self.connect(addr, from).await?;
        if self.is_upgraded {
            stream.write_all(upgrade_request(addr, "").as_bytes()).await?;
            let mut answered = [0; 12];
            stream.read_exact(&mut answered).await?;
        }
        if self.pace == Pace::HangUp {
            return Ok(());
        }
        let (mut reader, mut writer) = stream.split();
        let write = async {
            writer.write_all(&self.once).await?;
            let mut trickling = self.burst.chunks(1).cycle();
            while !self.burst.is_empty() {
                match self.pace {
                    Pace::Trickle => {
                        writer.write_all(trickling.next().expect("it is not empty")).await?;
                        sleep(TRICKLE).await;
                    }
                    Pace::Bursts => {
                        writer.write_all(&self.burst).await?;
                        sleep(Duration::from_secs(1)).await;
                    }
                    Pace::Flood | Pace::HangUp => writer.write_all(&self.burst).await?,
                }
            }
            std::future::pending().await
        };
        let read = async {
            if self.reads {
                return copy(&mut reader, &mut sink()).await.map(drop);
            }
            std::future::pending().await
        };
        // Its time is over: it goes without a word.
        let both = async {
            tokio::select! { end = write => end, end = read => end }
        };
        timeout(lasting, both).await.unwrap_or(Ok(()))
    }

    async fn connect(&self, addr: SocketAddr, from: IpAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        // Where there is but one address, all have it.
        let _ = socket.bind((from, 0).into());
        if !self.reads {
            socket.set_recv_buffer_size(NARROW_BYTES)?;
        }
        socket.connect(addr).await
    }
}

/// Does it again and again. A connection that is refused or ended is what a node is to do.
async fn attack(addr: SocketAddr, from: IpAddr, deed: Arc<Deed>, mut rng: StdRng) {
    loop {
        let lasting = Duration::from_millis(rng.random_range(LASTING_MS));
        let _ = deed.once(addr, from, lasting).await;
        sleep(Duration::from_millis(rng.random_range(PAUSE_MS))).await;
    }
}

async fn wait_for_pongs(addr: SocketAddr, waits: Arc<Mutex<Vec<Duration>>>) {
    let mut client = Client::greeted(addr).await;
    loop {
        let asked = Instant::now();
        client.send(json!({"type": "ping"})).await;
        client.read_until(json!({"type": "pong"})).await;
        waits.lock().expect("nobody panicked").push(asked.elapsed());
        sleep(PING_PAUSE).await;
    }
}
