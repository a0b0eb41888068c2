//! What is offered arrives: whole, in order, and without anyone waiting for a slow reader.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use verbatim::protocol::frame::{Opcode, encode};
use verbatim::socket::{Incoming, Link, Offer};

use super::wire::{PING, PONG, TEXT, config, masked, pair, read_frame, run, soon};

/// A numbered frame whose size varies over all three length forms of the header.
fn numbered(task: u32, number: u32) -> Bytes {
    let len = match number % 50 {
        0 => 70_000,
        n if n % 7 == 0 => 400 + n as usize,
        n => n as usize,
    };
    encode(Opcode::Text, format!("{task} {number} {}", "x".repeat(len)).as_bytes())
}

/// The frames of `task` that follow `next`, checked to the last byte.
fn check_numbered(payload: &[u8], next: &mut [u32]) {
    let text = std::str::from_utf8(payload).unwrap();
    let task: u32 = text.split(' ').next().unwrap().parse().unwrap();
    let expected = numbered(task, next[task as usize]);
    assert!(expected.ends_with(payload), "{task}: not frame {}", next[task as usize]);
    next[task as usize] += 1;
}

/// Offers again after every refusal, as a catch-up would.
async fn offer_all(link: Arc<Link>, task: u32, count: u32) {
    for number in 0..count {
        let frame = numbered(task, number);
        while link.offer(&frame) == Offer::Full {
            tokio::task::yield_now().await;
        }
    }
}

async fn read_numbered(client: &mut TcpStream, tasks: usize, count: u32) -> usize {
    let mut next = vec![0; tasks];
    let mut pongs = 0;
    while next.iter().any(|next| *next < count) {
        match read_frame(client).await.expect("more frames") {
            (TEXT, payload) => check_numbered(&payload, &mut next),
            (PONG, payload) => {
                assert_eq!(payload, b"are you there");
                pongs += 1;
            }
            (first, _) => panic!("unexpected {first:#x}"),
        }
    }
    pongs
}

/// The hub offers from many threads at once; a lock released between a write and the queueing of
/// its rest would show here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn frames_of_many_tasks_arrive_whole_and_in_the_order_of_each() {
    let (socket, mut client) = pair(&config()).await;
    let (link, _running) = run(socket);
    for task in 0..8 {
        tokio::spawn(offer_all(Arc::clone(&link), task, 200));
    }
    assert_eq!(read_numbered(&mut client, 8, 200).await, 0);
    assert_eq!(link.queued_bytes(), 0);
}

/// Pongs are written by the codec, frames by others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pongs_and_frames_never_interleave() {
    let (socket, client) = pair(&config()).await;
    let (link, _running) = run(socket);
    tokio::spawn(offer_all(Arc::clone(&link), 0, 1000));
    let (mut reading, mut writing) = client.into_split();
    let pinging = tokio::spawn(async move {
        while writing.write_all(&masked(PING, b"are you there")).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let reading = tokio::spawn(async move {
        // `read_frame` wants the whole stream; a half will do for bytes.
        let mut bytes = Vec::new();
        let (mut next, mut pongs) = (vec![0], 0);
        while next[0] < 1000 {
            use tokio::io::AsyncReadExt;
            assert_ne!(soon(reading.read_buf(&mut bytes)).await.unwrap(), 0);
            let mut rest = &bytes[..];
            while let Some((first, payload, behind)) = split_frame(rest) {
                match first {
                    TEXT => check_numbered(payload, &mut next),
                    PONG => {
                        assert_eq!(payload, b"are you there");
                        pongs += 1;
                    }
                    _ => panic!("unexpected {first:#x}"),
                }
                rest = behind;
            }
            bytes = rest.to_vec();
        }
        pongs
    });
    assert!(soon(reading).await.unwrap() > 0);
    pinging.abort();
}

fn split_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let long = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (header, len) = match *bytes.get(1)? {
        126 => (4, long(bytes.get(2..4)?)),
        127 => (10, long(bytes.get(2..10)?)),
        short => (2, usize::from(short)),
    };
    let payload = bytes.get(header..header + len)?;
    Some((bytes[0], payload, &bytes[header + len..]))
}

