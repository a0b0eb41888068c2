//! Between COMMIT and Redis: nodes that die there, links that are slow or gone. What is committed
//! reaches the stream, and every follower, all the same.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use verbatim::config::Config;

use super::cluster::{Cluster, at, behind, gather, hears, metric, mirror, mirror_is, say, say_as};
use crate::crowd::Crowd;
use crate::harness::Client;
use crate::harness::process::{Exit, Process};
use crate::harness::proxy::{Fate, Pieces, Proxy, Way};
use crate::harness::redis::Redis;

/// By when other nodes' followers hear, while Redis is away. The promise is a second, and Redis is
/// waited for for more than two.
const HEARD: Duration = Duration::from_secs(2);

fn holds(piece: &[u8], text: &str) -> bool {
    piece.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Its ack was sent, its XADD was not: it waits in the proxy while the node is killed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_died_did_not_mirror_is_mirrored_by_another() {
    let server = Redis::start(&[]).await;
    let mut cluster = Cluster::with_redis(&server.url()).await;
    // So that nobody sweeps what is still under way on a machine that stands still.
    cluster.world.config.mirror.outbox_age_ms = 6000;
    let proxy = Proxy::to(server.port(), Pieces::Values).await;
    let mut environment = cluster.environment("dying");
    let url = format!("redis://127.0.0.1:{}/0", proxy.port());
    environment.push(("REDIS_URL".to_owned(), url));
    let mut dying = Process::start(environment).await;
    let (one, two) = tokio::join!(cluster.node("one"), cluster.node("two"));
    let mut clients = gather("r", &[dying.addr, one.addr, two.addr]).await;
    cluster.outbox_is_empty().await;
    // On a busy machine the very first rows may have been swept, too.
    let swept = async || {
        let swept = async |node| metric(node, "verbatim_outbox_swept_total").await;
        swept(one.addr).await + swept(two.addr).await
    };
    let before = swept().await;

    proxy.rule(|way, piece| match way == Way::ToServer && holds(piece, "last words") {
        true => Fate::Swallow,
        false => Fate::Pass,
    });
    say(&mut clients[0], "r", "last words").await;
    proxy.swallowed().await;
    dying.kill9();
    assert_eq!(dying.wait_exit().await, Exit::Signal(9));
    drop(proxy);
    assert_eq!(cluster.outbox_len().await, 1);
    for client in &mut clients[1..] {
        hears(client, "last words").await;
        client.expect_nothing().await;
    }
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 4).await;
    assert_eq!(swept().await - before, 1);
}

/// kill -9 under load, at any moment of the write path, many times.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_whole_after_nodes_died_under_load() {
    let cluster = Cluster::shared().await;
    let (one, mut two) = tokio::join!(cluster.process("one"), cluster.process("two"));
    let (address, at_two) = tokio::sync::watch::channel(two.addr);
    let crowd = Crowd::gather(&[at(one.addr), at_two], 2, 1, 32).await;
    for _ in 0..4 {
        crowd.answered(rand::random_range(100..300)).await;
        two.kill9();
        assert_eq!(two.wait_exit().await, Exit::Signal(9));
        two = cluster.process("two").await;
        address.send_replace(two.addr);
    }
    crowd.answered(100).await;
    let outcome = crowd.end(&cluster.world.config.log).await;
    outcome.assert_kept();
    cluster.outbox_is_empty().await;
    let mut streamed = cluster.stream().await;
    streamed.sort_unstable();
    streamed.dedup();
    for (room, stored) in &outcome.stored.rooms {
        let seqs = streamed.iter().filter(|(name, _)| name == room).map(|(_, seq)| *seq);
        assert!(seqs.eq(1..=stored.last_seq), "{room} is not whole in the stream");
    }
}

/// Says it by one node ten times over; how long it took by the other, from the ack on.
async fn delays(from: &mut Client, user: &str, to: &mut Client) -> Vec<Duration> {
    let mut delays = Vec::new();
    for number in 0..10 {
        let text = format!("by the log {number}");
        say_as(from, user, "r", &text).await;
        let begun = Instant::now();
        to.read_until(json!({"type": "message", "message": text})).await;
        delays.push(begun.elapsed());
    }
    delays.sort();
    delays
}

