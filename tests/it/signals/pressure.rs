//! Signs of life are what is dropped first: who reads slowly gets every message and no signs, and
//! is told the whole when it has caught up.

use serde_json::{Value, json};

use super::{next_of, typing, watch};
use crate::harness::{Client, World, on_both_logs};
use crate::mirror::cluster::{metric, until};
use crate::protocol::{create, follow, join};

on_both_logs!(a_slow_reader_gets_every_message_and_signs_when_it_has_caught_up);

/// 10 MB: more than the kernel takes for a reader who has stopped, with a buffer as small as that.
const MESSAGES: u64 = 1200;
const MESSAGE_BYTES: usize = 8 * 1024;
const RECEIVE_BYTES: u32 = 64 * 1024;

async fn a_slow_reader_gets_every_message_and_signs_when_it_has_caught_up(world: World) {
    let quick = |config: &mut verbatim::config::Config| {
        config.signals.settle_ms = 100;
        config.signals.typing_interval_ms = 100;
        config.session.commands_per_second = 1_000_000;
    };
    let node = world.node_with(quick).await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    let mut slow = Client::narrow(node.addr, RECEIVE_BYTES).await;
    let joined = join(&mut slow, "2", "r").await;
    ann.expect(json!({"type": "join"})).await;
    watch(&mut slow, "2", "r", &["1", "2"]).await;
    watch(&mut ann, "1", "r", &["1", "2"]).await;

    // It reads nothing while much is said, somebody comes, and Ann types.
    let text = "x".repeat(MESSAGE_BYTES);
    for n in 0..MESSAGES {
        let message = json!({"type": "message", "user_id": "1", "room": "r", "message": text});
        ann.send(message).await;
        if n % 100 == 0 {
            ann.send(typing("1", "r")).await;
        }
        ann.read_until(json!({"seq": joined + 1 + n})).await;
    }
    until(
        "a full socket",
        async || metric(node.addr, "verbatim_queue_bytes").await,
        |bytes| *bytes > 0,
    )
    .await;
    let before = metric(node.addr, "verbatim_signals_skipped_total").await;
    let mut cid = node.client().await;
    join(&mut cid, "3", "r").await;
    // Told to the others, which takes no longer for the one who does not read.
    let frame = next_of(&mut ann, "presence").await;
    assert_eq!(frame["online"], json!(["3"]));
    until(
        "signs that were skipped",
        async || metric(node.addr, "verbatim_signals_skipped_total").await,
        |skipped| *skipped > before,
    )
    .await;

    // Every event, in order; and then, unasked, who is there.
    let mut seq = joined;
    let whole: Value = loop {
        let frame = slow.next().await;
        match frame["type"].as_str().unwrap() {
            "message" | "join" => {
                seq += 1;
                assert_eq!(frame["seq"], seq);
            }
            "typing" => assert!(seq < joined + MESSAGES, "one of long ago"),
            "who" => break frame,
            kind => panic!("{kind}: a difference to what it has not"),
        }
    };
    assert_eq!(seq, joined + MESSAGES + 1);
    assert_eq!(whole["online"], json!(["1", "2", "3"]));
    // From there on differences.
    cid.close().await;
    let frame = next_of(&mut slow, "presence").await;
    assert_eq!(frame["offline"], json!(["3"]));
}
