//! One run: it creates rooms, starts the clients, and reads everything back at the end.
//!
//! It judges nothing and breaks nothing. It does everything through the URLs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use verbatim_checker::{Asked, History, Kind, Limits, Start};
use verbatim_client::frame::{Command, Frame};
use verbatim_client::{Connection, Target};

use super::client::{Answered, Client, Gone, Heard, Open, Stage, WAITS};
use super::follower::Follower;
use super::plan::{Plan, Shape, Words};
use super::recorder::Recorder;
use super::shadow::{Paged, page};
use super::talker::Talker;
use super::{Ends, Phase};

/// For creating and joining the rooms, before anything is disturbed.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// For every command to be answered and every follower to be back, once nothing is disturbed any
/// more. Longer than what is promised, which the checker judges. This only bounds a failed run.
const HUSH_TIMEOUT: Duration = Duration::from_secs(30);
/// The same, for every follower to have the last event.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// For reading everything back through one node.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause before a page is requested again that was `unavailable`.
const AGAIN_PAUSE: Duration = Duration::from_millis(100);

pub struct Settings {
    pub targets: Vec<Target>,
    pub seed: u64,
    pub shape: Shape,
    /// A part of the names of rooms and users. No other run on this cluster may have the same.
    pub name: String,
    pub limits: Limits,
}

/// The run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("no Verbatim server answers at {0}")]
    NoAnswer(String),
    #[error(
        "{0} does not know rooms that were created at another URL: these nodes are not one cluster"
    )]
    NotOneCluster(String),
    #[error("{0} within {seconds} s", seconds = BEGIN_TIMEOUT.as_secs())]
    TooSlow(&'static str),
}

pub struct Run {
    stage: Arc<Stage>,
    /// The client that creates the rooms, and reads them back at the end.
    keeper: Client,
    talkers: JoinSet<()>,
    followers: JoinSet<()>,
    followers_len: usize,
    /// What did not finish in time. Each is a failure, whatever else is found.
    pub troubles: Vec<&'static str>,
}

impl Run {
    /// Creates the rooms and starts the clients.
    pub async fn begin(settings: Settings) -> Result<Self, NotReady> {
        let plan = Plan::new(settings.seed, &settings.shape, &settings.name);
        let stage = Arc::new(Stage {
            recorder: Recorder::new(settings.limits),
            targets: settings.targets,
            rooms: plan.rooms.clone(),
            made: Mutex::default(),
            phase: watch::channel(Phase::Talk).0,
            settled: watch::channel(0).0,
            arrived: watch::channel(0).0,
        });
        let name = format!("{}-keeper", settings.name);
        let mut run = Self {
            keeper: Client::new(&stage, "keeper", &name, 0, false),
            stage,
            talkers: JoinSet::new(),
            followers: JoinSet::new(),
            followers_len: plan.followers.len(),
            troubles: Vec::new(),
        };
        for target in &run.stage.targets {
            let line = Connection::open(target, WAITS).await;
            line.map_err(|_| NotReady::NoAnswer(target.url().to_owned()))?.close().await;
        }
        let made = timeout(BEGIN_TIMEOUT, run.make_rooms()).await;
        made.map_err(|_| NotReady::TooSlow("the rooms could not be created"))?;
        for target in 0..run.stage.targets.len() {
            let knows = timeout(BEGIN_TIMEOUT, run.knows_rooms(target)).await;
            if !knows.map_err(|_| NotReady::TooSlow("the rooms could not be read"))? {
                return Err(NotReady::NotOneCluster(run.stage.targets[target].url().to_owned()));
            }
        }
        let talkers = timeout(BEGIN_TIMEOUT, run.enlist(&plan)).await;
        let talkers = talkers.map_err(|_| NotReady::TooSlow("the rooms could not be joined"))?;
        for (client, talker) in talkers.into_iter().zip(&plan.talkers) {
            let words = Words::new(talker, &settings.shape);
            run.talkers.spawn(Talker::new(client, talker, words).run());
        }
        for (number, follower) in plan.followers.iter().enumerate() {
            let name = format!("follower-{}", number + 1);
            let slow = follower.habit == super::plan::Habit::Slow;
            let client = Client::new(&run.stage, &name, &follower.user, follower.home, slow);
            run.followers.spawn(Follower::new(client, follower).run());
        }
        Ok(run)
    }

