//! The middle of a real node: lanes, relay, hub, desk, replays and doubts. Its log is in memory,
//! and a channel brings what other nodes commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::chance::{Chance, ms};
use super::plan::Plan;
use super::truth::{self, Truth};
use crate::budget::Budgets;
use crate::config::Config;
use crate::desk::Desk;
use crate::desk::pace::Pace;
use crate::doubt::Doubts;
use crate::feed::Feed;
use crate::hub::Hub;
use crate::lane::{Answer, Lanes};
use crate::log::memory::{Leg, Memory};
use crate::log::{Log, LogError};
use crate::metrics::Metrics;
use crate::mirror::{Incoming, Mirrored};
use crate::model::{ClientId, Event, Text};
use crate::protocol::command::Verb;
use crate::protocol::frame;
use crate::relay::Relay;
use crate::replay::Replay;
use crate::rules::Write;
use crate::signals::Signals;
use crate::socket::Queues;
use crate::tasks::Tasks;

/// `Incoming`s that may wait, as in `mirror`.
const INCOMING_LEN: usize = 8;

pub struct Node {
    pub chance: Chance,
    pub plan: Plan,
    pub truth: Arc<Truth>,
    pub memory: Memory,
    pub weather: Arc<Weather>,
    pub desk: Arc<Desk>,
    pub feed: mpsc::Sender<Incoming>,
    pub queues: Arc<Queues>,
    /// Tasks that run as long as the node.
    pub tasks_len: usize,
}

/// The state of the log.
#[derive(Default)]
pub struct Weather {
    pub is_away: AtomicBool,
    pub loses_answers: AtomicBool,
}

impl Node {
    /// A node, and what is committed from then on, for `carrier`.
    pub fn start(
        chance: &Chance,
        plan: Plan,
        defaults: &Config,
        metrics: &Arc<Metrics>,
    ) -> (Self, mpsc::UnboundedReceiver<Mirrored>) {
        let (truth, weather) = (Arc::new(Truth::default()), Arc::new(Weather::default()));
        let (commits, committed) = mpsc::unbounded_channel();
        let memory = memory(chance, &truth, &weather, commits);
        let config = plan.config(defaults);
        metrics.rooms_followed.set(0);
        let tasks = Tasks::new(metrics.panics.clone());
        let (log, budgets) = (Log::Memory(memory.clone()), Budgets::new(&config));
        let hub_config = || config.hub.clone();
        let hub = Hub::new(hub_config(), budgets.clone(), metrics.clone(), tasks.clone());
        let relay =
            Relay::new(hub.clone(), log.clone(), hub_config(), metrics.clone(), tasks.clone());
        let doubts = Doubts::start(&log, &hub, &relay, &tasks);
        let (feed, incoming) = mpsc::channel(INCOMING_LEN);
        tasks.spawn("feed", Feed { incoming, relay: relay.clone(), doubts }.run());
        // Nobody asks who is online.
        let ended = Tasks::new(metrics.panics.clone());
        ended.stop();
        let signals = Signals::start(&config, &hub, &log, None, metrics, &ended);
        let lanes = Lanes::start(&config.lane, &log, &relay, None, metrics, &tasks);
        let page_len = config.hub.page_len;
        let replay = Replay::new(log.clone(), page_len, budgets.unsent.clone(), metrics.clone());
        let (unsent, inbound) = (budgets.unsent.clone(), budgets.inbound.clone());
        let queues = Arc::new(Queues { bytes: metrics.queue.clone(), unsent, inbound });
        let tasks_len = tasks.len();
        let desk = Arc::new(Desk {
            pace: Pace::new(&config, Instant::now()),
            config,
            budgets,
            log,
            lanes,
            hub,
            relay,
            replay,
            signals,
            status: None,
            metrics: metrics.clone(),
            tasks,
        });
        let (chance, feed) = (chance.clone(), feed);
        let node = Self { chance, plan, truth, memory, weather, desk, feed, queues, tasks_len };
        (node, committed)
    }

    /// Sends a command that comes from no socket through this node's lane.
    pub fn submit(
        &self,
        room: usize,
        user: usize,
        verb: Verb,
        id: Option<&str>,
    ) -> oneshot::Receiver<Answer> {
        let id = id.map(ClientId::stored);
        let (answered, parked) = self.desk.lanes.submit(Write { id, ..write(room, user, verb) });
        if let Some(parked) = parked {
            tokio::spawn(parked.send());
        }
        answered
    }
}

pub fn write(room: usize, user: usize, verb: Verb) -> Write {
    Write { room: truth::room(room), caller: truth::user(user), id: None, verb }
}

pub fn message(chance: &Chance) -> Verb {
    let len = *chance.pick(&[1, 3, 20, 60, 200]);
    Verb::Message(Text::stored(&"x".repeat(len)))
}

fn memory(
    chance: &Chance,
    truth: &Arc<Truth>,
    weather: &Arc<Weather>,
    commits: mpsc::UnboundedSender<Mirrored>,
) -> Memory {
    let (truth, chance, weather) = (truth.clone(), chance.clone(), weather.clone());
    let teller = chance.clone();
    let witness = Box::new(move |event: &Event| {
        let frame = frame::event(event);
        truth.committed(event, &frame);
        let (room, seq) = (event.room.clone(), event.seq);
        teller.tell(|| format!("committed: {room} {seq} {}", event.kind.name()));
        let left = event.left().cloned();
        // An error: the schedule is over.
        let _ = commits.send(Mirrored { room, seq, frame, left });
    });
    let way = Box::new(move |leg| {
        let passed = pass(chance.clone(), weather.clone(), leg);
        Box::pin(passed) as crate::log::memory::Passed
    });
    Memory::new(way, witness)
}

async fn pass(chance: Chance, weather: Arc<Weather>, leg: Leg) -> Result<(), LogError> {
    chance.pause().await;
    let is_append = matches!(leg, Leg::Append | Leg::FromAppend);
    if weather.is_away.load(Relaxed) {
        if chance.percent(20) {
            sleep(ms(chance.between(50, 3000))).await;
        }
        let away = "a test says so".into();
        return Err(match leg {
            Leg::FromAppend => LogError::Unknown(away),
            _ => LogError::Unavailable(away),
        });
    }
    if is_append && weather.loses_answers.load(Relaxed) && chance.percent(15) {
        return Err(LogError::Unknown("a test says so".into()));
    }
    Ok(())
}
