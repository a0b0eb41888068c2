//! A log that goes back, as after a failover to a standby that had not everything, or a restore:
//! whoever was shown what is gone is told, and is shown everything after.

use serde_json::{Value, json};

use crate::harness::node::TestNode;
use crate::harness::{Client, World};
use crate::mirror::cluster::Cluster;

/// The room "r" stands where it stood after its event 5.
const BACK_TO_5: &str = "
    delete from events where seq > 5;
    delete from outbox;
    update rooms set last_seq = 5, message_count = 3;";

/// Somebody who made "r" on one node and follows it on another, where it is seen to come to 10.
async fn founded(node: &TestNode, follower_at: &TestNode) -> Client {
    let (mut client, mut follower) = (node.client().await, follower_at.client().await);
    client.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
    follower.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    follower.read_until(json!({"type": "join", "seq": 2})).await;
    for seq in 3..11 {
        client.send(message(&format!("old {seq}"), None)).await;
        follower.expect(json!({"type": "message", "seq": seq})).await;
    }
    follower
}

fn message(text: &str, id: Option<&str>) -> Value {
    let mut message = json!({"type": "message", "user_id": "1", "room": "r", "message": text});
    if let Some(id) = id {
        message["id"] = id.into();
    }
    message
}

/// Follows "r" from behind event 10, as user 2.
async fn follow(node: &TestNode, expected: Value) -> Client {
    let mut client = node.client().await;
    let resume = json!({"type": "join", "user_id": "2", "room": "r", "since": 10});
    client.send(resume).await;
    client.read_until(expected).await;
    client
}

/// What is in the log from event 6 on.
async fn texts(client: &mut Client) -> Vec<String> {
    client.send(json!({"type": "history", "user_id": "2", "room": "r", "before": 100})).await;
    let history = client.read_until(json!({"type": "history"})).await.pop().unwrap();
    let events = history["events"].as_array().unwrap().iter();
    let new = events.filter(|event| event["seq"].as_u64() > Some(5));
    new.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

/// On two nodes with Redis. By the time that anybody comes back the log has as much as before.
#[tokio::test(flavor = "multi_thread")]
async fn followers_of_a_log_that_went_back_and_on_are_told_on_every_node() {
    let cluster = Cluster::shared().await;
    let (near, far) = tokio::join!(cluster.node("near"), cluster.node("far"));
    let mut at_far = founded(&near, &far).await;
    let mut at_near = follow(&near, json!({"type": "joined", "last_seq": 10})).await;
    cluster.outbox_is_empty().await;
    cluster.sql().await.batch_execute(BACK_TO_5).await.unwrap();

    let mut another = near.client().await;
    for (place, id) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        another.send(message(&format!("new {id}"), Some(id))).await;
        let seq = 6 + place;
        another.expect(json!({"type": "ack", "seq": seq, "id": id})).await;
    }
    for client in [&mut at_near, &mut at_far] {
        client.read_to_close(4000).await;
    }
    for node in [&near, &far] {
        let mut back = follow(node, json!({"type": "reset", "room": "r", "last_seq": 10})).await;
        assert_eq!(texts(&mut back).await, ["new a", "new b", "new c", "new d", "new e"]);
    }
    let mut at_far = follow(&far, json!({"type": "reset", "last_seq": 10})).await;
    another.send(message("after", None)).await;
    at_far.expect(json!({"type": "message", "seq": 11, "message": "after"})).await;
}

/// Nobody says a word: it is seen when the rooms are compared with the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_back_is_noticed_though_nothing_happens() {
    let world = World::postgres().await;
    let node = world.node().await;
    let mut follower = founded(&node, &node).await;
    crate::log::private_postgres::client(&world.config.log.url.0)
        .await
        .batch_execute(BACK_TO_5)
        .await
        .unwrap();
    follower.read_to_close(4000).await;
    let mut back = follow(&node, json!({"type": "reset", "room": "r", "last_seq": 5})).await;
    let mut another = node.client().await;
    another.send(message("new", None)).await;
    another.expect(json!({"seq": 6})).await;
    back.expect(json!({"type": "message", "seq": 6, "message": "new"})).await;
}

/// All of it between two looks at the log: nothing stands below what was shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_back_and_beyond_is_noticed_by_what_it_has_there() {
    let world = World::postgres().await;
    let node = world.node().await;
    let mut follower = founded(&node, &node).await;
    let back_and_on = format!(
        "begin;
         {BACK_TO_5}
         insert into events (room_id, seq, at, type, user_id, body)
         select id, seq, now(), 'message', '1', 'new ' || seq
         from rooms, generate_series(6, 12) as seq;
         update rooms set last_seq = 12, message_count = 10;
         commit;"
    );
    crate::log::private_postgres::client(&world.config.log.url.0)
        .await
        .batch_execute(&back_and_on)
        .await
        .unwrap();
    let shown = follower.read_to_close(4000).await;
    assert!(shown.iter().all(|frame| frame["seq"].is_null()), "{shown:?}");
    let mut back = follow(&node, json!({"type": "reset", "room": "r", "last_seq": 12})).await;
    assert_eq!(texts(&mut back).await.len(), 7);
}
