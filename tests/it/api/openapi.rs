//! docs/openapi.yaml is what the server does: every answer that it promises is brought about here
//! on a real node and held against it, and there is no route that it does not know.

use std::collections::BTreeSet;

use serde_json::json;
use verbatim::server::api::Route;

use super::JSON;
use super::spec::{Promise, assert_valid, resolved, spec, validator};
use crate::harness::http::{Http, request};
use crate::harness::node::TestNode;
use crate::harness::postgres::Postgres;
use crate::harness::{World, services};

/// What was asked for so far, and which promises were kept.
#[derive(Default)]
struct Kept(BTreeSet<Promise>);

/// One line for each request of a list: `line`, the body if there is one.
type Asks<'a> = [(&'a str, Option<&'a str>)];

const ROOM: &str = r#"{"user_id":"1","room":"r"}"#;
const HI: &str = r#"{"user_id":"1","message":"hi"}"#;

/// One good request of each operation. In this order all of them do what they are for.
const ALL: [(&str, Option<&str>); 8] = [
    ("POST /api/rooms", Some(ROOM)),
    ("GET /api/rooms", None),
    ("POST /api/rooms/r/events", Some(HI)),
    ("GET /api/rooms/r/events?user_id=1", None),
    ("GET /api/rooms/r/stream?user_id=1&after=0", None),
    ("PUT /api/rooms/r/members/2", None),
    ("GET /api/rooms/r/members?user_id=1", None),
    ("DELETE /api/rooms/r/members/2", None),
];

/// Those that may have a body.
const WRITES: [(&str, Option<&str>); 4] = [ALL[0], ALL[2], ALL[5], ALL[7]];

