//! Following again after a break: rooms that are refused, together or alone, and `join`s and
//! `leave`s that meet it.

use super::*;

/// As `following`, and then on a new connection.
fn returned(start: Start) -> State<u8> {
    let mut state = following(start);
    state.disconnected();
    hear(&mut state, r#"{"type":"hello","node":"n"}"#);
    state
}

/// Following those rooms, each at 5.
fn following_all(names: &[String]) -> State<u8> {
    let mut state = State::new("me".to_owned(), "p".to_owned());
    hear(&mut state, r#"{"type":"hello","node":"n"}"#);
    for (name, number) in names.iter().zip(1..) {
        state.push(name.clone(), Ask::Join(Start::After(5)), 0);
        due(&mut state, Instant::now(), true);
        let id = format!("p-{number}");
        let joined = json!({"type": "joined", "room": name, "last_seq": 5, "id": id});
        hear(&mut state, &joined.to_string());
    }
    state.disconnected();
    state
}

/// The id of a `resume`, and its rooms.
fn resume(text: &str) -> (String, Vec<String>) {
    let command: Value = serde_json::from_str(text).expect("a frame is JSON");
    let rooms = command["rooms"].as_object().expect("of rooms");
    (command["id"].as_str().expect("an id").to_owned(), rooms.keys().cloned().collect())
}

fn error(code: &str, id: &str) -> String {
    json!({"type": "error", "code": code, "re": "resume", "id": id, "error": "no"}).to_string()
}

#[test]
fn it_follows_from_when_a_join_is_answered_and_not_from_when_it_is_sent() {
    let mut state = State::new("me".to_owned(), "p".to_owned());
    hear(&mut state, r#"{"type":"hello","node":"n"}"#);
    state.push("r".to_owned(), Ask::Join(Start::After(0)), 0);
    assert_eq!(due(&mut state, Instant::now(), false).len(), 1);
    assert!(!state.is_following(), "so the answer is read though no update has a place");
    hear(&mut state, r#"{"type":"joined","room":"r","last_seq":5,"id":"p-1"}"#);
    assert!(state.is_following());
}

#[test]
fn a_join_during_a_break_goes_on_from_where_the_room_was() {
    let mut state = returned(Start::After(5));
    state.push("r".to_owned(), Ask::Join(Start::Last(0)), 1);
    let join = r#"{"type":"join","user_id":"me","room":"r","since":5,"id":"p-2"}"#;
    assert_eq!(due(&mut state, Instant::now(), false), [join]);
    let joined = r#"{"type":"joined","room":"r","last_seq":6,"id":"p-2"}"#;
    assert_eq!(hear(&mut state, joined), [Output::Answer(1, Ok(Answer::Seq(6)))]);
    assert_eq!(hear(&mut state, &event("poll", "2", 6)), [told(&event("poll", "2", 6))]);
    assert_eq!(due(&mut state, Instant::now(), true), [""; 0], "it is followed");
}

#[test]
fn a_join_waits_until_the_resume_of_its_room_is_answered() {
    let mut state = returned(Start::After(5));
    assert_eq!(due(&mut state, Instant::now(), true).len(), 1);
    state.push("r".to_owned(), Ask::Join(Start::Last(0)), 1);
    assert_eq!(due(&mut state, Instant::now(), true), [""; 0]);
    hear(&mut state, r#"{"type":"joined","room":"r","last_seq":5,"id":"p-r1"}"#);
    let join = r#"{"type":"join","user_id":"me","room":"r","id":"p-2"}"#;
    assert_eq!(due(&mut state, Instant::now(), true), [join]);
}

#[test]
fn a_join_behind_a_leave_does_not_wait_for_an_event_that_nobody_takes() {
    let mut state = following(Start::After(5));
    state.push("r".to_owned(), Ask::Leave, 1);
    state.push("r".to_owned(), Ask::Join(Start::Last(0)), 2);
    assert_eq!(due(&mut state, Instant::now(), true).len(), 1);
    hear(&mut state, r#"{"type":"ack","re":"leave","room":"r","seq":6,"id":"p-2","at":"t"}"#);
    assert_eq!(due(&mut state, Instant::now(), true), [""; 0]);
    // Too many updates were not taken.
    state.disconnected();
    hear(&mut state, r#"{"type":"hello","node":"n"}"#);
    let join = r#"{"type":"join","user_id":"me","room":"r","since":5,"id":"p-3"}"#;
    assert_eq!(due(&mut state, Instant::now(), false), [join]);
    hear(&mut state, r#"{"type":"joined","room":"r","last_seq":7,"id":"p-3"}"#);
    let (leave, again) = (event("leave", "me", 6), event("join", "me", 7));
    assert_eq!(hear(&mut state, &leave), [told(&leave)]);
    assert_eq!(hear(&mut state, &again), [told(&again)]);
}

#[test]
fn an_ack_of_a_leave_of_long_ago_leaves_nothing() {
    let mut state = following(Start::After(5));
    state.push("r".to_owned(), Ask::Leave, 1);
    state.push("r".to_owned(), Ask::Join(Start::Last(0)), 2);
    due(&mut state, Instant::now(), true);
    // Written, and then another client of the user joined again; and then a break.
    state.disconnected();
    hear(&mut state, r#"{"type":"hello","node":"n"}"#);
    due(&mut state, Instant::now(), true);
    hear(&mut state, r#"{"type":"joined","room":"r","last_seq":7,"id":"p-r1"}"#);
    let ack = r#"{"type":"ack","re":"leave","room":"r","seq":6,"id":"p-2","at":"t"}"#;
    hear(&mut state, ack);
    assert_eq!(due(&mut state, Instant::now(), true).len(), 1, "the join");
}

#[test]
fn of_rooms_that_are_refused_together_those_to_blame_are_left_and_the_others_followed() {
    let names: Vec<String> = (0..450).map(|number| format!("room {number:03}")).collect();
    let mut state = following_all(&names);
    hear(&mut state, r#"{"type":"hello","node":"n"}"#);
    let is_bad = |name: &String| name.ends_with("77");
    let (mut lost, mut followed, mut sent) = (Vec::new(), Vec::new(), 0);
    loop {
        let frames = due(&mut state, Instant::now(), true);
        if frames.is_empty() {
            break;
        }
        sent += frames.len();
        for (id, rooms) in frames.iter().map(|text| resume(text)) {
            assert!(rooms.len() <= RESUME_ROOMS_MAX);
            if rooms.iter().any(is_bad) {
                let outputs = hear(&mut state, &error("bad_request", &id));
                assert_eq!(outputs.len(), usize::from(rooms.len() == 1));
                for output in outputs {
                    let Output::Tell(Update::Left { room, error: Some(_) }) = output else {
                        panic!("{output:?}");
                    };
                    lost.push(room);
                }
                continue;
            }
            for room in &rooms {
                let joined = json!({"type": "joined", "room": room, "last_seq": 5, "id": id});
                assert_eq!(hear(&mut state, &joined.to_string()), []);
            }
            followed.extend(rooms);
        }
    }
    let (bad, good): (Vec<_>, Vec<_>) = names.into_iter().partition(is_bad);
    lost.sort();
    followed.sort();
    assert_eq!((lost, followed), (bad, good));
    assert!(sent < 100, "{sent}");
}

#[test]
fn a_node_without_capacity_is_asked_for_fewer_rooms_later_and_each_is_told_once() {
    let names = ["a".to_owned(), "b".to_owned()];
    let mut state = following_all(&names);
    let mut now = Instant::now();
    hear(&mut state, r#"{"type":"hello","node":"n"}"#);
    let mut paused = Vec::new();
    for wave in 0..5 {
        for frame in due(&mut state, now, true) {
            let (id, rooms) = resume(&frame);
            assert_eq!(rooms.len(), if wave == 0 { 2 } else { 1 });
            for output in state.hear(&error("unavailable", &id), now, 1.0) {
                let Output::Tell(Update::Paused { room, .. }) = output else {
                    panic!("{output:?}");
                };
                paused.push(room);
            }
        }
        assert_eq!(due(&mut state, now, true), [""; 0]);
        let at = state.wake(true).expect("it is tried again");
        assert_eq!(at - now, Duration::from_secs(1 << wave), "all of them at one time");
        now = at;
    }
    assert_eq!(paused, names);
}

#[test]
fn no_resume_is_longer_than_the_server_takes() {
    const FRAME_BYTES_MAX: usize = 2048;
    let names: Vec<String> =
        (10..100).map(|number| format!("{number}{}", "\"".repeat(126))).collect();
    let mut state = following_all(&names);
    let hello = json!({"type": "hello", "node": "n", "limits": {"frame_bytes": FRAME_BYTES_MAX}});
    hear(&mut state, &hello.to_string());
    let frames = due(&mut state, Instant::now(), true);
    assert!(frames.iter().all(|frame| frame.len() <= FRAME_BYTES_MAX));
    assert!(frames.iter().flat_map(|frame| resume(frame).1).eq(names));
}

#[test]
fn when_one_command_is_too_many_all_wait() {
    let mut state = following(Start::After(5));
    for room in ["a", "b", "c"] {
        state.push(room.to_owned(), Ask::Message("x".to_owned()), 1);
    }
    let now = Instant::now();
    assert_eq!(due(&mut state, now, true).len(), 3);
    for id in ["p-2", "p-3"] {
        let error = json!({"type": "error", "code": "rate_limited", "re": "message", "id": id,
            "error": "no", "retry_after_ms": 500});
        assert_eq!(state.hear(&error.to_string(), now, 1.0), []);
    }
    state.push("d".to_owned(), Ask::Message("x".to_owned()), 1);
    assert_eq!(due(&mut state, now, true), [""; 0]);
    let at = state.wake(true).expect("all are tried again");
    assert_eq!(at - now, Duration::from_millis(700), "of both, one try");
    assert_eq!(due(&mut state, at, true).len(), 3);
    assert_eq!(state.wake(true), None);
}

#[test]
fn nothing_is_due_before_the_greeting() {
    let mut state = following(Start::After(5));
    state.push("r".to_owned(), Ask::Message("x".to_owned()), 1);
    let now = Instant::now();
    due(&mut state, now, true);
    let error = json!({"type": "error", "code": "unavailable", "re": "message", "id": "p-2",
        "error": "no"});
    state.hear(&error.to_string(), now, 1.0);
    assert!(state.wake(true).is_some());
    state.disconnected();
    assert_eq!(state.wake(true), None, "who wakes then finds nothing to do, and wakes again");
}

/// It would look again and again until the answer comes.
#[test]
fn a_join_of_a_paused_room_lets_the_client_sleep_until_the_answer() {
    let mut state = returned(Start::After(5));
    let now = Instant::now();
    due(&mut state, now, true);
    let refused = json!({"type": "error", "code": "unavailable", "re": "resume", "room": "r",
        "id": "p-r1", "error": "no"});
    state.hear(&refused.to_string(), now, 1.0);
    due(&mut state, now, true);
    let at = state.wake(true).expect("it is tried again");
    state.push("r".to_owned(), Ask::Join(Start::Last(0)), 1);
    assert_eq!(due(&mut state, now, true).len(), 1);
    assert_eq!(due(&mut state, at, true), [""; 0], "the join decides");
    assert_eq!(state.wake(true), None);
}

#[test]
fn a_leave_under_way_is_why_a_room_is_not_followed_again() {
    let mut state = returned(Start::After(5));
    due(&mut state, Instant::now(), true);
    state.push("r".to_owned(), Ask::Leave, 1);
    assert_eq!(due(&mut state, Instant::now(), true).len(), 1);
    let refused = json!({"type": "error", "code": "not_member", "re": "resume", "room": "r",
        "id": "p-r1", "error": "no"});
    let left = Output::Tell(Update::Left { room: "r".to_owned(), error: None });
    assert_eq!(hear(&mut state, &refused.to_string()), [left]);
}
