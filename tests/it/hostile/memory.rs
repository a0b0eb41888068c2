//! What a node holds for its clients has limits over all of them: whoever makes it hold more is
//! ended, or waits, and the others are served.

#[cfg(target_os = "linux")]
use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::http::Http;
use crate::harness::process::Process;
use crate::harness::raw::{Raw, get, masked_frame};
use crate::harness::{Client, PATIENCE, World, on_both_logs};
use crate::protocol::{create, follow};

on_both_logs!(
    answers_that_nobody_reads_take_no_more_than_they_may,
    long_messages_in_many_rooms_take_no_more_than_the_rings_may,
    frames_that_are_begun_take_no_more_than_they_may,
    who_keeps_most_goes_and_not_who_waits_for_it,
);

const MIB: u64 = 1024 * 1024;
/// What the kernel takes for a reader that has stopped.
const RECEIVE_BYTES: u32 = 4096;
/// A page of these is as long as a page may be.
const MESSAGES: usize = 66;
const MESSAGE_BYTES: usize = 16_000;

/// The program with so much address space as a small machine has, and more settings.
async fn serve(world: &World, settings: &[(&str, String)]) -> Process {
    let mut environment = world.environment();
    environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), value.to_owned())));
    Process::start_after("ulimit -v 1572864", environment).await
}

