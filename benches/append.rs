//! How many events one lane commits in a second, and how long each waits for its ack.
//!
//! It drives the log as a lane does: 16 clients keep 64 messages in flight each, and one appender
//! takes whatever waits (at most 512) as its next batch. Nothing else of the server runs.
//!
//! ```text
//! cargo bench --bench append                                   the embedded log, in ./target
//! DATABASE_URL=postgres://… cargo bench --bench append         PostgreSQL, too
//! ```
//! The figures mean something only where PostgreSQL runs with fsync and synchronous_commit on, as
//! it does by default. It writes to rooms of its own and leaves them there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::{mpsc, oneshot};
use verbatim::config::{LogConfig, Secret};
use verbatim::log::postgres::Postgres;
use verbatim::log::sqlite::Sqlite;
use verbatim::log::{Appender, Log};
use verbatim::model::{ClientId, RoomName, Text, Timestamp, UserId};
use verbatim::protocol::command::Verb;
use verbatim::rules::{Outcome, Write};

const CLIENTS: usize = 16;
const IN_FLIGHT: usize = 64;
/// The settings `lane.batch_len_max` and its inbox, as the server has them.
const BATCH_LEN_MAX: usize = 512;
const ROOMS: usize = 8;
const DURATION: Duration = Duration::from_secs(10);
/// What most chat messages are about as long as.
const TEXT: &str =
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.";

struct Command {
    write: Write,
    ack: oneshot::Sender<()>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir_in("target").context("run it in the project's folder")?;
    let path = folder.path().join("append.db").display().to_string();
    measure(Log::Sqlite(Sqlite::open(&settings(path, String::new()))?)).await?;
    match std::env::var("DATABASE_URL") {
        Ok(url) => {
            let settings = settings(String::new(), url);
            measure(Log::Postgres(Postgres::open(&settings, 1, "bench", false).await?)).await
        }
        Err(_) => {
            println!("postgres  set DATABASE_URL to a database that may be written to");
            Ok(())
        }
    }
}

fn settings(path: String, url: String) -> LogConfig {
    LogConfig {
        path,
        readers: 2,
        url: Secret(url),
        connect_timeout_ms: 1000,
        statement_timeout_ms: 5000,
        lock_timeout_ms: 5000,
        append_timeout_ms: 5000,
        read_timeout_ms: 5000,
    }
}

async fn measure(log: Log) -> Result<()> {
    // Rooms of this run: another run must not find its ids used.
    let run = Timestamp::now();
    let mut appender = log.appender();
    for client in 0..CLIENTS {
        let verb = if client < ROOMS { Verb::Create } else { Verb::Join };
        appender.append(&[write(run, client, None, verb)?], None).await?;
    }
    let (inbox, commands) = mpsc::channel(CLIENTS * IN_FLIGHT);
    let clients: Vec<_> = (0..CLIENTS * IN_FLIGHT)
        .map(|sender| tokio::spawn(speak(run, sender, inbox.clone())))
        .collect();
    drop(inbox);
    let begun = Instant::now();
    let batches = lane(&mut appender, commands).await?;
    let elapsed = begun.elapsed().as_secs_f64();
    let mut waits = Vec::new();
    for client in clients {
        waits.extend(client.await??);
    }
    waits.sort_unstable();
    let ms = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{:<9} {:>7.0} events/s  {:>4.0} events a batch  ack after p50 {:.1} ms, p99 {:.1} ms",
        log.name(),
        waits.len() as f64 / elapsed,
        waits.len() as f64 / batches as f64,
        ms(0.5),
        ms(0.99),
    );
    Ok(())
}

/// Takes what waits, appends it, acks it. Returns how many batches that were.
async fn lane(appender: &mut Appender, mut commands: mpsc::Receiver<Command>) -> Result<usize> {
    let (mut taken, mut batches) = (Vec::new(), 0);
    while commands.recv_many(&mut taken, BATCH_LEN_MAX).await > 0 {
        let (writes, acks): (Vec<_>, Vec<_>) =
            taken.drain(..).map(|command: Command| (command.write, command.ack)).unzip();
        let outcomes = appender.append(&writes, None).await?;
        for (outcome, ack) in outcomes.iter().zip(acks) {
            if !matches!(outcome, Some(Outcome::Committed { .. })) {
                bail!("not committed: {outcome:?}");
            }
            // Its sender waits for it: nothing else can have happened to it.
            let _ = ack.send(());
        }
        batches += 1;
    }
    Ok(batches)
}

/// One of the messages that a client keeps in flight: the next is sent when the last is acked.
async fn speak(
    run: Timestamp,
    sender: usize,
    inbox: mpsc::Sender<Command>,
) -> Result<Vec<Duration>> {
    let (begun, mut waits) = (Instant::now(), Vec::new());
    while begun.elapsed() < DURATION {
        let id = ClientId::parse(&format!("{sender}-{}", waits.len()))?;
        let verb = Verb::Message(Text::parse(TEXT, 1024)?);
        let write = write(run, sender % CLIENTS, Some(id), verb)?;
        let (ack, acked) = oneshot::channel();
        let sent = Instant::now();
        inbox.send(Command { write, ack }).await.ok().context("the lane has ended")?;
        acked.await?;
        waits.push(sent.elapsed());
    }
    Ok(waits)
}

fn write(run: Timestamp, client: usize, id: Option<ClientId>, verb: Verb) -> Result<Write> {
    let room = RoomName::parse(&format!("bench {run} {}", client % ROOMS))?;
    let caller = UserId::parse(&client.to_string())?;
    Ok(Write { room, caller, id, verb })
}