/// The promise to slow readers: bounded memory, nothing lost, and nobody else notices.
#[tokio::test]
async fn a_slow_reader_is_refused_then_told_and_then_gets_everything() {
    let config = config();
    let (mut slow, mut slow_client) = pair(&config).await;
    let (fast, mut fast_client) = pair(&config).await;
    let (fast_link, _running) = run(fast);
    let slow_link = Arc::clone(slow.link());

    let mut taken = 0;
    loop {
        let frame = numbered(0, taken + 1);
        assert_eq!(fast_link.offer(&frame), Offer::Taken);
        assert_eq!(read_frame(&mut fast_client).await.unwrap().0, TEXT);
        if slow_link.offer(&frame) == Offer::Full {
            break;
        }
        taken += 1;
    }
    // One piece may be larger than the limit, if it found the queue empty.
    assert!(slow_link.queued_bytes() <= config.queue_bytes_max + 70_100);
    assert_eq!(slow_link.offer(&numbered(0, taken + 1)), Offer::Full);

    let reading = tokio::spawn(async move {
        for number in 1.. {
            let (_, payload) = read_frame(&mut slow_client).await.unwrap();
            if payload == b"end" {
                return number - 1;
            }
            assert!(numbered(0, number).ends_with(&payload), "not frame {number}");
        }
        unreachable!()
    });
    assert_eq!(soon(slow.next(true)).await, Incoming::Drained);
    assert!(slow_link.queued_bytes() <= config.queue_bytes_max / 2);
    assert_eq!(slow_link.push(&encode(Opcode::Text, b"end")), Offer::Taken);
    let (_, _running) = run(slow);
    assert_eq!(soon(reading).await.unwrap(), taken);
}

/// Pages of a catch-up are larger than the queue.
#[tokio::test]
async fn an_empty_queue_takes_a_page_of_any_size() {
    let (socket, mut client) = pair(&config()).await;
    let (link, _running) = run(socket);
    let page = encode(Opcode::Text, &vec![b'x'; 1_000_000]);
    assert_eq!(link.offer(&page), Offer::Taken);
    assert_eq!(link.offer(&page), Offer::Full);
    assert_eq!(read_frame(&mut client).await.unwrap().1.len(), 1_000_000);
}

/// A catch-up sends its next page when the last one is nearly out.
#[tokio::test]
async fn whoever_asks_is_told_when_there_is_room() {
    let (mut socket, mut client) = pair(&config()).await;
    socket.link().tell_when_drained();
    assert_eq!(soon(socket.next(true)).await, Incoming::Drained);

    let page = encode(Opcode::Text, &vec![b'x'; 1_000_000]);
    assert_eq!(socket.link().offer(&page), Offer::Taken);
    socket.link().tell_when_drained();
    let reading = tokio::spawn(async move { read_frame(&mut client).await.unwrap().1.len() });
    // Not reading commands, as while a catch-up is under way.
    assert_eq!(soon(socket.next(false)).await, Incoming::Drained);
    let (_, _running) = run(socket);
    assert_eq!(soon(reading).await.unwrap(), 1_000_000);
}

/// Else a catch-up with large pages would spin: told, refused, told again.
#[tokio::test]
async fn what_was_refused_fits_when_the_socket_has_drained() {
    let config = config();
    let (mut socket, mut client) = pair(&config).await;
    let page = encode(Opcode::Text, &vec![b'x'; config.queue_bytes_max * 9 / 10]);
    let len = page.len() - 4;
    let reading = tokio::spawn(async move {
        for _ in 0..100 {
            assert_eq!(read_frame(&mut client).await.unwrap().1.len(), len);
        }
    });
    for _ in 0..100 {
        if socket.link().offer(&page) == Offer::Full {
            assert_eq!(soon(socket.next(true)).await, Incoming::Drained);
            assert_eq!(socket.link().offer(&page), Offer::Taken);
        }
    }
    let (_, _running) = run(socket);
    soon(reading).await.unwrap();
}

/// Another task offers while the owner waits, and nothing but the offer can wake it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_at_rest_wakes_for_what_the_kernel_did_not_take() {
    for _ in 0..50 {
        let (socket, mut client) = pair(&config()).await;
        let (link, _running) = run(socket);
        for number in [50, 1, 100, 2] {
            assert_eq!(link.push(&numbered(0, number)), Offer::Taken);
            let (_, payload) = read_frame(&mut client).await.unwrap();
            assert!(numbered(0, number).ends_with(&payload));
        }
    }
}
