//! Event streams: everything above the position, once, in order, and then live.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Caller, assert_refused, follow, opening, spec::spec, spec::validator};
use crate::harness::http::Stream;
use crate::harness::raw::get;
use crate::harness::{PATIENCE, World, on_both_logs};
use crate::mirror::cluster::until;

on_both_logs!(
    a_stream_begins_where_it_was_asked_to_and_goes_on_live,
    an_event_in_a_stream_is_the_same_bytes_as_elsewhere,
    a_position_above_the_log_is_reset,
    a_stream_ends_behind_the_users_own_leave,
    leaving_and_joining_again_in_the_past_ends_nothing,
    a_silent_stream_has_heartbeats,
    a_stream_ends_in_order_when_the_node_stops_and_goes_on_with_the_next,
    a_stream_ends_when_its_client_goes_or_sends_no_more,
    a_long_past_comes_in_pages_while_more_is_said,
    many_streams_and_sockets_hear_the_same,
    what_is_wrong_with_a_stream_is_told_before_it_begins,
    a_room_that_is_streamed_stays_in_use,
);

async fn a_stream_begins_where_it_was_asked_to_and_goes_on_live(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    for n in 2..=5 {
        caller.say(&n.to_string()).await;
    }
    let mut streams = Vec::new();
    for (query, header, position) in [
        ("", None, 5),
        ("&after=0", None, 0),
        ("&after=3", None, 3),
        ("&after=5", None, 5),
        ("", Some("2"), 2),
        ("&after=0", Some("4"), 4),
        ("&after=1", Some(""), 1),
    ] {
        let headers: Vec<_> = header.map(|id| ("Last-Event-ID", id)).into_iter().collect();
        let (mut stream, at) = follow(node.addr, query, &headers).await;
        assert_eq!(at, position, "{query} {header:?}");
        let head = &stream.head;
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("cache-control"), Some("no-store"));
        assert_eq!(head.header("x-accel-buffering"), Some("no"));
        for seq in position + 1..=5 {
            stream.expect(seq).await;
        }
        streams.push(stream);
    }
    for n in 6..=20 {
        caller.say(&n.to_string()).await;
    }
    for stream in &mut streams {
        for seq in 6..=20 {
            assert_eq!(stream.expect(seq).await["message"], seq.to_string());
        }
    }
}

async fn an_event_in_a_stream_is_the_same_bytes_as_elsewhere(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    let mut said = vec![caller.post("/api/rooms", json!({"user_id": "1", "room": "r"})).await.body];
    let (mut live, _) = follow(node.addr, "&after=0", &[]).await;
    for text in ["hi", "a\nb\r\nc\u{2028}\u{85}d: \"é🦀\\\n\ndata: x", &"x".repeat(16_384)] {
        let body = json!({"user_id": "1", "message": text});
        said.push(
            caller.post_once("/api/rooms/r/events", &text.len().to_string(), body).await.body,
        );
    }
    let (mut past, _) = follow(node.addr, "&after=0", &[]).await;
    let event = validator(spec().doc(), &spec().doc()["components"]["schemas"]["Event"]);
    for (seq, body) in (1..).zip(&said) {
        for stream in [&mut live, &mut past] {
            let block = stream.next_block().await.unwrap();
            assert_eq!(block.data.as_ref(), Some(body));
            assert_eq!(block.id, Some(seq.to_string()));
            let data: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(block.event.as_deref(), data["type"].as_str());
            super::spec::assert_valid(&event, &data, "an event");
        }
    }
}

async fn a_position_above_the_log_is_reset(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    caller.say("2").await;
    let (mut stream, position) = follow(node.addr, "&after=41", &[]).await;
    assert_eq!(position, 2);
    let block = stream.next_block().await.unwrap();
    let told = (block.event.as_deref(), block.data.as_deref(), block.id);
    let reset = r#"{"type":"reset","room":"r","last_seq":2}"#;
    assert_eq!(told, (Some("reset"), Some(reset), None));
    let schema = &spec().doc()["components"]["schemas"]["Reset"];
    let data = serde_json::from_str(reset).unwrap();
    super::spec::assert_valid(&validator(spec().doc(), schema), &data, "reset");
    caller.say("3").await;
    stream.expect(3).await;
    assert_eq!(follow(node.addr, "&after=3", &[]).await.1, 3);
}

