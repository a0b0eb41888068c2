//! docs/asyncapi.yaml is what the WebSocket speaks: every command and every frame that the code
//! knows is in it, its examples are what the code says, and what a real node sends fits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};
use verbatim::protocol::command::Request;
use verbatim::protocol::error::Code;
use verbatim::protocol::table::{TYPES_LEN, of_socket};

use super::spec::{assert_valid, resolved, spec, validator};
use crate::harness::{Client, World, on_both_logs};

on_both_logs!(what_a_node_says_is_described);

fn types() -> [&'static str; TYPES_LEN] {
    of_socket().each_ref().map(|row| row.name)
}

fn doc() -> &'static Value {
    static DOC: OnceLock<Value> = OnceLock::new();
    let text = include_str!("../../../docs/asyncapi.yaml");
    DOC.get_or_init(|| yaml_serde::from_str(text).expect("not YAML"))
}

/// The messages of an operation, each by the word of its `type`.
fn messages(operation: &str) -> BTreeMap<String, Value> {
    let listed = doc()["operations"][operation]["messages"].as_array().unwrap().iter();
    let of = |listed| {
        let message = resolved(doc(), listed).clone();
        let payload = &message["payload"];
        let own = payload["properties"]["type"]["const"].as_str();
        let kind = own.or(resolved(doc(), payload)["properties"]["type"]["const"].as_str());
        (kind.unwrap_or_else(|| panic!("of no type: {message}")).to_owned(), message)
    };
    listed.map(of).collect()
}

/// The types of the frames that the code makes: their words stand in the sources, each behind the
/// key, and there is no other list of them.
fn types_in_the_code() -> BTreeSet<String> {
    let mut types = BTreeSet::new();
    for entry in std::fs::read_dir("src/protocol").unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let code = text.split("#[cfg(test)]").next().unwrap();
        for begin in ["r#type: \"", "{\\\"type\\\":\\\""] {
            for (at, _) in code.match_indices(begin) {
                let word = &code[at + begin.len()..];
                let word = word.split(['"', '\\']).next().unwrap();
                types.insert(word.to_owned());
            }
        }
    }
    types.retain(|word| !word.is_empty());
    types
}

#[test]
fn every_command_is_described_and_no_other() {
    let described: BTreeSet<_> = messages("commands").into_keys().collect();
    assert_eq!(described, types().map(str::to_owned).into());
}

#[test]
fn a_commands_fields_are_described_as_the_table_has_them() {
    let described = messages("commands");
    for row in of_socket() {
        let payload = &described[row.name]["payload"];
        let needs: Vec<_> = row.needs.iter().map(|key| key.name()).collect();
        let required = [vec!["type"], needs.clone()].concat();
        assert_eq!(payload["required"], json!(required), "{}", row.name);
        let takes = row.takes.iter().map(|key| key.name());
        let fields: BTreeSet<_> = ["type", "id"].into_iter().chain(needs).chain(takes).collect();
        let properties = payload["properties"].as_object().unwrap();
        let properties: BTreeSet<_> = properties.keys().map(String::as_str).collect();
        assert_eq!(properties, fields, "{}", row.name);
    }
}

#[test]
fn every_frame_that_the_code_makes_is_described_and_no_other() {
    let described: BTreeSet<_> = messages("frames").into_keys().collect();
    let mut known = types_in_the_code();
    for found in ["hello", "history", "error", "goodbye"] {
        assert!(known.contains(found), "the sources are not read as they are written: {known:?}");
    }
    // A command that writes has an event of its name.
    let writing = of_socket().iter().filter(|row| row.command.writes());
    known.extend(writing.map(|row| row.name.to_owned()));
    assert_eq!(described, known);
}

#[test]
fn all_that_is_described_is_said_in_the_channel() {
    let said = |place: &str| doc()["operations"][place]["messages"].as_array().unwrap().len();
    let channel = doc()["channels"]["chat"]["messages"].as_object().unwrap();
    assert_eq!(channel.len(), said("commands") + said("frames"));
    assert_eq!(channel.len(), doc()["components"]["messages"].as_object().unwrap().len());
    assert_eq!(doc()["info"]["version"], env!("CARGO_PKG_VERSION"));
    let codes = &doc()["components"]["schemas"]["Error"]["properties"]["code"]["enum"];
    assert_eq!(*codes, json!(Code::ALL.map(Code::name)));
    assert_eq!(
        doc()["components"]["schemas"]["Error"]["properties"]["re"]["enum"],
        json!(types()),
        "the commands that an error may be about"
    );
}

#[test]
fn what_both_descriptions_have_is_the_same() {
    let (here, there) = (&doc()["components"]["schemas"], &spec().doc()["components"]["schemas"]);
    let mut shared = 0;
    for (name, schema) in here.as_object().unwrap().iter().filter(|(name, _)| *name != "Error") {
        assert_eq!(there[name], *schema, "{name}");
        shared += 1;
    }
    assert!(shared > 10, "{shared}");
}

