//! A TCP proxy that misbehaves on demand: between a node and its Redis, its PostgreSQL or its
//! clients.
//!
//! It speaks no protocol. With `Pieces::Values` it knows where a value of Redis' protocol ends, so
//! that a rule sees whole commands and whole answers, and one message can vanish without a trace.
//!
//! ```text
//!   node ── Way::ToServer ─▶ ┌───────┐ ─▶ server     the gate: open, shut, or a black hole
//!        ◀─ Way::ToClient ── └───────┘ ◀─            the delay of each way, and the rule
//! ```

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Pieces under way on one connection, one way. When it is full the proxy reads no more, as a
/// network does.
const UNDER_WAY_MAX: usize = 4096;

/// The same for a link that shall not buffer for a slow reader: the other end must feel it.
const TIGHT_UNDER_WAY_MAX: usize = 4;
/// And what the kernel may keep for such a link, in bytes.
const TIGHT_RECEIVE_BYTES: u32 = 16 * 1024;

/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// What a rule sees as one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// Whatever arrived at once.
    Chunks,
    /// One command, answer or push of Redis' protocol, version 2 or 3.
    Values,
}

/// What becomes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// It vanishes, and nobody is told.
    Drop,
    /// The connection ends before it.
    Cut,
    /// It passes, and the connection ends when the answer to it arrives here.
    CutAnswer,
    /// The proxy becomes a black hole, and the piece waits in it with all others.
    Swallow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Connections end, and new ones end at once.
    Shut,
    /// Connections stand, new ones are accepted, and nothing comes through.
    Hole,
}

type Rule = Box<dyn FnMut(Way, &[u8]) -> Fate + Send>;
type Rewrite = Box<dyn FnMut(Way, Vec<u8>) -> Vec<u8> + Send>;

/// What its misbehaviour has met so far.
#[derive(Default)]
struct Hits {
    /// Connections that ended, or were refused, because the gate was shut or by a rule.
    cut: AtomicUsize,
    /// Pieces and connections that had to wait in the hole.
    held: AtomicUsize,
    /// Pieces that were delayed.
    delayed: AtomicUsize,
}

/// Dropping it ends all connections.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    /// The server's port on this machine.
    server: AtomicU16,
    pieces: Pieces,
    is_tight: bool,
    gate: watch::Sender<Gate>,
    hits: Hits,
    /// To the server, and to the client.
    delays: Mutex<[Duration; 2]>,
    rule: Mutex<Option<Rule>>,
    rewrite: Mutex<Option<Rewrite>>,
}

impl Proxy {
    /// In front of a server of this machine.
    pub async fn to(port: u16, pieces: Pieces) -> Self {
        Self::start(port, pieces, false).await
    }

    /// The same, and it keeps next to nothing for a client that does not read.
    pub async fn tight(port: u16) -> Self {
        Self::start(port, Pieces::Chunks, true).await
    }

