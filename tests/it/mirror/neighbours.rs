//! Others on the same Redis: another cluster, and people with a shell.

use std::time::Duration;

use redis::AsyncTypedCommands;
use serde_json::json;
use tokio::time::Instant;
use verbatim::mirror::Seal;

use super::cluster::{Cluster, gather, hears, metric, mirror_is, say, until};
use crate::harness::services;

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_on_one_redis_do_not_hear_each_other() {
    let (red, blue) = tokio::join!(Cluster::shared(), Cluster::shared());
    assert_ne!(red.events, blue.events);
    do_not_hear_each_other(red, blue).await;
}

/// Keys belong to a database, but channels do not.
#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_in_two_databases_of_one_redis_do_not_hear_each_other() {
    let redis = services::redis_url().await;
    let [first, second] = ["/1", "/2"].map(|database| redis.replace("/0", database));
    let (red, mut blue) = tokio::join!(Cluster::with_redis(&first), Cluster::with_redis(&second));
    blue.world.config.mirror.prefix = red.world.config.mirror.prefix.clone();
    blue.events = red.events.clone();
    do_not_hear_each_other(red, blue).await;
}

async fn do_not_hear_each_other(red: Cluster, blue: Cluster) {
    let (red, blue) = (red.trusting(), blue.trusting());
    let mut clients = Vec::new();
    let mut nodes = Vec::new();
    for cluster in [&red, &blue] {
        // The same names everywhere: of the nodes, the room and the users.
        let (one, two) = tokio::join!(cluster.node("one"), cluster.node("two"));
        clients.push(gather("r", &[one.addr, two.addr]).await);
        nodes.extend([one, two]);
    }
    for round in 0..20 {
        for (cluster, clients) in ["red", "blue"].iter().zip(&mut clients) {
            say(&mut clients[0], "r", &format!("{cluster} {round}")).await;
        }
    }
    for (cluster, clients) in ["red", "blue"].iter().zip(&mut clients) {
        for round in 0..20 {
            hears(&mut clients[1], &format!("{cluster} {round}")).await;
        }
        clients[1].expect_nothing().await;
    }
    for cluster in [&red, &blue] {
        cluster.outbox_is_empty().await;
        cluster.assert_streamed("r", 22).await;
    }
    for node in nodes {
        assert_eq!(metric(node.addr, "verbatim_mirror_doubts_total").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_on_the_channels_and_into_the_stream_does_no_harm() {
    let cluster = Cluster::shared().await;
    let (one, two) = tokio::join!(cluster.node("one"), cluster.node("two"));
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    let mut redis = cluster.redis().await;
    // Nobody is in this room, and the place is far behind the stream's end.
    let far = json!({"stream_id": "99999999999999-0", "type": "message", "room": "nowhere",
                     "user_id": "1", "message": "boo", "seq": 7});
    let junk: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"hello".to_vec(),
        b"{}".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"{\"stream_id\":\"".to_vec(),
        b"{\"stream_id\":\"1-1\"}".to_vec(),
        b"{\"stream_id\":\"99999999999999-0\",{".to_vec(),
        b"{\"stream_id\":\"99999999999999-0\",\"type\":\"message\"}".to_vec(),
        b"{\"stream_id\":\"-1\",\"type\":\"message\",\"room\":\"r\",\"user_id\":\"1\",\"seq\":3}"
            .to_vec(),
        b"{\"stream_id\":\"9-9\",\"type\":\"message\",\"room\":\"r\",\"user_id\":\"1\",\"seq\":-3}"
            .to_vec(),
        vec![b'{'; 1_000_000],
        format!("{{\"stream_id\":{}", &far.to_string()[r#"{"stream_id":"#.len()..]).into_bytes(),
        reordered(&far),
    ];
    let nodes_channel = cluster.events.replace(":events", ":nodes");
    for (number, junk) in junk.iter().enumerate() {
        redis.publish(&cluster.events, junk.as_slice()).await.unwrap();
        redis.publish(&nodes_channel, junk.as_slice()).await.unwrap();
        let mut add = redis::cmd("XADD");
        add.arg(&cluster.events).arg("*");
        match number % 3 {
            0 => add.arg("event").arg(junk),
            1 => add.arg("junk").arg(junk),
            _ => add.arg("room").arg("r").arg("seq").arg("x").arg("event").arg(junk),
        };
        add.query_async::<()>(&mut redis).await.unwrap();
        let text = format!("beside junk {number}");
        say(&mut clients[0], "r", &text).await;
        hears(&mut clients[1], &text).await;
    }
    clients[1].expect_nothing().await;
    // A doubt for what was in the stream and not on the channel, or the other way round, and then
    // peace.
    for node in [one.addr, two.addr] {
        mirror_is(node, "ok").await;
        until("no lag", async || metric(node, "verbatim_mirror_behind").await, |lag| *lag == 0)
            .await;
    }
}

/// An event that the log does not have: whoever waits for those before it would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_never_was_is_not_waited_for() {
    let cluster = Cluster::shared().await;
    let (one, two) = tokio::join!(cluster.node("one"), cluster.node("two"));
    let mut clients = gather("r", &[one.addr, two.addr]).await;
    let mut redis = cluster.redis().await;
    let lie = json!({"type": "message", "room": "r", "user_id": "1", "message": "boo",
                     "seq": 1_000_000});
    let lie = lie.to_string();
    // Only who knows the secret can tell it: as when the log was set back since.
    let sql = cluster.sql().await;
    let secret = sql.query_one("select secret from verbatim_log", &[]).await.unwrap();
    let seal = Seal::new(secret.get(0)).of(lie.as_bytes());
    let mut add = redis::cmd("XADD");
    add.arg(&cluster.events).arg("*").arg("event").arg(&lie).arg("seal").arg(seal);
    add.query_async::<()>(&mut redis).await.unwrap();
    let repairs = async || metric(two.addr, "verbatim_repairs_total").await;
    until("a look into the log", &repairs, |repairs| *repairs > 0).await;
    let begun = Instant::now();
    let mut said = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let text = format!("meanwhile {said}");
        say(&mut clients[0], "r", &text).await;
        hears(&mut clients[1], &text).await;
        said += 1;
    }
    // Four times a second would be more; a busy machine has other reasons for one or two.
    let repairs = repairs().await;
    assert!(repairs < 5, "the log was asked {repairs} times");
}

/// With the stream's ID as its first key, as the nodes write it.
fn reordered(event: &serde_json::Value) -> Vec<u8> {
    let mut rest = event.clone();
    let id = rest.as_object_mut().unwrap().remove("stream_id").unwrap();
    format!("{{\"stream_id\":{id},{}", &rest.to_string()[1..]).into_bytes()
}
