//! A crowd under load: talkers that send everything until it is acked, mumblers that send nothing
//! twice, followers that write down what they are shown, and in the end the verdict over all of it.
//!
//! It does nothing to the server; a test does, while the crowd goes on.

mod follower;
mod line;
mod mumbler;
mod talker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use verbatim::config::LogConfig;

use self::follower::{Ends, Follower};
pub use self::line::Line;
use self::mumbler::Mumbler;
use self::talker::{Talker, Told};
use crate::harness::PATIENCE;
use crate::stored::stored;
use crate::verdict::{Key, Receipt, Stored, Story, View, verdict};

/// Each talker is a member of every room from the start.
pub const ROOMS: [&str; 3] = ["general", "random", "quiet"];

/// Who makes the rooms.
const FOUNDER: &str = "founder";

/// Broken words that a failure shows.
const SHOWN_MAX: usize = 12;

/// What the talkers have heard so far, all together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Commands that were answered otherwise than `unavailable`.
    pub answered: usize,
    pub unavailable: usize,
    /// Acks that say: it was there before.
    pub duplicates: usize,
}

impl Progress {
    fn add(&mut self, more: Self) {
        self.answered += more.answered;
        self.unavailable += more.unavailable;
        self.duplicates += more.duplicates;
    }
}

pub struct Crowd {
    /// How the rooms were made, and what the mumblers said.
    founding: Story,
    talkers: Vec<JoinHandle<Told>>,
    /// What the talkers had to tell, once they are done.
    told: Vec<Told>,
    /// Connections beyond the first, of the mumblers.
    reconnects: usize,
    mumblers: Vec<JoinHandle<Mumbler>>,
    followers: Vec<JoinHandle<(Vec<View>, usize)>>,
    talking: watch::Sender<bool>,
    ends: watch::Sender<Ends>,
    progress: watch::Sender<Progress>,
}

/// What came of it.
pub struct Outcome {
    pub story: Story,
    pub stored: Stored,
    pub progress: Progress,
    /// Connections beyond the first of each client.
    pub reconnects: usize,
    /// The longest that an answer took, on a connection that stood.
    pub slowest: Duration,
}

impl Crowd {
    /// Makes `ROOMS`, and gathers `talkers`, `followers` and a mumbler at each of the addresses. A
    /// test that starts a server anew says so by a new address.
    pub async fn gather(
        addresses: &[watch::Receiver<SocketAddr>],
        talkers: usize,
        followers: usize,
        window: usize,
    ) -> Self {
        let mut founding = Story::default();
        let mut line = Line::open(&addresses[0]).await;
        for room in ROOMS {
            found(&mut line, &mut founding, json!({"type": "create", "room": room})).await;
            for user in names("talker", addresses.len() * talkers) {
                let join = json!({"type": "join", "user_id": user, "room": room, "id": "join"});
                assert_eq!(line.ask(join).await["type"], "joined");
            }
        }
        let (talking, _) = watch::channel(true);
        let (ends, _) = watch::channel(None);
        let (progress, _) = watch::channel(Progress::default());
        let mut crowd = Self {
            founding,
            talkers: Vec::new(),
            told: Vec::new(),
            reconnects: 0,
            mumblers: Vec::new(),
            followers: Vec::new(),
            talking,
            ends,
            progress,
        };
        let at = |place: usize, each: usize| addresses[place / each].clone();
        for (place, user) in names("talker", addresses.len() * talkers).enumerate() {
            crowd.add_talker(user, at(place, talkers), window);
        }
        for (place, name) in names("mumbler", addresses.len()).enumerate() {
            crowd.add_mumbler(name, at(place, 1));
        }
        for (place, user) in names("follower", addresses.len() * followers).enumerate() {
            crowd.add_follower(user, at(place, followers));
        }
        crowd
    }

    fn add_talker(&mut self, user: String, address: watch::Receiver<SocketAddr>, window: usize) {
        let talker = Talker {
            user,
            rooms: ROOMS.map(str::to_owned).to_vec(),
            window,
            address,
            talking: self.talking.subscribe(),
            progress: self.progress.clone(),
            told: Told::default(),
            queue: VecDeque::new(),
            under_way: VecDeque::new(),
        };
        self.talkers.push(tokio::spawn(talker.run()));
    }

    fn add_mumbler(&mut self, name: String, address: watch::Receiver<SocketAddr>) {
        let mumbler = Mumbler {
            name,
            user: FOUNDER.to_owned(),
            rooms: ROOMS.map(str::to_owned).to_vec(),
            address,
            talking: self.talking.subscribe(),
            said: BTreeMap::new(),
            connections: 0,
        };
        self.mumblers.push(tokio::spawn(mumbler.run()));
    }