async fn a_stream_ends_behind_the_users_own_leave(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    caller.put("/api/rooms/r/members/2").await;
    let path = "/api/rooms/r/stream?user_id=2&after=0";
    let mut stream = Stream::open(node.addr, path, &[]).await;
    opening(&mut stream).await;
    stream.expect(1).await;
    stream.expect(2).await;
    let (mut other, _) = follow(node.addr, "", &[]).await;
    caller.delete("/api/rooms/r/members/2").await;
    caller.say("4").await;
    assert_eq!(stream.expect(3).await["type"], "leave");
    stream.expect_end().await;
    // Everyone else goes on.
    other.expect(3).await;
    other.expect(4).await;
    let again = Stream::open(node.addr, path, &[("Last-Event-ID", "3")]).await;
    assert_refused(&again.head, 403, "not_member", None);
}

async fn leaving_and_joining_again_in_the_past_ends_nothing(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    for _ in 0..3 {
        caller.put("/api/rooms/r/members/2").await;
        caller.delete("/api/rooms/r/members/2").await;
    }
    caller.put("/api/rooms/r/members/2").await;
    let path = "/api/rooms/r/stream?user_id=2&after=0";
    let mut stream = Stream::open(node.addr, path, &[]).await;
    opening(&mut stream).await;
    for seq in 1..=8 {
        stream.expect(seq).await;
    }
    caller.say("9").await;
    stream.expect(9).await;
}

async fn a_silent_stream_has_heartbeats(world: World) {
    let node = world.node_with(|config| config.socket.heartbeat_ms = 200).await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let (mut stream, _) = follow(node.addr, "", &[]).await;
    let begun = Instant::now();
    for _ in 0..3 {
        assert!(stream.next_block().await.unwrap().is_comment);
    }
    assert!(begun.elapsed() >= Duration::from_millis(550), "{:?}", begun.elapsed());
    caller.say("2").await;
    stream.expect(2).await;
    assert!(stream.next_block().await.unwrap().is_comment);
}

async fn a_stream_ends_in_order_when_the_node_stops_and_goes_on_with_the_next(world: World) {
    // A node that waits for them does so in vain.
    let mut node = world.node_with(|config| config.server.shutdown_timeout_ms = 90_000).await;
    Caller::new(node.addr).await.create().await;
    let mut seq = 1;
    let (mut stream, _) = follow(node.addr, "", &[]).await;
    for _ in 0..3 {
        let mut caller = Caller::new(node.addr).await;
        for _ in 0..10 {
            seq += 1;
            caller.say(&seq.to_string()).await;
        }
        for n in seq - 9..=seq {
            stream.expect(n).await;
        }
        let idle = follow(node.addr, "", &[]).await.0;
        let begun = Instant::now();
        node = node.restart().await;
        assert!(begun.elapsed() < PATIENCE, "streams held the stop up");
        stream.expect_end().await;
        drop(idle);
        // Something happens before it is back.
        seq += 1;
        Caller::new(node.addr).await.say(&seq.to_string()).await;
        let last = (seq - 1).to_string();
        stream = follow(node.addr, "", &[("Last-Event-ID", &last)]).await.0;
        stream.expect(seq).await;
    }
}

/// It has no end of its own, and in a silent room nothing else would tell.
async fn a_stream_ends_when_its_client_goes_or_sends_no_more(world: World) {
    let node = world.node_with(|config| config.socket.heartbeat_ms = 3_600_000).await;
    Caller::new(node.addr).await.create().await;
    let (mut finished, _) = follow(node.addr, "", &[]).await;
    let (gone, _) = follow(node.addr, "", &[]).await;
    let (_open, _) = follow(node.addr, "", &[]).await;
    finished.shut_down().await;
    finished.expect_end().await;
    drop(gone);
    let deadline = Instant::now() + PATIENCE;
    while !get(node.addr, "/metrics").await.1.contains("\nverbatim_streams 1\n") {
        assert!(Instant::now() < deadline, "the streams are still counted");
    }
}