    async fn start(port: u16, pieces: Pieces, is_tight: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            server: AtomicU16::new(port),
            pieces,
            is_tight,
            hits: Hits::default(),
            gate: watch::channel(Gate::Open).0,
            delays: Mutex::default(),
            rule: Mutex::default(),
            rewrite: Mutex::default(),
        });
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { port, shared, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections go to that port: the server has moved.
    pub fn retarget(&self, port: u16) {
        self.shared.server.store(port, Ordering::Relaxed);
    }

    /// Connections that were cut so far.
    pub fn cuts(&self) -> usize {
        self.shared.hits.cut.load(Ordering::Relaxed)
    }

    /// Pieces and connections that had to wait in the hole so far.
    pub fn held(&self) -> usize {
        self.shared.hits.held.load(Ordering::Relaxed)
    }

    /// Pieces that were delayed so far.
    pub fn delayed(&self) -> usize {
        self.shared.hits.delayed.load(Ordering::Relaxed)
    }

    /// Ends every connection, and every new one at once, until `heal`.
    pub fn cut(&self) {
        self.shared.gate.send_replace(Gate::Shut);
    }

    /// From here on nothing comes through, and nobody is told, until `heal`.
    pub fn swallow(&self) {
        self.shared.gate.send_replace(Gate::Hole);
    }

    /// Lets everything through again, first of all what was swallowed.
    pub fn heal(&self) {
        self.shared.gate.send_replace(Gate::Open);
    }

    /// Each piece that arrives from now on is passed on that much later, in order.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.shared.delays.lock().unwrap()[way as usize] = delay;
    }

    /// Asks about every piece that comes through from now on; replaces an earlier rule.
    pub fn rule(&self, rule: impl FnMut(Way, &[u8]) -> Fate + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Some(Box::new(rule));
    }

    pub fn no_rule(&self) {
        *self.shared.rule.lock().unwrap() = None;
    }

    /// Every piece that a rule lets pass is from now on what this makes of it.
    pub fn rewrite(&self, rewrite: impl FnMut(Way, Vec<u8>) -> Vec<u8> + Send + 'static) {
        *self.shared.rewrite.lock().unwrap() = Some(Box::new(rewrite));
    }

    pub fn no_rewrite(&self) {
        *self.shared.rewrite.lock().unwrap() = None;
    }

    /// Resolves when a rule has swallowed something.
    pub async fn swallowed(&self) {
        let mut gate = self.shared.gate.subscribe();
        gate.wait_for(|gate| *gate == Gate::Hole).await.unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        tokio::spawn(connection(client, shared.clone()));
    }
}

/// Ends when either side hangs up, or the gate is shut.
async fn connection(client: TcpStream, shared: Arc<Shared>) {
    let mut gate = shared.gate.subscribe();
    // Errors here and below: that side is gone, which ends the other, too.
    let talk = async {
        is_open(&shared).await;
        let Ok(server) = shared.connect().await else { return };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let doomed = AtomicBool::new(false);
        tokio::select! {
            () = pump(&shared, &doomed, Way::ToServer, from_client, to_server) => {}
            () = pump(&shared, &doomed, Way::ToClient, from_server, to_client) => {}
        }
    };
    tokio::select! {
        () = talk => {}
        _ = gate.wait_for(|gate| *gate == Gate::Shut) => shared.hits.count(&shared.hits.cut),
    }
}

/// Waits in the hole.
async fn is_open(shared: &Shared) {
    if *shared.gate.borrow() == Gate::Hole {
        shared.hits.count(&shared.hits.held);
        // It cannot end before the connections do: they hold it.
        shared.gate.subscribe().wait_for(|gate| *gate != Gate::Hole).await.unwrap();
    }
}

impl Shared {
    async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self.is_tight {
            socket.set_recv_buffer_size(TIGHT_RECEIVE_BYTES)?;
        }
        let port = self.server.load(Ordering::Relaxed);
        socket.connect(([127, 0, 0, 1], port).into()).await
    }

    fn under_way_max(&self) -> usize {
        if self.is_tight { TIGHT_UNDER_WAY_MAX } else { UNDER_WAY_MAX }
    }

    fn fate(&self, way: Way, piece: &[u8]) -> Fate {
        let mut rule = self.rule.lock().unwrap();
        rule.as_mut().map_or(Fate::Pass, |rule| rule(way, piece))
    }

    fn rewritten(&self, way: Way, piece: Vec<u8>) -> Vec<u8> {
        match self.rewrite.lock().unwrap().as_mut() {
            Some(rewrite) => rewrite(way, piece),
            None => piece,
        }
    }
}

impl Hits {
    fn count(&self, what: &AtomicUsize) {
        what.fetch_add(1, Ordering::Relaxed);
    }
}