    pub fn recorder(&self) -> &Recorder {
        &self.stage.recorder
    }

    /// The rooms that the clients talk in.
    pub fn rooms(&self) -> &[String] {
        &self.stage.rooms
    }

    async fn make_rooms(&mut self) {
        while let Ok(mut open) = self.keeper.connect().await {
            let rooms = self.stage.rooms.clone();
            let made = async {
                for room in &rooms {
                    create(&self.keeper, &mut open, room).await?;
                }
                Ok::<(), Gone>(())
            };
            if made.await.is_ok() {
                return open.line.close().await;
            }
        }
    }

    /// Whether that target knows the rooms that were just created.
    async fn knows_rooms(&mut self, target: usize) -> bool {
        self.keeper.home = target;
        while let Ok(mut open) = self.keeper.connect().await {
            let room = self.stage.rooms[0].clone();
            match page(&self.keeper, &mut open, &room, Asked::Newest).await {
                Ok(Paged::Page { .. }) => {
                    open.line.close().await;
                    return true;
                }
                Ok(Paged::Refused) => return false,
                Ok(Paged::Unavailable) | Err(Gone) => self.keeper.home = target,
            }
        }
        false
    }

    /// Makes each talker a member of every room before it sends anything.
    async fn enlist(&self, plan: &Plan) -> Vec<Client> {
        let mut tasks = JoinSet::new();
        for (number, talker) in plan.talkers.iter().enumerate() {
            let name = format!("talker-{}", number + 1);
            let mut client = Client::new(&self.stage, &name, &talker.user, talker.home, false);
            tasks.spawn(async move {
                let rooms = client.stage.rooms.clone();
                while let Ok(mut open) = client.connect().await {
                    let joined = join_all(&mut client, &mut open, &rooms).await;
                    client.unfollow();
                    if joined.is_ok() {
                        open.line.close().await;
                        break;
                    }
                }
                (number, client.fresh())
            });
        }
        let mut clients = tasks.join_all().await;
        clients.sort_by_key(|(number, _)| *number);
        clients.into_iter().map(|(_, client)| client).collect()
    }

    /// Records that nothing is disturbed from now on, so nothing may be late.
    pub fn healed(&self) {
        let now = self.recorder().now();
        self.recorder().history().healed(now);
    }

    /// Ends the talking. Returns when every command is answered and every follower is back, or when
    /// that takes far too long.
    pub async fn hush(&mut self) {
        self.stage.phase.send_replace(Phase::Hush);
        let mut settled = self.stage.settled.subscribe();
        let followers_len = self.followers_len;
        let all = async {
            while self.talkers.join_next().await.is_some() {}
            // Never an error: the run holds the sender.
            let _ = settled.wait_for(|settled| *settled >= followers_len).await;
        };
        if timeout(HUSH_TIMEOUT, all).await.is_err() {
            self.trouble("commands were not answered, or followers could not come back");
        }
    }

    /// Call it after `hush`. Waits until every follower has seen everything, and reads it back.
    pub async fn end(&mut self) {
        match timeout(READ_TIMEOUT, self.ends()).await {
            Ok(ends) => {
                self.stage.phase.send_replace(Phase::End(Arc::new(ends)));
                let mut arrived = self.stage.arrived.subscribe();
                let followers_len = self.followers_len;
                let all = arrived.wait_for(|arrived| *arrived >= followers_len);
                if timeout(END_TIMEOUT, all).await.is_err() {
                    self.trouble("followers did not get all events");
                }
            }
            Err(_) => self.trouble("no node could say which seq each room has reached"),
        }
        for target in 0..self.stage.targets.len() {
            if timeout(READ_TIMEOUT, self.read_back(target)).await.is_err() {
                self.trouble("not everything could be read back");
            }
        }
    }

