//! Nodes that go and come back as processes: killed, told to stop, started under a name that is
//! taken, with a password that is wrong.

use redis::AsyncTypedCommands;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::cluster::{Cluster, gather, hears, metric, mirror, redis, say, until};
use crate::crowd::Crowd;
use crate::harness::process::{Exit, Process, run};
use crate::harness::redis::Redis;
use crate::harness::{Client, PATIENCE, services};

/// What a node reads, and from where, since it started.
struct Sources {
    /// Entries of the stream.
    drained: u64,
    /// Pages for clients that came back.
    ring: u64,
    log: u64,
    repairs: u64,
}

async fn sources(process: &Process) -> Sources {
    let metric = async |name: &str| metric(process.addr, &format!("verbatim_{name}")).await;
    Sources {
        drained: metric("mirror_drained_total").await,
        ring: metric("catch_ups_total{source=\"ring\"}").await,
        log: metric("catch_ups_total{source=\"log\"}").await,
        repairs: metric("repairs_total").await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_goes_on_from_its_place_in_the_stream() {
    const MISSED: u64 = 700;
    let cluster = Cluster::shared().await;
    let (near, mut far) = tokio::join!(cluster.process("near"), cluster.process("far"));
    let mut clients = gather("r", &[near.addr, far.addr]).await;
    say(&mut clients[0], "r", "seen").await;
    let seen = clients[1].expect(json!({"type": "message", "message": "seen"})).await;
    far.kill9();
    assert_eq!(far.wait_exit().await, Exit::Signal(9));

    for number in 0..MISSED {
        let text = format!("missed {number}");
        let message = json!({"type": "message", "user_id": "0", "room": "r", "message": text});
        clients[0].send(message).await;
    }
    clients[0].read_until(json!({"message": format!("missed {}", MISSED - 1)})).await;
    cluster.outbox_is_empty().await;
    let far = cluster.process("far").await;
    // It has read what it missed before it serves anyone.
    assert!(sources(&far).await.drained >= MISSED);
    let mut back = Client::greeted(far.addr).await;
    let resume = json!({"type": "resume", "user_id": "1", "rooms": {"r": seen["seq"]}});
    back.send(resume).await;
    back.expect(json!({"type": "joined"})).await;
    for number in 0..MISSED {
        hears(&mut back, &format!("missed {number}")).await;
    }
    back.expect(json!({"type": "resumed"})).await;
    let sources = sources(&far).await;
    assert!(sources.ring > 0);
    assert_eq!(sources.log, 0, "PostgreSQL was asked");
    // A machine that is very busy may have left a batch to the sweep, and then it came late.
    let in_order = cluster.stream().await.iter().map(|(_, seq)| seq).is_sorted();
    assert!(sources.repairs == 0 || !in_order, "PostgreSQL was asked {} times", sources.repairs);
    say(&mut clients[0], "r", "as before").await;
    hears(&mut back, "as before").await;
}

/// One node after the other, under load, as an update does it. The clients of a node that goes are
/// sent to another, as a load balancer does it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_is_a_reconnect_for_each_node_and_no_hole_for_anyone() {
    const NODES: [&str; 3] = ["n1", "n2", "n3"];
    // A name that is not given back is taken for longer than anyone waits here.
    let cluster = Cluster::shared().await.trusting();
    let mut processes = Vec::new();
    for node in NODES {
        processes.push(cluster.process(node).await);
    }
    let (addresses, at): (Vec<_>, Vec<_>) =
        processes.iter().map(|process| watch::channel(process.addr)).unzip();
    let crowd = Crowd::gather(&at, 1, 1, 32).await;
    let mut places = [0, 1, 2];
    let mut moves = 0;
    for stopping in 0..NODES.len() {
        crowd.answered(300).await;
        let next = (stopping + 1) % NODES.len();
        for (group, place) in places.iter_mut().enumerate().filter(|(_, place)| **place == stopping)
        {
            *place = next;
            addresses[group].send_replace(processes[next].addr);
            moves += 1;
        }
        processes[stopping].sigterm();
        let exit = processes[stopping].wait_exit().await;
        assert_eq!(exit, Exit::Code(0), "{}", processes[stopping].output());
        // The name is free at once.
        processes[stopping] = cluster.process(NODES[stopping]).await;
    }
    crowd.answered(300).await;
    let outcome = crowd.end(&cluster.world.config.log).await;
    outcome.assert_kept();
    // A talker, a mumbler and a follower in each group.
    assert_eq!(outcome.reconnects, 3 * moves);
    cluster.outbox_is_empty().await;
}

/// A Redis that hangs is no reason to be killed by one's supervisor.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_in_time_while_redis_hangs() {
    let server = Redis::start(&[]).await;
    let cluster = Cluster::with_redis(&server.url()).await;
    let mut environment = cluster.environment("n1");
    environment.push(("VERBATIM_SERVER__SHUTDOWN_TIMEOUT_MS".to_owned(), "90000".to_owned()));
    let mut process = Process::start(environment).await;
    let mut clients = gather("r", &[process.addr]).await;
    server.pause();
    for number in 0..20 {
        say(&mut clients[0], "r", &format!("said to the wall {number}")).await;
    }
    let begun = Instant::now();
    process.sigterm();
    assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    server.resume();
    let _again = cluster.process("n1").await;
    cluster.outbox_is_empty().await;
    cluster.assert_streamed("r", 21).await;
}

