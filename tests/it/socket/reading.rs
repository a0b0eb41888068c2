//! What clients send is read as it was meant, however it is cut; and no bytes do harm.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use verbatim::protocol::frame::{Opcode, encode};
use verbatim::socket::{CloseReason, Incoming, Queues, Socket};

use super::wire::{PING, config, masked, masked_close, next, pair, read_frame, soon};

/// Reads until the end.
async fn read_all(socket: &mut Socket) -> (Vec<Incoming>, CloseReason) {
    let mut messages = Vec::new();
    loop {
        match next(socket).await {
            Incoming::Closed(reason) => return (messages, reason),
            incoming => messages.push(incoming),
        }
    }
}

/// Commands that came along with the upgrade request are not lost.
#[tokio::test]
async fn what_was_read_with_the_request_comes_first() {
    let (listener, bytes) = (
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        [masked(0x81, b"first"), masked(0x01, b"sec")].concat(),
    );
    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let mut client = client.unwrap();
    client.write_all(&[masked(0x80, b"ond"), masked_close(1001)].concat()).await.unwrap();
    let mut socket =
        Socket::new(accepted.unwrap().0, bytes.into(), &config(), &Arc::new(Queues::default()));
    let (messages, reason) = read_all(&mut socket).await;
    assert_eq!(messages, [Incoming::Text("first".into()), Incoming::Text("second".into())]);
    assert_eq!(reason, CloseReason::Peer(1001));
}

/// `echo … | some-client` sends its lines and is gone; our answers meet a reset, but its words are
/// here.
#[tokio::test]
async fn the_last_words_of_a_client_that_left_without_reading_are_heard() {
    let (mut socket, mut client) = pair(&config()).await;
    let answer = encode(Opcode::Text, &[b'x'; 100]);
    for number in 0..10 {
        client.write_all(&masked(0x81, format!("{number}").as_bytes())).await.unwrap();
    }
    socket.link().push(&answer);
    client.readable().await.unwrap();
    // Unread bytes turn the close into a reset.
    drop(client);
    let mut heard = 0;
    loop {
        socket.link().push(&answer);
        match next(&mut socket).await {
            Incoming::Text(text) => {
                assert_eq!(text.as_str(), format!("{heard}"));
                heard += 1;
            }
            Incoming::Closed(reason) => {
                assert_eq!((heard, reason), (10, CloseReason::Lost));
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Who does not take answers may not ask: here a flood of pings whose pongs nobody reads.
#[tokio::test]
async fn nothing_is_read_while_the_queue_is_over_its_limit() {
    let config = config();
    let (socket, client) = pair(&config).await;
    let (link, _running) = super::wire::run(socket);
    let (_unread, mut writing) = client.into_split();
    let pings: Bytes = masked(PING, b"").repeat(1000).into();
    let mut flood = pin!(async { while writing.write_all(&pings).await.is_ok() {} });
    // The flood ends up waiting for us; it must not get further than that.
    let mut before = 0;
    soon(async {
        loop {
            let flood = tokio::time::timeout(Duration::from_millis(200), &mut flood);
            assert!(flood.await.is_err());
            let queued = std::mem::replace(&mut before, link.queued_bytes());
            if queued == before && queued > config.queue_bytes_max / 2 {
                return;
            }
        }
    })
    .await;
    assert!(link.queued_bytes() < config.queue_bytes_max + 256);
}

/// A message and how it is cut into fragments, with pings in between.
fn message() -> impl Strategy<Value = (bool, Vec<Vec<u8>>)> {
    let fragment = prop_oneof![
        4 => proptest::collection::vec(b' '..=b'~', 0..200),
        1 => proptest::collection::vec(b' '..=b'~', 0..5000),
    ];
    (any::<bool>(), proptest::collection::vec(fragment, 1..4))
}

fn frames(is_text: bool, fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let opcode = match (index, is_text) {
            (0, true) => 1,
            (0, false) => 2,
            _ => 0,
        };
        let fin = if index + 1 == fragments.len() { 0x80 } else { 0 };
        bytes.extend(masked(fin | opcode, fragment));
        if fin == 0 {
            bytes.extend(masked(PING, b"between fragments"));
        }
    }
    bytes
}

/// What the application should see of a message.
fn meant(is_text: bool, fragments: &[Vec<u8>]) -> Incoming {
    let payload = fragments.concat();
    if is_text {
        Incoming::Text(String::from_utf8(payload).unwrap().into())
    } else {
        Incoming::Binary(payload.into())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The codec is replaced after bursts; no cut of the stream may lose a byte by it.
    #[test]
    fn messages_survive_every_cut_of_the_stream(
        messages in proptest::collection::vec(message(), 1..8),
        cuts in proptest::collection::vec(1_usize..3000, 1..20),
    ) {
        Runtime::new().unwrap().block_on(async {
            let (mut socket, mut client) = pair(&config()).await;
            let mut bytes = Vec::new();
            for (is_text, fragments) in &messages {
                bytes.extend(frames(*is_text, fragments));
            }
            bytes.extend(masked_close(1000));
            let writing = tokio::spawn(async move {
                let mut cuts = cuts.iter().cycle();
                while !bytes.is_empty() {
                    let rest = bytes.split_off((*cuts.next().unwrap()).min(bytes.len()));
                    client.write_all(&bytes).await.unwrap();
                    tokio::task::yield_now().await;
                    bytes = rest;
                }
                while read_frame(&mut client).await.is_some() {}
            });
            let (incoming, reason) = read_all(&mut socket).await;
            let meant = |(text, parts): &(bool, Vec<Vec<u8>>)| meant(*text, parts);
            let expected: Vec<_> = messages.iter().map(meant).collect();
            assert_eq!(incoming, expected);
            assert_eq!(reason, CloseReason::Peer(1000));
            soon(socket.close(reason.code(), reason.text())).await;
            soon(writing).await.unwrap();
        });
    }

    #[test]
    fn no_bytes_of_a_client_do_harm(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..400),
            // Mostly valid beginnings get further.
            (0_u8..16, 0_u8..16, proptest::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(flags, opcode, payload)| {
                    let mut bytes = masked(flags << 4 | opcode, &payload);
                    bytes.extend(&payload);
                    bytes
                }),
        ],
    ) {
        Runtime::new().unwrap().block_on(async {
            let (mut socket, mut client) = pair(&config()).await;
            client.write_all(&bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let (_, reason) = read_all(&mut socket).await;
            soon(socket.close(reason.code(), reason.text())).await;
            while read_frame(&mut client).await.is_some() {}
        });
    }
}