/// The promise, but for the few that were under way when the machine stood still.
fn assert_heard_in_time(delays: &[Duration]) {
    assert!(delays[delays.len() * 7 / 10] < HEARD, "{delays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_other_nodes_hear_within_a_second() {
    let mut server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    let (one, two) = tokio::join!(cluster.node("one"), cluster.node("two"));
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    server.kill();
    mirror_is(one.addr, "away").await;
    mirror_is(two.addr, "away").await;
    let [from, to] = &mut clients[..] else { unreachable!() };
    assert_heard_in_time(&delays(from, "0", to).await);
    assert_heard_in_time(&delays(to, "1", from).await);
    server.restart().await;
    cluster.outbox_is_empty().await;
    say(&mut clients[0], "r", "by Redis").await;
    clients[1].read_until(json!({"type": "message", "message": "by Redis"})).await;
}

/// Redis takes everything and answers nothing, and for half of the time nobody can know that. The
/// node that sweeps waits for it; it must hear the other one all the same.
#[tokio::test(flavor = "multi_thread")]
async fn while_redis_hangs_the_nodes_hear_each_other_within_a_second() {
    const MESSAGES: usize = 40;
    const EVERY: Duration = Duration::from_millis(250);
    let server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    let patient = |config: &mut Config| config.mirror.timeout_ms = 5000;
    let (one, two) =
        tokio::join!(cluster.node_with("one", patient), cluster.node_with("two", patient));
    let [near, far] = [one.addr, two.addr];
    // Each has a room to itself: a node that writes to one sees by that what it has missed.
    let [_, by_two] = gather("ours", &[near, far]).await.try_into().ok().unwrap();
    let [_, by_one] = gather("theirs", &[far, near]).await.try_into().ok().unwrap();
    cluster.outbox_is_empty().await;
    server.pause();
    // Each says something by the clock, heard or not, while both listen.
    let mut hearings = Vec::new();
    for (mouth, room, mut ear) in [(near, "ours", by_two), (far, "theirs", by_one)] {
        let mut speaker = Client::greeted(mouth).await;
        let said = tokio::spawn(async move {
            let (mut clock, mut acked) = (tokio::time::interval(EVERY), Vec::new());
            for number in 0..MESSAGES {
                clock.tick().await;
                say(&mut speaker, room, &format!("{room} {number}")).await;
                acked.push(Instant::now());
            }
            acked
        });
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            for number in 0..MESSAGES {
                ear.read_until(json!({"message": format!("{room} {number}")})).await;
                heard.push(Instant::now());
            }
            heard
        });
        hearings.push((said, heard));
    }
    for (said, heard) in hearings {
        let (said, heard) = (said.await.unwrap(), heard.await.unwrap());
        let mut delays: Vec<_> = said
            .iter()
            .zip(heard)
            .map(|(said, heard)| heard.saturating_duration_since(*said))
            .collect();
        delays.sort();
        assert_heard_in_time(&delays);
    }
    assert_eq!(mirror(near).await, "away");
    server.resume();
    mirror_is(near, "ok").await;
    mirror_is(far, "ok").await;
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("ours", 2 + MESSAGES as u64).await;
    cluster.assert_streamed("theirs", 2 + MESSAGES as u64).await;
}

/// The other node reaches Redis, so what it commits leaves the outbox before anyone could look.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_alone_is_cut_off_hears_and_is_heard_within_a_second() {
    let server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    let proxy = Proxy::to(server.port(), Pieces::Values).await;
    let (one, two) = tokio::join!(cluster.node("one"), cluster.node_with("two", behind(&proxy)));
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    proxy.cut();
    mirror_is(two.addr, "away").await;
    let [from, to] = &mut clients[..] else { unreachable!() };
    assert_heard_in_time(&delays(from, "0", to).await);
    assert_heard_in_time(&delays(to, "1", from).await);
    proxy.heal();
    mirror_is(two.addr, "ok").await;
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 22).await;
}

