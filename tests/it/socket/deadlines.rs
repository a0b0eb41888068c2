//! Who is given up, who is not, and that the two rules keep out of each other's way.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use verbatim::config::SocketConfig;
use verbatim::protocol::close::CloseCode;
use verbatim::protocol::frame::{Opcode, encode};
use verbatim::socket::{CloseReason, Incoming, Offer};

use super::wire::{
    CLOSE, PING, PONG, TEXT, config, expect_close, masked, pair, read_frame, run, soon,
};

const HEARTBEAT: Duration = Duration::from_millis(250);

fn hasty() -> SocketConfig {
    SocketConfig { heartbeat_ms: 250, stall_timeout_ms: 1500, close_timeout_ms: 500, ..config() }
}

#[tokio::test]
async fn a_silent_client_is_pinged_once_and_closed_after_two_heartbeats() {
    let started = Instant::now();
    let (socket, mut client) = pair(&hasty()).await;
    let (link, running) = run(socket);
    assert_eq!(read_frame(&mut client).await.unwrap(), (PING, vec![]));
    assert!(started.elapsed() >= HEARTBEAT);
    expect_close(&mut client, CloseCode::SILENT).await;
    assert!(started.elapsed() >= 2 * HEARTBEAT);
    assert_eq!(soon(running).await.unwrap(), CloseReason::Silent);
    assert_eq!(link.offer(&encode(Opcode::Text, b"too late")), Offer::Closed);
}

#[tokio::test]
async fn pongs_keep_a_socket_open() {
    let (socket, mut client) = pair(&hasty()).await;
    let (_, running) = run(socket);
    for _ in 0..4 {
        assert_eq!(read_frame(&mut client).await.unwrap(), (PING, vec![]));
        client.write_all(&masked(PONG, b"")).await.unwrap();
    }
    assert!(!running.is_finished());
}

/// A client on a slow line sends one long frame for longer than two heartbeats.
#[tokio::test]
async fn any_byte_is_a_sign_of_life() {
    let (mut socket, mut client) = pair(&hasty()).await;
    let frame = masked(TEXT, b"story");
    let dripping = tokio::spawn(async move {
        for byte in frame {
            // The server's pings give the pace, so that no time is guessed.
            assert_eq!(read_frame(&mut client).await.unwrap().0, PING);
            client.write_all(&[byte]).await.unwrap();
        }
        client
    });
    assert_eq!(soon(socket.next(true)).await, Incoming::Text("story".into()));
    soon(dripping).await.unwrap();
}

/// A session that waits for the log does not read, and finds the pongs afterwards.
#[tokio::test]
async fn silence_does_not_count_while_nobody_listens() {
    let (mut socket, mut client) = pair(&hasty()).await;
    let paused = timeout(5 * HEARTBEAT, socket.next(false)).await;
    assert!(paused.is_err(), "{paused:?}");
    // It was pinged all the same, and has a full deadline from here on.
    assert_eq!(read_frame(&mut client).await.unwrap(), (PING, vec![]));
    let started = Instant::now();
    assert_eq!(soon(socket.next(true)).await, Incoming::Closed(CloseReason::Silent));
    assert!(started.elapsed() >= 2 * HEARTBEAT);
}

/// It sees no pings, so it cannot answer them: 4008, and not 4009 long before it.
#[tokio::test]
async fn a_client_that_takes_nothing_is_stalled_and_not_silent() {
    let config = SocketConfig { close_timeout_ms: 10_000, ..hasty() };
    let (socket, mut client) = pair(&config).await;
    let (link, running) = run(socket);
    let frame = encode(Opcode::Text, &[b'x'; 1000]);
    while link.offer(&frame) != Offer::Full {
        tokio::task::yield_now().await;
    }
    // `Closed` says that the close has begun; the client reads only now.
    while link.offer(&frame) != Offer::Closed {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The backlog is gone but for the rest of the frame that was begun.
    assert!(link.queued_bytes() <= 2 * (frame.len() + 64));
    let mut whole = 0;
    loop {
        match read_frame(&mut client).await.unwrap() {
            (TEXT, payload) => assert_eq!(payload, [b'x'; 1000]),
            (CLOSE, payload) => break assert_eq!(payload[..2], 4008_u16.to_be_bytes()),
            (PING, _) => panic!("pinged behind a backlog"),
            (first, _) => panic!("unexpected {first:#x}"),
        }
        whole += 1;
    }
    assert!(whole > 0);
    drop(client);
    assert_eq!(soon(running).await.unwrap(), CloseReason::Stalled);
}

/// Slow is not stalled: the kernel takes a little now and then.
#[tokio::test]
async fn a_reader_that_takes_a_little_now_and_then_stays() {
    let config = SocketConfig { heartbeat_ms: 300, stall_timeout_ms: 300, ..hasty() };
    let (socket, mut client) = pair(&config).await;
    let (link, running) = run(socket);
    assert_eq!(link.offer(&encode(Opcode::Text, &vec![b'x'; 100_000])), Offer::Taken);
    // Twice the stall timeout in steps that each move something.
    let mut space = [0; 8192];
    let started = Instant::now();
    while link.queued_bytes() > 0 {
        use tokio::io::AsyncReadExt;
        soon(client.read(&mut space)).await.unwrap();
        if started.elapsed() < Duration::from_millis(700) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!(started.elapsed() >= Duration::from_millis(600), "the kernel was too generous");
    assert!(!running.is_finished());
}
