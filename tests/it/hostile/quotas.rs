//! Places that one takes all of: half of them are left for the others.

use serde_json::json;

use crate::harness::{Client, World, on_both_logs};
use crate::protocol::{create, follow};
use crate::signals::{typing, watch};

on_both_logs!(
    one_address_follows_half_of_what_a_node_may_hold,
    places_come_free_when_users_and_sockets_go,
    one_who_asks_about_all_rooms_does_not_blind_the_others,
    one_who_types_everywhere_does_not_silence_the_others,
);

/// Another address than that of everybody else here.
const ELSEWHERE: &str = "127.0.0.2";

/// What somebody hears who follows one room more than there are places.
fn no_place() -> serde_json::Value {
    json!({"type": "error", "code": "unavailable", "status": 503})
}

async fn one_address_follows_half_of_what_a_node_may_hold(world: World) {
    let node = world.node_with(|config| config.hub.follows_max = 8).await;
    let mut greedy = node.client().await;
    for room in ["a", "b", "c", "d", "e"] {
        create(&mut greedy, "1", room).await;
    }
    for room in ["a", "b", "c"] {
        follow(&mut greedy, "1", room).await;
    }
    // The same by another socket, and another name.
    let mut again = node.client().await;
    follow(&mut again, "1", "a").await;
    again.send(json!({"type": "join", "user_id": "1", "room": "b", "id": "i"})).await;
    let problem = again.expect(no_place()).await;
    assert_eq!(
        problem["error"],
        "this node has no free slot for more rooms \
        (hub.follows_max): follow fewer, or try again later"
    );
    assert_eq!(
        (&problem["re"], &problem["room"], &problem["id"]),
        (&json!("join"), &json!("b"), &json!("i"))
    );
    greedy.send(json!({"type": "join", "user_id": "2", "room": "a"})).await;
    greedy.expect(no_place()).await;
    greedy.send(json!({"type": "resume", "user_id": "1", "rooms": {"d": 0}})).await;
    greedy.expect(no_place()).await;
    // Others find places, and it is heard what they say.
    let mut other = Client::from_address(ELSEWHERE, node.addr).await;
    follow(&mut other, "1", "a").await;
    follow(&mut other, "1", "b").await;
    other.send(json!({"type": "message", "user_id": "1", "room": "a", "message": "hi"})).await;
    for client in [&mut greedy, &mut again, &mut other] {
        client.expect(json!({"type": "message", "room": "a", "message": "hi"})).await;
    }
}

async fn places_come_free_when_users_and_sockets_go(world: World) {
    let node = world.node_with(|config| config.hub.follows_max = 4).await;
    let mut ann = node.client().await;
    create(&mut ann, "1", "a").await;
    create(&mut ann, "1", "b").await;
    // Again and again, one after the other: nothing adds up.
    follow(&mut ann, "1", "a").await;
    for round in 0..10 {
        ann.send(json!({"type": "join", "user_id": "2", "room": "a"})).await;
        ann.read_until(json!({"type": "joined", "user_id": "2"})).await;
        ann.send(json!({"type": "join", "user_id": "3", "room": "a", "id": "no"})).await;
        ann.read_until(no_place()).await;
        // Whoever is not a member, or asks for what is not there, takes no place.
        for room in ["b", "nowhere"] {
            leave(&mut ann, "2", &format!("{room} {round}")).await;
            let rooms = json!({room: 0});
            ann.send(json!({"type": "resume", "user_id": "7", "rooms": rooms, "id": "r"})).await;
            ann.read_until(json!({"type": "resumed"})).await;
            ann.send(json!({"type": "join", "user_id": "2", "room": "a"})).await;
            ann.read_until(json!({"type": "joined", "user_id": "2"})).await;
        }
        for user in ["1", "2"] {
            leave(&mut ann, user, &format!("both {round}")).await;
        }
        ann.send(json!({"type": "ping", "id": "p"})).await;
        ann.read_until(json!({"type": "pong"})).await;
        ann.send(json!({"type": "join", "user_id": "1", "room": "a"})).await;
        ann.read_until(json!({"type": "joined", "user_id": "1"})).await;
    }
    ann.send(json!({"type": "join", "user_id": "1", "room": "b"})).await;
    ann.read_until(json!({"type": "joined", "room": "b"})).await;
    // A socket that goes takes nothing with it.
    for _ in 0..10 {
        ann.close().await;
        ann = node.client().await;
        loop {
            ann.send(json!({"type": "resume", "user_id": "1", "rooms": {"a": 0, "b": 0}})).await;
            // A moment until its end is seen.
            if ann.next().await["type"] != "error" {
                break;
            }
        }
        ann.read_until(json!({"type": "resumed"})).await;
    }
}

/// Leaves room `a`, and takes all that comes before the answer.
async fn leave(client: &mut Client, user: &str, id: &str) {
    client.send(json!({"type": "leave", "user_id": user, "room": "a", "id": id})).await;
    client.read_until(json!({"type": "ack", "re": "leave", "id": id})).await;
}

async fn one_who_asks_about_all_rooms_does_not_blind_the_others(world: World) {
    let node = world.node_with(|config| {
        config.signals.rooms_max = 8;
        config.signals.settle_ms = 100;
    });
    let node = node.await;
    let mut greedy = node.client().await;
    let names: Vec<String> = (0..20).map(|n| format!("g{n}")).collect();
    for room in &names {
        create(&mut greedy, "1", room).await;
        follow(&mut greedy, "1", room).await;
    }
    for room in &names {
        watch(&mut greedy, "1", room, &["1"]).await;
    }
    let mut ann = Client::from_address(ELSEWHERE, node.addr).await;
    create(&mut ann, "2", "r").await;
    follow(&mut ann, "2", "r").await;
    watch(&mut ann, "2", "r", &["2"]).await;
    let mut bob = Client::from_address(ELSEWHERE, node.addr).await;
    bob.send(json!({"type": "join", "user_id": "3", "room": "r"})).await;
    ann.read_until(json!({"type": "presence", "room": "r", "online": ["3"]})).await;
}

async fn one_who_types_everywhere_does_not_silence_the_others(world: World) {
    let node = world.node_with(|config| config.signals.typing_len_max = 8).await;
    let mut greedy = node.client().await;
    for n in 0..20 {
        let room = format!("g{n}");
        create(&mut greedy, "1", &room).await;
        greedy.send(typing("1", &room)).await;
        greedy.expect(json!({"type": "ack", "re": "typing"})).await;
    }
    let mut ann = Client::from_address(ELSEWHERE, node.addr).await;
    create(&mut ann, "2", "r").await;
    follow(&mut ann, "2", "r").await;
    let mut bob = Client::from_address(ELSEWHERE, node.addr).await;
    bob.send(json!({"type": "join", "user_id": "3", "room": "r"})).await;
    bob.read_until(json!({"type": "joined"})).await;
    for n in 20..40 {
        let room = format!("g{n}");
        create(&mut greedy, "1", &room).await;
        greedy.send(typing("1", &room)).await;
        greedy.expect(json!({"type": "ack", "re": "typing"})).await;
    }
    bob.send(typing("3", "r")).await;
    ann.read_until(json!({"type": "typing", "room": "r", "user_id": "3"})).await;
}
