//! The HTTP side: the routes, the upgrade, who is let in, and what a bad client cannot do.

mod admission;
mod crowded;
mod hosts;
mod internal;
mod metrics;
mod page;
mod proxies;
mod refusals;
mod routes;

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::raw::{Head, Raw, upgrade_request};

/// The value of a header, whatever its case.
fn header<'a>(head: &'a Head, name: &str) -> Option<&'a str> {
    let mut lines = head.text.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// An upgrade with more header lines, each ended by CRLF; the answer with its body.
async fn upgrade(addr: SocketAddr, headers: &str) -> (Head, String) {
    ask(addr, &upgrade_request(addr, headers)).await
}

/// Sends these bytes; the answer with as much body as it says it has.
async fn ask(addr: SocketAddr, request: &str) -> (Head, String) {
    let mut raw = Raw::connect(addr).await;
    raw.send(request).await;
    let head = raw.read_head().await;
    let len = header(&head, "content-length").map_or(0, |len| len.parse().unwrap());
    let body = raw.read_exactly(len).await;
    (head, String::from_utf8(body).unwrap())
}

/// The body of a refusal has the shape of an `error` frame.
fn assert_refusal((head, body): &(Head, String), status: u16, code: &str) {
    assert_eq!(head.status, status, "{} {body}", head.text);
    assert_eq!(header(head, "content-type"), Some("application/json"));
    let body: Value = serde_json::from_str(body).expect("a body that is not JSON");
    let error = body["error"].as_str().expect("no sentence for a person");
    let wanted = json!({"type": "error", "code": code, "status": status, "error": error});
    assert_eq!(body, wanted);
}
