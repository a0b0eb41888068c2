//! What stands between a node and PostgreSQL where there is a connection pooler: it does what
//! PgBouncer does to those who expect a session.
//!
//! It knows the first packet of PostgreSQL's protocol, where a message ends, and when a session is
//! between two transactions. Logins are PostgreSQL's own, so it must ask no password.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const SSL_REQUEST: u32 = 80_877_103;
const NO_SSL: &[u8] = b"N";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Each client keeps its session, and the `options` of its first packet are dropped: PgBouncer
    /// with `ignore_startup_parameters = options`.
    NoOptions,
    /// Clients that have `options` in their first packet are told this, and hung up on.
    Refuses(&'static str),
    /// Each transaction is in any session that was begun with the same first packet: in the one
    /// that was used last, or in each in turn. At first there are so many.
    ByTransaction { in_turn: bool, sessions: usize },
}

/// Dropping it ends what it accepts, not what it has accepted.
pub struct Pooler {
    port: u16,
    accepting: JoinHandle<()>,
}

/// Sessions that nobody uses just now, by the first packet that they were begun with.
#[derive(Default)]
struct Idle(Mutex<HashMap<Vec<u8>, VecDeque<Session>>>);

struct Session {
    stream: TcpStream,
    /// What PostgreSQL said when it began, for all who share it.
    greeting: Arc<[u8]>,
}

impl Pooler {
    /// In front of a PostgreSQL of this machine.
    pub async fn to(server: u16, pooling: Pooling) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let idle = Arc::new(Idle::default());
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                client.set_nodelay(true).unwrap();
                // An error: one side is gone, which ends the other, too.
                let idle = idle.clone();
                tokio::spawn(async move { serve(client, server, pooling, &idle).await });
            }
        });
        Self { port, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    server: u16,
    pooling: Pooling,
    idle: &Idle,
) -> io::Result<()> {
    let first = first_packet(&mut client).await?;
    match pooling {
        Pooling::NoOptions => {
            let mut server = connect(server).await?;
            server.write_all(&without_options(&first)).await?;
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        Pooling::Refuses(told) if without_options(&first) != first => {
            client.write_all(&fatal(told)).await
        }
        Pooling::Refuses(_) => {
            let mut server = connect(server).await?;
            server.write_all(&first).await?;
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        Pooling::ByTransaction { in_turn, sessions } => {
            idle.fill(&first, server, sessions).await?;
            by_transaction(client, &first, server, in_turn, idle).await
        }
    }
}

/// Until the client hangs up between two transactions, or anybody at any time.
async fn by_transaction(
    mut client: TcpStream,
    first: &[u8],
    server: u16,
    in_turn: bool,
    idle: &Idle,
) -> io::Result<()> {
    let session = idle.take(first, server).await?;
    client.write_all(&session.greeting).await?;
    idle.put(first, session, in_turn);
    loop {
        let mut message = message(&mut client).await?;
        let mut session = idle.take(first, server).await?;
        loop {
            if message[0] == b'X' {
                return Ok(());
            }
            session.stream.write_all(&message).await?;
            let is_over = relay(&mut client, &mut session.stream).await?;
            if is_over {
                break;
            }
            message = self::message(&mut client).await?;
        }
        idle.put(first, session, in_turn);
    }
}

/// Hands on answers until the client says more, or there is no transaction any more: `true`.
async fn relay(client: &mut TcpStream, session: &mut TcpStream) -> io::Result<bool> {
    let (mut said, mut answered) = ([0], [0]);
    loop {
        tokio::select! {
            ready = session.peek(&mut answered) => {
                ready?;
                let answer = message(session).await?;
                client.write_all(&answer).await?;
                // ReadyForQuery, idle.
                if answer[0] == b'Z' && answer[5] == b'I' {
                    return Ok(true);
                }
            }
            ready = client.peek(&mut said) => {
                ready?;
                return Ok(false);
            }
        }
    }
}

impl Idle {
    async fn take(&self, first: &[u8], server: u16) -> io::Result<Session> {
        let found = self.0.lock().unwrap().get_mut(first).and_then(VecDeque::pop_front);
        match found {
            Some(session) => Ok(session),
            None => Session::begin(first, server).await,
        }
    }

    /// For a first packet that is new.
    async fn fill(&self, first: &[u8], server: u16, sessions: usize) -> io::Result<()> {
        if self.0.lock().unwrap().contains_key(first) {
            return Ok(());
        }
        for _ in 0..sessions {
            let session = Session::begin(first, server).await?;
            self.put(first, session, false);
        }
        Ok(())
    }

    fn put(&self, first: &[u8], session: Session, in_turn: bool) {
        let mut idle = self.0.lock().unwrap();
        let idle = idle.entry(first.to_owned()).or_default();
        match in_turn {
            true => idle.push_back(session),
            false => idle.push_front(session),
        }
    }
}

impl Session {
    async fn begin(first: &[u8], server: u16) -> io::Result<Self> {
        let mut stream = connect(server).await?;
        stream.write_all(first).await?;
        let mut greeting = Vec::new();
        loop {
            let said = message(&mut stream).await?;
            let is_ready = said[0] == b'Z';
            greeting.extend(said);
            if is_ready {
                return Ok(Session { stream, greeting: greeting.into() });
            }
        }
    }
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first packet that asks for a session.
async fn first_packet(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    loop {
        let len = client.read_u32().await?;
        let mut packet = vec![0; len as usize];
        packet[..4].copy_from_slice(&len.to_be_bytes());
        client.read_exact(&mut packet[4..]).await?;
        if packet[4..8] != SSL_REQUEST.to_be_bytes() {
            return Ok(packet);
        }
        client.write_all(NO_SSL).await?;
    }
}

/// A message of either side: a letter, its length, its body.
async fn message(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let letter = from.read_u8().await?;
    let len = from.read_u32().await?;
    let mut message = vec![letter; 1 + len as usize];
    message[1..5].copy_from_slice(&len.to_be_bytes());
    from.read_exact(&mut message[5..]).await?;
    Ok(message)
}

/// Names and values, each with a zero behind it, and one zero more.
fn without_options(first: &[u8]) -> Vec<u8> {
    let texts: Vec<_> = first[8..].split(|byte| *byte == 0).collect();
    let pairs = texts.chunks_exact(2).filter(|pair| !pair[0].is_empty() && pair[0] != b"options");
    let mut rest = first[4..8].to_owned();
    for pair in pairs {
        rest.extend([pair[0], b"\0", pair[1], b"\0"].concat());
    }
    rest.push(0);
    [&(rest.len() as u32 + 4).to_be_bytes()[..], &rest].concat()
}

/// As PgBouncer hangs up.
fn fatal(told: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0C08P01\0M{told}\0\0");
    [&b"E"[..], &(fields.len() as u32 + 4).to_be_bytes(), fields.as_bytes()].concat()
}
