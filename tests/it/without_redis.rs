//! Nodes on one PostgreSQL that nobody has told of a Redis: they hear each other all the same, and
//! say what is missing.

use serde_json::{Value, json};

use crate::harness::World;
use crate::harness::process::Process;
use crate::harness::raw::ready;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_redis_hear_each_other_through_the_log() {
    let world = World::postgres().await;
    let (one, two) = tokio::join!(world.node(), world.node());
    let (mut writer, mut reader) = (one.client().await, two.client().await);
    writer.send(json!({"type": "create", "user_id": "1", "room": "r"})).await;
    writer.expect(json!({"type": "ack", "seq": 1})).await;
    reader.send(json!({"type": "join", "user_id": "2", "room": "r"})).await;
    reader.read_until(json!({"type": "join", "seq": 2})).await;
    for seq in 3..6 {
        let message = format!("the word {seq}");
        writer
            .send(json!({"type": "message", "user_id": "1", "room": "r", "message": message}))
            .await;
        reader.expect(json!({"type": "message", "seq": seq, "message": message})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_postgres_says_that_redis_is_missing() {
    let world = World::postgres().await;
    let process = Process::start(world.environment()).await;
    let ready: Value = serde_json::from_str(&ready(process.addr).await.1).unwrap();
    assert_eq!((&ready["status"], &ready["mirror"]), (&json!("ready"), &json!("missing")));
    assert_eq!(process.output().matches("REDIS_URL is not").count(), 1, "{}", process.output());
}
