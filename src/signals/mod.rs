//! Signs of life: who is online, who is typing, how far each has read.
//!
//! None of this is in the log's events, and none of it may cost a message anything: a follower is
//! told only while it is live and its socket has nothing to send (`Follower::signal`), and what it
//! missed is not kept for it. It decides nothing about rooms and members; the session does.
//!
//! - Presence (`presence`) is worked out from the followers that a node has anyway, for rooms that
//!   somebody asked about, and when somebody came or went (`hub::Door`). A room that nobody asks
//!   about costs nothing.
//! - Who types (`typing`) is told a few times a second, room by room.
//! - Read marks (`marks`) are stored in batches, and told then.
//!
//! Nodes tell each other on the channel `chat:signals` (`wire`), which loses what it loses.

mod marks;
mod presence;
mod tell;
mod typing;
mod wire;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout_at};

use self::marks::Marks;
pub use self::presence::Crowd;
use self::presence::{Gap, Limits, Presence, Said};
use self::tell::{glance, look, quick_look, silent_up_to};
use self::typing::{Typing, Typist};
use self::wire::{Message, Words};
use crate::config::{Config, SignalsConfig};
use crate::hub::Hub;
use crate::log::{Log, Mark};
use crate::metrics::Metrics;
use crate::mirror::Signal;
use crate::model::{RoomName, Seq, UserId};
use crate::tasks::Tasks;

/// Whose places count together, of those that there are so many of (`Shares`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    Address(IpAddr),
    User(UserId),
    /// Another node, which has limits of its own.
    Node(Arc<str>),
}

/// How often it is looked who came, went or types: what people see at once, and not so often that
/// looking costs anything.
const TICK: Duration = Duration::from_millis(200);
/// How often in a lease a node says everything again: two of the messages may be lost.
const ROUNDS_PER_LEASE: u32 = 3;

/// One to a node.
pub struct Signals {
    node: String,
    config: SignalsConfig,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    /// Taken before any room's or follower's lock.
    presence: Mutex<Presence>,
    typing: Mutex<Typing>,
    marks: Marks,
    /// To the other nodes, if there may be any. Bounded by `signals.queue_len_max`; when it is
    /// full, what is said is lost.
    out: Option<mpsc::Sender<Vec<u8>>>,
    /// Whether the other nodes can be reached now.
    connected: AtomicBool,
    /// Counts what was heard about presence.
    heard: watch::Sender<u64>,
}

impl Signals {
    /// `mirrored`: the way to the other nodes and back, if there may be any.
    pub fn start(
        config: &Config,
        hub: &Arc<Hub>,
        log: &Log,
        mirrored: Option<(mpsc::Sender<Vec<u8>>, mpsc::Receiver<Signal>)>,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let (node, config) = (config.node.id.clone(), config.signals.clone());
        let presence = Presence::new(Limits {
            settle: Duration::from_millis(config.settle_ms),
            lease: Duration::from_millis(config.lease_ms),
            listed_max: config.listed_max,
            rooms_max: config.rooms_max,
        });
        let typing_interval = Duration::from_millis(config.typing_interval_ms);
        let typing = Typing::new(typing_interval, config.typing_len_max);
        let marks = Marks::new(config.read_len_max);
        let (out, incoming) = mirrored.unzip();
        let signals = Arc::new(Self {
            node,
            config,
            hub: hub.clone(),
            metrics: metrics.clone(),
            presence: Mutex::new(presence),
            typing: Mutex::new(typing),
            marks,
            out,
            connected: AtomicBool::new(false),
            heard: watch::Sender::new(0),
        });
        tasks.spawn("signals", signals.clone().run(incoming, tasks.clone()));
        tasks.spawn("read marks", signals.clone().store(log.clone(), tasks.clone()));
        signals
    }

