//! How a node goes: every client is told and closed in order, what was read is answered, what was
//! acked is kept, and nothing, neither a client nor the log, keeps the process from ending in time.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::crowd::Crowd;
use crate::harness::postgres::Postgres;
use crate::harness::process::{Exit, Process};
use crate::harness::raw::Raw;
use crate::harness::{Client, PATIENCE, World, on_both_logs};
use crate::mirror::cluster::until;
use crate::stored::stored;

/// A time that nobody waits out: a node that does is not done within `PATIENCE`.
const TOO_LONG_MS: &str = "90000";

on_both_logs!(
    a_node_that_is_told_to_stop_says_goodbye_and_answers_what_it_has_read,
    a_node_that_is_restarted_under_load_costs_no_word,
);

async fn start(world: &World, settings: &[(&str, &str)]) -> Process {
    let mut environment = world.environment();
    let settings = settings.iter().map(|(name, value)| (format!("VERBATIM_{name}"), value));
    environment.extend(settings.map(|(name, value)| (name, (*value).to_owned())));
    // A crowd talks faster than a person.
    environment.push(("VERBATIM_SESSION__COMMANDS_PER_SECOND".into(), "1000000".into()));
    environment.push(("VERBATIM_SESSION__COMMANDS_BURST".into(), "1000000".into()));
    Process::start(environment).await
}

fn message(id: usize) -> Value {
    let id = format!("m{id}");
    json!({"type": "message", "user_id": "1", "room": "r", "message": "hi", "id": id})
}

async fn a_node_that_is_told_to_stop_says_goodbye_and_answers_what_it_has_read(world: World) {
    let mut written = 0;
    for stop in [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP] {
        let mut process = start(&world, &[("SERVER__RECONNECT_MS", "1234")]).await;
        let mut idle = Client::greeted(process.addr).await;
        let mut client = Client::greeted(process.addr).await;
        let create = json!({"type": "create", "user_id": "1", "room": "r", "id": "c"});
        client.send(create).await;
        client.expect(json!({"type": "ack", "seq": 1})).await;
        // What was acked before the last stop is still there.
        let history = json!({"type": "history", "user_id": "1", "room": "r", "limit": 1});
        client.send(history).await;
        client.expect(json!({"type": "history", "last": written + 1})).await;

        let first = written;
        for id in first..first + 1000 {
            client.send(message(id)).await;
        }
        client.read_until(json!({"type": "ack", "re": "message"})).await;
        process.signal(stop);
        let goodbye = r#"{"type":"goodbye","reason":"restart","reconnect_ms":1234}"#;
        idle.expect_exactly(goodbye).await;
        idle.expect_close(1012).await;
        let frames = client.read_to_close(1012).await;
        drop(client);
        assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());

        let goodbyes = frames.iter().filter(|frame| frame["type"] == "goodbye").count();
        assert_eq!(goodbyes, 1);
        // It reads until the goodbye, and answers all that it has read: so what is stored is what
        // was acked, and the rest was never looked at.
        let acks = frames.iter().filter(|frame| frame["type"] == "ack").count() + 1;
        assert_eq!(acks + goodbyes, frames.len() + 1, "{frames:?}");
        written = stored(&world.config.log).await.rooms["r"].events.len() - 1;
        assert_eq!(first + acks, written, "stored and acked are not the same");
    }
}

/// As an operator does it who installs a new version.
async fn a_node_that_is_restarted_under_load_costs_no_word(world: World) {
    let mut process = start(&world, &[]).await;
    let (address, at) = watch::channel(process.addr);
    let crowd = Crowd::gather(&[at], 4, 3, 32).await;
    for _ in 0..5 {
        crowd.answered(100).await;
        process.sigterm();
        assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
        process = start(&world, &[]).await;
        address.send_replace(process.addr);
    }
    crowd.answered(100).await;
    let outcome = crowd.end(&world.config.log).await;
    outcome.assert_kept();
    // Nothing was committed and not answered: the word to stop is not a crash.
    assert_eq!(outcome.progress.duplicates, 0);
}

/// While clients take their leave a load balancer must learn that it should send nobody here.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so_to_those_who_ask_and_takes_nobody_in() {
    let world = World::sqlite().await;
    let mut process = start(&world, &[]).await;
    let mut balancer = Raw::connect(process.addr).await;
    assert_eq!(ready(&mut balancer, &process).await, 200);
    assert_eq!(ready(&mut balancer, &process).await, 200);
    let lingering = goodbye_unanswered(&process).await;
    assert_eq!(ready(&mut balancer, &process).await, 503);
    // The listener is closed by another task than the one that answers, so not at the same moment.
    let refused = async {
        loop {
            if let Err(err) = TcpStream::connect(process.addr).await {
                break err.kind();
            }
        }
    };
    let refused = timeout(PATIENCE, refused).await.expect("it goes on accepting");
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    drop(lingering);
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
}

/// The status that `/readyz` answers on a connection that is kept alive.
async fn ready(connection: &mut Raw, process: &Process) -> u16 {
    let addr = process.addr;
    connection.send(format!("GET /readyz HTTP/1.1\r\nHost: {addr}\r\n\r\n")).await;
    let head = connection.read_head().await;
    let len = head.text.to_ascii_lowercase();
    let len = len.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    connection.read_exactly(len.and_then(|len| len.parse().ok()).expect("no length")).await;
    head.status
}

