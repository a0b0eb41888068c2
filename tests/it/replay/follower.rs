//! One follower of a run: what it does at random, and what it may be sent while it does.
//!
//! It keeps what the protocol tells a client to keep, its place in each room, and fails at the
//! first frame that is not due.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::Client;

/// Things that a follower does in its life, unless the writers are done before.
const DEEDS: usize = 10;

pub struct Follower {
    addr: SocketAddr,
    client: Option<Client>,
    random: StdRng,
    rooms: Arc<[String]>,
    /// Two users, each of whom may be a member and followed as.
    users: [String; 2],
    /// Whether a follower stops reading until the writers have finished.
    waits: bool,
    places: HashMap<String, Place>,
}

/// What a follower knows of one room.
#[derive(Default)]
struct Place {
    /// The users that are members, from the answers to what they did.
    members: [bool; 2],
    /// As whom the socket follows, and the seq as of which each was known to be a member.
    follows_as: [Option<u64>; 2],
    /// The highest seq that was seen, for `resume`.
    last: u64,
    /// Every event that was seen, on this and earlier sockets.
    seen: Vec<(u64, String)>,
}

impl Place {
    fn follows(&self) -> bool {
        self.follows_as.iter().any(Option::is_some)
    }
}

impl Follower {
    pub fn new(
        addr: SocketAddr,
        number: usize,
        rooms: Arc<[String]>,
        seed: u64,
        waits: bool,
    ) -> Self {
        let places = rooms.iter().map(|room| (room.clone(), Place::default())).collect();
        let users = ["a", "b"].map(|user| format!("follower {number}{user}"));
        let random = StdRng::seed_from_u64(seed);
        Self { addr, client: None, random, rooms, users, waits, places }
    }

    /// Lives a random life, and in the end follows every room.
    pub async fn live(mut self, mut done: watch::Receiver<bool>) -> Self {
        self.connect().await;
        for _ in 0..DEEDS {
            let room = self.rooms[self.random.random_range(0..self.rooms.len())].clone();
            let who = self.random.random_range(0..2);
            match self.random.random_range(0..10) {
                0..=3 => self.join(&room, who).await,
                4 | 5 => self.leave(&room, who).await,
                6 => self.come_back().await,
                7 => self.resume(who).await,
                _ => self.read_what_is_there().await,
            }
        }
        for room in self.rooms.clone().iter() {
            if !self.places[room].follows() {
                self.join(room, 0).await;
            }
        }
        if self.waits {
            done.wait_for(|done| *done).await.unwrap();
        }
        self
    }

    /// Reads on to the end of each room, and compares what was seen with the log.
    pub async fn check(mut self, truth: &HashMap<String, Vec<String>>) {
        for (room, events) in truth {
            let end = events.len() as u64;
            while self.places[room].last < end {
                let frame = self.next().await;
                assert!(frame.get("seq").is_some(), "{frame}");
            }
        }
        self.read_what_is_there().await;
        for (room, events) in truth {
            let place = &self.places[room];
            assert_eq!(place.last, events.len() as u64, "{room}: more than there is");
            for (seq, event) in &place.seen {
                assert_eq!(*event, events[*seq as usize - 1], "{room}");
            }
        }
    }

    async fn connect(&mut self) {
        self.client = Some(match self.waits {
            true => Client::narrow(self.addr, 4096).await,
            false => Client::greeted(self.addr).await,
        });
        for place in self.places.values_mut() {
            place.follows_as = [None, None];
        }
    }

    fn client(&mut self) -> &mut Client {
        self.client.as_mut().unwrap()
    }

    /// The next frame. If it is an event it must be the one that is due, and is noted.
    async fn next(&mut self) -> Value {
        let text = self.client().next_text().await;
        let frame: Value = serde_json::from_str(&text).unwrap();
        let kind = frame["type"].as_str().unwrap();
        let (Some(seq), true) = (frame["seq"].as_u64(), kind != "ack") else { return frame };
        let place = self.places.get_mut(frame["room"].as_str().unwrap()).unwrap();
        assert!(place.follows(), "not following, and got {text}");
        assert_eq!(seq, place.last + 1, "after {} came {text}", place.last);
        place.last = seq;
        for (user, as_of) in self.users.iter().zip(&mut place.follows_as) {
            let left = kind == "leave" && frame["user_id"] == **user;
            *as_of = as_of.filter(|as_of| !left || *as_of >= seq);
        }
        place.seen.push((seq, text));
        frame
    }