    /// Nothing that runs under this lock can panic; if it did, leases would put it right.
    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn typing(&self) -> MutexGuard<'_, Typing> {
        self.typing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that this node knows who is online in the room, on all nodes; waits a moment for
    /// them the first time. To be followed by `who`. `asks`: for whom it takes a place.
    pub async fn gather(&self, room: &RoomName, asks: &[Party]) {
        let now = Instant::now();
        let mut heard = self.heard.subscribe();
        let gap = {
            let mut presence = self.presence();
            let connected = self.connected.load(Ordering::Relaxed);
            if presence.want(room, asks, now) && connected { presence.gap(room, now) } else { None }
        };
        let Some(Gap { ask, until }) = gap else { return };
        if ask {
            let ask = Said { ask: vec![room.clone()], ..Said::default() };
            self.say(Words { said: ask, ..Words::default() });
        }
        while !self.presence().is_whole(room, now) {
            if !matches!(timeout_at(until.into(), heard.changed()).await, Ok(Ok(()))) {
                // Somebody did not answer. If they live, watchers hear of it with their next round.
                return self.presence().give_up(room);
            }
        }
    }

    /// Hands `answer` who is online in the room now, on all nodes as far as this one knows. `asks`:
    /// the user who asks, if they are online there.
    ///
    /// The race this closes: the answer is worked out, and does not have 2, who comes. Before it is
    /// with the socket a tick finds that 2 is there, and tells it. Then comes the answer, and the
    /// client forgets 2. So the answer goes to the socket under the lock that a tick must take.
    pub fn who(&self, name: &RoomName, asks: Option<&UserId>, answer: impl FnOnce(&Crowd)) {
        let (mut presence, now) = (self.presence(), Instant::now());
        if !presence.is_kept(name) {
            // There is no place for the room: its people here are all that is known, and no tick
            // tells of them.
            drop(presence);
            return answer(&glance(&self.hub, name, self.config.listed_max));
        }
        if presence.may_look(name, now) {
            let seen = quick_look(&self.hub, name, self.config.listed_max);
            presence.seen(name, seen, true, now);
        }
        answer(&presence.snapshot(name, asks).unwrap_or_else(Crowd::nobody));
    }

    /// A member types. Others hear of it within a moment, unless they did so a moment ago, or the
    /// member's message comes first. `since`: the room's edge here when they said so.
    pub fn types(&self, room: &RoomName, user: UserId, address: IpAddr, since: Option<Seq>) {
        self.note(room, Typist { user, from: Party::Address(address), since });
    }

    fn note(&self, name: &RoomName, typist: Typist) {
        let room = self.hub.room(name);
        let user = typist.user.clone();
        let silent = |since| match &room {
            Some(room) => silent_up_to(room, &user, since),
            None => Some(since),
        };
        self.typing().types(name, typist, Instant::now(), silent);
    }

    /// A member has read up to there. `false`: too many marks wait.
    pub fn read(&self, mark: &Mark, address: IpAddr) -> bool {
        self.marks.put(mark, address)
    }

    /// Waits until what the user said they have read is stored, but no longer than until `due`.
    pub async fn stored(&self, user: &UserId, due: tokio::time::Instant) {
        self.marks.stored(user, due).await;
    }

