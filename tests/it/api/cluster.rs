//! Several nodes: what is said on one is streamed by another, and a key counts on all of them.

use serde_json::json;

use super::{Caller, follow};
use crate::mirror::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_on_one_node_is_streamed_by_the_others_in_one_order() {
    let cluster = Cluster::shared().await;
    let nodes = cluster.three_nodes().await;
    Caller::new(nodes[0].addr).await.create().await;
    let mut streams = Vec::new();
    for node in &nodes {
        streams.push(follow(node.addr, "&after=0", &[]).await.0);
    }
    // All three talk at once.
    let talkers = nodes.iter().enumerate().map(|(number, node)| async move {
        let mut caller = Caller::new(node.addr).await;
        for n in 0..40 {
            caller.say(&format!("{number}.{n}")).await;
        }
    });
    futures_util::future::join_all(talkers).await;
    let mut all = Vec::new();
    for stream in &mut streams {
        let mut blocks = Vec::new();
        for seq in 1..=121 {
            let block = loop {
                let block = stream.next_block().await.unwrap();
                if !block.is_comment {
                    break block;
                }
            };
            assert_eq!(block.id, Some(u64::to_string(&seq)));
            blocks.push(block);
        }
        all.push(blocks);
    }
    assert!(all[0] == all[1] && all[1] == all[2], "they tell different stories");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_on_one_node_is_known_on_all() {
    let cluster = Cluster::shared().await;
    let nodes = cluster.three_nodes().await;
    Caller::new(nodes[0].addr).await.create().await;
    for key in ["a", "b", "c", "d"] {
        let asks = (0..12).map(|n| {
            let addr = nodes[n % 3].addr;
            async move {
                let body = json!({"user_id": "1", "message": "hi"});
                Caller::new(addr).await.post_once("/api/rooms/r/events", key, body).await
            }
        });
        let replies = futures_util::future::join_all(asks).await;
        assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1, "{replies:?}");
        assert!(replies.iter().all(|reply| reply.body == replies[0].body), "{replies:?}");
    }
    let read = Caller::new(nodes[2].addr).await.get("/api/rooms/r/events?user_id=1").await;
    assert_eq!(read.json()["last"], 5);
}

/// A client of a node that dies goes on with another, from its last seq.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_with_another_node() {
    let cluster = Cluster::shared().await;
    let nodes = cluster.three_nodes().await;
    let mut caller = Caller::new(nodes[0].addr).await;
    caller.create().await;
    let (mut stream, mut last) = follow(nodes[1].addr, "&after=0", &[]).await;
    let [first, second, third] = nodes;
    for n in 2..=20 {
        caller.say(&n.to_string()).await;
    }
    while last < 10 {
        last += 1;
        stream.expect(last).await;
    }
    drop(stream);
    second.stop().await;
    caller.say("21").await;
    let (mut stream, at) = follow(third.addr, "", &[("Last-Event-ID", "10")]).await;
    assert_eq!(at, 10);
    for seq in 11..=21 {
        stream.expect(seq).await;
    }
    caller.say("22").await;
    stream.expect(22).await;
    first.stop().await;
}
