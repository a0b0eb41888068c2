//! Whatever is asked, the answer is one that the description promises, and never a 500.

use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Caller, spec::spec};
use crate::harness::http::{Http, Reply};
use crate::harness::raw::get;
use crate::harness::{World, on_both_logs};

on_both_logs!(any_request_gets_an_answer_that_is_described_and_never_a_500);

/// Pieces of paths: right ones, wrong ones, and ones that another server would choke on.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("rooms".to_owned()),
        Just("r".to_owned()),
        Just("events".to_owned()),
        Just("members".to_owned()),
        Just("stream".to_owned()),
        Just("1".to_owned()),
        Just("..".to_owned()),
        Just(String::new()),
        Just("%2e%2e%2f".to_owned()),
        Just("%00".to_owned()),
        Just("%".to_owned()),
        Just("%F0%9F%A6%80".to_owned()),
        Just("%ff%fe".to_owned()),
        Just("{room}".to_owned()),
        Just("x".repeat(4000)),
        "[ -~&&[^ ?#]]{0,12}",
        any::<Vec<u8>>().prop_map(|bytes| bytes.iter().map(|b| format!("%{b:02x}")).collect()),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let anywhere = prop::collection::vec(piece(), 0..6).prop_map(|pieces| pieces.join("/"));
    let kind = prop::sample::select(&["events", "members", "stream", "members/1", "members/2"][..]);
    let room = prop_oneof![2 => Just("r".to_owned()), 1 => piece()];
    let near = (room, kind).prop_map(|(room, kind)| format!("rooms/{room}/{kind}"));
    prop_oneof![1 => anywhere, 3 => near, 1 => Just("rooms".to_owned())]
}

fn query() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("user_id"),
        Just("after"),
        Just("before"),
        Just("limit"),
        Just("type"),
        Just("")
    ];
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("18446744073709551616".to_owned()),
        Just("%zz".to_owned()),
        "[!-~&&[^#]]{0,8}",
    ];
    let pair = (key, value).prop_map(|(key, value)| format!("{key}={value}"));
    let wild = prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"));
    prop_oneof![wild, Just("user_id=1".to_owned()), Just("user_id=2&limit=3".to_owned())]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        Just(r#""user_id":"1""#.to_owned()),
        Just(r#""user_id":1"#.to_owned()),
        Just(r#""user_id":1e5"#.to_owned()),
        Just(r#""room":"r""#.to_owned()),
        Just(r#""room":null"#.to_owned()),
        Just(r#""message":"hi""#.to_owned()),
        Just(r#""message":"\ud800""#.to_owned()),
        Just(r#""message":"\u0000""#.to_owned()),
        Just(r#""type":"resume""#.to_owned()),
        Just(r#""id":"\u00e9""#.to_owned()),
        "\"[a-z]{0,3}\":[ -~]{0,6}",
        any::<String>().prop_map(|text| format!("\"message\":{}", serde_json::json!(text))),
    ];
    let object = prop::collection::vec(field, 0..5);
    prop_oneof![
        object.prop_map(|fields| format!("{{{}}}", fields.join(",")).into_bytes()),
        any::<Vec<u8>>(),
        any::<String>().prop_map(String::into_bytes),
    ]
}

#[derive(Clone, Debug)]
struct Ask {
    method: &'static str,
    uri: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

const METHODS: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X"];

fn ask() -> impl Strategy<Value = Ask> {
    let header = prop_oneof![
        Just(("Idempotency-Key", "\"".to_owned())),
        "[ -~]{0,70}".prop_map(|value| ("Idempotency-Key", value)),
        "[ -~]{0,20}".prop_map(|value| ("Last-Event-ID", value)),
        "[!-~]{0,20}".prop_map(|value| ("Content-Encoding", value)),
        Just(("Content-Type", "application/json".to_owned())),
        Just(("Content-Type", "text/plain".to_owned())),
    ];
    let headers = prop::collection::vec(header, 0..3);
    let parts = (prop::sample::select(&METHODS[..]), path(), query(), headers, body());
    parts.prop_map(|(method, path, query, mut headers, body)| {
        if !headers.iter().any(|(name, _)| *name == "Content-Type") {
            headers.push(("Content-Type", "application/json".to_owned()));
        }
        let mark = if query.is_empty() { "" } else { "?" };
        Ask { method, uri: format!("/api/{path}{mark}{query}"), headers, body }
    })
}

/// `None`: its head could not be read (400 or 431), or the answer is a stream.
async fn answer(addr: SocketAddr, ask: &Ask) -> Option<Reply> {
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {addr}\r\n", ask.method, ask.uri);
    for (name, value) in &ask.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n", ask.body.len()));
    let mut http = Http::connect(addr).await;
    let mut bytes = head.into_bytes();
    bytes.extend(&ask.body);
    http.send(bytes).await;
    let reply = http.try_read(ask.method == "HEAD").await?;
    // A HEAD is not told why.
    let is_bare = ask.method == "HEAD" && reply.status == 400;
    let is_unread = is_bare || reply.body.contains("_head\"") || reply.status == 431;
    (!is_unread).then_some(reply)
}

async fn any_request_gets_an_answer_that_is_described_and_never_a_500(world: World) {
    let change = |config: &mut verbatim::config::Config| {
        (config.api.requests_per_second, config.api.requests_burst) = (1_000_000, 1_000_000);
    };
    let node = world.node_with(change).await;
    let mut caller = Caller::new(node.addr).await;
    caller.create().await;
    let addr = node.addr;
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
        let mut seen = std::collections::BTreeMap::new();
        let check = std::cell::RefCell::new(&mut seen);
        TestRunner::new(config)
            .run(&ask(), |ask| {
                if let Some(reply) = runtime.block_on(answer(addr, &ask)) {
                    prop_assert_ne!(reply.status, 500, "{:?}", &reply);
                    spec().check(&format!("{} {}", ask.method, ask.uri), &reply);
                    *check.borrow_mut().entry(reply.status).or_insert(0) += 1;
                }
                Ok(())
            })
            .unwrap();
        seen
    };
    let seen = tokio::task::spawn_blocking(run).await.unwrap();
    // It is no test if everything is refused for the same reason.
    for status in [200, 400, 404, 405] {
        assert!(seen.contains_key(&status), "{seen:?}");
    }
    let (_, metrics) = get(addr, "/metrics").await;
    assert!(metrics.contains("\nverbatim_panics_total 0\n"), "something panicked");
}