    async fn run(self: Arc<Self>, incoming: Option<mpsc::Receiver<Signal>>, tasks: Tasks) {
        let mut incoming = incoming;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let round = Duration::from_millis(self.config.lease_ms) / ROUNDS_PER_LEASE;
        let mut rounds = interval(round);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.on_tick().await,
                _ = rounds.tick(), if self.out.is_some() => self.say_everything(false),
                signal = next(&mut incoming) => match signal {
                    Some(signal) => self.on_signal(signal).await,
                    None => incoming = None,
                },
                () = tasks.stopping() => break,
            }
        }
        // The others keep its users for a moment: they are on their way to them.
        let said = Said { gone: true, ..Said::default() };
        self.say(Words { said, ..Words::default() });
    }

    async fn on_tick(&self) {
        let rooms = self.presence().rooms();
        for (name, is_new) in rooms {
            if let Some(seen) = look(&self.hub, &name, is_new, self.config.listed_max).await {
                self.presence().seen(&name, seen, false, Instant::now());
            }
        }
        let (tells, online) = self.presence().tick(Instant::now());
        for tell in tells {
            self.tell_presence(&tell).await;
        }
        let typing = self.typing().take(Instant::now());
        let mut typed_here = Vec::new();
        for (room, typists) in typing {
            let typists = self.tell_typing(&room, typists).await;
            let here = typists.into_iter().filter(Typist::is_here);
            typed_here.extend(here.map(|typist| (room.clone(), typist.user, typist.since)));
        }
        let said = Said { online, ..Said::default() };
        self.say(Words { said, typing: typed_here, ..Words::default() });
        self.metrics.presence_rooms.set(self.presence().len() as i64);
    }

    async fn on_signal(&self, signal: Signal) {
        let message = match signal {
            Signal::Connected => {
                self.connected.store(true, Ordering::Relaxed);
                // Others have forgotten this node, or never heard of it, and it them.
                self.presence().forgive();
                return self.say_everything(true);
            }
            // Who was online on other nodes is so until their leases are over: most absences of
            // Redis are shorter, and nobody need notice.
            Signal::Away => return self.connected.store(false, Ordering::Relaxed),
            Signal::Message(json) => Message::parse(&json),
        };
        let Some(message) = message.filter(|message| message.node != self.node) else { return };
        let (now, said) = (Instant::now(), message.said());
        let asked = said.ask.clone();
        self.presence().hear(&message.node, said, now);
        self.heard.send_modify(|heard| *heard += 1);
        if message.hello {
            self.presence().forgive();
            self.say_everything(false);
        }
        if !asked.is_empty() {
            self.answer(&asked);
        }
        let peer: Arc<str> = message.node.as_str().into();
        for (room, user, since) in message.typing() {
            let since = since.or_else(|| self.hub.room(&room)?.edge());
            self.note(&room, Typist { user, from: Party::Node(peer.clone()), since });
        }
        self.tell_read(message.read().collect()).await;
    }

    /// Tells a peer that waits for it who is online here.
    fn answer(&self, rooms: &[RoomName]) {
        let mut presence = self.presence();
        let now = Instant::now();
        for name in rooms {
            if presence.may_look(name, now) {
                let seen = quick_look(&self.hub, name, self.config.listed_max);
                presence.seen(name, seen, true, now);
            }
        }
        let online = presence.answer(rooms, now);
        drop(presence);
        self.say(Words { said: Said { online, ..Said::default() }, ..Words::default() });
    }

    fn say_everything(&self, hello: bool) {
        let said = self.presence().round(Instant::now());
        self.speak(Words { hello, said, ..Words::default() });
    }

    /// Says it to the other nodes, if there is anything to say.
    fn say(&self, words: Words) {
        let Words { said, typing, read, hello } = &words;
        if *hello || *said != Said::default() || !typing.is_empty() || !read.is_empty() {
            self.speak(words);
        }
    }

    fn speak(&self, words: Words) {
        let Some(out) = &self.out else { return };
        for message in words.messages(&self.node) {
            if out.try_send(message).is_err() {
                self.metrics.signals_lost.inc();
            }
        }
    }

    async fn store(self: Arc<Self>, log: Log, tasks: Tasks) {
        let pause = Duration::from_millis(self.config.read_flush_ms);
        // Telling takes a moment for each follower; storing does not wait for it.
        let (moved, mut told) = mpsc::channel::<Vec<Mark>>(TOLD_LEN);
        let tell = async {
            while let Some(marks) = told.recv().await {
                let read = marks.clone();
                self.tell_read(marks).await;
                self.say(Words { read, ..Words::default() });
            }
        };
        let store = async {
            let signals = &self;
            let hand_on = move |marks: Vec<Mark>| {
                signals.metrics.read_marks.inc_by(marks.len() as u64);
                let told = by_room(marks, signals.config.read_told_max);
                // Full: they are stored all the same, and told to nobody.
                let _ = moved.try_send(told);
            };
            self.marks.run(log.marker(), pause, &tasks, hand_on).await;
        };
        tokio::join!(store, tell);
    }
}

/// Lists of stored marks that wait to be told.
const TOLD_LEN: usize = 16;

/// The marks without those of rooms that have too many.
fn by_room(marks: Vec<Mark>, told_max: usize) -> Vec<Mark> {
    let mut lens: HashMap<RoomName, usize> = HashMap::new();
    let mut fits = |mark: &Mark| {
        let len = lens.entry(mark.room.clone()).or_default();
        *len += 1;
        *len <= told_max
    };
    marks.into_iter().filter(|mark| fits(mark)).collect()
}

async fn next(incoming: &mut Option<mpsc::Receiver<Signal>>) -> Option<Signal> {
    match incoming {
        Some(incoming) => incoming.recv().await,
        None => std::future::pending().await,
    }
}