/// SIGTERM, and a client that is told goodbye and does not answer the close: as long as it is not
/// dropped, the node waits for it.
async fn goodbye_unanswered(process: &Process) -> Raw {
    let mut client = Raw::upgrade(process.addr).await;
    let hello = client.read_frame().await.payload;
    assert!(hello.starts_with(br#"{"type":"hello""#), "{}", hello.escape_ascii());
    process.sigterm();
    let goodbye = client.read_frame().await.payload;
    assert!(goodbye.starts_with(br#"{"type":"goodbye""#), "{}", goodbye.escape_ascii());
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_process_at_once() {
    let world = World::sqlite().await;
    for (signal, code) in
        [(Signal::TERM, 143), (Signal::INT, 130), (Signal::QUIT, 131), (Signal::HUP, 129)]
    {
        let patient = [
            ("SOCKET__CLOSE_TIMEOUT_MS", TOO_LONG_MS),
            ("SERVER__SHUTDOWN_TIMEOUT_MS", TOO_LONG_MS),
        ];
        let mut process = start(&world, &patient).await;
        let _lingering = goodbye_unanswered(&process).await;
        let begun = Instant::now();
        process.signal(signal);
        assert_eq!(process.wait_exit().await, Exit::Code(code), "{}", process.output());
        assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    }
}

/// A supervisor's slip, `killall -USR1`, a closed pipe, a file at its limit: no reason to go.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_means_nothing_ends_nothing() {
    let world = World::sqlite().await;
    let mut process = start(&world, &[]).await;
    let mut client = Client::greeted(process.addr).await;
    for signal in [Signal::USR1, Signal::USR2, Signal::PIPE, Signal::XFSZ] {
        process.signal(signal);
        client.expect_nothing().await;
    }
    let told = || async { process.output() };
    for name in ["SIGUSR1", "SIGUSR2"] {
        let line = format!("signal ignored signal=\"{name}\"");
        until(name, told, |output| output.contains(&line)).await;
    }
    process.sigterm();
    client.expect(json!({"type": "goodbye"})).await;
    client.expect_close(1012).await;
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
}

/// What `nohup` is for: the terminal goes, the node stays.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_to_outlive_its_terminal_does() {
    let world = World::sqlite().await;
    let mut process = Process::start_after("trap '' HUP", world.environment()).await;
    let mut client = Client::greeted(process.addr).await;
    process.signal(Signal::HUP);
    client.expect_nothing().await;
    process.sigterm();
    client.expect(json!({"type": "goodbye"})).await;
    client.expect_close(1012).await;
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
    assert!(!process.output().contains("SIGHUP"), "{}", process.output());
}

/// One client never answers the close, one has stopped reading long ago.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_can_keep_a_node_from_stopping() {
    let world = World::sqlite().await;
    let deadline = Duration::from_secs(1);
    for (close_ms, shutdown_ms) in [
        // Each is given the time to answer, and then cut off.
        ("1000", TOO_LONG_MS),
        // The whole takes no longer than it may, whatever each is given.
        (TOO_LONG_MS, "1000"),
    ] {
        let settings =
            [("SOCKET__CLOSE_TIMEOUT_MS", close_ms), ("SERVER__SHUTDOWN_TIMEOUT_MS", shutdown_ms)];
        let mut process = start(&world, &settings).await;
        let _deaf = deaf(&process).await;
        let begun = Instant::now();
        let _lingering = goodbye_unanswered(&process).await;
        assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
        assert!(begun.elapsed() >= deadline * 9 / 10, "it gave them only {:?}", begun.elapsed());
        assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    }
}

/// A client that follows a room and reads nothing, with more waiting for it than any buffer holds.
async fn deaf(process: &Process) -> Client {
    let mut deaf = Client::greeted(process.addr).await;
    deaf.send(json!({"type": "create", "user_id": "1", "room": "loud"})).await;
    deaf.send(json!({"type": "join", "user_id": "1", "room": "loud"})).await;
    deaf.next().await;
    let mut loud = Client::greeted(process.addr).await;
    let text = "x".repeat(16_000);
    let message = json!({"type": "message", "user_id": "1", "room": "loud", "message": text});
    for _ in 0..4 {
        for _ in 0..100 {
            loud.send(message.clone()).await;
        }
        for _ in 0..100 {
            loud.expect(json!({"type": "ack"})).await;
        }
    }
    deaf
}

/// The log hangs, so what is under way is not answered before its time is over; then the node goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_hangs_stops_in_time() {
    let postgres = Postgres::start(&[]).await;
    let world = World::on(&postgres.database().await);
    let mut process = start(&world, &[]).await;
    let mut client = Client::greeted(process.addr).await;
    client.send(json!({"type": "create", "user_id": "1", "room": "r", "id": "c"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
    client.send(message(1)).await;
    client.expect(json!({"type": "ack", "seq": 2})).await;
    drop(client);
    process.sigterm();
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());

    let world = world.impatient();
    let mut process = start(&world, &[("SERVER__SHUTDOWN_TIMEOUT_MS", TOO_LONG_MS)]).await;
    let mut client = Client::greeted(process.addr).await;
    postgres.pause();
    for id in 2..20 {
        client.send(message(id)).await;
        client.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
    }
    // The first answer says that all of it was read; the rest is under way.
    client.expect(json!({"type": "error", "code": "unavailable", "id": "m2"})).await;
    let begun = Instant::now();
    process.sigterm();
    let frames = client.read_to_close(1012).await;
    drop(client);
    let count = |key: &str, value: &str| frames.iter().filter(|frame| frame[key] == value).count();
    assert_eq!((count("type", "goodbye"), count("code", "unavailable")), (1, 35), "{frames:?}");
    assert_eq!(frames.len(), 36, "{frames:?}");
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());

    postgres.resume();
    let world = world.patient();
    let mut process = start(&world, &[]).await;
    let mut client = Client::greeted(process.addr).await;
    client.send(message(1)).await;
    client.expect(json!({"type": "ack", "seq": 2, "duplicate": true})).await;
    drop(client);
    process.sigterm();
    assert_eq!(process.wait_exit().await, Exit::Code(0));
}
