//! A client's state and a server that keeps the protocol's promises, over connections that may
//! break at any moment: each message is stored once, and each event is passed on once, in order.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod following;

/// A server, and one connection to it.
#[derive(Default)]
struct Server {
    /// The events of each room, as frames.
    rooms: BTreeMap<String, Vec<String>>,
    /// The outcome of each id.
    written: BTreeMap<String, u64>,
    /// Rooms that the user is a member of.
    member: BTreeMap<String, bool>,
    /// What the connection follows.
    follows: BTreeMap<String, bool>,
    to_server: VecDeque<String>,
    to_client: VecDeque<String>,
}

impl Server {
    fn connect(&mut self) {
        self.follows.clear();
        self.to_server.clear();
        self.to_client.clear();
        self.to_client.push_back(r#"{"type":"hello","node":"n1"}"#.to_owned());
    }

    fn append(&mut self, room: &str, mut event: Value) -> u64 {
        let log = self.rooms.entry(room.to_owned()).or_default();
        let seq = log.len() as u64 + 1;
        (event["room"], event["seq"], event["at"]) = (room.into(), seq.into(), "t".into());
        log.push(event.to_string());
        if self.follows.contains_key(room) {
            self.to_client.push_back(event.to_string());
        }
        seq
    }

    fn follow(&mut self, room: &str, since: Option<u64>, id: &Value) {
        let last_seq = self.rooms[room].len() as u64;
        let mut joined = json!({"type": "joined", "room": room, "last_seq": last_seq});
        if id.is_string() {
            joined["id"] = id.clone();
        }
        self.to_client.push_back(joined.to_string());
        let was_followed = self.follows.insert(room.to_owned(), true).is_some();
        if let (Some(since), false) = (since, was_followed) {
            self.to_client.extend(self.rooms[room].iter().skip(since as usize).cloned());
        }
    }

    /// If the next command is a `resume`, it is refused as a whole: for good, if it has more than
    /// one room.
    fn refuse_whole(&mut self) {
        let command = self.to_server.front().map(|text| serde_json::from_str::<Value>(text));
        let Some(Ok(command)) = command else { return };
        let Some(rooms) = command["rooms"].as_object() else { return };
        let code = if rooms.len() > 1 { "bad_request" } else { "unavailable" };
        let error = json!({"type": "error", "code": code, "re": "resume", "id": command["id"],
            "error": "no"});
        self.to_server.pop_front();
        self.to_client.push_back(error.to_string());
    }

    /// The next command: not now, or carried out, and answered or not.
    fn serve(&mut self, is_away: bool, is_told: bool) {
        let Some(text) = self.to_server.pop_front() else { return };
        let command: Value = serde_json::from_str(&text).unwrap();
        let (kind, id) = (command["type"].as_str().unwrap(), &command["id"]);
        let room = command["room"].as_str().unwrap_or_default().to_owned();
        let error = json!({"type": "error", "code": "unavailable", "re": kind, "room": room,
            "id": id, "error": "not now"});
        if kind == "resume" {
            let resumed = json!({"type": "resumed", "rooms": {}, "id": id});
            for (room, since) in command["rooms"].as_object().unwrap() {
                if is_away {
                    let error = json!({"type": "error", "code": "unavailable", "re": "resume",
                        "room": room, "id": id, "error": "not now"});
                    self.to_client.push_back(error.to_string());
                } else {
                    self.follow(room, since.as_u64(), id);
                }
            }
            return self.to_client.push_back(resumed.to_string());
        }
        if is_away {
            return self.to_client.push_back(error.to_string());
        }
        if kind == "join" {
            if self.member.insert(room.clone(), true).is_none() {
                self.append(&room, json!({"type": "join", "user_id": "me"}));
            }
            let own = self.rooms[&room].len() as u64 - 1;
            return self.follow(&room, Some(command["since"].as_u64().unwrap_or(own)), id);
        }
        let known = self.written.get(id.as_str().unwrap()).copied();
        let seq = known.unwrap_or_else(|| {
            let message = json!({"type": kind, "user_id": "me", "message": command["message"],
                "client_id": id});
            self.append(&room, message)
        });
        self.written.insert(id.as_str().unwrap().to_owned(), seq);
        let ack = json!({"type": "ack", "re": kind, "room": room, "seq": seq, "id": id, "at": "t"});
        self.to_client.push_back(if is_told { ack } else { error }.to_string());
    }
}

/// A client, and the updates that it passed on.
struct Stand {
    state: State<(String, usize)>,
    server: Server,
    now: Instant,
    told: BTreeMap<String, Vec<String>>,
    answers: BTreeMap<(String, usize), u64>,
    asked: usize,
    rejoined: usize,
}

/// Of joins of rooms that are followed already.
const AGAIN: &str = "again";
const ROOMS: [&str; 2] = ["all", "new"];

impl Stand {
    fn new() -> Self {
        let mut server = Server::default();
        server.connect();
        for room in ROOMS {
            server.append(room, json!({"type": "create", "user_id": "other"}));
            server.append(room, json!({"type": "message", "user_id": "other", "message": "old"}));
        }
        let mut state = State::new("me".to_owned(), "p".to_owned());
        for (room, start) in ROOMS.into_iter().zip([Start::After(0), Start::Last(0)]) {
            state.push(room.to_owned(), Ask::Join(start), (room.to_owned(), 0));
        }
        let now = Instant::now();
        let (told, answers) = (BTreeMap::new(), BTreeMap::new());
        Self { state, server, now, told, answers, asked: 0, rejoined: 0 }
    }

