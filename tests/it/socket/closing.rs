//! How a socket ends: the right code, nothing lost before it, nothing torn, and nobody left behind.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use verbatim::config::SocketConfig;
use verbatim::protocol::close::CloseCode;
use verbatim::protocol::frame::{Opcode, encode};
use verbatim::socket::{CloseReason, Incoming, Offer};

use super::wire::{
    CLOSE, PING, TEXT, config, expect_close, masked, masked_close, next, pair, read_frame, run,
    soon,
};

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_told_which() {
    let long = vec![b'x'; 70_000];
    let half = vec![b'x'; 40_000];
    let frames = |frames: &[(u8, &[u8])]| -> Vec<u8> {
        frames.iter().flat_map(|(first, payload)| masked(*first, payload)).collect()
    };
    for (what, bytes, code) in [
        ("a frame over the limit", frames(&[(0x81, &long)]), CloseCode::TOO_LARGE),
        ("fragments over it", frames(&[(0x01, &half), (0x80, &half)]), CloseCode::TOO_LARGE),
        ("half a snowman", frames(&[(0x81, b"\xE2\x98")]), CloseCode::INVALID_UTF8),
        ("a surrogate", frames(&[(0x01, b"ok"), (0x80, b"\xED\xA0\x80")]), CloseCode::INVALID_UTF8),
        ("no mask", b"\x81\x02hi".to_vec(), CloseCode::PROTOCOL_ERROR),
        ("a reserved bit", frames(&[(0xC1, b"hi")]), CloseCode::PROTOCOL_ERROR),
        ("a reserved opcode", frames(&[(0x83, b"hi")]), CloseCode::PROTOCOL_ERROR),
        ("a reserved control", frames(&[(0x8B, b"hi")]), CloseCode::PROTOCOL_ERROR),
        ("a large ping", frames(&[(PING, &[0; 126])]), CloseCode::PROTOCOL_ERROR),
        ("half a ping", frames(&[(0x09, b"hi")]), CloseCode::PROTOCOL_ERROR),
        ("nothing to go on", frames(&[(0x80, b"hi")]), CloseCode::PROTOCOL_ERROR),
        ("no end", frames(&[(0x01, b"a"), (0x81, b"b")]), CloseCode::PROTOCOL_ERROR),
        ("a close of one byte", frames(&[(CLOSE, b"x")]), CloseCode::PROTOCOL_ERROR),
        ("a code not for frames", masked_close(1005), CloseCode::PROTOCOL_ERROR),
    ] {
        let (socket, mut client) = pair(&config()).await;
        let (_, running) = run(socket);
        // The end of a frame that is refused at its header may have nobody to go to.
        client.write_all(&bytes).await.unwrap();
        expect_close(&mut client, code).await;
        drop(client);
        let reason = soon(running).await.unwrap();
        if !matches!(reason, CloseReason::Peer(_)) {
            assert_eq!(reason.code(), code, "{what}");
        }
    }
}

#[tokio::test]
async fn a_client_that_closes_gets_its_code_back_and_what_was_queued_before() {
    let (mut socket, mut client) = pair(&config()).await;
    let page = encode(Opcode::Text, &vec![b'x'; 300_000]);
    assert_eq!(socket.link().offer(&page), Offer::Taken);
    client.write_all(&masked_close(1001)).await.unwrap();
    let reading = tokio::spawn(async move {
        assert_eq!(read_frame(&mut client).await.unwrap().1.len(), 300_000);
        assert_eq!(read_frame(&mut client).await.unwrap(), (CLOSE, vec![0x03, 0xE9]));
        assert_eq!(read_frame(&mut client).await, None);
    });
    let Incoming::Closed(reason) = next(&mut socket).await else { panic!("not closed") };
    assert_eq!(reason, CloseReason::Peer(1001));
    soon(socket.close(reason.code(), reason.text())).await;
    soon(reading).await.unwrap();
}

