//! The HTTP API: every route, every refusal, and the promises of the chat kept over it.
//!
//! Whatever is asked here is held against docs/openapi.yaml, besides what each test says itself.

mod asyncapi;
mod away;
mod cluster;
mod curl;
mod events;
mod hostile;
mod http;
mod idempotency;
mod limits;
mod members;
mod openapi;
mod origin;
mod rooms;
mod slow;
mod spec;
mod stream;

use std::net::SocketAddr;

use serde_json::{Value, json};

use self::spec::spec;
use crate::harness::http::{Http, Reply, Stream};

/// What a body must be sent as.
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Somebody with an HTTP client.
struct Caller {
    http: Http,
    addr: SocketAddr,
}

impl Caller {
    async fn new(addr: SocketAddr) -> Self {
        Self { http: Http::connect(addr).await, addr }
    }

    /// Any request; the answer is one that the description promises.
    async fn ask(&mut self, line: &str, headers: &[(&str, &str)], body: Option<&str>) -> Reply {
        let reply = self.http.ask(line, headers, body).await;
        spec().check(line, &reply);
        if reply.header("connection") == Some("close") {
            self.http = Http::connect(self.addr).await;
        }
        reply
    }

    async fn get(&mut self, path: &str) -> Reply {
        self.ask(&format!("GET {path}"), &[], None).await
    }

    async fn post(&mut self, path: &str, body: Value) -> Reply {
        self.ask(&format!("POST {path}"), &[JSON], Some(&body.to_string())).await
    }

    /// With an idempotency key.
    async fn post_once(&mut self, path: &str, key: &str, body: Value) -> Reply {
        let headers = [JSON, ("Idempotency-Key", key)];
        self.ask(&format!("POST {path}"), &headers, Some(&body.to_string())).await
    }

    async fn put(&mut self, path: &str) -> Reply {
        self.ask(&format!("PUT {path}"), &[], None).await
    }

    async fn delete(&mut self, path: &str) -> Reply {
        self.ask(&format!("DELETE {path}"), &[], None).await
    }

    /// Makes the room `r` with the owner `1`.
    async fn create(&mut self) {
        let made = self.post("/api/rooms", json!({"user_id": "1", "room": "r"})).await;
        assert_eq!(made.status, 201, "{made:?}");
    }

    /// Sends a message of `1` to `r`; its event.
    async fn say(&mut self, text: &str) -> Value {
        let path = "/api/rooms/r/events";
        let said = self.post(path, json!({"user_id": "1", "message": text})).await;
        assert_eq!(said.status, 201, "{said:?}");
        said.json()
    }
}

/// Follows `r` as `1`, and has taken the opening: up to where it has everything.
async fn follow(addr: SocketAddr, query: &str, headers: &[(&str, &str)]) -> (Stream, u64) {
    let path = format!("/api/rooms/r/stream?user_id=1{query}");
    let mut stream = Stream::open(addr, &path, headers).await;
    assert_eq!(stream.head.status, 200, "{:?}", stream.head);
    spec().check(&format!("GET {path}"), &stream.head);
    let position = opening(&mut stream).await;
    (stream, position)
}

/// Takes what is said before any event.
async fn opening(stream: &mut Stream) -> u64 {
    let opening = stream.next_block().await.expect("no opening");
    assert_eq!((opening.retry, opening.event, opening.data), (Some(1500), None, None));
    opening.id.expect("no position").parse().unwrap()
}

/// An error frame with that status, code and, if it is named, field.
fn assert_refused(reply: &Reply, status: u16, code: &str, field: Option<&str>) -> Value {
    let body = reply.json();
    let told = (reply.status, body["code"].as_str(), body["field"].as_str());
    assert_eq!(told, (status, Some(code), field), "{body}");
    assert_eq!(body["type"], "error");
    body
}