    fn say(&mut self, room: &str) {
        self.asked += 1;
        let token = (room.to_owned(), self.asked);
        self.state.push(room.to_owned(), Ask::Message(format!("m{}", self.asked)), token);
    }

    /// Joins a room that is followed already: it stays where it is, and nothing is lost.
    fn rejoin(&mut self, room: &str) {
        if self.state.rooms.contains_key(room) {
            self.rejoined += 1;
            let token = (AGAIN.to_owned(), self.rejoined);
            self.state.push(room.to_owned(), Ask::Join(Start::Last(0)), token);
        }
    }

    fn send(&mut self) {
        self.server.to_server.extend(sent(self.state.due(self.now, true)));
    }

    /// The client reads the next frame.
    fn hear(&mut self) {
        let Some(text) = self.server.to_client.pop_front() else { return };
        for output in self.state.hear(&text, self.now, 0.5) {
            match output {
                Output::Tell(Update::Event(event)) => {
                    self.told.entry(event.room).or_default().push(event.raw);
                }
                Output::Answer((room, number), Ok(Answer::Seq(seq))) => {
                    let before = self.answers.insert((room, number), seq);
                    assert_eq!(before, None, "answered twice");
                }
                Output::Answer((room, _), Err(_)) if room == AGAIN => {}
                // A join may have to be asked for again.
                Output::Answer((room, 0), Err(refused)) => {
                    assert_eq!(refused.code, "unavailable");
                    let start = if room == "all" { Start::After(0) } else { Start::Last(0) };
                    self.state.push(room.clone(), Ask::Join(start), (room, 0));
                }
                Output::Tell(Update::Connected { .. } | Update::Paused { .. }) => {}
                other => panic!("{other:?} of {text}"),
            }
        }
        self.send();
    }

    fn cut(&mut self) {
        self.state.disconnected();
        self.server.connect();
    }

    fn step(&mut self, choice: u8) {
        let room = ROOMS[usize::from(choice / 18) % 2];
        match choice % 18 {
            0..3 => self.say(room),
            3 => self.cut(),
            4 => self.now += Duration::from_secs(1),
            5 => self.server.serve(true, true),
            6 => self.server.serve(false, false),
            7..10 => self.server.serve(false, true),
            10 => {
                let message = json!({"type": "message", "user_id": "other", "message": "hi"});
                self.server.append(room, message);
            }
            11 => self.rejoin(room),
            12 => self.server.refuse_whole(),
            _ => self.hear(),
        }
        self.send();
    }