/// Runs a node that must not start, and gives what it says.
async fn refused(environment: Vec<(String, String)>) -> String {
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let run = run(&[], &environment, &[]).await;
    assert!(matches!(run.exit, Exit::Code(code) if code != 0), "{run:?}");
    assert!(!run.stdout.contains("listening"), "{run:?}");
    run.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_of_one_name_does_not_start_and_the_first_does_not_care() {
    let mut cluster = Cluster::shared().await;
    // Five of them, for which a name is held, are longer than the machine stands still.
    cluster.world.config.mirror.heartbeat_ms = 1200;
    let mut first = cluster.process("twin").await;
    let said = refused(cluster.environment("twin")).await;
    assert!(said.contains("another live node is called twin"), "{said}");
    assert!(said.contains("node.id"), "{said}");
    let mut client = Client::greeted(first.addr).await;
    client.send(json!({"type": "ping"})).await;
    client.expect(json!({"type": "pong"})).await;
    drop(client);
    assert_eq!(mirror(first.addr).await, "ok");

    // Killed: its name is free again within a few heartbeats.
    first.kill9();
    assert_eq!(first.wait_exit().await, Exit::Signal(9));
    let mut second = cluster.process("twin").await;
    // Stopped: at once. (The watch over a lease takes two and a half heartbeats.)
    second.sigterm();
    assert_eq!(second.wait_exit().await, Exit::Code(0));
    let mut redis = cluster.redis().await;
    let lease = cluster.events.replace(":events", ":node:twin");
    assert!(!redis.exists(lease).await.unwrap(), "the name is still taken");
}

/// A node that was stopped for a while, and whose name another took meanwhile, is not the one any
/// more: it ends rather than share a place.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_name_while_it_slept_ends() {
    let cluster = Cluster::shared().await;
    let mut sleeper = cluster.process("twin").await;
    sleeper.signal(rustix::process::Signal::STOP);
    let second = cluster.process("twin").await;
    sleeper.signal(rustix::process::Signal::CONT);
    assert_eq!(sleeper.wait_exit().await, Exit::Code(70), "{}", sleeper.output());
    assert!(sleeper.output().contains("another live node is called twin"));
    assert_eq!(mirror(second.addr).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_redis_refuses_does_not_start_and_does_not_tell_the_password() {
    let server = Redis::start(&[]).await;
    let mut admin = redis(&server.url()).await;
    let rules = ["SETUSER", "chat", "on", ">right", "~*", "&*", "+@all"];
    redis::cmd("ACL").arg(&rules).query_async::<()>(&mut admin).await.unwrap();
    redis::cmd("ACL")
        .arg(&["SETUSER", "default", "off"])
        .query_async::<()>(&mut admin)
        .await
        .unwrap();
    let url = |user: &str| server.url().replace("redis://", &format!("redis://{user}@"));
    let database = services::database().await;
    for user in ["chat:wrongpass", "nobody:right", ""] {
        let url = if user.is_empty() { server.url() } else { url(user) };
        let said = refused(Cluster::on(&database, &url).environment("n1")).await;
        assert!(said.contains("Redis refused the user, the password or the database"), "{said}");
        assert!(!said.contains("wrongpass"), "{said}");
    }
    let right = url("chat:right");
    let process = Cluster::on(&database, &right).process("n1").await;
    assert_eq!(mirror(process.addr).await, "ok");
    let no_such = Cluster::on(&database, &right.replace("/0", "/999"));
    let said = refused(no_such.environment("n1")).await;
    assert!(said.contains("DB index is out of range"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_without_postgres_is_refused() {
    let cluster = Cluster::on("", &services::redis_url().await);
    let said = refused(cluster.environment("n1")).await;
    assert!(
        said.contains("mirror.url (REDIS_URL) is set but log.url (DATABASE_URL) is not"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_node_that_is_long_gone_is_removed() {
    let mut cluster = Cluster::shared().await;
    // Sixty heartbeats between two looks.
    cluster.world.config.mirror.heartbeat_ms = 50;
    cluster.world.config.mirror.forget_after_s = 1;
    let (one, two, gone) =
        tokio::join!(cluster.node("one"), cluster.node("two"), cluster.node("gone"));
    let groups = async || {
        let mut redis = cluster.redis().await;
        let info = redis::cmd("XINFO").arg("GROUPS").arg(&cluster.events).clone();
        type Groups = Vec<std::collections::HashMap<String, redis::Value>>;
        let groups: Groups = info.query_async(&mut redis).await.unwrap();
        let name = |group: &std::collections::HashMap<String, redis::Value>| {
            redis::from_redis_value::<String>(group["name"].clone()).unwrap()
        };
        let mut names: Vec<String> = groups.iter().map(name).collect();
        names.sort();
        names
    };
    let all = ["node:gone", "node:one", "node:two"];
    until("all groups", &groups, |groups| groups == &all).await;
    gone.stop().await;
    until("the group to go", &groups, |groups| groups == &["node:one", "node:two"]).await;
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    say(&mut clients[0], "r", "who is left").await;
    hears(&mut clients[1], "who is left").await;
}