    /// Reads until a frame of that type, which is not an event.
    async fn until(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] == kind && (kind == "ack" || frame.get("seq").is_none()) {
                return frame;
            }
            assert!(frame.get("seq").is_some(), "wanted {kind}, got {frame}");
        }
    }

    async fn read_what_is_there(&mut self) {
        self.client().send(json!({"type": "ping"})).await;
        self.until("pong").await;
    }

    /// Joins from a random place, whether the socket follows already or not.
    async fn join(&mut self, room: &str, who: usize) {
        let mut command = json!({"type": "join", "user_id": self.users[who], "room": room});
        let last = self.places[room].last;
        let start = self.random.random_range(0..5);
        // Also a little above what was seen, and so perhaps above the room's end.
        let since = self.random.random_range(0..=last + 3);
        let count = self.random.random_range(0..=8);
        match start {
            0 => {}
            1 => command["last"] = count.into(),
            2 => command["since"] = since.into(),
            _ => command["since"] = last.into(),
        }
        let new_member = !self.places[room].members[who];
        self.client().send(command.clone()).await;
        let joined = self.until("joined").await;
        let last_seq = joined["last_seq"].as_u64().unwrap();
        let follows = self.follow(room, who, last_seq);
        if follows {
            return;
        }
        let own = last_seq - u64::from(new_member);
        let since = command["since"].as_u64();
        let place = match (since, command["last"].as_u64()) {
            (Some(since), _) if since > last_seq => {
                let reset = json!({"type": "reset", "room": room, "last_seq": last_seq});
                self.client().expect(reset).await;
                last_seq
            }
            (Some(since), _) => since,
            (None, Some(count)) => own.saturating_sub(count),
            (None, None) => own,
        };
        self.places.get_mut(room).unwrap().last = place;
    }

    /// Notes that the socket follows as this user. `true`: it followed already.
    fn follow(&mut self, room: &str, who: usize, last_seq: u64) -> bool {
        let place = self.places.get_mut(room).unwrap();
        let follows = place.follows();
        place.members[who] = true;
        let as_of = &mut place.follows_as[who];
        *as_of = Some(as_of.unwrap_or(0).max(last_seq));
        follows
    }

    async fn leave(&mut self, room: &str, who: usize) {
        let mut command = json!({"type": "leave", "user_id": self.users[who], "room": room});
        let place = self.places.get_mut(room).unwrap();
        let was_member = std::mem::take(&mut place.members[who]);
        let follows = place.follows();
        let with_id: bool = self.random.random();
        if with_id {
            command["id"] = self.random.random::<u64>().to_string().into();
        }
        self.client().send(command).await;
        if !was_member {
            let problem = self.until("error").await;
            assert!(problem["code"] == "not_member", "{problem}");
            return;
        }
        let mut wants_ack = with_id || !follows;
        let mut wants_event = follows;
        while wants_ack || wants_event {
            let frame = self.next().await;
            if frame["type"] == "ack" {
                assert!(wants_ack, "{frame}");
                wants_ack = false;
            }
            // One that was not followed as may leave, too, and its event is one as any.
            let own = frame["type"] == "leave" && frame["user_id"] == self.users[who];
            wants_event &= !(own && frame["room"] == room && self.is_over(room, who));
        }
    }

    /// Whether the socket does not follow the room as this user.
    fn is_over(&self, room: &str, who: usize) -> bool {
        self.places[room].follows_as[who].is_none()
    }

    /// Vanishes, with or without a close, and is there again as if for the first time.
    async fn come_back(&mut self) {
        let client = self.client.take().unwrap();
        if self.random.random() {
            client.close().await;
        }
        self.connect().await;
    }

    /// Resumes every room from the last seq seen, as one of the users, after a new start or not.
    async fn resume(&mut self, who: usize) {
        if self.random.random() {
            self.come_back().await;
        }
        let rooms: serde_json::Map<String, Value> =
            self.places.iter().map(|(room, place)| (room.clone(), place.last.into())).collect();
        let resume = json!({"type": "resume", "user_id": self.users[who], "rooms": rooms});
        self.client().send(resume).await;
        let mut ends = HashMap::new();
        for room in rooms.keys() {
            if !self.places[room].members[who] {
                let problem = self.until("error").await;
                assert!(problem["code"] == "not_member" && problem["room"] == **room, "{problem}");
                continue;
            }
            let joined = self.until("joined").await;
            assert_eq!(joined["room"], **room);
            let last_seq = joined["last_seq"].as_u64().unwrap();
            self.follow(room, who, last_seq);
            ends.insert(room, last_seq);
        }
        let resumed = self.until("resumed").await;
        for (room, end) in ends {
            let at = resumed["rooms"][room].as_u64().unwrap();
            assert!(at >= end, "{room}: {resumed}, but it was at {end} before");
            assert!(self.places[room].last >= at, "{room}: {resumed} before its replay");
        }
    }
}
