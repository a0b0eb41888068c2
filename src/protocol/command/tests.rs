//! What the parser accepts and refuses, as tables and as properties.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const MESSAGE_BYTES_MAX: usize = 100;

fn parse(frame: &str) -> Result<Request, Problem> {
    Request::parse(frame, MESSAGE_BYTES_MAX)
}

fn refused(frame: &str) -> Value {
    let problem = parse(frame).expect_err(frame);
    serde_json::from_slice(problem.frame().payload()).unwrap()
}

#[test]
fn the_four_commands_of_the_readme_parse_as_typed() {
    let user = || UserId::parse("1").unwrap();
    let room = || RoomName::parse("general").unwrap();
    for (frame, deed) in [
        (r#"{"user_id":"1","type":"create","room":"general"}"#, Deed::Write(Verb::Create)),
        (
            r#" { "room" : "general", "type":"join", "user_id":1, "more":{"a":[1,{}]} } "#,
            Deed::Join(Start::Here),
        ),
        (
            r#"{"user_id":"1","type":"message","room":"general","message":"a\u0062\n"}"#,
            Deed::Write(Verb::Message(Text::parse("ab\n", MESSAGE_BYTES_MAX).unwrap())),
        ),
        (
            r#"{"\u0075ser_id":"1","type":"\u006ceave","room":"general","since":null}"#,
            Deed::Write(Verb::Leave),
        ),
    ] {
        let command = Command::InRoom { user: user(), room: room(), deed };
        assert_eq!(parse(frame), Ok(Request { id: None, command }), "{frame}");
    }
}

#[test]
fn signs_of_life_parse_as_typed() {
    let user = || UserId::parse("1").unwrap();
    let room = || RoomName::parse("general").unwrap();
    let in_room = |deed| Command::InRoom { user: user(), room: room(), deed };
    for (frame, command) in [
        (r#"{"type":"who","user_id":1,"room":"general"}"#, in_room(Deed::Who)),
        (r#"{"type":"typing","user_id":"1","room":"general","seq":"any"}"#, in_room(Deed::Typing)),
        (
            r#"{"type":"read","user_id":"1","room":"general","seq":41}"#,
            in_room(Deed::Read(Seq(41))),
        ),
        (r#"{"type":"rooms"}"#, Command::Rooms { user: None, after: None, limit: 100 }),
        (
            r#"{"type":"rooms","user_id":"1","limit":7}"#,
            Command::Rooms { user: Some(user()), after: None, limit: 7 },
        ),
    ] {
        assert_eq!(parse(frame), Ok(Request { id: None, command }), "{frame}");
    }
}

#[test]
fn an_integer_user_id_is_its_digits() {
    for digits in ["0", "-5", "18446744073709551616", "123456789012345678901234567890"] {
        let frame = format!(r#"{{"type":"leave","room":"r","user_id":{digits}}}"#);
        let Command::InRoom { user, .. } = parse(&frame).unwrap().command else { panic!() };
        assert_eq!(user.as_str(), digits);
    }
    for wrong in ["1.0", "1e3", "true", "[1]", "{}"] {
        let frame = format!(r#"{{"type":"leave","room":"r","user_id":{wrong}}}"#);
        assert_eq!(refused(&frame)["field"], "user_id", "{wrong}");
    }
}

#[test]
fn what_is_not_one_json_object_is_bad_json() {
    let deep_arrays = "[".repeat(10_000);
    let deep_objects = "{\"a\":".repeat(10_000);
    for frame in [
        "",
        " ",
        "hello",
        "[]",
        "\"a\"",
        "1",
        "null",
        "{",
        "{}{}",
        "{\"a\":}",
        "{\"type\":\"ping\"} x",
    ] {
        assert_eq!(refused(frame)["code"], "bad_json", "{frame}");
    }
    for frame in [&deep_arrays, &deep_objects, &"{".repeat(60_000)] {
        assert_eq!(refused(frame)["code"], "bad_json");
    }
}

#[test]
fn a_deep_value_in_any_field_is_refused_and_not_descended_into() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    for key in ["type", "id", "user_id", "room", "message"] {
        let mut frame = r#"{"type":"message","user_id":"1","room":"r","message":"m""#.to_owned();
        frame = frame.replace(&format!("\"{key}\":"), "\"ignored\":");
        frame.push_str(&format!(",\"{key}\":{deep}}}"));
        assert_eq!(refused(&frame)["field"], key);
    }
    let ignored = format!(r#"{{"type":"ping","extra":{deep}}}"#);
    assert_eq!(parse(&ignored).unwrap().command, Command::Ping);
}

#[test]
fn a_refusal_names_the_field_and_repeats_what_was_understood() {
    for (frame, answer) in [
        (r#"{}"#, json!({"code":"bad_request","field":"type"})),
        (r#"{"type":1}"#, json!({"code":"bad_request","field":"type"})),
        (r#"{"type":"dance","id":"c1"}"#, json!({"code":"unknown_type","id":"c1"})),
        (r#"{"type":"ping","id":""}"#, json!({"code":"bad_request","field":"id"})),
        (r#"{"type":"ping","id":7}"#, json!({"code":"bad_request","field":"id"})),
        (r#"{"type":"ping","type":"help"}"#, json!({"code":"bad_request","field":"type"})),
        (
            r#"{"type":"join","room":"r","id":"c1"}"#,
            json!({"field":"user_id","re":"join","room":"r","id":"c1"}),
        ),
        (
            r#"{"type":"join","user_id":"1","room":"a\u0000b"}"#,
            json!({"code":"bad_request","field":"room","re":"join"}),
        ),
        (
            r#"{"type":"join","user_id":"1","room":"a\u202eb"}"#,
            json!({"code":"bad_request","field":"room","re":"join"}),
        ),
        (
            r#"{"type":"join","user_id":"1","room":"\ud800"}"#,
            json!({"code":"bad_request","field":"room","re":"join"}),
        ),
        (
            r#"{"type":"join","user_id":"1","room":"r","since":-1}"#,
            json!({"field":"since","room":"r"}),
        ),
        (
            r#"{"type":"join","user_id":"1","room":"r","since":9223372036854775808}"#,
            json!({"field":"since","room":"r"}),
        ),
        (
            r#"{"type":"join","user_id":"1","room":"r","last":1001}"#,
            json!({"field":"last","room":"r"}),
        ),
        (
            r#"{"type":"join","user_id":"1","room":"r","last":1,"since":1}"#,
            json!({"field":"last","room":"r"}),
        ),
        (
            r#"{"type":"message","user_id":"1","room":"r"}"#,
            json!({"field":"message","re":"message","room":"r"}),
        ),
        (
            r#"{"type":"message","user_id":"1","room":"r","message":""}"#,
            json!({"code":"bad_request","field":"message"}),
        ),
        (
            r#"{"type":"message","user_id":"1","room":"r","message":"a\u0000"}"#,
            json!({"code":"bad_request","field":"message"}),
        ),
        (r#"{"type":"history","user_id":"1","room":"r","limit":0}"#, json!({"field":"limit"})),
        (r#"{"type":"history","user_id":"1","room":"r","limit":201}"#, json!({"field":"limit"})),
        (
            r#"{"type":"history","user_id":"1","room":"r","before":3,"after":1}"#,
            json!({"field":"after"}),
        ),
        (r#"{"type":"resume","user_id":"1"}"#, json!({"field":"rooms","re":"resume"})),
        (
            r#"{"type":"resume","user_id":"1","rooms":{"r":"1"}}"#,
            json!({"field":"rooms","re":"resume"}),
        ),
        (
            r#"{"type":"resume","user_id":"1","rooms":{"r":1,"r":2}}"#,
            json!({"field":"rooms","re":"resume"}),
        ),
        (r#"{"type":"rooms","user_id":[]}"#, json!({"field":"user_id","re":"rooms"})),
        (r#"{"type":"who","user_id":"1"}"#, json!({"field":"room","re":"who"})),
        (r#"{"type":"typing","room":"r"}"#, json!({"field":"user_id","re":"typing","room":"r"})),
        (
            r#"{"type":"read","user_id":"1","room":"r","id":"c1"}"#,
            json!({"field":"seq","re":"read","room":"r","id":"c1"}),
        ),
        (
            r#"{"type":"read","user_id":"1","room":"r","seq":"7"}"#,
            json!({"field":"seq","re":"read","room":"r"}),
        ),
        (r#"{"type":"rooms","limit":1001}"#, json!({"field":"limit","re":"rooms"})),
        (r#"{"type":"rooms","after":""}"#, json!({"field":"after","re":"rooms"})),
    ] {
        let problem = refused(frame);
        for (key, value) in answer.as_object().unwrap() {
            assert_eq!(&problem[key], value, "{key} of {problem} to {frame}");
        }
        assert_eq!(problem["type"], "error");
        assert!(problem["error"].as_str().unwrap().len() > 10, "{problem}");
    }
}

#[test]
fn a_long_message_is_too_large_and_the_limit_is_told() {
    let text = "é".repeat(MESSAGE_BYTES_MAX / 2);
    let frame =
        |text: &str| json!({"type":"message","user_id":"1","room":"r","message":text}).to_string();
    assert!(parse(&frame(&text)).is_ok());
    let problem = refused(&frame(&format!("{text}x")));
    assert_eq!((&problem["code"], &problem["limit"]), (&json!("too_large"), &json!(100)));
    assert_eq!(problem["status"], 413);
}

#[test]
fn an_unknown_type_is_shown_only_as_far_as_a_person_reads() {
    let problem = refused(&json!({"type": "x".repeat(50_000)}).to_string());
    assert_eq!(problem["code"], "unknown_type");
    assert!(problem["error"].as_str().unwrap().len() < 300);
    let problem = refused(&format!("\"{}\"", "x".repeat(50_000)));
    assert!(problem["error"].as_str().unwrap().len() < 300);
}

proptest! {
    /// Any input gives a command, or a refusal that is one JSON object; never a panic.
    #[test]
    fn any_text_gets_a_command_or_a_typed_refusal(frame in ".{0,200}") {
        if let Err(problem) = parse(&frame) {
            let answer: Value = serde_json::from_slice(problem.frame().payload()).unwrap();
            prop_assert!(answer["code"].is_string());
        }
    }

    /// The same for frames that look like commands.
    #[test]
    fn any_fields_get_a_command_or_a_typed_refusal(
        fields in prop::collection::vec((
            prop::sample::select(vec![
                "type", "id", "user_id", "room", "message", "since", "last", "before",
                "after", "limit", "rooms", "seq", "other",
            ]),
            prop_oneof![
                prop::sample::select(table::TABLE.map(|row| row.name).to_vec())
                    .prop_map(|name| format!("{name:?}")),
                Just("1".to_owned()), Just("-1".to_owned()), Just("1e400".to_owned()),
                Just("null".to_owned()), Just("\"r\"".to_owned()), Just("{\"r\":1}".to_owned()),
                Just("[]".to_owned()), Just("\"\\ud800\"".to_owned()), "\\PC{0,9}",
            ],
        ), 0..8)
    ) {
        let fields: Vec<_> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        let frame = format!("{{{}}}", fields.join(","));
        if let Err(problem) = parse(&frame) {
            let answer: Value = serde_json::from_slice(problem.frame().payload()).unwrap();
            prop_assert!(answer["code"].is_string());
        }
    }
}
