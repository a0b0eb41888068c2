//! What the small steps of a message cost: to parse a command, to decide a batch, to encode an
//! event, and to offer it to a follower of a room; and what it costs that a crowd leaves one.
//!
//! `cargo bench --bench micro`; criterion says how each compares with the last time. All but
//! `offer` are without I/O. An offer ends in the kernel's send on loopback, which is nearly all of
//! it; so the bare send stands beside it, and the difference is ours.

use std::hint::black_box;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use verbatim::budget::{Budget, Budgets};
use verbatim::config::{Config, SocketConfig};
use verbatim::hub::{self, Batch, Door, Entry, Follower};
use verbatim::model::{ClientId, Event, EventKind, Role, RoomName, Seq, Text, Timestamp, UserId};
use verbatim::protocol::command::Request;
use verbatim::protocol::command::Verb;
use verbatim::protocol::frame;
use verbatim::rules::{Room, Write};
use verbatim::socket::{Incoming, Link, Queues, Socket, tune};

const TEXT: &str = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod \
                    tempor incididunt ut labore et dolore magna aliqua. Ut enim ad minim.";
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
const NOW: Timestamp = Timestamp(1_795_000_000_000);
/// As by default.
const SOCKET: SocketConfig = SocketConfig {
    frame_bytes_max: 64 * 1024,
    frame_timeout_ms: 30_000,
    heartbeat_ms: 25_000,
    stall_timeout_ms: 60_000,
    close_timeout_ms: 5_000,
    queue_bytes_max: 256 * 1024,
    read_buffer_bytes: 4096,
};

criterion_group!(benches, parse, decide, encode, offer, unfollow);
criterion_main!(benches);

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let plain =
        format!(r#"{{"user_id":"1","type":"message","room":"general","message":"{TEXT}"}}"#);
    let with_id = plain.replace("}", r#","id":"c-0000000001"}"#);
    let join = r#"{"user_id":"1","type":"join","room":"general","since":41}"#.to_owned();
    for (name, text) in [("message", plain), ("message with id", with_id), ("join", join)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| Request::parse(black_box(&text), MESSAGE_BYTES_MAX).is_ok());
        });
    }
}

/// A room of a hundred members, and messages with ids from some of them.
fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    let known = Room {
        created_by: Some(user(0)),
        last_seq: Seq(1000),
        member_count: 100,
        members: (0..100).map(|n| (user(n), Role::Member)).collect(),
        ..Room::default()
    };
    for len in [1, 64, 512] {
        let write = |n: usize| Write {
            room: room(),
            caller: user(n % 100),
            id: ClientId::parse(&format!("c-{n:010}")).ok(),
            verb: Verb::Message(text()),
        };
        let writes: Vec<_> = (0..len).map(write).collect();
        group.throughput(Throughput::Elements(len as u64));
        group.bench_function(format!("{len} messages"), |bencher| {
            bencher.iter_batched_ref(
                || known.clone(),
                |room| writes.iter().map(|write| room.decide(write, NOW)).collect::<Vec<_>>(),
                BatchSize::SmallInput,
            );
        });
    }
}

fn encode(criterion: &mut Criterion) {
    let event = event(Seq(42));
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Bytes(frame::event(&event).bytes().len() as u64));
    group.bench_function("event", |bencher| bencher.iter(|| frame::event(black_box(&event))));
    let entries: Vec<_> =
        (1..=16).map(|seq| Entry::new(&self::event(Seq(seq)), Instant::now())).collect();
    group.throughput(Throughput::Elements(16));
    let budget = Budget::new(1 << 30);
    group.bench_function("join 16 events", |bencher| {
        bencher.iter(|| Batch::join(black_box(entries.iter()), |len| budget.hold(len)));
    });
}