/// The node restarts: who is connected gets every frame that was queued, then the code. A client
/// that is in the middle of writing is read out, or a reset would destroy what we sent.
#[tokio::test]
async fn an_orderly_close_loses_nothing_even_for_a_client_that_is_writing() {
    let (socket, mut client) = pair(&config()).await;
    let link = Arc::clone(socket.link());
    let page = encode(Opcode::Text, &vec![b'x'; 300_000]);
    assert_eq!(link.offer(&page), Offer::Taken);
    let closing = tokio::spawn(socket.close(CloseCode::RESTART, "restart"));
    for _ in 0..1000 {
        client.write_all(&masked(TEXT, &[b'y'; 1000])).await.unwrap();
    }
    assert_eq!(link.offer(&page), Offer::Closed);
    assert_eq!(read_frame(&mut client).await.unwrap().1.len(), 300_000);
    expect_close(&mut client, CloseCode::RESTART).await;
    drop(client);
    soon(closing).await.unwrap();
}

/// The deadline holds against a client that answers nothing.
#[tokio::test]
async fn a_close_that_nobody_answers_ends_in_time() {
    let config = SocketConfig { close_timeout_ms: 100, ..config() };
    let (socket, mut client) = pair(&config).await;
    soon(socket.close(CloseCode::RESTART, "restart")).await;
    assert_eq!(read_frame(&mut client).await.unwrap().0, CLOSE);
    assert_eq!(read_frame(&mut client).await, None);
}

/// It is told to go, and floods on: what it sends is not taken for as long as it likes.
#[tokio::test]
async fn a_client_that_does_not_stop_sending_is_cut_off() {
    let config = SocketConfig { close_timeout_ms: 600_000, ..config() };
    let (socket, mut client) = pair(&config).await;
    let closing = tokio::spawn(socket.close(CloseCode::POLICY, "too much"));
    let flood = masked(PING, b"").repeat(10_000);
    let mut sent = 0;
    while client.write_all(&flood).await.is_ok() {
        sent += flood.len();
        assert!(sent < 100 * 1024 * 1024, "it is still read");
    }
    soon(closing).await.unwrap();
}

/// The race this closes: a socket reads so much in one turn and has itself woken for the next. One
/// that was closing never began a next turn, and was woken again and again for nothing.
#[tokio::test]
async fn a_socket_that_closes_is_at_rest_while_its_client_is_silent() {
    let config = SocketConfig { close_timeout_ms: 500, ..config() };
    let (socket, mut client) = pair(&config).await;
    // More than is read in one turn, and then nothing.
    client.write_all(&masked(PING, b"").repeat(20_000)).await.unwrap();
    let mut closing = socket.close(CloseCode::POLICY, "too much");
    let mut polls = 0;
    soon(poll_fn(|cx| {
        polls += 1;
        closing.as_mut().poll(cx)
    }))
    .await;
    assert!(polls < 200, "polled {polls} times");
}

#[tokio::test]
async fn a_client_that_vanishes_is_lost() {
    for resets in [false, true] {
        let (socket, client) = pair(&config()).await;
        if resets {
            socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        let (link, running) = run(socket);
        drop(client);
        assert_eq!(soon(running).await.unwrap(), CloseReason::Lost);
        assert_eq!(link.offer(&encode(Opcode::Text, b"anyone?")), Offer::Closed);
    }
}

/// A session may panic while the hub still holds the link.
#[tokio::test]
async fn a_dropped_socket_is_over_though_others_hold_its_link() {
    let (socket, mut client) = pair(&config()).await;
    let link = Arc::clone(socket.link());
    assert_eq!(link.offer(&encode(Opcode::Text, &vec![b'x'; 300_000])), Offer::Taken);
    drop(socket);
    assert_eq!(link.queued_bytes(), 0);
    assert_eq!(link.push(&encode(Opcode::Text, b"x")), Offer::Closed);
    use tokio::io::AsyncReadExt;
    let mut rest = Vec::new();
    // The end of the stream, not an open connection that nobody serves.
    soon(client.read_to_end(&mut rest)).await.unwrap();
}