#[test]
fn examples_are_valid_and_those_of_commands_are_understood() {
    for operation in ["commands", "frames"] {
        for (kind, message) in messages(operation) {
            let validator = validator(doc(), &message["payload"]);
            let examples = message["examples"].as_array().into_iter().flatten();
            let mut seen = 0;
            for example in examples.map(|example| &example["payload"]) {
                assert_valid(&validator, example, &kind);
                assert_eq!(example["type"], kind);
                if operation == "commands" {
                    let request = Request::parse(&example.to_string(), 16_384);
                    assert_eq!(request.map(|request| request.command.kind().name()), Ok(&*kind));
                }
                seen += 1;
            }
            assert!(seen > 0, "{kind} has no example");
        }
    }
}

proptest! {
    /// A command that the description allows is understood, and one that is understood is allowed.
    #[test]
    fn the_description_and_the_parser_agree(
        kind in prop::sample::select(types().to_vec()),
        fields in prop::collection::btree_map(
            prop::sample::select(&[
                "user_id", "room", "message", "since", "last", "before", "after", "limit", "rooms",
                "seq", "id",
            ][..]),
            prop_oneof![
                Just(json!("x")), Just(json!("")), Just(json!(1)), Just(json!(0)), Just(json!(-1)),
                Just(json!(201)), Just(json!(1001)), Just(json!(true)), Just(json!({"x": 1})),
                Just(json!("x".repeat(65))), Just(json!("x".repeat(129))), Just(json!(1u64 << 63)),
            ],
            0..6,
        ),
    ) {
            let mut command = json!(fields);
        command["type"] = json!(kind);
        let schema = &messages("commands")[kind]["payload"];
        let described = validator(doc(), schema).is_valid(&command);
        let understood = Request::parse(&command.to_string(), 16_384);
        prop_assert_eq!(described, understood.is_ok(), "{} {:?}", command, understood);
    }
}

/// Reads frames and holds each against the description.
struct Listener {
    client: Client,
    validators: BTreeMap<String, Validator>,
    seen: BTreeSet<String>,
}

impl Listener {
    async fn until(&mut self, kind: &str) {
        loop {
            let frame = self.client.next().await;
            let said = frame["type"].as_str().expect("of no type").to_owned();
            let validator = self.validators.get(&said);
            assert_valid(validator.unwrap_or_else(|| panic!("{said}")), &frame, &said);
            self.seen.insert(said.clone());
            if said == kind {
                return;
            }
        }
    }

    async fn say(&mut self, command: Value, answer: &str) {
        self.client.send(command).await;
        self.until(answer).await;
    }
}

async fn what_a_node_says_is_described(world: World) {
    let node = world.node().await;
    let frames = messages("frames");
    let validators =
        frames.iter().map(|(kind, frame)| (kind.clone(), validator(doc(), &frame["payload"])));
    let client = Client::connect(node.addr).await;
    let mut all = Listener { client, validators: validators.collect(), seen: BTreeSet::new() };
    all.until("hello").await;
    for (kind, message) in messages("commands") {
        // Each with all that it may carry, and not known yet; a room that is not there.
        let mut example = message["examples"][0]["payload"].clone();
        example["id"] = json!("an id");
        all.client.send(example).await;
        match kind.as_str() {
            "ping" => all.until("pong").await,
            "help" | "rooms" => all.until(&kind).await,
            "create" => all.until("ack").await,
            "resume" => all.until("resumed").await,
            _ => {}
        }
    }
    let room = |kind: &str| json!({"type": kind, "user_id": "1", "room": "r", "id": kind});
    all.say(room("create"), "ack").await;
    let mut message = room("message");
    message["message"] = json!("hi");
    all.say(message.clone(), "ack").await;
    all.say(message, "ack").await;
    let mut join = room("join");
    join["since"] = json!(0);
    all.say(join, "joined").await;
    all.until("message").await;
    all.say(json!({"type": "join", "user_id": "2", "room": "r"}), "joined").await;
    // Signs of life: who is there, who comes, who writes, who has read.
    all.say(room("who"), "who").await;
    let mut other = Client::greeted(node.addr).await;
    for kind in ["join", "typing"] {
        other.send(json!({"type": kind, "user_id": "3", "room": "r"})).await;
    }
    all.until("typing").await;
    all.until("presence").await;
    let news = json!({"type": "message", "user_id": "3", "room": "r", "message": "news"});
    other.send(news).await;
    other.send(json!({"type": "read", "user_id": "3", "room": "r", "seq": 5})).await;
    all.until("read").await;
    all.say(room("typing"), "ack").await;
    all.say(room("history"), "history").await;
    all.say(room("members"), "members").await;
    all.say(json!({"type": "nothing"}), "error").await;
    all.say(room("leave"), "ack").await;
    // Its event, which may come before the ack or after it.
    if !all.seen.contains("leave") {
        all.until("leave").await;
    }
    let ahead = json!({"type": "resume", "user_id": "2", "rooms": {"r": 99}});
    let mut fresh = Listener { client: Client::connect(node.addr).await, ..all };
    fresh.say(ahead, "reset").await;
    fresh.until("resumed").await;
    let stopped = tokio::spawn(node.stop());
    fresh.until("goodbye").await;
    stopped.await.unwrap();
    let described: BTreeSet<_> = frames.into_keys().collect();
    assert_eq!(fresh.seen, described, "described, and not heard");
}