/// To one follower, whose client reads.
fn offer(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be started");
    let mut group = criterion.benchmark_group("offer");
    group.throughput(Throughput::Elements(1));
    let frame = frame::event(&event(Seq(1)));

    let (stream, read) = runtime.block_on(connect()).expect("loopback can be connected to");
    runtime.block_on(stream.writable()).expect("a new connection takes bytes");
    group.bench_function("bare send", |bencher| {
        bencher.iter_custom(|iterations| {
            in_rounds(iterations, frame.bytes().len(), &read, |_| {
                assert_eq!(stream.try_write(frame.bytes()).ok(), Some(frame.bytes().len()));
            })
        });
    });

    let (stream, read) = runtime.block_on(connect()).expect("loopback can be connected to");
    let link = runtime.block_on(async {
        serve(Socket::new(stream, Bytes::new(), &SOCKET, &Arc::new(Queues::default())))
    });
    let (door, inbox) = (Arc::new(Door::new(room())), Arc::default());
    let follower = Follower::new(door, link, inbox, Seq(0), (user(1), Seq(0)), &[]);
    let follower = Arc::new(follower);
    assert!(follower.go_live(Seq(0)));
    let (mut seq, budget) = (0, Budget::new(1 << 30));
    group.bench_function("follower", |bencher| {
        bencher.iter_custom(|iterations| {
            // An event of its own each: a follower takes none twice.
            let batches: Vec<_> = (1..=iterations)
                .map(|n| Entry { seq: Seq(seq + n), ..Entry::new(&event(Seq(1)), Instant::now()) })
                .map(|entry| {
                    Batch::join([entry].iter(), |len| budget.hold(len)).expect("it has one")
                })
                .collect();
            seq += iterations;
            in_rounds(iterations, frame.bytes().len(), &read, |n| {
                assert_eq!(follower.offer(&batches[n as usize]), 1, "it is live and has room");
            })
        });
    });
}

/// All sockets of a room go at once, in an order of their own.
fn unfollow(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be started");
    let (stream, _) = runtime.block_on(connect()).expect("loopback can be connected to");
    let link = runtime
        .block_on(async { serve(Socket::new(stream, Bytes::new(), &SOCKET, &Arc::default())) });
    let budgets = Budgets::new(&Config::from_defaults());
    let mut group = criterion.benchmark_group("unfollow");
    group.sample_size(10);
    for len in [1000, 10_000, 100_000] {
        let crowd = || {
            let room = hub::Room::new(room(), Instant::now(), &budgets);
            let new = |_| {
                let (door, link, inbox) = (room.door.clone(), link.clone(), Arc::default());
                Arc::new(Follower::new(door, link, inbox, Seq(0), (user(1), Seq(0)), &[]))
            };
            let mut crowd: Vec<Arc<Follower>> = (0..len).map(new).collect();
            assert!(crowd.iter().all(|follower| room.follow(follower.clone())));
            crowd.shuffle(&mut StdRng::seed_from_u64(1));
            (room, crowd)
        };
        let go = |(room, crowd): &mut (hub::Room, Vec<Arc<Follower>>)| {
            let now = Instant::now();
            crowd.iter().for_each(|follower| room.unfollow(follower, now));
        };
        group.throughput(Throughput::Elements(len));
        group.bench_function(format!("{len} followers"), |bencher| {
            bencher.iter_batched_ref(crowd, go, BatchSize::PerIteration);
        });
    }
}

/// The time of so many calls, in rounds small enough for the buffers on the way: the client has
/// read all of a round before the next begins, which is not counted.
fn in_rounds(
    iterations: u64,
    bytes: usize,
    read: &AtomicU64,
    mut call: impl FnMut(u64),
) -> Duration {
    const ROUND: u64 = 64;
    let mut spent = Duration::ZERO;
    let mut expected = read.load(Relaxed);
    for first in (0..iterations).step_by(ROUND as usize) {
        let last = iterations.min(first + ROUND);
        let begun = Instant::now();
        (first..last).for_each(&mut call);
        spent += begun.elapsed();
        expected += (last - first) * bytes as u64;
        while read.load(Relaxed) < expected {
            thread::yield_now();
        }
    }
    spent
}

/// A connection, and how many bytes its other end has read, which a thread does.
async fn connect() -> std::io::Result<(TcpStream, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (stream, _) = listener.accept().await?;
    tune(&stream, &SOCKET)?;
    let read = Arc::new(AtomicU64::new(0));
    let counter = read.clone();
    thread::spawn(move || {
        let mut space = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = client.read(&mut space) {
            counter.fetch_add(count as u64, Relaxed);
        }
    });
    Ok((stream, read))
}

fn serve(mut socket: Socket) -> Arc<Link> {
    let link = Arc::clone(socket.link());
    tokio::spawn(async move { while !matches!(socket.next(true).await, Incoming::Closed(_)) {} });
    link
}

fn event(seq: Seq) -> Event {
    let (room, user, client_id, text) = (room(), user(1), None, Some(text()));
    Event { room, seq, user, client_id, at: NOW, kind: EventKind::Message, text, data: None }
}

fn room() -> RoomName {
    RoomName::parse("general").expect("it is a name")
}

fn user(n: usize) -> UserId {
    UserId::parse(&format!("u{n}")).expect("it is a name")
}

fn text() -> Text {
    Text::parse(TEXT, MESSAGE_BYTES_MAX).expect("it is short enough")
}