impl Kept {
    /// Asks, and notes which promise the answer keeps. A connection for each: streams do not end.
    async fn ask(&mut self, node: &TestNode, headers: &[(&str, &str)], asks: &Asks<'_>) {
        for (line, body) in asks {
            let mut http = Http::connect(node.addr).await;
            let mut headers = headers.to_vec();
            if body.is_some() && !headers.iter().any(|(name, _)| *name == "Content-Type") {
                headers.push(JSON);
            }
            http.send(request(node.addr, line, &headers, *body)).await;
            let reply = http.read_begin().await;
            self.0.extend(spec().check(line, &reply));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promised_answer_is_given_and_no_other() {
    let world = World::postgres().await;
    let node = world.node().await;
    let mut kept = Kept::default();
    let key = [("Idempotency-Key", "k1")];
    // 404 before there is a room; then 200 and 201; again with the same keys: 200.
    kept.ask(&node, &[], &ALL[2..]).await;
    kept.ask(&node, &key, &ALL).await;
    kept.ask(&node, &key, &ALL[..1]).await;
    kept.ask(&node, &[], &[ALL[5], ALL[5], ("POST /api/rooms", Some(ROOM))]).await;
    let message = [("Idempotency-Key", "k2")];
    kept.ask(&node, &message, &[ALL[2], ALL[2]]).await;
    // 409: a key that names another command.
    kept.ask(&node, &message, &ALL[..1]).await;
    kept.ask(&node, &key, &[ALL[2], ("DELETE /api/rooms/r/members/1", None)]).await;
    // 400
    kept.ask(&node, &[("Idempotency-Key", "")], &[ALL[0], ALL[2], ALL[5], ALL[7]]).await;
    kept.ask(&node, &[], &[("POST /api/rooms", Some("[]")), ("GET /api/rooms?limit=0", None)])
        .await;
    let unnamed = ["events", "stream", "members"].map(|kind| format!("GET /api/rooms/r/{kind}"));
    for line in &unnamed {
        kept.ask(&node, &[], &[(line, None)]).await;
    }
    // 403
    kept.ask(&node, &[("Origin", "https://evil.example")], &ALL).await;
    // 413, 415
    let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(70_000));
    let long = Some(&*long);
    for (line, _) in WRITES {
        kept.ask(&node, &[], &[(line, long)]).await;
        kept.ask(&node, &[("Content-Type", "text/plain")], &[(line, Some("{}"))]).await;
    }
    // Those who run it.
    let operations = ["/healthz", "/readyz", "/metrics"].map(|path| format!("GET {path}"));
    for line in &operations {
        kept.ask(&node, &[], &[(line, None)]).await;
    }
    too_slow(&world, &mut kept).await;
    too_many(&world, &mut kept).await;
    a_log_that_refuses(&mut kept).await;
    a_log_that_is_gone(&mut kept).await;

    let missing: Vec<_> = spec().promises().difference(&kept.0).cloned().collect();
    assert_eq!(missing, [], "promised, and never given");
}

/// 408
async fn too_slow(world: &World, kept: &mut Kept) {
    let node = world.node_with(|config| config.api.body_timeout_ms = 50).await;
    for (line, _) in WRITES {
        let mut http = Http::connect(node.addr).await;
        let headers = [JSON, ("Content-Length", "9")];
        http.send(request(node.addr, line, &headers, None)).await;
        kept.0.extend(spec().check(line, &http.read(false).await));
    }
}

/// 429
async fn too_many(world: &World, kept: &mut Kept) {
    let change = |config: &mut verbatim::config::Config| {
        (config.api.requests_per_second, config.api.requests_burst) = (1, 1);
    };
    let node = world.node_with(change).await;
    // One in a second is not refused: always another one.
    for _ in 0..3 {
        kept.ask(&node, &[], &ALL).await;
    }
    kept.ask(&node, &[], &ALL[..1]).await;
}

/// 500: a trigger that a person has put there refuses what the rules allow.
async fn a_log_that_refuses(kept: &mut Kept) {
    let url = services::database().await;
    let node = World::on(&url).node().await;
    let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    // It ends with the client.
    tokio::spawn(connection);
    kept.ask(&node, &[], &[ALL[0], ALL[5]]).await;
    let trigger = "create function refuse() returns trigger language plpgsql as
                   $$ begin raise check_violation; end $$;
                   create trigger refuse before insert on events
                   for each row execute function refuse()";
    sql.batch_execute(trigger).await.unwrap();
    let room = r#"{"user_id":"1","room":"s"}"#;
    let (join, leave) = ("PUT /api/rooms/r/members/3", "DELETE /api/rooms/r/members/2");
    let asks = [("POST /api/rooms", Some(room)), ALL[2], (join, None), (leave, None)];
    kept.ask(&node, &[], &asks).await;
}

/// 503
async fn a_log_that_is_gone(kept: &mut Kept) {
    let mut postgres = Postgres::start(&[]).await;
    let node = World::on(&postgres.database().await).impatient().node().await;
    kept.ask(&node, &[], &ALL[..1]).await;
    postgres.kill();
    kept.ask(&node, &[], &ALL).await;
    kept.ask(&node, &[], &[("GET /readyz", None)]).await;
}

#[test]
fn every_route_of_the_server_is_described_and_no_other() {
    let mut described: BTreeSet<_> = spec().routes().into_keys().collect();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert!(described.remove(path), "{path}");
    }
    let served = Route::ALL.map(|route| route.template().to_owned());
    assert_eq!(described, BTreeSet::from(served));
}

#[test]
fn examples_are_valid_and_refusals_have_the_status_they_stand_under() {
    let doc = spec().doc();
    let mut examples = 0;
    for methods in doc["paths"].as_object().unwrap().values() {
        for operation in methods.as_object().unwrap().values() {
            let Some(responses) = operation["responses"].as_object() else { continue };
            let answers = responses.iter().map(|(status, answer)| (Some(status), answer));
            let asked =
                Some((None, &operation["requestBody"])).filter(|(_, body)| body.is_object());
            for (status, content) in answers.chain(asked) {
                for content in resolved(doc, content)["content"].as_object().unwrap().values() {
                    let Some(example) = content.get("example") else { continue };
                    let what = format!("{} {status:?}", operation["operationId"]);
                    assert_valid(&validator(doc, &content["schema"]), example, &what);
                    if let (Some(status), true) = (status, example["type"] == "error") {
                        assert_eq!(example["status"].to_string(), *status, "{what}");
                    }
                    examples += 1;
                }
            }
        }
    }
    assert!(examples > 60, "{examples} examples");
}

#[test]
fn the_description_is_of_this_version_and_knows_every_code() {
    let doc = spec().doc();
    assert_eq!(doc["info"]["version"], env!("CARGO_PKG_VERSION"));
    let codes = doc["components"]["schemas"]["Error"]["properties"]["code"]["enum"].clone();
    let known: BTreeSet<String> = serde_json::from_value(codes).unwrap();
    let of_protocol = verbatim::protocol::error::Code::ALL.map(|code| code.name().to_owned());
    let of_http = include_str!("../../../docs/http.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(_, rest)| rest.starts_with(['4', '5']))
        .map(|(code, _)| code.to_owned());
    // A request names its command by its path.
    let of_protocol = of_protocol.into_iter().filter(|code| code != "unknown_type");
    assert_eq!(known, of_protocol.chain(of_http).collect());
}

/// The judge must be able to say no.
#[test]
fn what_is_not_promised_is_caught() {
    let caught = |line: &str, status: u16, kind: &str, body: &str| {
        let headers = vec![("content-type".to_owned(), kind.to_owned())];
        let (head, body) = (String::new(), body.to_owned());
        let reply = crate::harness::http::Reply { status, head, headers, body };
        let line = line.to_owned();
        std::panic::catch_unwind(move || spec().check(&line, &reply)).is_err()
    };
    let (json, rooms) = ("application/json", r#"{"type":"rooms","rooms":[],"more":false}"#);
    assert!(!caught("GET /api/rooms", 200, json, rooms));
    assert!(caught("GET /api/rooms", 202, json, rooms), "another status");
    assert!(caught("GET /api/rooms", 200, "text/html", rooms), "another type");
    let more = json!({"type": "rooms", "rooms": [], "more": false, "x": 1}).to_string();
    assert!(caught("GET /api/rooms", 200, json, &more), "a field more");
    let bad = json!({"type": "error", "code": "rate_limited", "status": 429, "error": "x"});
    assert!(caught("GET /api/rooms", 429, json, &bad.to_string()), "no Retry-After");
    assert!(caught("PATCH /api/rooms", 200, json, rooms), "no such method");
    assert!(caught("GET /api/secret", 200, json, rooms), "no such path");
}
