//! WebSocket below the JSON: what closes a socket, with which code, and what does not.

use serde_json::json;

use super::create;
use crate::harness::node::TestNode;
use crate::harness::raw::{Raw, RawFrame, masked_frame};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    a_binary_frame_closes_with_1003,
    a_frame_over_the_limit_closes_with_1009,
    a_frame_of_just_the_limit_is_read,
    text_that_is_not_utf8_closes_with_1007,
    what_breaks_the_protocol_closes_with_1002,
    a_message_in_fragments_is_one_command,
    a_ping_is_answered_with_its_payload,
    a_close_is_answered,
    what_was_sent_before_a_close_is_carried_out,
);

const TEXT: u8 = 0x81;
const PING: &[u8] = br#"{"type":"ping"}"#;

async fn greeted(node: &TestNode) -> Raw {
    let mut raw = Raw::upgrade(node.addr).await;
    assert!(raw.read_frame().await.payload.starts_with(br#"{"type":"hello""#));
    raw
}

/// Reads a close frame with this code, and then the end.
async fn expect_close(raw: &mut Raw, code: u16) {
    let RawFrame { first, payload } = raw.read_frame().await;
    assert_eq!(first, 0x88, "wanted a close, got {}", payload.escape_ascii());
    assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), code);
    assert!(std::str::from_utf8(&payload[2..]).is_ok());
    // The reply; after it the server hangs up.
    let _ = raw.try_send(masked_frame(0x88, &payload[..2])).await;
    raw.expect_end().await;
}

async fn a_binary_frame_closes_with_1003(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    client.send_binary(br#"{"type":"ping"}"#.to_vec()).await;
    client.expect_close(1003).await;
}

async fn a_frame_over_the_limit_closes_with_1009(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    client.send_text(&"x".repeat(65_537)).await;
    client.expect_close(1009).await;
    // A length alone is enough: the server does not wait for, or keep, what it will not take.
    let mut raw = greeted(&node).await;
    let mut head = vec![TEXT, 0x80 | 127];
    head.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    head.extend_from_slice(&[0; 4]);
    raw.send(head).await;
    expect_close(&mut raw, 1009).await;
    // So is a message whose fragments are small.
    let mut raw = greeted(&node).await;
    raw.send_frame(0x01, &[b'x'; 40_000]).await;
    raw.send_frame(0x00, &[b'x'; 40_000]).await;
    expect_close(&mut raw, 1009).await;
}

async fn a_frame_of_just_the_limit_is_read(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    let padding = "x".repeat(65_536 - r#"{"type":"ping","x":""}"#.len());
    client.send_text(&format!(r#"{{"type":"ping","x":"{padding}"}}"#)).await;
    client.expect_exactly(r#"{"type":"pong"}"#).await;
}

async fn text_that_is_not_utf8_closes_with_1007(world: World) {
    let node = world.node().await;
    for bad in [&b"\xFF"[..], b"{\"type\":\"\xC3\x28\"}", b"\xED\xA0\x80", b"\xC0\xAF"] {
        let mut raw = greeted(&node).await;
        raw.send_frame(TEXT, bad).await;
        expect_close(&mut raw, 1007).await;
    }
}

async fn what_breaks_the_protocol_closes_with_1002(world: World) {
    let node = world.node().await;
    let mut unmasked = vec![TEXT, PING.len() as u8];
    unmasked.extend_from_slice(PING);
    let frame = masked_frame;
    for bad in [
        unmasked,
        frame(0xC1, PING),                   // a reserved bit without an extension
        frame(0x83, b""),                    // an opcode that nobody has defined
        frame(0x80, PING),                   // nothing to continue
        frame(0x09, b""),                    // a control frame in fragments
        frame(0x89, &[0; 126]),              // a control frame that is too long
        frame(0x88, b"x"),                   // a close with half a code
        frame(0x88, &999_u16.to_be_bytes()), // a close code that must not be
        [frame(0x01, b"{"), frame(TEXT, PING)].concat(), // a message inside another
    ] {
        let mut raw = greeted(&node).await;
        raw.send(bad).await;
        expect_close(&mut raw, 1002).await;
    }
}

async fn a_message_in_fragments_is_one_command(world: World) {
    let node = world.node().await;
    let mut raw = greeted(&node).await;
    for round in 0..2 {
        raw.send_frame(0x01, &PING[..5]).await;
        raw.send_frame(0x00, &PING[5..9]).await;
        if round == 1 {
            // Control frames may stand between fragments.
            raw.send_frame(0x89, b"between").await;
            assert_eq!(raw.read_frame().await, frame(0x8A, b"between"));
        }
        raw.send_frame(0x80, &PING[9..]).await;
        assert_eq!(raw.read_frame().await, frame(TEXT, br#"{"type":"pong"}"#));
    }
}

async fn a_ping_is_answered_with_its_payload(world: World) {
    let node = world.node().await;
    let mut raw = greeted(&node).await;
    for payload in [&b""[..], b"x", &[0xFF; 125]] {
        raw.send_frame(0x89, payload).await;
        assert_eq!(raw.read_frame().await, frame(0x8A, payload));
    }
    // A pong that nobody asked for is no fault.
    raw.send_frame(0x8A, b"unasked").await;
    raw.send_frame(TEXT, PING).await;
    assert_eq!(raw.read_frame().await, frame(TEXT, br#"{"type":"pong"}"#));
}

async fn a_close_is_answered(world: World) {
    let node = world.node().await;
    let mut raw = greeted(&node).await;
    raw.send_frame(0x88, &1000_u16.to_be_bytes()).await;
    assert_eq!(raw.read_frame().await, frame(0x88, &1000_u16.to_be_bytes()));
    raw.expect_end().await;
    let mut raw = greeted(&node).await;
    raw.send_frame(0x88, b"").await;
    assert_eq!(raw.read_frame().await.first, 0x88);
    raw.expect_end().await;
}

async fn what_was_sent_before_a_close_is_carried_out(world: World) {
    let node = world.node().await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "r").await;
    super::follow(&mut ann, "1", "r").await;
    let mut raw = Raw::upgrade(node.addr).await;
    let message = br#"{"type":"message","user_id":"1","room":"r","message":"last words"}"#;
    raw.send_frame(TEXT, message).await;
    raw.send_frame(0x88, &1001_u16.to_be_bytes()).await;
    ann.expect(json!({"type": "message", "message": "last words"})).await;
}

fn frame(first: u8, payload: &[u8]) -> RawFrame {
    RawFrame { first, payload: payload.to_vec() }
}