    /// Call it after `end`. Returns what was recorded.
    pub async fn over(self) -> History {
        let now = self.recorder().now();
        self.recorder().history().ended(now);
        self.stage.phase.send_replace(Phase::Over);
        let Self { mut stage, keeper, mut talkers, followers, .. } = self;
        drop(keeper);
        talkers.shutdown().await;
        followers.join_all().await;
        // Twins end with their talkers, a moment later.
        loop {
            match Arc::try_unwrap(stage) {
                Ok(stage) => return stage.recorder.into_history(),
                Err(shared) => stage = shared,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn trouble(&mut self, what: &'static str) {
        self.recorder().note(what);
        self.troubles.push(what);
    }

    /// The last seq of each room now.
    async fn ends(&mut self) -> Ends {
        let mut ends = Ends::new();
        let rooms = self.stage.rooms.clone();
        while let Ok(mut open) = self.keeper.connect().await {
            for room in rooms.iter().filter(|room| !ends.contains_key(*room)).collect::<Vec<_>>() {
                match page(&self.keeper, &mut open, room, Asked::Newest).await {
                    Ok(Paged::Page { last, .. }) => drop(ends.insert(room.clone(), last)),
                    Ok(_) => {}
                    Err(Gone) => break,
                }
            }
            if ends.len() == rooms.len() {
                open.line.close().await;
                break;
            }
        }
        ends
    }

    /// Reads all rooms, from the first event to the last, through one node.
    async fn read_back(&mut self, target: usize) {
        let made = self.stage.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut rooms: Vec<String> = self.stage.rooms.iter().cloned().chain(made).collect();
        self.keeper.home = target;
        while let Ok(mut open) = self.keeper.connect().await {
            let read = self.read_rooms(&mut open, &mut rooms).await;
            self.keeper.unfollow();
            if read.is_ok() {
                return open.line.close().await;
            }
            self.keeper.home = target;
        }
    }

    /// Reads the rooms, and removes each one from the list when it is read.
    async fn read_rooms(&mut self, open: &mut Open, rooms: &mut Vec<String>) -> Result<(), Gone> {
        while let Some(room) = rooms.last().cloned() {
            if !self.stage.rooms.contains(&room) {
                join_all(&mut self.keeper, open, std::slice::from_ref(&room)).await?;
            }
            let mut after = 0;
            loop {
                match page(&self.keeper, open, &room, Asked::After(after)).await? {
                    Paged::Page { last, more: true } => after = last,
                    Paged::Page { more: false, .. } => break,
                    // The log cannot be reached for a moment.
                    _ => tokio::time::sleep(AGAIN_PAUSE).await,
                }
            }
            rooms.pop();
        }
        Ok(())
    }
}

/// Creates a room, and retries while the server cannot. The room may already exist, if an answer
/// was lost.
async fn create(keeper: &Client, open: &mut Open, room: &str) -> Result<(), Gone> {
    let command = keeper.command(Kind::Create, room, Some("create"), None);
    let (user_id, room, id) = (&*keeper.user, Some(room), Some("create"));
    let create = Command { r#type: "create", user_id, room, id, ..Default::default() };
    loop {
        keeper.sent(open, command);
        open.line.send([create.json()]).await?;
        let text = open.next().await?;
        let frame: Frame<'_> = serde_json::from_str(&text).map_err(|_| Gone)?;
        if keeper.answered(open, command, &frame, &text) != Answered::Unavailable {
            return Ok(());
        }
    }
}

/// Joins those rooms, for new events only, and reads everything until the joins are answered.
async fn join_all(client: &mut Client, open: &mut Open, rooms: &[String]) -> Result<(), Gone> {
    for room in rooms {
        let join = client.join(open, room, Start::Last(0), None);
        open.line.send([join]).await?;
        loop {
            let text = open.next().await?;
            match client.hear(open, &text) {
                Heard::Joined(joined) if joined == *room => break,
                Heard::Answer => {
                    client.not_joined(room);
                    return Err(Gone);
                }
                _ => {}
            }
        }
    }
    Ok(())
}