    /// Runs to the end without further breaks.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.now += Duration::from_secs(20);
            self.send();
            self.server.serve(false, true);
            self.hear();
            let is_quiet = self.server.to_client.is_empty() && self.server.to_server.is_empty();
            if is_quiet && self.state.is_idle() && self.state.wake(true).is_none() {
                return;
            }
        }
        panic!("it does not end");
    }

    fn assert_whole(&self) {
        for room in ROOMS {
            let log = &self.server.rooms[room];
            let told = self.told.get(room).map_or(&[][..], Vec::as_slice);
            let since = if room == "all" { 0 } else { log.len() - told.len() };
            assert_eq!(told, &log[since..], "all of it, each event once and in order");
            let texts: Vec<String> = log.iter().filter_map(|raw| own_text(raw)).collect();
            let mine = self.answers.keys().filter(|(of, number)| of == room && *number > 0);
            let wanted: Vec<String> = mine.map(|(_, number)| format!("m{number}")).collect();
            assert_eq!(texts, wanted, "each message once, in the order of the calls");
        }
        let answers = self.answers.iter().filter(|((room, _), _)| room != AGAIN);
        assert_eq!(answers.clone().count(), self.asked + ROOMS.len());
        for ((room, number), seq) in answers.filter(|((_, number), _)| *number > 0) {
            let event = &self.server.rooms[room][*seq as usize - 1];
            assert_eq!(own_text(event), Some(format!("m{number}")));
        }
        // What was new when it began was told, and nothing that was there before.
        let (log, told) = (&self.server.rooms["new"], &self.told["new"]);
        let joined_at = self.answers[&("new".to_owned(), 0)];
        assert!((log.len() - told.len()) as u64 <= joined_at);
        assert!(!told.iter().any(|raw| raw.contains("\"old\"")), "{told:?}");
    }
}

/// The text of a message of this client.
fn own_text(raw: &str) -> Option<String> {
    let event = Event::parse(raw)?;
    event.client_id.and(event.message)
}

proptest! {
    #[test]
    fn each_message_is_written_once_and_each_event_told_once_whatever_breaks(
        choices in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut stand = Stand::new();
        for choice in choices {
            stand.step(choice);
        }
        stand.settle();
        stand.cut();
        stand.say("all");
        stand.say("new");
        stand.settle();
        stand.assert_whole();
    }
}

/// The frames to send.
fn sent<T: std::fmt::Debug>(outputs: Vec<Output<T>>) -> Vec<String> {
    let frames = outputs.into_iter().map(|output| match output {
        Output::Send(frame) => frame,
        other => panic!("{other:?}"),
    });
    frames.collect()
}

