//! A link to PostgreSQL that loses commits: on its way there, on its way back, or halfway.
//!
//! It reads just enough of PostgreSQL's protocol to know a COMMIT when one comes by, so that a test
//! need not hope for a connection to break in that very millisecond. Whatever it loses, it closes
//! both ends behind it, as a broken link does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// The message of a COMMIT, as a lane sends it: a simple query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bcommit\0";

/// Every so many commits one is lost, and each time in another of the ways.
const COMMITS_PER_LOSS: usize = 15;

/// Where the commit gets lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// What the transaction writes does not arrive either: nothing is committed.
    OnTheWayThere,
    /// All but the COMMIT arrives: nothing is committed.
    AtTheLastStep,
    /// Only the answer does not arrive: all is committed.
    OnTheWayBack,
}

pub struct LossyLink {
    pub port: u16,
    commits: Arc<Commits>,
}

#[derive(Default)]
struct Commits {
    /// Nothing is lost before this is true.
    losing: AtomicBool,
    /// Those that came by since.
    count: AtomicUsize,
}

impl LossyLink {
    /// Leads to the server at that port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let commits = Arc::new(Commits::default());
        let link = Self { port: listener.local_addr().unwrap().port(), commits: commits.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let commits = commits.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    carry(client, server, &commits).await;
                });
            }
        });
        link
    }

    /// Up to here it was a link like any other.
    pub fn begin_losing(&self) {
        self.commits.losing.store(true, Ordering::Relaxed);
    }

    /// Commits that it has lost so far.
    pub fn losses(&self) -> usize {
        self.commits.count.load(Ordering::Relaxed) / COMMITS_PER_LOSS
    }
}

/// Until either side ends, or something is lost; then both are closed, by being dropped.
async fn carry(client: TcpStream, server: TcpStream, commits: &Commits) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let lost = tokio::select! {
        lost = carry_commands(&mut from_client, &mut to_server, commits) => lost,
        () = carry_answers(&mut from_server, &mut to_client) => None,
    };
    if lost == Some(Loss::OnTheWayBack) {
        // Once the server has answered, it has committed.
        let mut answer = Vec::new();
        while !answer.windows(7).any(|seven| seven == b"COMMIT\0") {
            if from_server.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                break;
            }
        }
    }
}

async fn carry_commands(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    commits: &Commits,
) -> Option<Loss> {
    let mut bytes = Vec::new();
    while from.read_buf(&mut bytes).await.unwrap_or(0) > 0 {
        let commit = bytes.windows(COMMIT.len()).position(|window| window == COMMIT);
        let loss = commit.and_then(|_| next_loss(commits));
        let len = match (loss, commit) {
            (Some(Loss::OnTheWayThere), _) => 0,
            (Some(Loss::AtTheLastStep), Some(at)) => at,
            _ => bytes.len(),
        };
        to.write_all(&bytes[..len]).await.ok()?;
        bytes.clear();
        if loss.is_some() {
            return loss;
        }
    }
    None
}

async fn carry_answers(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
    // An error is an end like any other.
    let _ = tokio::io::copy(from, to).await;
}

fn next_loss(commits: &Commits) -> Option<Loss> {
    if !commits.losing.load(Ordering::Relaxed) {
        return None;
    }
    let number = commits.count.fetch_add(1, Ordering::Relaxed) + 1;
    let losses = [Loss::OnTheWayThere, Loss::AtTheLastStep, Loss::OnTheWayBack];
    let kind = losses[number / COMMITS_PER_LOSS % losses.len()];
    number.is_multiple_of(COMMITS_PER_LOSS).then_some(kind)
}
