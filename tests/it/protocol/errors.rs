//! Every error code with its status, its fields and when it comes; the socket stays open.

use serde_json::{Value, json};

use super::{create, exact, follow, message};
use crate::harness::postgres::Postgres;
use crate::harness::{Client, World, on_both_logs};
use crate::mirror::cluster::metric;

on_both_logs!(
    errors_are_these_bytes,
    what_is_not_one_json_object_is_bad_json,
    an_unknown_type_is_unknown_type,
    a_missing_or_wrong_field_is_bad_request_and_names_it,
    commands_of_a_room_that_is_not_there_are_room_not_found,
    commands_of_a_room_not_joined_are_not_member,
    a_message_over_the_limit_is_too_large,
);

async fn errors_are_these_bytes(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    client.send_text(r#"{"type":"create","user_id":"1","room":"general","id":"c3"}"#).await;
    client.expect(json!({"type": "ack", "seq": 1})).await;
    for (command, answer) in [
        (
            r#"{"type":"message","user_id":"2","room":"general","message":"x","id":"c1"}"#,
            r#"{"type":"error","code":"not_member","status":403,"error":"join \"general\" before sending to it","re":"message","room":"general","id":"c1"}"#,
        ),
        (
            r#"{"type":"create","user_id":"2","room":"general"}"#,
            r#"{"type":"error","code":"room_exists","status":409,"error":"room \"general\" exists already; join it instead","re":"create","room":"general"}"#,
        ),
        (
            r#"{"type":"message","user_id":"1","room":"general","message":"x","id":"c3"}"#,
            r#"{"type":"error","code":"id_reused","status":409,"error":"this \"id\" is taken by your create in \"general\"; give the message another \"id\"","re":"message","room":"general","id":"c3"}"#,
        ),
        (
            r#"{"type":"join","user_id":"2","room":"x","id":"c2"}"#,
            r#"{"type":"error","code":"room_not_found","status":404,"error":"room \"x\" does not exist; create it first","re":"join","room":"x","id":"c2"}"#,
        ),
        (
            r#"{"type":"leave","room":"general"}"#,
            r#"{"type":"error","code":"bad_request","status":400,"error":"\"user_id\" is missing","field":"user_id","re":"leave","room":"general"}"#,
        ),
    ] {
        client.send_text(command).await;
        exact(&mut client, answer).await;
    }
    client.expect_nothing().await;
}

async fn refused(client: &mut Client, text: &str, code: &str, status: u16) -> Value {
    client.send_text(text).await;
    let problem = client.expect(json!({"type": "error", "code": code, "status": status})).await;
    assert!(problem["error"].as_str().unwrap().len() > 10, "a sentence for a person: {problem}");
    problem
}

async fn what_is_not_one_json_object_is_bad_json(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    let (deep, open) = ("[".repeat(10_000), "{".repeat(60_000));
    let deep_value = format!(r#"{{"type":"ping","x":{}}}"#, "[".repeat(10_000));
    for text in [
        "",
        " ",
        "hello",
        "7",
        "null",
        "[]",
        r#"["type","ping"]"#,
        r#""type""#,
        "{",
        r#"{"type":"ping""#,
        r#"{"type":"ping"}{"type":"ping"}"#,
        r#"{"type":"ping"} x"#,
        r#"{"type":"ping",}"#,
        r#"{'type':'ping'}"#,
        r#"{type:"ping"}"#,
        r#"{"type":"join","user_id":007,"room":"r"}"#,
        &deep,
        &open,
        &deep_value,
    ] {
        let problem = refused(&mut client, text, "bad_json", 400).await;
        assert_eq!(problem.get("re"), None);
    }
    client.expect_nothing().await;
}

async fn an_unknown_type_is_unknown_type(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(60_000));
    for text in [r#"{"type":"x"}"#, r#"{"type":""}"#, r#"{"type":"Create"}"#, &long] {
        let problem = refused(&mut client, text, "unknown_type", 400).await;
        assert!(problem["error"].as_str().unwrap().len() < 300, "it does not repeat it all");
        assert!(problem["error"].as_str().unwrap().contains("create, join, message"));
    }
    // No type, or one that is not a text, is a field at fault.
    for text in ["{}", r#"{"type":7}"#, r#"{"type":null}"#, r#"{"type":["ping"]}"#] {
        assert_eq!(refused(&mut client, text, "bad_request", 400).await["field"], "type");
    }
}

async fn a_missing_or_wrong_field_is_bad_request_and_names_it(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    let full = json!({"user_id": "1", "room": "r", "message": "x", "rooms": {"r": 0}});
    let check = async |client: &mut Client, kind: &str, field: &str, value: Option<Value>| {
        let mut command = full.clone();
        command["type"] = kind.into();
        match value {
            Some(value) => command[field] = value,
            None => drop(command.as_object_mut().unwrap().remove(field)),
        }
        client.send(command).await;
        client
            .expect(json!({"code": "bad_request", "status": 400, "field": field, "re": kind}))
            .await;
    };
    for kind in ["create", "join", "leave", "message", "history", "members"] {
        for field in ["user_id", "room"] {
            check(&mut client, kind, field, None).await;
        }
        for room in [json!(7), json!(["r"]), json!(true)] {
            check(&mut client, kind, "room", Some(room)).await;
        }
    }
    check(&mut client, "message", "message", None).await;
    for text in [json!(""), json!(7), json!("a\0b"), json!(["x"])] {
        check(&mut client, "message", "message", Some(text)).await;
    }
    let big = json!(u64::MAX);
    for seq in [json!(-1), json!(1.5), json!("1"), json!([]), big.clone()] {
        check(&mut client, "join", "since", Some(seq.clone())).await;
        check(&mut client, "history", "before", Some(seq.clone())).await;
        check(&mut client, "history", "after", Some(seq.clone())).await;
        check(&mut client, "resume", "rooms", Some(json!({"r": seq}))).await;
    }
    for last in [json!(-1), json!(1001), json!("5")] {
        check(&mut client, "join", "last", Some(last)).await;
    }
    for (kind, limits) in [("history", [0, 201]), ("rooms", [0, 1001])] {
        for limit in limits {
            check(&mut client, kind, "limit", Some(limit.into())).await;
        }
    }
    for rooms in [json!([]), json!("r"), json!({"": 1}), json!({"r": null})] {
        check(&mut client, "resume", "rooms", Some(rooms)).await;
    }
    check(&mut client, "resume", "rooms", None).await;
    check(&mut client, "resume", "user_id", None).await;
    check(&mut client, "rooms", "after", Some(json!("a\nb"))).await;
    check(&mut client, "members", "after", Some(json!(1.5))).await;
    // Two ways to say from where are one too many.
    for command in [
        r#"{"type":"join","user_id":"1","room":"r","since":1,"last":1}"#,
        r#"{"type":"history","user_id":"1","room":"r","before":1,"after":1}"#,
        r#"{"type":"resume","user_id":"1","rooms":{"r":1,"r":2}}"#,
    ] {
        refused(&mut client, command, "bad_request", 400).await;
    }
}

async fn commands_of_a_room_that_is_not_there_are_room_not_found(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for kind in ["join", "leave", "message", "history", "members"] {
        let text = format!(r#"{{"type":"{kind}","user_id":"1","room":"x","message":"x"}}"#);
        let problem = refused(&mut client, &text, "room_not_found", 404).await;
        assert_eq!((&problem["re"], &problem["room"]), (&json!(kind), &json!("x")));
    }
}

async fn commands_of_a_room_not_joined_are_not_member(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    // Following as someone else does not help.
    follow(&mut client, "1", "r").await;
    for kind in ["leave", "message", "history", "members"] {
        let text = format!(r#"{{"type":"{kind}","user_id":"2","room":"r","message":"x"}}"#);
        let problem = refused(&mut client, &text, "not_member", 403).await;
        assert_eq!((&problem["re"], &problem["room"]), (&json!(kind), &json!("r")));
    }
    client.expect_nothing().await;
}

async fn a_message_over_the_limit_is_too_large(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    for text in ["x".repeat(16_385), "ä".repeat(8_193)] {
        client.send(message("1", "r", &text)).await;
        let wanted = json!({"type": "error", "code": "too_large", "status": 413, "limit": 16_384,
            "re": "message", "room": "r"});
        client.expect(wanted).await;
    }
    client.send(message("1", "r", &"ä".repeat(8_192))).await;
    client.expect(json!({"type": "ack", "seq": 2})).await;
}

const ERRORS: &str = "verbatim_log_errors_total{kind=\"unavailable\"}";

/// The log away: `unavailable`, nothing shown to anyone; when it is back, the
/// same id gives exactly one event.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_log_commands_are_unavailable_and_the_same_id_is_safe() {
    let mut postgres = Postgres::start(&[]).await;
    let world = World::on(&postgres.database().await);
    let node = world.node().await;
    create(&mut node.client().await, "1", "r").await;
    node.stop().await;
    let node = world.impatient().node().await;
    let mut client = node.client().await;
    loop {
        client.send(json!({"type": "join", "user_id": "1", "room": "r"})).await;
        let answer = client.next().await;
        if answer["type"] == "joined" {
            break;
        }
        // A machine that stands still.
        assert_eq!(answer["code"], "unavailable", "{answer}");
    }
    let told = metric(node.addr, ERRORS).await;
    postgres.kill();
    let send = json!({"type": "message", "user_id": "1", "room": "r", "message": "x", "id": "i"});
    let read = json!({"type": "history", "user_id": "1", "room": "r", "id": "i"});
    for command in [&send, &read] {
        client.send(command.clone()).await;
        let wanted = json!({"type": "error", "code": "unavailable", "status": 503,
            "re": command["type"], "room": "r", "id": "i"});
        client.expect(wanted).await;
    }
    client.expect_nothing().await;
    assert_eq!(metric(node.addr, ERRORS).await, told + 2);

    postgres.restart().await;
    loop {
        client.send(send.clone()).await;
        let frames = client.read_until(json!({"id": "i"})).await;
        let answer = frames.last().unwrap();
        if answer["type"] == "ack" {
            assert_eq!(answer["seq"], 2, "{answer}");
            break;
        }
        assert_eq!(answer["code"], "unavailable", "{answer}");
    }
    let history = loop {
        client.send(read.clone()).await;
        let answer = client.read_until(json!({"id": "i"})).await.pop().unwrap();
        if answer["type"] == "history" {
            break answer;
        }
        assert_eq!(answer["code"], "unavailable", "{answer}");
    };
    assert_eq!(history["last"], 2, "{history}");
}