/// A state that was greeted and follows `r`, whose last event is 5.
fn following(start: Start) -> State<u8> {
    let mut state = State::new("me".to_owned(), "p".to_owned());
    state.push("r".to_owned(), Ask::Join(start), 0);
    assert_eq!(due(&mut state, Instant::now(), true), [""; 0], "not greeted");
    hear(&mut state, r#"{"type":"hello","node":"n"}"#);
    due(&mut state, Instant::now(), true);
    let joined = hear(&mut state, r#"{"type":"joined","room":"r","last_seq":5,"id":"p-1"}"#);
    assert_eq!(joined, [Output::Answer(0, Ok(Answer::Seq(5)))]);
    state
}

fn hear(state: &mut State<u8>, text: &str) -> Vec<Output<u8>> {
    state.hear(text, Instant::now(), 0.0)
}

fn due(state: &mut State<u8>, now: Instant, may_follow: bool) -> Vec<String> {
    sent(state.due(now, may_follow))
}

fn event(kind: &str, user: &str, seq: u64) -> String {
    json!({"type": kind, "room": "r", "user_id": user, "seq": seq, "at": "t"}).to_string()
}

fn told(text: &str) -> Output<u8> {
    Output::Tell(Update::Event(Event::parse(text).unwrap()))
}

fn left(error: Option<Refused>) -> Output<u8> {
    Output::Tell(Update::Left { room: "r".to_owned(), error })
}

#[test]
fn a_skipped_event_is_a_hole_and_a_duplicate_is_ignored() {
    let mut state = following(Start::After(5));
    assert_eq!(hear(&mut state, &event("poll", "2", 6)), [told(&event("poll", "2", 6))]);
    assert_eq!(hear(&mut state, &event("poll", "2", 6)), []);
    assert_eq!(hear(&mut state, &event("poll", "2", 8)), [Output::Hole]);
}

#[test]
fn only_a_new_leave_of_its_own_ends_following() {
    let mut state = following(Start::After(3));
    assert_eq!(hear(&mut state, &event("leave", "me", 4)).len(), 1, "it has joined again");
    assert_eq!(hear(&mut state, &event("join", "me", 5)).len(), 1);
    assert_eq!(hear(&mut state, &event("leave", "2", 6)).len(), 1);
    let leave = event("leave", "me", 7);
    assert_eq!(hear(&mut state, &leave), [told(&leave), left(None)]);
    assert_eq!(hear(&mut state, &event("poll", "2", 8)), []);
}

#[test]
fn a_reset_moves_the_position_back() {
    let mut state = following(Start::After(9));
    let reset = hear(&mut state, r#"{"type":"reset","room":"r","last_seq":5}"#);
    let room = "r".to_owned();
    assert_eq!(reset, [Output::Tell(Update::Reset { room, last_seq: 5 })]);
    assert_eq!(hear(&mut state, &event("poll", "2", 6)), [told(&event("poll", "2", 6))]);
}

#[test]
fn a_room_that_may_not_be_followed_again_is_left_and_one_that_cannot_be_now_is_asked_for_later() {
    let mut state = following(Start::After(5));
    state.disconnected();
    hear(&mut state, r#"{"type":"hello","node":"n"}"#);
    let resume = r#"{"type":"resume","user_id":"me","rooms":{"r":5},"id":"p-r1"}"#;
    assert_eq!(due(&mut state, Instant::now(), false), [""; 0]);
    assert_eq!(due(&mut state, Instant::now(), true), [resume]);
    let error = |code: &str| {
        let text = "no";
        json!({"type": "error", "code": code, "re": "resume", "room": "r", "error": text})
            .to_string()
    };
    let refused = |code: &str| {
        let (code, message) = (code.to_owned(), "no".to_owned());
        Refused { code, message, retry_after: None }
    };
    let now = Instant::now();
    let (room, why) = ("r".to_owned(), refused("unavailable"));
    let paused = Output::Tell(Update::Paused { room, error: why });
    assert_eq!(state.hear(&error("unavailable"), now, 1.0), [paused]);
    assert_eq!(due(&mut state, now, true), [""; 0]);
    assert_eq!(state.wake(false), None, "it is not asked for");
    let at = state.wake(true).unwrap();
    assert_eq!(due(&mut state, at, true), [resume.replace("r1", "r2")]);
    assert_eq!(state.hear(&error("unavailable"), at, 1.0), [], "it was told once");
    assert_eq!(hear(&mut state, &error("not_member")), [left(Some(refused("not_member")))]);
}

#[test]
fn a_join_behind_a_leave_waits_until_the_room_is_left() {
    let mut state = following(Start::After(5));
    state.push("r".to_owned(), Ask::Leave, 1);
    state.push("r".to_owned(), Ask::Join(Start::After(6)), 2);
    assert_eq!(due(&mut state, Instant::now(), true).len(), 1);
    let ack = r#"{"type":"ack","re":"leave","room":"r","seq":6,"id":"p-2","at":"t"}"#;
    assert_eq!(hear(&mut state, ack), [Output::Answer(1, Ok(Answer::Seq(6)))]);
    assert_eq!(due(&mut state, Instant::now(), true), [""; 0]);
    assert_eq!(hear(&mut state, &event("leave", "me", 6)).len(), 2);
    let join = r#"{"type":"join","user_id":"me","room":"r","since":6,"id":"p-3"}"#;
    assert_eq!(due(&mut state, Instant::now(), true), [join]);
}

#[test]
fn what_is_refused_for_good_is_answered_and_frees_its_slot_for_the_next() {
    let mut state = following(Start::After(5));
    for token in [1, 2] {
        state.push("r".to_owned(), Ask::Message("x".to_owned()), token);
    }
    assert_eq!(due(&mut state, Instant::now(), true).len(), 1, "one at a time");
    let error = r#"{"type":"error","code":"too_large","error":"no","re":"message","id":"p-2"}"#;
    let outputs = hear(&mut state, error);
    assert!(matches!(&outputs[..], [Output::Answer(1, Err(it))] if it.code == "too_large"));
    assert!(!state.is_idle());
    assert_eq!(due(&mut state, Instant::now(), true).len(), 1);
}

#[test]
fn a_command_over_the_frame_limit_is_refused_without_sending_it() {
    let mut state = State::new("me".to_owned(), "p".to_owned());
    hear(&mut state, r#"{"type":"hello","node":"n","limits":{"frame_bytes":100}}"#);
    for (token, len) in [(1, 200), (2, 1)] {
        state.push("r".to_owned(), Ask::Message("x".repeat(len)), token);
    }
    let outputs = state.due(Instant::now(), true);
    let [Output::Answer(1, Err(refused)), Output::Send(_)] = &outputs[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!(refused.code, "too_large");
}

#[test]
fn signals_and_unknown_frames_are_told_as_they_are() {
    let mut state = following(Start::After(5));
    for text in [r#"{"type":"typing","room":"r","user_id":"2"}"#, r#"{"type":"new","id":7}"#, "x"] {
        let other = Output::Tell(Update::Other(text.to_owned()));
        assert_eq!(hear(&mut state, text), [other]);
    }
}