/// Two nodes write in turns, and one of them is slow to tell: the stream has it the wrong way
/// round. No follower does.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_reach_redis_in_the_wrong_order_are_shown_in_the_right_one() {
    let server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await.trusting();
    let proxy = Proxy::to(server.port(), Pieces::Values).await;
    let (quick, slow, third) = tokio::join!(
        cluster.node("quick"),
        cluster.node_with("slow", behind(&proxy)),
        cluster.node("third")
    );
    let places: [SocketAddr; 3] = [quick.addr, slow.addr, third.addr];
    let mut clients = gather("r", &places).await;
    let mut listeners = Vec::new();
    for place in places {
        let mut listener = Client::greeted(place).await;
        let join = json!({"type": "join", "user_id": "0", "room": "r", "since": 3});
        listener.send(join).await;
        listener.expect(json!({"type": "joined"})).await;
        listeners.push(listener);
    }
    // Shorter than a hold, about a hold, and longer than a hold.
    for delay in [10, 20, 60] {
        proxy.delay(Way::ToServer, Duration::from_millis(delay));
        for number in 0..10 {
            say_as(&mut clients[1], "1", "r", &format!("first {number}")).await;
            say_as(&mut clients[0], "0", "r", &format!("then {number}")).await;
        }
        for listener in &mut listeners {
            for number in 0..10 {
                hears(listener, &format!("first {number}")).await;
                hears(listener, &format!("then {number}")).await;
            }
            listener.expect_nothing().await;
        }
    }
    cluster.outbox_is_empty().await;
    let seqs: Vec<u64> = cluster.stream().await.into_iter().map(|(_, seq)| seq).collect();
    assert!(!seqs.is_sorted(), "the proxy inverted nothing: {seqs:?}");
    assert_eq!(metric(quick.addr, "verbatim_mirror_doubts_total").await, 0);
}

/// Somebody deleted a room by hand, and its rows in the outbox stayed: more than a sweep takes.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_room_that_is_gone_do_not_keep_others_from_the_stream() {
    let cluster = Cluster::shared().await;
    let sql = cluster.sql().await;
    let node = cluster.node("one").await;
    let orphans = "insert into outbox (room_id, first_seq, last_seq, at)
         select 999, n, n, now() - interval '1 hour' from generate_series(1, 100) n";
    sql.batch_execute(orphans).await.unwrap();
    cluster.outbox_is_empty().await;
    gather("r", &[node.addr]).await;
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 1).await;
}

/// After a long outage there is more to do than a slow Redis takes in one transaction's time.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_outbox_is_swept_in_pieces_that_can_be_done_in_time() {
    let server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    let proxy = Proxy::to(server.port(), Pieces::Chunks).await;
    let patient = cluster.node("one").await;
    drop(gather("r", &[patient.addr]).await);
    cluster.outbox_is_empty().await;
    patient.stop().await;
    let node = cluster.node_with("one", |config| {
        behind(&proxy)(config);
        config.log.append_timeout_ms = 600;
    });
    let node = node.await;
    let mut client = node.client().await;
    client.send(json!({"type": "join", "user_id": "0", "room": "r"})).await;
    client.expect(json!({"type": "joined", "last_seq": 1})).await;
    // Ten batches of five hundred, as a node that died would have left them.
    let left = "insert into events (room_id, seq, type, user_id, body, at)
             select r.id, n, 'message', '0', 'left', now()
             from rooms r, generate_series(2, 5001) n;
         update rooms set last_seq = 5001, message_count = 5000;
         insert into outbox (room_id, first_seq, last_seq, at)
             select r.id, 2 + 500 * n, 501 + 500 * n, now() - interval '1 hour'
             from rooms r, generate_series(0, 9) n;";
    proxy.delay(Way::ToServer, Duration::from_millis(120));
    cluster.sql().await.batch_execute(left).await.unwrap();
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 5001).await;
    for _ in 0..5000 {
        hears(&mut client, "left").await;
    }
}
