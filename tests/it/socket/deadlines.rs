//! Who is given up, who is not, and that the two rules keep out of each other's way.
//!
//! Time passes here when a test says so, and not while the machine stands still.

use std::sync::mpsc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Instant, advance, pause};
use verbatim::config::SocketConfig;
use verbatim::protocol::close::CloseCode;
use verbatim::protocol::frame::{Opcode, encode};
use verbatim::socket::{CloseReason, Incoming, Offer};

use super::wire::{
    CLOSE, PATIENCE, PING, PONG, TEXT, config, expect_close, masked, pair, read_frame, run, soon,
};

const HEARTBEAT: Duration = Duration::from_millis(250);
/// By how much a timer may be late, when nothing else makes it so.
const MOMENT: Duration = Duration::from_millis(1);

fn hasty() -> SocketConfig {
    SocketConfig { heartbeat_ms: 250, stall_timeout_ms: 1500, close_timeout_ms: 500, ..config() }
}

/// Stops the clock. The runtime lets it run on whenever nothing else is to be done, but not while
/// such a task is at work; that one ends with the test, or when it hangs.
fn stop_time() -> mpsc::Sender<()> {
    pause();
    let (end, ended) = mpsc::channel();
    spawn_blocking(move || ended.recv_timeout(PATIENCE));
    end
}

#[tokio::test]
async fn a_silent_client_is_pinged_once_and_closed_after_two_heartbeats() {
    let _end = stop_time();
    let (socket, mut client) = pair(&hasty()).await;
    let (link, running) = run(socket);
    for early in [false, true] {
        advance(HEARTBEAT - MOMENT).await;
        // Nothing is due, so nothing comes: what came would be found by what is read next.
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(!running.is_finished(), "{early}");
        advance(2 * MOMENT).await;
        if !early {
            assert_eq!(read_frame(&mut client).await.unwrap(), (PING, vec![]));
        }
    }
    expect_close(&mut client, CloseCode::SILENT).await;
    drop(client);
    assert_eq!(soon(running).await.unwrap(), CloseReason::Silent);
    assert_eq!(link.offer(&encode(Opcode::Text, b"too late")), Offer::Closed);
}

#[tokio::test]
async fn pongs_keep_a_socket_open() {
    let _end = stop_time();
    let (mut socket, mut client) = pair(&hasty()).await;
    for _ in 0..4 {
        let answers = async {
            advance(HEARTBEAT + MOMENT).await;
            assert_eq!(read_frame(&mut client).await.unwrap(), (PING, vec![]));
            client.write_all(&masked(PONG, b"")).await.unwrap();
        };
        let (incoming, ()) = tokio::join!(soon(socket.next(true)), answers);
        assert_eq!(incoming, Incoming::Frames(1));
    }
}

/// A client on a slow line sends one long frame for longer than two heartbeats.
#[tokio::test]
async fn any_byte_is_a_sign_of_life() {
    let _end = stop_time();
    let (mut socket, mut client) = pair(&hasty()).await;
    let frame = masked(TEXT, b"story");
    let dripping = tokio::spawn(async move {
        for byte in frame {
            // That a ping has come says that the byte before it was read.
            advance(HEARTBEAT + MOMENT).await;
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
    let _end = stop_time();
    let (mut socket, mut client) = pair(&hasty()).await;
    let pinged = async {
        for _ in 0..5 {
            advance(HEARTBEAT + MOMENT).await;
            // It is pinged all the same.
            assert_eq!(read_frame(&mut client).await.unwrap(), (PING, vec![]));
        }
    };
    tokio::select! {
        incoming = socket.next(false) => panic!("{incoming:?}"),
        () = pinged => {}
    }
    // And has a full deadline from here on.
    let started = Instant::now();
    let passing = async {
        loop {
            advance(Duration::from_millis(10)).await;
            yield_now().await;
        }
    };
    tokio::select! {
        incoming = socket.next(true) => {
            assert_eq!(incoming, Incoming::Closed(CloseReason::Silent));
        }
        () = passing => {}
    }
    assert!(started.elapsed() >= 2 * HEARTBEAT);
}

/// It sees no pings, so it cannot answer them: 4008, and not 4009 long before it.
#[tokio::test]
async fn a_client_that_takes_nothing_is_stalled_and_not_silent() {
    let _end = stop_time();
    let config = SocketConfig { close_timeout_ms: 10_000, ..hasty() };
    let (socket, mut client) = pair(&config).await;
    let (link, running) = run(socket);
    let frame = encode(Opcode::Text, &[b'x'; 1000]);
    while link.offer(&frame) != Offer::Full {
        tokio::task::yield_now().await;
    }
    // `Closed` says that the close has begun; the client reads only now.
    while link.offer(&frame) != Offer::Closed {
        advance(Duration::from_millis(10)).await;
        yield_now().await;
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
    let _end = stop_time();
    let config = SocketConfig { heartbeat_ms: 300, stall_timeout_ms: 300, ..hasty() };
    let (socket, mut client) = pair(&config).await;
    let (link, running) = run(socket);
    assert_eq!(link.offer(&encode(Opcode::Text, &vec![b'x'; 100_000])), Offer::Taken);
    // Twice the stall timeout in steps of which each moves something.
    let (mut space, mut steps) = ([0; 1024], 0);
    let mut queued = link.queued_bytes();
    while queued > 0 {
        soon(client.read(&mut space)).await.unwrap();
        yield_now().await;
        if link.queued_bytes() < queued && steps < 14 {
            steps += 1;
            advance(Duration::from_millis(50)).await;
        }
        queued = link.queued_bytes();
    }
    assert!(steps >= 12, "the kernel was too generous");
    assert!(!running.is_finished());
}