async fn metric(process: &Process, series: &str) -> u64 {
    let (_, metrics) = get(process.addr, "/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

async fn fill(client: &mut Client, room: &str, messages: usize) {
    let text = "x".repeat(MESSAGE_BYTES);
    for number in 0..messages {
        let id = format!("f{number}");
        let message =
            json!({"type": "message", "user_id": "1", "room": room, "message": text, "id": id});
        client.send(message).await;
        client.read_until(json!({"type": "ack", "id": id})).await;
    }
}

/// Somebody else is answered, and hears what is said; what is read from the log they may have to
/// ask for again, and nothing else.
async fn is_served(client: &mut Client, id: usize) {
    client.send(json!({"type": "ping"})).await;
    client.read_until(json!({"type": "pong"})).await;
    let message = json!({"type": "message", "user_id": "1", "room": "other", "message": "hi"});
    client.send(message).await;
    client.read_until(json!({"type": "message", "room": "other", "message": "hi"})).await;
    let deadline = Instant::now() + PATIENCE;
    let history = json!({"type": "history", "user_id": "1", "room": "other", "limit": 1,
        "id": id.to_string()});
    loop {
        client.send(history.clone()).await;
        let answer = client.next().await;
        if answer["type"] == "history" {
            return;
        }
        assert_eq!(answer["code"], "unavailable", "{answer}");
        assert!(Instant::now() < deadline, "it is not served any more");
    }
}

/// What was done: 81 bytes of a request for a page of 1 MiB, on 2,501 sockets that never read. The
/// node had 1.5 GiB and was dead after 7 s.
async fn answers_that_nobody_reads_take_no_more_than_they_may(world: World) {
    const UNSENT_BYTES_MAX: u64 = 4 * MIB;
    let settings = [
        ("VERBATIM_SERVER__UNSENT_BYTES_MAX", UNSENT_BYTES_MAX.to_string()),
        ("VERBATIM_SOCKET__STALL_TIMEOUT_MS", "600000".to_owned()),
        // What is waited for in vain.
        ("VERBATIM_LOG__READ_TIMEOUT_MS", "1900".to_owned()),
    ];
    let process = serve(&world, &settings).await;
    let mut other = Client::greeted(process.addr).await;
    create(&mut other, "1", "r").await;
    create(&mut other, "1", "other").await;
    fill(&mut other, "r", MESSAGES).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        other.send(json!({"type": "join", "user_id": "1", "room": "other"})).await;
        let answer = other.next().await;
        if answer["type"] == "joined" {
            break;
        }
        // A machine that stands still.
        assert!(answer["code"] == "unavailable" && Instant::now() < deadline, "{answer}");
    }
    let (mut sockets, mut requests) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let mut socket = Client::narrow(process.addr, RECEIVE_BYTES).await;
        let mut asked = Http::narrow(process.addr, RECEIVE_BYTES).await;
        for _ in 0..10 {
            socket
                .send(json!({"type": "history", "user_id": "1", "room": "r", "limit": 200}))
                .await;
        }
        asked
            .send("GET /api/rooms/r/events?limit=200&user_id=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        sockets.push(socket);
        requests.push(asked);
        if number % 20 == 0 {
            is_served(&mut other, number).await;
            let unsent = metric(&process, "verbatim_budget_bytes{budget=\"unsent\"}").await;
            // What must not wait, live events and small answers, is held all the same.
            assert!(unsent <= UNSENT_BYTES_MAX + MIB, "{unsent} bytes");
        }
    }
    // Those who hold most and take nothing are told why, if they ever read.
    let deadline = Instant::now() + PATIENCE;
    while metric(&process, "verbatim_evicted_total{budget=\"unsent\"}").await == 0 {
        let unsent = metric(&process, "verbatim_budget_bytes{budget=\"unsent\"}").await;
        assert!(Instant::now() < deadline, "nobody is ended: {unsent}");
    }
    is_served(&mut other, 1000).await;
    let closed = "verbatim_sockets_closed_total{code=\"4008\"}";
    let deadline = Instant::now() + PATIENCE;
    while metric(&process, closed).await == 0 {
        assert!(Instant::now() < deadline, "nobody is told");
    }
}

/// What was done: 64 messages of 16 KiB into each of 200 rooms that are followed. 196 MiB.
async fn long_messages_in_many_rooms_take_no_more_than_the_rings_may(world: World) {
    const RINGS_BYTES_MAX: u64 = MIB;
    let settings = [("VERBATIM_HUB__RINGS_BYTES_MAX", RINGS_BYTES_MAX.to_string())];
    let process = serve(&world, &settings).await;
    let mut client = Client::greeted(process.addr).await;
    let rooms: Vec<_> = (0..10).map(|number| format!("r{number}")).collect();
    let mut writer = Client::greeted(process.addr).await;
    for room in &rooms {
        create(&mut writer, "1", room).await;
        client.send(json!({"type": "join", "user_id": "1", "room": room})).await;
        client.read_until(json!({"type": "joined", "room": room})).await;
        fill(&mut writer, room, 16).await;
        let rings = metric(&process, "verbatim_budget_bytes{budget=\"rings\"}").await;
        assert!(rings <= RINGS_BYTES_MAX, "{rings} bytes");
    }
    // What is not in them is in the log.
    let mut late = Client::greeted(process.addr).await;
    for room in &rooms {
        late.send(json!({"type": "join", "user_id": "1", "room": room, "since": 0})).await;
        late.expect(json!({"type": "joined", "last_seq": 17})).await;
        for seq in 1..=17 {
            late.expect(json!({"room": room, "seq": seq})).await;
        }
    }
}

/// What was done: frames of 64 KiB, all but the last byte of each, on as many sockets as there may
/// be.
async fn frames_that_are_begun_take_no_more_than_they_may(world: World) {
    const INBOUND_BYTES_MAX: u64 = MIB;
    let settings = [("VERBATIM_SERVER__INBOUND_BYTES_MAX", INBOUND_BYTES_MAX.to_string())];
    let process = serve(&world, &settings).await;
    let mut other = Client::greeted(process.addr).await;
    create(&mut other, "1", "other").await;
    follow(&mut other, "1", "other").await;
    let mut begun = masked_frame(0x81, &[b' '; 60_000]);
    begun.pop();
    // The same in fragments, of which each is whole.
    let mut fragments = masked_frame(0x01, &[b' '; 4000]);
    fragments.extend(masked_frame(0x00, &[b' '; 4000]).repeat(14));
    let mut sockets = Vec::new();
    for number in 0..60 {
        let mut socket = Raw::upgrade(process.addr).await;
        // One that is ended for what it holds may be so before it has sent all of it.
        let _ = socket.try_send(if number % 2 == 0 { &begun } else { &fragments }).await;
        sockets.push(socket);
        if number % 10 == 0 {
            is_served(&mut other, number).await;
            let inbound = metric(&process, "verbatim_budget_bytes{budget=\"inbound\"}").await;
            assert!(inbound <= INBOUND_BYTES_MAX + MIB / 4, "{inbound} bytes");
        }
    }
    is_served(&mut other, 1000).await;
}

/// What was done: commands behind an answer that is not read keep all there is of `inbound`, and
/// nothing could be ended for it but a message of somebody else that came in two parts.
async fn who_keeps_most_goes_and_not_who_waits_for_it(world: World) {
    let settings = [("VERBATIM_SERVER__INBOUND_BYTES_MAX", MIB.to_string())];
    let process = serve(&world, &settings).await;
    let mut other = Client::greeted(process.addr).await;
    create(&mut other, "1", "r").await;
    create(&mut other, "1", "other").await;
    fill(&mut other, "r", MESSAGES).await;
    let text = "x".repeat(MESSAGE_BYTES);
    let said = json!({"type": "message", "user_id": "1", "room": "r", "message": text}).to_string();
    let addr = process.addr;
    let greedy = move || {
        let said = said.clone();
        async move {
            let mut greedy = Client::narrow(addr, RECEIVE_BYTES).await;
            for _ in 0..10 {
                let history = json!({"type": "history", "user_id": "1", "room": "r", "limit": 200});
                greedy.send(history).await;
            }
            // What is not taken any more is somebody else's to wait for.
            while greedy.try_send(Message::text(said.clone())).await.is_ok() {}
        }
    };
    let mut sending = tokio::spawn(greedy());
    let deadline = Instant::now() + PATIENCE;
    while metric(&process, "verbatim_budget_bytes{budget=\"inbound\"}").await < MIB {
        assert!(Instant::now() < deadline, "it does not keep so much");
        // Where the machine stood still it may have been ended before anyone looked.
        if sending.is_finished() {
            sending = tokio::spawn(greedy());
        }
    }
    let message = json!({"type": "message", "user_id": "1", "room": "other", "message": text,
        "id": "1"});
    let message = masked_frame(0x81, message.to_string().as_bytes());
    let (first, second) = message.split_at(9000);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut socket = Raw::upgrade(process.addr).await;
        socket.read_frame().await;
        socket.send(first).await;
        while metric(&process, "verbatim_evicted_total{budget=\"inbound\"}").await == 0 {
            assert!(Instant::now() < deadline, "nobody is ended");
        }
        socket.send(second).await;
        let answer = socket.read_frame().await;
        // One that is a second old when it is looked at may be ended with the other; who comes
        // again finds room.
        if answer.first != 0x88 {
            let answer = String::from_utf8(answer.payload).unwrap();
            break assert!(answer.contains("\"ack\""), "{answer}");
        }
        assert!(Instant::now() < deadline, "it is ended again and again");
    }
    sending.abort();
}

/// What was done: a node that had held much kept it for ever.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_is_given_back_to_the_system() {
    let world = World::sqlite().await;
    let process = serve(&world, &[]).await;
    let before = process.resident_bytes();
    let mut begun = masked_frame(0x81, &[b' '; 60_000]);
    begun.pop();
    let mut sockets = Vec::new();
    for _ in 0..800 {
        let mut socket = Raw::upgrade(process.addr).await;
        socket.send(&begun).await;
        sockets.push(socket);
    }
    let deadline = Instant::now() + PATIENCE;
    while metric(&process, "verbatim_budget_bytes{budget=\"inbound\"}").await < 800 * 60_000 {
        assert!(Instant::now() < deadline, "it does not hold it");
    }
    assert!(process.resident_bytes() > before + 40 * MIB);
    drop(sockets);
    let deadline = Instant::now() + Duration::from_secs(60);
    while process.resident_bytes() > before + 16 * MIB {
        let (now, before) = (process.resident_bytes() / MIB, before / MIB);
        assert!(Instant::now() < deadline, "{now} MiB, {before} MiB before");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
