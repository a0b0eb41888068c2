//! `rooms` and `members`: what is listed, in which order, in which pages.

use serde_json::{Value, json};

use super::{PIPELINED, create, exact, fill, follow, join, join_too};
use crate::harness::{Client, World, on_both_logs};

on_both_logs!(
    rooms_is_these_bytes,
    rooms_come_in_the_byte_order_of_their_names,
    rooms_come_in_pages,
    members_is_these_bytes,
    members_come_in_the_byte_order_of_their_ids,
    members_come_in_pages_of_a_thousand,
);

/// Names that a language would sort in another order than their bytes.
const NAMES: [&str; 8] = ["10", "9", "B", "Z z", "_", "a", "ä", "日"];

async fn rooms_is_these_bytes(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    client.send_text(r#"{"type":"rooms"}"#).await;
    exact(&mut client, r#"{"type":"rooms","rooms":[],"more":false}"#).await;
    create(&mut client, "1", "general").await;
    create(&mut client, "1", "random").await;
    fill(&mut client, "1", "general", 2).await;
    join(&mut client, "2", "general").await;
    client.send_text(r#"{"type":"rooms","limit":1,"id":"c4"}"#).await;
    exact(
        &mut client,
        r#"{"type":"rooms","rooms":[{"room":"general","last_seq":4,"members":2}],"more":true,"id":"c4"}"#,
    )
    .await;
    // Anyone may ask, and the next page is after the last name.
    client.send_text(r#"{"type":"rooms","after":"general","limit":1}"#).await;
    exact(
        &mut client,
        r#"{"type":"rooms","rooms":[{"room":"random","last_seq":1,"members":1}],"more":false}"#,
    )
    .await;
}

async fn rooms_page(client: &mut Client, after: Option<&str>, limit: Value) -> (Vec<String>, bool) {
    client.send(json!({"type": "rooms", "after": after, "limit": limit})).await;
    let frame = client.expect(json!({"type": "rooms"})).await;
    let rooms = frame["rooms"].as_array().unwrap();
    let names = rooms.iter().map(|room| room["room"].as_str().unwrap().to_owned());
    (names.collect(), frame["more"].as_bool().unwrap())
}

async fn rooms_come_in_the_byte_order_of_their_names(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    for name in NAMES.iter().rev() {
        create(&mut client, "1", name).await;
    }
    let (names, more) = rooms_page(&mut client, None, Value::Null).await;
    assert_eq!((names, more), (NAMES.map(str::to_owned).to_vec(), false));
    for (place, name) in NAMES.iter().enumerate() {
        let (names, _) = rooms_page(&mut client, Some(name), Value::Null).await;
        assert_eq!(names, NAMES[place + 1..], "after {name}");
    }
    // After a name that no room has.
    let (names, _) = rooms_page(&mut client, Some("Z"), json!(2)).await;
    assert_eq!(names, ["Z z", "_"]);
}

async fn rooms_come_in_pages(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    let names: Vec<_> = (0..1005).map(|n| format!("room {n:04}")).collect();
    for chunk in names.chunks(PIPELINED) {
        for name in chunk {
            client.send(json!({"type": "create", "user_id": "1", "room": name})).await;
        }
        for name in chunk {
            client.expect(json!({"type": "ack", "re": "create", "room": name})).await;
        }
    }
    let (page, more) = rooms_page(&mut client, None, Value::Null).await;
    assert_eq!((&page[..], more), (&names[..100], true), "a hundred unless told");
    let (page, more) = rooms_page(&mut client, None, json!(1000)).await;
    assert_eq!((&page[..], more), (&names[..1000], true));
    let (page, more) = rooms_page(&mut client, Some(&names[4]), json!(1000)).await;
    assert_eq!((&page[..], more), (&names[5..], false), "exactly one page");
    let (page, more) = rooms_page(&mut client, Some(&names[999]), json!(1000)).await;
    assert_eq!((&page[..], more), (&names[1000..], false));
    let (page, more) = rooms_page(&mut client, Some(&names[1004]), json!(1)).await;
    assert_eq!((page.len(), more), (0, false));
}

async fn members_is_these_bytes(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, "1", "r").await;
    client.send_text(r#"{"type":"members","user_id":"1","room":"r","id":"c5"}"#).await;
    exact(
        &mut client,
        r#"{"type":"members","room":"r","members":[{"user_id":"1","role":"owner"}],"more":false,"id":"c5"}"#,
    )
    .await;
    client.send_text(r#"{"type":"members","user_id":"1","room":"r","after":1}"#).await;
    exact(&mut client, r#"{"type":"members","room":"r","members":[],"more":false}"#).await;
}

async fn members_come_in_the_byte_order_of_their_ids(world: World) {
    let node = world.node().await;
    let mut client = node.client().await;
    create(&mut client, NAMES[3], "r").await;
    follow(&mut client, NAMES[3], "r").await;
    for user in NAMES.iter().rev().filter(|user| **user != NAMES[3]) {
        join_too(&mut client, user, "r").await;
    }
    let (users, more) = members_page(&mut client, NAMES[0], None).await;
    assert_eq!((users, more), (NAMES.map(str::to_owned).to_vec(), false));
    let (users, _) = members_page(&mut client, NAMES[0], Some("B")).await;
    assert_eq!(users, NAMES[3..]);
    // Who left is not listed.
    client.send(json!({"type": "leave", "user_id": "_", "room": "r"})).await;
    client.expect(json!({"type": "leave"})).await;
    let (users, _) = members_page(&mut client, NAMES[0], Some("Z z")).await;
    assert_eq!(users, NAMES[5..]);
    client.send(json!({"type": "members", "user_id": "_", "room": "r"})).await;
    client.expect(json!({"code": "not_member", "re": "members"})).await;
}

async fn members_page(client: &mut Client, user: &str, after: Option<&str>) -> (Vec<String>, bool) {
    client.send(json!({"type": "members", "user_id": user, "room": "r", "after": after})).await;
    let frame = client.expect(json!({"type": "members", "room": "r"})).await;
    let members = frame["members"].as_array().unwrap();
    let users = members.iter().map(|member| member["user_id"].as_str().unwrap().to_owned());
    (users.collect(), frame["more"].as_bool().unwrap())
}

async fn members_come_in_pages_of_a_thousand(world: World) {
    let node = world.node().await;
    let (mut ann, mut client) = (node.client().await, node.client().await);
    create(&mut ann, "0000", "r").await;
    let users: Vec<_> = (0..2001).map(|n| format!("{n:04}")).collect();
    for chunk in users[1..].chunks(PIPELINED) {
        for user in chunk {
            client.send(json!({"type": "join", "user_id": user, "room": "r"})).await;
        }
        for user in chunk {
            client.read_until(json!({"type": "joined", "user_id": user})).await;
        }
    }
    let (page, more) = members_page(&mut ann, "0000", None).await;
    assert_eq!((&page[..], more), (&users[..1000], true));
    let (page, more) = members_page(&mut ann, "0000", Some("0999")).await;
    assert_eq!((&page[..], more), (&users[1000..2000], true));
    let (page, more) = members_page(&mut ann, "0000", Some("1000")).await;
    assert_eq!((&page[..], more), (&users[1001..], false), "exactly one page");
    let (page, more) = members_page(&mut ann, "0000", Some("1999")).await;
    assert_eq!((&page[..], more), (&users[2000..], false));
}
