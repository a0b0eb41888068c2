//! What one command, or one breath, asks of many rooms fails in those that are damaged.

use serde_json::json;
use verbatim::log::{Log, LogError};
use verbatim::model::{RoomName, Seq, UserId};

use super::{harm, rooms};
use crate::harness::{World, on_both_logs};

on_both_logs!(
    a_question_about_many_rooms_fails_only_for_the_damaged_one,
    a_resume_is_refused_only_the_damaged_room,
    a_read_that_meets_damage_fails_no_other_of_its_socket,
);

async fn a_question_about_many_rooms_fails_only_for_the_damaged_one(world: World) {
    let node = world.node().await;
    rooms(node.addr, &["a", "b", "sick", "c", "d"], 1).await;
    node.stop().await;
    let log = Log::open(&world.config).await.unwrap();
    harm::room(&world).await;
    let names = ["a", "none", "sick", "c", "d"].map(|name| RoomName::parse(name).unwrap());
    let user = UserId::parse("1").unwrap();
    let last_seqs = log.last_seqs(&names).await.unwrap();
    let standings = log.standings(&names, &user).await.unwrap();
    for (place, (last_seq, standing)) in last_seqs.iter().zip(&standings).enumerate() {
        let wanted = (place != 1).then_some(Seq(2));
        if place == 2 {
            assert!(matches!(last_seq, Err(LogError::Damaged(_))), "{last_seq:?}");
            assert!(matches!(standing, Err(LogError::Damaged(_))), "{standing:?}");
            continue;
        }
        assert_eq!(*last_seq.as_ref().unwrap(), wanted);
        assert_eq!(standing.as_ref().unwrap().map(|standing| standing.last_seq), wanted);
    }
    assert_eq!((last_seqs.len(), standings.len()), (5, 5));
}

async fn a_resume_is_refused_only_the_damaged_room(world: World) {
    let node = world.node().await;
    rooms(node.addr, &["a", "sick", "b"], 1).await;
    harm::room(&world).await;
    let mut client = node.client().await;
    let all = json!({"a": 2, "b": 1, "sick": 2});
    client.send(json!({"type": "resume", "user_id": "1", "rooms": all, "id": "r"})).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let answer = client.next().await;
        let is_refused = answer["type"] == "error";
        if is_refused {
            assert_eq!((&answer["code"], &answer["re"]), (&json!("unavailable"), &json!("resume")));
            let error = answer["error"].as_str().unwrap();
            assert!(error.contains("damaged") && error.contains("does not help"), "{error}");
        } else {
            assert_eq!(answer["type"], "joined");
        }
        answers.push((answer["room"].as_str().unwrap().to_owned(), is_refused));
    }
    answers.sort();
    let wanted = [("a", false), ("b", false), ("sick", true)];
    assert_eq!(answers, wanted.map(|(room, is_refused)| (room.to_owned(), is_refused)));
    client.expect(json!({"type": "message", "room": "b", "seq": 2})).await;
    client.expect(json!({"type": "resumed", "rooms": {"a": 2, "b": 2}, "id": "r"})).await;
}

/// They are asked for in one breath, so the second was there when the first failed.
async fn a_read_that_meets_damage_fails_no_other_of_its_socket(world: World) {
    let node = world.node().await;
    rooms(node.addr, &["sick", "well"], 3).await;
    harm::event(&world, 2).await;
    let mut client = node.client().await;
    let page = |room| json!({"type": "history", "user_id": "1", "room": room, "after": 0});
    for _ in 0..50 {
        client.send(page("sick")).await;
        client.send(page("well")).await;
    }
    for _ in 0..50 {
        let refused = json!({"type": "error", "code": "unavailable", "room": "sick"});
        let error = client.expect(refused).await["error"].to_string();
        assert!(error.contains("damaged") && error.contains("does not help"), "{error}");
        client.expect(json!({"type": "history", "room": "well", "more": false})).await;
    }
}
