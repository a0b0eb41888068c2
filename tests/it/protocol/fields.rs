//! What stands in a command's fields: ids, names, texts, and how JSON may write them.

use serde_json::{Value, json};

use super::{create, exact, follow, join, join_too};
use crate::harness::{Client, World, on_both_logs};

on_both_logs!(
    a_user_id_may_be_an_integer_and_comes_back_as_a_string,
    a_user_id_that_is_no_integer_as_written_is_refused,
    names_within_the_rules_are_taken,
    names_outside_the_rules_are_refused,
    message_texts_come_back_as_they_were_sent,
    an_id_is_1_to_64_bytes_of_printable_ascii,
    any_key_order_is_accepted_and_unknown_fields_are_ignored,
    a_null_field_is_an_absent_field,
    a_key_that_stands_twice_is_refused,
);

async fn a_user_id_may_be_an_integer_and_comes_back_as_a_string(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "0", "r").await;
    for digits in ["1", "-7", "9007199254740993", "123456789012345678901234567890"] {
        client.send_text(&format!(r#"{{"type":"join","user_id":{digits},"room":"r"}}"#)).await;
        let event = json!({"type": "join", "user_id": digits});
        // Before or behind the `joined`, for a socket that follows already.
        client.read_until(event).await;
        client.send(json!({"type": "ping"})).await;
        client.read_until(json!({"type": "pong"})).await;
        // The same user, written the other way.
        let text = r#"{"type":"message","user_id":"ID","room":"r","message":"x"}"#;
        client.send_text(&text.replace("ID", digits)).await;
        client.expect(json!({"type": "message", "user_id": digits})).await;
    }
}

async fn a_user_id_that_is_no_integer_as_written_is_refused(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for id in ["1.0", "1e3", "true", "[1]", r#"{"a":1}"#, r#""""#] {
        client.send_text(&format!(r#"{{"type":"create","user_id":{id},"room":"r"}}"#)).await;
        let problem = client.expect(json!({"code": "bad_request", "field": "user_id"})).await;
        assert_eq!(problem["room"], "r", "what is right is repeated");
    }
}

/// Names as JSON writes them, beside what they are.
fn good_names() -> Vec<String> {
    let longest = "x".repeat(128);
    let longest_wide = "ä".repeat(64);
    let names = ["a", "a  b", "日本語", "👩🏽", "Ünïcødé", "\"quoted\\", "#!/'%&<>", "-1"];
    names.iter().map(|name| (*name).to_owned()).chain([longest, longest_wide]).collect()
}

async fn names_within_the_rules_are_taken(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for name in good_names() {
        create(&mut client, &name, &name).await;
        follow(&mut client, &name, &name).await;
        join_too(&mut client, "another", &name).await;
        client.send(json!({"type": "members", "user_id": name, "room": name})).await;
        let frame = client.expect(json!({"type": "members", "room": name})).await;
        assert!(frame["members"].as_array().unwrap().iter().any(|m| m["user_id"] == name));
    }
}

async fn names_outside_the_rules_are_refused(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    let (too_long, too_long_wide) = ("x".repeat(129), "ä".repeat(65));
    for name in [
        "",
        " ",
        "\u{3000}\t",
        "a\nb",
        "a\0",
        "\u{7F}",
        "\u{85}",
        "a\u{202E}b",
        "a\u{2066}b",
        "a\u{200F}",
        "a\u{200B}b",
        "a\u{200D}b",
        "\u{FEFF}a",
        "e\u{301}", // é, decomposed: not NFC
        &too_long,
        &too_long_wide,
    ] {
        for field in ["room", "user_id"] {
            let mut command = json!({"type": "create", "user_id": "u", "room": "r", "id": "i"});
            command[field] = name.into();
            client.send(command).await;
            let wanted = json!({"type": "error", "code": "bad_request", "status": 400,
                "field": field, "re": "create", "id": "i"});
            let problem = client.expect(wanted).await;
            let sentence = problem["error"].as_str().unwrap();
            assert!(sentence.starts_with(&format!("\"{field}\" ")), "{sentence}");
        }
    }
    client.send(json!({"type": "rooms"})).await;
    client.expect(json!({"rooms": []})).await;
}

async fn message_texts_come_back_as_they_were_sent(world: World) {
    let node = world.node().await;
    let (mut ann, mut bob) = (node.client().await, node.client().await);
    create(&mut ann, "1", "r").await;
    follow(&mut ann, "1", "r").await;
    join(&mut bob, "2", "r").await;
    ann.expect(json!({"type": "join", "user_id": "2"})).await;
    let long = "x".repeat(16 * 1024);
    let escaped = "\u{1}".repeat(10_000);
    let texts =
        ["x", " ", "\n", "\"\\/\u{8}\t", "\u{202E}\u{200B}", "e\u{301}", "👍🏽", &long, &escaped];
    for text in texts {
        ann.send(json!({"type": "message", "user_id": "1", "room": "r", "message": text})).await;
        for client in [&mut ann, &mut bob] {
            let event = client.expect(json!({"type": "message"})).await;
            assert!(event["message"] == text, "{}", text.escape_debug());
        }
    }
    ann.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
    let history = ann.expect(json!({"type": "history"})).await;
    let events = history["events"].as_array().unwrap()[2..].iter();
    assert!(events.map(|event| event["message"].as_str().unwrap()).eq(texts));
    // A surrogate pair as JSON escapes it is a character; half of one is not.
    ann.send_text(r#"{"type":"message","user_id":"1","room":"r","message":"\ud83d\ude00"}"#).await;
    ann.expect(json!({"message": "😀"})).await;
    ann.send_text(r#"{"type":"message","user_id":"1","room":"r","message":"\ud83d"}"#).await;
    ann.expect(json!({"code": "bad_request", "field": "message"})).await;
}

async fn an_id_is_1_to_64_bytes_of_printable_ascii(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    let (longest, too_long) = ("i".repeat(64), "i".repeat(65));
    for id in ["i", " !~", "\"\\", &longest] {
        client.send(json!({"type": "ping", "id": id})).await;
        client.expect(json!({"type": "pong", "id": id})).await;
    }
    for id in [json!(""), json!(too_long), json!("ä"), json!("a\tb"), json!(7), json!(["i"])] {
        client.send(json!({"type": "ping", "id": id})).await;
        let problem = client.expect(json!({"code": "bad_request", "field": "id"})).await;
        assert_eq!(problem.get("id"), None, "what is no id is not repeated");
    }
}

async fn any_key_order_is_accepted_and_unknown_fields_are_ignored(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    for command in [
        r#"{"message":"x","room":"r","user_id":"1","type":"message"}"#,
        "\n{ \"type\" : \"message\" , \"user_id\" : 1,\t\"room\":\"r\",\"message\":\"x\" } ",
        r#"{"type":"message","user_id":"1","room":"r","message":"x","color":"red","n":1e400}"#,
        r#"{"x":{"type":"leave","y":[[],{}]},"type":"message","user_id":"1","room":"r","message":"x"}"#,
        r#"{"TYPE":"leave","type":"message","user_id":"1","room":"r","message":"x","":0}"#,
        // Fields of other commands are as unknown as any.
        r#"{"type":"message","user_id":"1","room":"r","message":"x","since":"no","limit":-1}"#,
        r#"{"type":"m\u0065ssage","user_\u0069d":"1","room":"\u0072","message":"x"}"#,
    ] {
        client.send_text(command).await;
        client.expect(json!({"type": "ack", "re": "message", "room": "r"})).await;
    }
}

async fn a_null_field_is_an_absent_field(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    let join = r#"{"type":"join","user_id":"1","room":"r","since":null,"last":null,"id":null}"#;
    client.send_text(join).await;
    let joined = r#"{"type":"joined","room":"r","user_id":"1","last_seq":1,"members":1,"read":1,"unread":0}"#;
    exact(&mut client, joined).await;
    client.expect_nothing().await;
    client.send_text(r#"{"type":"join","user_id":null,"room":"r"}"#).await;
    client.expect(json!({"code": "bad_request", "field": "user_id"})).await;
}

async fn a_key_that_stands_twice_is_refused(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for (field, command) in [
        ("room", r#"{"type":"create","user_id":"1","room":"r","room":"r"}"#),
        ("type", r#"{"type":"help","type":"ping"}"#),
        ("id", r#"{"id":"a","type":"ping","id":"b"}"#),
        ("room", r#"{"type":"create","user_id":"1","room":"r","ro\u006fm":"s"}"#),
        ("user_id", r#"{"type":"create","user_id":null,"user_id":"1","room":"r"}"#),
    ] {
        client.send_text(command).await;
        refused(&mut client, field).await;
    }
    // Twice the same unknown key is no one's business.
    client.send_text(r#"{"type":"ping","x":1,"x":2}"#).await;
    client.expect(json!({"type": "pong"})).await;
}

async fn refused(client: &mut Client, field: &str) -> Value {
    client.expect(json!({"code": "bad_request", "status": 400, "field": field})).await
}