async fn a_long_past_comes_in_pages_while_more_is_said(world: World) {
    let change = |config: &mut verbatim::config::Config| {
        (config.hub.ring_len_max, config.hub.page_len) = (16, 50);
    };
    let node = world.node_with(change).await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    for n in 2..=400 {
        caller.say(&n.to_string()).await;
    }
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(follow(node.addr, "&after=0", &[]).await.0);
    }
    let readers = streams.into_iter().map(|mut stream| {
        tokio::spawn(async move {
            for seq in 1..=600 {
                stream.expect(seq).await;
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    for n in 401..=600 {
        caller.say(&n.to_string()).await;
    }
    for reader in readers {
        reader.await.unwrap();
    }
    let (_, metrics) = get(node.addr, "/metrics").await;
    assert!(metrics.contains("verbatim_catch_ups_total{source=\"log\"}"), "nobody read the log");
}

async fn many_streams_and_sockets_hear_the_same(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(follow(node.addr, "", &[]).await.0);
    }
    let mut client = node.client().await;
    client.send(json!({"type": "join", "user_id": "1", "room": "r"})).await;
    client.expect(json!({"type": "joined"})).await;
    // Said by both ways in, at once.
    for n in 0..50 {
        let frame = json!({"type": "message", "user_id": "1", "room": "r", "message": n});
        let frame = frame.to_string().replace(&format!("\"message\":{n}"), "\"message\":\"ws\"");
        client.send_text(&frame).await;
        caller.say("http").await;
    }
    let mut texts = Vec::new();
    while texts.len() < 100 {
        texts.push(client.next_text().await);
    }
    for stream in &mut streams {
        for text in &texts {
            assert_eq!(stream.next_block().await.unwrap().data.as_ref(), Some(text));
        }
    }
}

async fn what_is_wrong_with_a_stream_is_told_before_it_begins(world: World) {
    let node = world.node().await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    for (query, field) in [
        ("", "user_id"),
        ("?user_id=", "user_id"),
        ("?user_id=1&after=x", "after"),
        ("?user_id=1&after=-1", "after"),
        ("?user_id=1&after=9223372036854775808", "after"),
        ("?user_id=1&after=1&after=2", "after"),
    ] {
        let refused = caller.get(&format!("/api/rooms/r/stream{query}")).await;
        let body = assert_refused(&refused, 400, "bad_request", Some(field));
        assert_eq!((&body["re"], &body["room"]), (&json!("stream"), &json!("r")));
    }
    for id in ["x", "-1", "1.5", "\u{e9}"] {
        let headers = [("Last-Event-ID", id)];
        let refused = caller.ask("GET /api/rooms/r/stream?user_id=1", &headers, None).await;
        assert_refused(&refused, 400, "bad_request", Some("after"));
    }
    let refused = caller.get("/api/rooms/%20/stream?user_id=1").await;
    assert_eq!(assert_refused(&refused, 400, "bad_request", Some("room")).get("room"), None);
}

/// A stream is no follower, and its room must not be let go under it.
async fn a_room_that_is_streamed_stays_in_use(world: World) {
    let node = world.node_with(|config| config.hub.room_linger_ms = 0).await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let (mut stream, _) = follow(node.addr, "", &[]).await;
    let other = json!({"user_id": "1", "room": "other"});
    assert_eq!(caller.post("/api/rooms", other).await.status, 201);
    // When one that came into use later is let go for the second time, this one could have been.
    for _ in 0..2 {
        let path = "/api/rooms/other/stream?user_id=1";
        opening(&mut Stream::open(node.addr, path, &[]).await).await;
        rooms_in_use(node.addr, 1).await;
    }
    caller.say("2").await;
    stream.expect(2).await;
    drop(stream);
    rooms_in_use(node.addr, 0).await;
}

async fn rooms_in_use(addr: SocketAddr, rooms: usize) {
    let followed = format!("\nverbatim_rooms_followed {rooms}\n");
    let look = async || get(addr, "/metrics").await.1;
    until("rooms are let go", look, |metrics| metrics.contains(&followed)).await;
}
