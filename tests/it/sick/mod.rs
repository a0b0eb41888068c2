//! A part of the log cannot be read, and stays so: who needs it is told, and nobody else notices.

mod apart;
mod cluster;
mod following;
pub mod harm;
mod outbox;

use std::net::SocketAddr;

use serde_json::json;

use crate::harness::Client;

/// Makes rooms in which user "1" has said as many texts as are wanted; nobody follows them.
async fn rooms(addr: SocketAddr, names: &[&str], texts: u64) {
    let mut client = Client::greeted(addr).await;
    for room in names {
        client.send(json!({"type": "create", "user_id": "1", "room": room})).await;
        client.expect(json!({"type": "ack", "seq": 1})).await;
        for n in 2..=texts + 1 {
            let text = format!("text {n}");
            client
                .send(json!({"type": "message", "user_id": "1", "room": room, "message": text}))
                .await;
            client.expect(json!({"type": "ack", "seq": n})).await;
        }
    }
}