/// One way of one connection. `doomed`: the connection ends when an answer arrives.
async fn pump(
    shared: &Shared,
    doomed: &AtomicBool,
    way: Way,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) {
    let (arrived, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(shared.under_way_max());
    let read = async {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        loop {
            match from.read_buf(&mut buffer).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => {
                    is_open(shared).await;
                    return true;
                }
            }
            let delay = shared.delays.lock().unwrap()[way as usize];
            if !delay.is_zero() {
                shared.hits.count(&shared.hits.delayed);
            }
            while let Some(len) = shared.pieces.first_len(&buffer) {
                let piece = buffer.drain(..len).collect();
                if arrived.send((Instant::now() + delay, piece)).await.is_err() {
                    return false;
                }
            }
        }
        // What is under way still arrives.
        drop(arrived);
        std::future::pending().await
    };
    let write = async {
        while let Some((due, piece)) = under_way.recv().await {
            sleep_until(due).await;
            is_open(shared).await;
            match shared.fate(way, &piece) {
                Fate::Pass => {}
                Fate::Drop => continue,
                Fate::Cut => return shared.hits.count(&shared.hits.cut),
                Fate::CutAnswer => doomed.store(true, Ordering::Relaxed),
                Fate::Swallow => {
                    shared.gate.send_replace(Gate::Hole);
                    is_open(shared).await;
                }
            }
            if way == Way::ToClient && doomed.load(Ordering::Relaxed) {
                return shared.hits.count(&shared.hits.cut);
            }
            let piece = shared.rewritten(way, piece);
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    let was_reset = tokio::select! {
        was_reset = read => was_reset,
        () = write => false,
    };
    if was_reset {
        // A reset is a reset to the other side, too. An error: that is gone as well.
        let _ = SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO));
        to.forget();
    }
}

impl Pieces {
    /// The length of the first piece; `None`: there is no whole one yet.
    fn first_len(self, bytes: &[u8]) -> Option<usize> {
        match self {
            _ if bytes.is_empty() => None,
            Self::Chunks => Some(bytes.len()),
            Self::Values => value_len(bytes),
        }
    }
}

/// The length of the value that `bytes` begins with, if it is whole.
fn value_len(bytes: &[u8]) -> Option<usize> {
    let line_len = bytes.windows(2).position(|two| two == b"\r\n")? + 2;
    let number = std::str::from_utf8(&bytes[1..line_len - 2]).ok().and_then(|it| it.parse().ok());
    let count = |number: Option<i64>| usize::try_from(number.expect("a length")).unwrap_or(0);
    let values = match bytes[0] {
        // A text with its length; -1 is nothing at all.
        b'$' | b'=' | b'!' if number == Some(-1) => return Some(line_len),
        b'$' | b'=' | b'!' => {
            let len = line_len + count(number) + 2;
            return (bytes.len() >= len).then_some(len);
        }
        b'*' | b'~' | b'>' => count(number),
        b'%' => 2 * count(number),
        _ => return Some(line_len),
    };
    (0..values).try_fold(line_len, |len, _| Some(len + value_len(&bytes[len..])?))
}

/// Whether a piece is a message on that channel which holds that text.
pub fn is_message(piece: &[u8], channel: &str, text: &str) -> bool {
    let holds = |text: &str| piece.windows(text.len()).any(|part| part == text.as_bytes());
    piece.starts_with(b">")
        && holds("message\r\n")
        && holds(&format!("\r\n{channel}\r\n"))
        && holds(text)
}

#[cfg(test)]
#[test]
fn a_value_ends_where_it_ends() {
    let whole: [&[u8]; 9] = [
        b"+OK\r\n",
        b":12\r\n",
        b"_\r\n",
        b"$-1\r\n",
        b"$2\r\n\r\n\r\n",
        b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        b"*-1\r\n",
        b"%1\r\n+a\r\n*2\r\n:1\r\n$0\r\n\r\n",
        b">3\r\n+message\r\n$1\r\nc\r\n$2\r\nhi\r\n",
    ];
    for value in whole {
        for len in 0..value.len() {
            assert_eq!(Pieces::Values.first_len(&value[..len]), None, "{value:?} at {len}");
        }
        let more = [value, b"+more"].concat();
        assert_eq!(Pieces::Values.first_len(&more), Some(value.len()));
    }
}
