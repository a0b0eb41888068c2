//! `history`: pages of a room's past, in both directions, and the bytes in them.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{create, exact, fill, follow, join, message};
use crate::harness::{Client, World, on_both_logs};

on_both_logs!(
    history_is_these_bytes,
    without_a_place_history_is_the_newest_fifty,
    before_is_the_newest_below_and_after_the_oldest_above,
    history_can_be_walked_in_both_directions,
    a_page_ends_where_its_bytes_end_and_says_that_there_is_more,
    an_empty_page_has_neither_first_nor_last,
    history_is_for_members_only,
    an_event_is_the_same_bytes_for_everyone_in_replay_and_in_history,
);

async fn history_is_these_bytes(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    follow(&mut client, "1", "r").await;
    client.send_text(r#"{"type":"history","user_id":"1","room":"r","id":"c3"}"#).await;
    let text = client.next_text().await;
    let frame: Value = serde_json::from_str(&text).unwrap();
    let at = frame["events"][0]["at"].as_str().unwrap();
    let wanted = r#"{"type":"history","room":"r","events":[{"type":"create","room":"r","user_id":"1","seq":1,"at":"AT"}],"first":1,"last":1,"more":false,"id":"c3"}"#;
    assert_eq!(text, wanted.replace("AT", at));
}

/// Asks for a page; its seqs, and whether there is more.
async fn page(client: &mut Client, room: &str, place: Value) -> (Vec<u64>, bool) {
    let mut command = place;
    command["type"] = "history".into();
    command["user_id"] = "1".into();
    command["room"] = room.into();
    client.send(command).await;
    let frame = client.expect(json!({"type": "history", "room": room})).await;
    let events = frame["events"].as_array().unwrap();
    let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(frame.get("first").and_then(Value::as_u64), seqs.first().copied());
    assert_eq!(frame.get("last").and_then(Value::as_u64), seqs.last().copied());
    (seqs, frame["more"].as_bool().unwrap())
}

async fn without_a_place_history_is_the_newest_fifty(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    fill(&mut client, "1", "r", 48).await;
    assert_eq!(page(&mut client, "r", json!({})).await, ((1..50).collect(), false));
    fill(&mut client, "1", "r", 1).await;
    assert_eq!(page(&mut client, "r", json!({})).await, ((1..51).collect(), false));
    fill(&mut client, "1", "r", 1).await;
    assert_eq!(page(&mut client, "r", json!({})).await, ((2..52).collect(), true));
    fill(&mut client, "1", "r", 200).await;
    let longest = json!({"limit": 200});
    assert_eq!(page(&mut client, "r", longest).await, ((52..252).collect(), true));
    assert_eq!(page(&mut client, "r", json!({"limit": 1})).await, (vec![251], true));
}

async fn before_is_the_newest_below_and_after_the_oldest_above(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    fill(&mut client, "1", "r", 9).await;
    for (place, seqs, more) in [
        (json!({"before": 6, "limit": 3}), vec![3, 4, 5], true),
        (json!({"before": 4, "limit": 3}), vec![1, 2, 3], false),
        (json!({"before": 5, "limit": 3}), vec![2, 3, 4], true),
        (json!({"before": 3, "limit": 3}), vec![1, 2], false),
        (json!({"before": 11, "limit": 3}), vec![8, 9, 10], true),
        (json!({"before": i64::MAX, "limit": 3}), vec![8, 9, 10], true),
        (json!({"after": 6, "limit": 3}), vec![7, 8, 9], true),
        (json!({"after": 7, "limit": 3}), vec![8, 9, 10], false),
        (json!({"after": 8, "limit": 3}), vec![9, 10], false),
        (json!({"after": 0, "limit": 3}), vec![1, 2, 3], true),
        (json!({"after": 0}), (1..11).collect(), false),
    ] {
        assert_eq!(page(&mut client, "r", place.clone()).await, (seqs, more), "{place}");
    }
}

async fn history_can_be_walked_in_both_directions(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    fill(&mut client, "1", "r", 22).await;
    for limit in [1, 2, 7, 23, 24] {
        let (mut forth, mut after) = (Vec::new(), 0);
        loop {
            let (seqs, more) =
                page(&mut client, "r", json!({"after": after, "limit": limit})).await;
            after = *seqs.last().unwrap();
            forth.extend(seqs);
            if !more {
                break;
            }
        }
        assert_eq!(forth, (1..24).collect::<Vec<_>>(), "pages of {limit}");
        let (mut back, mut place) = (Vec::new(), json!({"limit": limit}));
        loop {
            let (seqs, more) = page(&mut client, "r", place).await;
            place = json!({"before": seqs[0], "limit": limit});
            back.splice(0..0, seqs);
            if !more {
                break;
            }
        }
        assert_eq!(back, forth, "pages of {limit}");
    }
}

/// The page that a client does not read is held for it, so it must not be as long as messages are.
async fn a_page_ends_where_its_bytes_end_and_says_that_there_is_more(world: World) {
    let node = world.node_with(|config| config.session.history_bytes_max = 20_000).await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    // In JSON they are six times as long: three are a page, and the long one is more than a page.
    for len in [1000, 1000, 1000, 4000, 1000, 1, 1, 1, 1000, 1000, 1000, 1000] {
        client.send(message("1", "r", &"\u{1}".repeat(len))).await;
        client.expect(json!({"type": "ack"})).await;
    }
    for (place, seqs, more) in [
        (json!({}), vec![11, 12, 13], true),
        (json!({"before": 11}), vec![6, 7, 8, 9, 10], true),
        (json!({"before": 11, "limit": 2}), vec![9, 10], true),
        (json!({"before": 6}), vec![5], true),
        (json!({"before": 5}), vec![1, 2, 3, 4], false),
        (json!({"after": 0}), vec![1, 2, 3, 4], true),
        (json!({"after": 4}), vec![5], true),
        (json!({"after": 5}), vec![6, 7, 8, 9, 10, 11], true),
        (json!({"after": 5, "limit": 2}), vec![6, 7], true),
        (json!({"after": 11}), vec![12, 13], false),
    ] {
        assert_eq!(page(&mut client, "r", place.clone()).await, (seqs, more), "{place}");
    }
}

async fn an_empty_page_has_neither_first_nor_last(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    for place in [r#""after":1"#, r#""after":1000"#, r#""before":1"#, r#""before":0"#] {
        client.send_text(&format!(r#"{{"type":"history","user_id":1,"room":"r",{place}}}"#)).await;
        exact(&mut client, r#"{"type":"history","room":"r","events":[],"more":false}"#).await;
    }
}

async fn history_is_for_members_only(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    let ask = json!({"type": "history", "user_id": "2", "room": "r"});
    bob.send(ask.clone()).await;
    bob.expect(json!({"code": "not_member", "status": 403, "re": "history"})).await;
    join(&mut bob, "2", "r").await;
    bob.send(ask.clone()).await;
    bob.expect(json!({"type": "history", "first": 1, "last": 2})).await;
    bob.send(json!({"type": "leave", "user_id": "2", "room": "r"})).await;
    bob.expect(json!({"type": "leave"})).await;
    bob.send(ask).await;
    bob.expect(json!({"code": "not_member"})).await;
}

/// A `history` frame with its events as the bytes they are.
#[derive(Deserialize)]
struct Page {
    events: Vec<Box<RawValue>>,
}

async fn an_event_is_the_same_bytes_for_everyone_in_replay_and_in_history(world: World) {
    const ROOM: &str = "r\"ä";
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    ann.send(json!({"type": "create", "user_id": 1, "room": ROOM, "id": "c\"1"})).await;
    ann.expect(json!({"type": "ack"})).await;
    follow(&mut ann, "1", ROOM).await;
    join(&mut bob, "bob\\", ROOM).await;
    let mut live = vec![ann.next_text().await];
    let texts = ["plain", "\"quoted\" \\ / \u{1} \n", "日本 👍🏽 \u{2028}", "</script>"];
    for text in texts {
        ann.send(message("1", ROOM, text)).await;
        live.push(ann.next_text().await);
        assert_eq!(bob.next_text().await, *live.last().unwrap(), "two followers");
    }
    let mut carl = node.client().await;
    carl.send(json!({"type": "join", "user_id": "1", "room": ROOM, "since": 1})).await;
    carl.expect(json!({"type": "joined"})).await;
    for event in &live {
        assert_eq!(carl.next_text().await, *event, "replay");
    }
    ann.send(json!({"type": "history", "user_id": "1", "room": ROOM, "after": 1})).await;
    let page: Page = serde_json::from_str(&ann.next_text().await).unwrap();
    let in_history: Vec<_> = page.events.iter().map(|event| event.get()).collect();
    assert_eq!(in_history, live, "history");
}
