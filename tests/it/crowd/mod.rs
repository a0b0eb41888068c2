//! A crowd under load: talkers that send everything until it is acked, mumblers that send nothing
//! twice, followers that write down what they are shown, and in the end the checker over all of it.
//!
//! It does nothing to the server; a test does, while the crowd goes on.

mod follower;
mod line;
mod mumbler;
mod record;
mod talker;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use verbatim::config::LogConfig;
use verbatim_checker::{History, Kind, Report, ViewOf, check};

use self::follower::{Ends, Followed, Follower, Place};
pub use self::line::Line;
use self::mumbler::Mumbler;
pub use self::record::Record;
use self::talker::{Talker, Told};
use crate::harness::PATIENCE;
use crate::stored::{Stored, stored};

/// Each talker is a member of every room from the start.
pub const ROOMS: [&str; 3] = ["general", "random", "quiet"];

/// Who makes the rooms.
const FOUNDER: &str = "founder";

/// Violations that a failure shows, with what was around them.
const SHOWN_MAX: usize = 3;

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
    record: Arc<Record>,
    /// Commands of the founder so far.
    founded: usize,
    talkers: Vec<JoinHandle<Told>>,
    /// What the talkers had to tell, once they are done.
    told: Vec<Told>,
    /// Connections beyond the first, of the mumblers.
    reconnects: usize,
    mumblers: Vec<JoinHandle<Mumbler>>,
    followers: Vec<JoinHandle<Followed>>,
    talking: watch::Sender<bool>,
    ends: watch::Sender<Ends>,
    progress: watch::Sender<Progress>,
}

/// What came of it.
pub struct Outcome {
    history: History,
    report: Report,
    /// Events of one room that one follower was shown, at most.
    most_shown: usize,
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
        let (talking, _) = watch::channel(true);
        let (ends, _) = watch::channel(None);
        let (progress, _) = watch::channel(Progress::default());
        let mut crowd = Self {
            record: Arc::new(Record::new()),
            founded: 0,
            talkers: Vec::new(),
            told: Vec::new(),
            reconnects: 0,
            mumblers: Vec::new(),
            followers: Vec::new(),
            talking,
            ends,
            progress,
        };
        let mut line = Line::open(&addresses[0]).await;
        for room in ROOMS {
            crowd.found(&mut line, json!({"type": "create", "room": room})).await;
            for user in names("talker", addresses.len() * talkers) {
                let join = json!({"type": "join", "user_id": user, "room": room, "id": "join"});
                let mouth = crowd.record.mouth(&line.node, FOUNDER);
                crowd.record.sent(crowd.record.command(Kind::Join, &join), mouth);
                assert_eq!(line.ask(join).await["type"], "joined");
            }
        }
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
            record: self.record.clone(),
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
            record: self.record.clone(),
            said: 0,
            connections: 0,
        };
        self.mumblers.push(tokio::spawn(mumbler.run()));
    }

    fn add_follower(&mut self, user: String, address: watch::Receiver<SocketAddr>) {
        let place = |room: &str| {
            let mut history = self.record.history();
            let (number, number_of_user) = (history.room(room), history.user(&user));
            let (who, as_user) = (&*user, Some(number_of_user));
            let view = history.view(&ViewOf { who, room: number, user: as_user, slow: false });
            let (asked_at, is_joined) = (0, false);
            (room.to_owned(), Place { view, last: 0, shown: 0, asked_at, is_joined })
        };
        let views: BTreeMap<String, Place> = ROOMS.map(place).into();
        let (ends, record) = (self.ends.subscribe(), self.record.clone());
        let follower = Follower { user, address, ends, record, views, connections: 0 };
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
            self.reconnects += mumbler.connections - 1;
        }
    }

    /// A last message in every room, by each of the addresses.
    pub async fn last_words(&mut self, addresses: &[watch::Receiver<SocketAddr>]) {
        for address in addresses {
            let mut line = Line::open(address).await;
            for room in ROOMS {
                let message = json!({"type": "message", "room": room, "message": "good night"});
                self.found(&mut line, message).await;
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
        let (mut reconnects, mut slowest, mut most_shown) = (self.reconnects, Duration::ZERO, 0);
        for told in self.told {
            reconnects += told.connections - 1;
            slowest = slowest.max(told.slowest);
        }
        self.ends.send_replace(Some(ends));
        for follower in self.followers {
            let followed = Follower::finish(follower).await;
            reconnects += followed.connections - 1;
            most_shown = most_shown.max(followed.most_shown);
        }
        let (progress, stored) = (*self.progress.borrow(), stored(log).await);
        let record = Arc::into_inner(self.record).expect("all who wrote it have ended");
        let mut history = record.into_history();
        stored.record(&mut history);
        let report = check(&history);
        Outcome { history, report, most_shown, stored, progress, reconnects, slowest }
    }

    /// The end of a test with one server: everything is answered, and everything was seen.
    pub async fn end(mut self, log: &LogConfig) -> Outcome {
        self.hush().await;
        let ends = self.ends(log).await;
        self.outcome(ends, log).await
    }
}

impl Outcome {
    /// Every promise was kept.
    pub fn assert_kept(&self) {
        assert_kept(&self.history, &self.report);
        // And it was a story worth telling.
        let acked = self.report.counts.acked;
        assert!(acked > 100, "only {acked} commands were acked");
        assert!(self.most_shown > 100, "nobody was shown more than {} events", self.most_shown);
    }
}

/// Or a failure that shows what went wrong.
pub fn assert_kept(history: &History, report: &Report) {
    let shown = report.violations.iter().take(SHOWN_MAX);
    let shown: Vec<_> = shown.map(|violation| violation.context(history)).collect();
    assert!(report.is_clean(), "{:?}\n{}", report.totals, shown.join("\n"));
}

impl Crowd {
    /// A command of the founder, which must be acked, if not at once.
    async fn found(&mut self, line: &mut Line, mut command: Value) {
        let id = format!("{FOUNDER}-{}", self.founded);
        self.founded += 1;
        (command["user_id"], command["id"]) = (FOUNDER.into(), id.into());
        let kind = Kind::named(command["type"].as_str().expect("a command"));
        let recorded = self.record.command(kind, &command);
        let mouth = self.record.mouth(&line.node, FOUNDER);
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.record.sent(recorded, mouth);
            let answer = line.ask(command.clone()).await;
            self.record.answered(recorded, mouth, &answer);
            if answer["type"] == "ack" {
                return;
            }
            // Where nodes are impatient, and the machine stood still.
            assert!(answer["code"] == "unavailable" && Instant::now() < deadline, "{answer}");
        }
    }
}

fn names(what: &str, count: usize) -> impl Iterator<Item = String> + '_ {
    (1..=count).map(move |number| format!("{what}-{number}"))
}