    fn add_follower(&mut self, user: String, address: watch::Receiver<SocketAddr>) {
        let view = |room: &str| {
            let (who, room) = (user.clone(), room.to_owned());
            (room.clone(), View { who, room, after: 0, until: 0, events: Vec::new() })
        };
        let views: BTreeMap<String, View> = ROOMS.map(view).into();
        let ends = self.ends.subscribe();
        let follower = Follower { user, address, ends, views, connections: 0 };
        self.followers.push(tokio::spawn(follower.run()));
    }

    /// What the talkers have heard so far.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits until so many more commands are answered than by now.
    pub async fn answered(&self, more: usize) {
        let wanted = self.progress().answered + more;
        self.wait_for("answers", |progress| progress.answered >= wanted).await;
    }

    /// Waits until so many more commands are answered `unavailable` than by now.
    pub async fn unavailable(&self, more: usize) {
        let wanted = self.progress().unavailable + more;
        self.wait_for("unavailable", |progress| progress.unavailable >= wanted).await;
    }

    async fn wait_for(&self, what: &str, reached: impl Fn(&Progress) -> bool) {
        let mut progress = self.progress.subscribe();
        let wait = progress.wait_for(|progress| reached(progress));
        if timeout(PATIENCE * 2, wait).await.is_err() {
            panic!("waited for {what} in vain: {:?}", self.progress());
        }
    }

    /// No new commands; waits until every one has its answer.
    pub async fn hush(&mut self) {
        self.talking.send_replace(false);
        for talker in &mut self.talkers {
            let told = timeout(PATIENCE * 2, talker).await;
            self.told.push(told.expect("commands are not answered").expect("a talker failed"));
        }
        for mumbler in self.mumblers.drain(..) {
            let mumbler = timeout(PATIENCE * 2, mumbler).await;
            let mumbler = mumbler.expect("a message is not answered").expect("a mumbler failed");
            self.founding.unkeyed.extend(mumbler.said);
            self.reconnects += mumbler.connections - 1;
        }
    }

    /// A last message in every room, by each of the addresses.
    pub async fn last_words(&mut self, addresses: &[watch::Receiver<SocketAddr>]) {
        for address in addresses {
            let mut line = Line::open(address).await;
            for room in ROOMS {
                let message = json!({"type": "message", "room": room, "message": "good night"});
                found(&mut line, &mut self.founding, message).await;
            }
        }
    }

    /// How far each room goes by now.
    pub async fn ends(&self, log: &LogConfig) -> BTreeMap<String, u64> {
        let stored = stored(log).await;
        ROOMS.map(|room| (room.to_owned(), stored.last_seq(room))).into()
    }

    /// After `hush`, once the followers have seen everything up to `ends`.
    pub async fn outcome(self, ends: BTreeMap<String, u64>, log: &LogConfig) -> Outcome {
        let (mut story, mut reconnects) = (self.founding, self.reconnects);
        let mut slowest = Duration::ZERO;
        for told in self.told {
            reconnects += told.connections - 1;
            slowest = slowest.max(told.slowest);
            story.sent.extend(told.sent);
            story.refused.extend(told.refused);
            story.receipts.extend(told.receipts);
        }
        self.ends.send_replace(Some(ends));
        for follower in self.followers {
            let (views, its_connections) = Follower::finish(follower).await;
            reconnects += its_connections - 1;
            story.views.extend(views);
        }
        let (progress, stored) = (*self.progress.borrow(), stored(log).await);
        Outcome { story, stored, progress, reconnects, slowest }
    }

    /// The end of a test with one server: everything is answered, and everything was seen.
    pub async fn end(mut self, log: &LogConfig) -> Outcome {
        self.hush().await;
        let ends = self.ends(log).await;
        self.outcome(ends, log).await
    }
}

impl Outcome {
    /// Every word was kept.
    pub fn assert_kept(&self) {
        let broken = verdict(&self.story, &self.stored);
        let shown = broken.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n  ");
        assert!(broken.is_empty(), "{} broken words:\n  {shown}", broken.len());
        // And it was a story worth telling.
        let acked: BTreeSet<_> = self.story.receipts.iter().map(|it| &it.key).collect();
        assert!(acked.len() > 100, "only {} commands were acked", acked.len());
        assert!(self.story.views.iter().any(|view| view.events.len() > 100));
    }
}

/// A command of the founder, which must be acked.
async fn found(line: &mut Line, founding: &mut Story, mut command: Value) {
    let id = format!("{FOUNDER}-{}", founding.sent.len());
    (command["user_id"], command["id"]) = (FOUNDER.into(), id.clone().into());
    let room = command["room"].as_str().expect("a room").to_owned();
    let key = Key { room, user: FOUNDER.to_owned(), id };
    founding.sent.insert(key.clone());
    let ack = line.ask(command).await;
    let receipt = Receipt::of_frame(key, &ack);
    founding.receipts.push(receipt.unwrap_or_else(|| panic!("not acked: {ack}")));
}

fn names(what: &str, count: usize) -> impl Iterator<Item = String> + '_ {
    (1..=count).map(move |number| format!("{what}-{number}"))
}
