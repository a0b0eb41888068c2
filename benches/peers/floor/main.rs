//! A bare broadcaster: what a message to many sockets costs when nothing else is done. It is the
//! floor that a chat server's fan-out stands on, and no chat server: no rooms, no names, no log.
//!
//! A thread per core, each with its own sockets; what a sender says is framed once and written by
//! each thread to each of its sockets, right away. What came meanwhile is joined into one write.
//!
//! ```text
//! cargo run --release --example floor -- 127.0.0.1:9000
//! ```
//! Who asks for `/send` sends; everybody else is sent to.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What one thread tells another.
enum Letter {
    /// A connection that is now its own.
    Connection(TcpStream),
    /// Whole frames, to be written to everybody.
    Frames(Arc<Vec<u8>>),
}

/// The way to a thread.
#[derive(Clone)]
struct Address {
    letters: Sender<Letter>,
    waker: Arc<Waker>,
}

struct Connection {
    stream: TcpStream,
    /// The upgrade was answered.
    is_open: bool,
    is_sender: bool,
    /// What was read of something that is not complete.
    tail: Vec<u8>,
    /// What the kernel did not take. Unbounded: the floor loses nothing and checks nothing.
    backlog: Vec<u8>,
}

const WAKER: Token = Token(usize::MAX);
/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4096;
const READ_BYTES: usize = 64 * 1024;

fn main() -> Result<()> {
    let address: SocketAddr =
        std::env::args().nth(1).context("which address? 127.0.0.1:9000")?.parse()?;
    // Each connection is a file.
    rlimit::increase_nofile_limit(200_000)?;
    let threads = thread::available_parallelism()?.get();
    let mut workers = Vec::new();
    let mut addresses = Vec::new();
    for _ in 0..threads {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (letters, inbox) = channel();
        addresses.push(Address { letters, waker });
        workers.push((poll, inbox));
    }
    for (poll, inbox) in workers {
        let addresses = addresses.clone();
        thread::spawn(move || {
            let mut worker = Worker { poll, inbox, addresses, connections: HashMap::new() };
            let ended = worker.run();
            eprintln!("floor: a thread ended: {ended:?}");
            std::process::exit(1);
        });
    }
    deal(address, &addresses)
}

/// Accepts, and gives each thread a connection in turn.
fn deal(address: SocketAddr, addresses: &[Address]) -> Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener: std::net::TcpListener = socket.into();
    println!("listening on ws://{}/", listener.local_addr()?);
    for turn in 0.. {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let to = &addresses[turn % addresses.len()];
        to.letters.send(Letter::Connection(TcpStream::from_std(stream)))?;
        to.waker.wake()?;
    }
    Ok(())
}

struct Worker {
    poll: Poll,
    inbox: Receiver<Letter>,
    addresses: Vec<Address>,
    connections: HashMap<usize, Connection>,
}

impl Worker {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut space = vec![0; READ_BYTES];
        let mut next = 0;
        loop {
            match self.poll.poll(&mut events, None) {
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                let Token(place) = event.token();
                let Some(connection) = self.connections.get_mut(&place) else { continue };
                if event.is_writable() && !connection.backlog.is_empty() {
                    let backlog = std::mem::take(&mut connection.backlog);
                    connection.write(&backlog);
                }
                let mut said = Vec::new();
                let is_over = connection.read(&mut space, &mut said);
                if is_over {
                    self.connections.remove(&place);
                }
                if !said.is_empty() {
                    let said = Arc::new(said);
                    for address in &self.addresses {
                        // A thread that has ended takes the process with it.
                        let _ = address.letters.send(Letter::Frames(said.clone()));
                        address.waker.wake()?;
                    }
                }
            }
            self.take_letters(&mut next)?;
        }
    }

    /// All that wait: frames are joined, and each socket gets one write.
    fn take_letters(&mut self, next: &mut usize) -> io::Result<()> {
        let mut joined: Option<Arc<Vec<u8>>> = None;
        while let Ok(letter) = self.inbox.try_recv() {
            match letter {
                Letter::Connection(mut stream) => {
                    let both = Interest::READABLE | Interest::WRITABLE;
                    self.poll.registry().register(&mut stream, Token(*next), both)?;
                    self.connections.insert(*next, Connection::new(stream));
                    *next += 1;
                }
                Letter::Frames(frames) => match &mut joined {
                    None => joined = Some(frames),
                    Some(joined) => Arc::make_mut(joined).extend_from_slice(&frames),
                },
            }
        }
        if let Some(frames) = joined {
            for connection in self.connections.values_mut() {
                if connection.is_open && !connection.is_sender {
                    connection.write(&frames);
                }
            }
        }
        Ok(())
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let (tail, backlog) = (Vec::new(), Vec::new());
        Self { stream, is_open: false, is_sender: false, tail, backlog }
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut written = 0;
        if self.backlog.is_empty() {
            while written < bytes.len() {
                match self.stream.write(&bytes[written..]) {
                    Ok(count) => written += count,
                    Err(err) if err.kind() == ErrorKind::Interrupted => {}
                    Err(err) if err.kind() == ErrorKind::WouldBlock => break,
                    // Reading finds that it is over.
                    Err(_) => return,
                }
            }
        }
        self.backlog.extend_from_slice(&bytes[written..]);
    }

    /// Reads all there is; what is to be broadcast goes into `said`, framed. Whether it is over.
    fn read(&mut self, space: &mut [u8], said: &mut Vec<u8>) -> bool {
        loop {
            match self.stream.read(space) {
                Ok(0) => return true,
                Ok(count) => self.tail.extend_from_slice(&space[..count]),
                Err(err) if err.kind() == ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        if !self.is_open {
            self.upgrade();
        }
        let mut used = 0;
        while self.is_open
            && let Some((opcode, payload, len)) = unmask(&mut self.tail[used..])
        {
            used += len;
            match opcode {
                1 | 2 => put_frame(said, opcode, payload),
                8 => return true,
                _ => {}
            }
        }
        self.tail.drain(..used);
        if self.tail.is_empty() {
            // An idle socket holds nothing.
            self.tail = Vec::new();
        }
        false
    }

    fn upgrade(&mut self) {
        let request = String::from_utf8_lossy(&self.tail).into_owned();
        let Some(end) = request.find("\r\n\r\n") else { return };
        self.is_sender = request.starts_with("GET /send ");
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        let accept = derive_accept_key(key.unwrap_or_default().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.write(answer.as_bytes());
        self.tail.drain(..end + 4);
        self.is_open = true;
    }
}

/// The first frame of a client, its payload in the clear, and its length; `None`: not complete.
fn unmask(bytes: &mut [u8]) -> Option<(u8, &[u8], usize)> {
    let [first, second, ..] = *bytes else { return None };
    let (header, payload) = match second & 0x7F {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    let len = header + 4 + payload;
    let mask: [u8; 4] = bytes.get(header..header + 4)?.try_into().ok()?;
    let payload = bytes.get_mut(header + 4..len)?;
    for (place, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[place % 4];
    }
    Some((first & 0x0F, payload, len))
}

fn put_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        len @ 0..=125 => out.push(len as u8),
        len @ 126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}
