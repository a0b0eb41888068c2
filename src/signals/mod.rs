//! Signals: who is online, who is typing, how far others have read.
//!
//! Signals are not events of the log, and must not cost a message anything. A follower gets them
//! only while it is live and its socket has nothing to send (`Follower::signal`); what it missed is
//! not kept. Whether a user may send or see them was checked before.
//!
//! - Presence (`presence`) is derived from the followers that a node has anyway, for rooms that
//!   somebody asked about, when somebody came or went (`hub::Door`). A room that nobody asks about
//!   costs nothing.
//! - Typing (`typing`) is sent a few times a second, room by room.
//! - Read marks (`marks`) are stored in batches, and then sent.
//!
//! Nodes exchange signals on the channel `chat:signals` (`wire`), where messages may be lost.

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

/// Whose slots are counted together (`Shares`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    Address(IpAddr),
    User(UserId),
    /// Another node. It has limits of its own.
    Node(Arc<str>),
}

/// How often presence and typing are checked: fast enough to seem immediate, rarely enough to cost
/// little.
const TICK: Duration = Duration::from_millis(200);
/// How often per lease a node repeats everything: two of the messages may be lost.
const ROUNDS_PER_LEASE: u32 = 3;

/// One per node.
pub struct Signals {
    node: String,
    config: SignalsConfig,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    /// Locked before any lock of a room or follower.
    presence: Mutex<Presence>,
    typing: Mutex<Typing>,
    marks: Marks,
    /// To the other nodes, if there can be any. Bounded by `signals.queue_len_max`; when it is
    /// full, signals are lost.
    out: Option<mpsc::Sender<Vec<u8>>>,
    /// Whether the other nodes can be reached.
    connected: AtomicBool,
    /// Counts messages about presence that were received.
    heard: watch::Sender<u64>,
}

impl Signals {
    /// `mirrored`: the channels to and from other nodes, if there can be any.
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

    /// Nothing under this lock can panic; if it did, leases would correct the state.
    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn typing(&self) -> MutexGuard<'_, Typing> {
        self.typing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that this node knows who is online in the room on all nodes; the first time,
    /// waits a moment for their answers. Call before `who`. `asks`: the parties whose slot the room
    /// takes.
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
                // A peer did not answer. If it lives, watchers get its users with its next round.
                return self.presence().give_up(room);
            }
        }
    }

    /// Calls `answer` with who is online in the room, on all nodes as far as this one knows.
    /// `asks`: the user who asks, if they are online there.
    ///
    /// A race that this prevents:
    /// 1. An answer is made, without user 2.
    /// 2. User 2 comes, and a tick sends that, before the answer is with the socket.
    /// 3. The answer arrives, and the client forgets user 2.
    ///
    /// So the answer goes to the socket under the lock that a tick must take.
    pub fn who(&self, name: &RoomName, asks: Option<&UserId>, answer: impl FnOnce(&Crowd)) {
        let (mut presence, now) = (self.presence(), Instant::now());
        if !presence.is_kept(name) {
            // There was no slot for the room: only its users on this node are known, and no tick
            // sends changes.
            drop(presence);
            return answer(&glance(&self.hub, name, self.config.listed_max));
        }
        if presence.may_look(name, now) {
            let seen = quick_look(&self.hub, name, self.config.listed_max);
            presence.seen(name, seen, true, now);
        }
        answer(&presence.snapshot(name, asks).unwrap_or_else(Crowd::nobody));
    }

    /// A member is typing. Others hear of it within a moment, unless they just did, or the member's
    /// message comes first. `since`: the room's edge here when the command was read.
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

    /// A member has read up to a seq. `false`: too many marks wait.
    pub fn read(&self, mark: &Mark, address: IpAddr) -> bool {
        self.marks.put(mark, address)
    }

    /// Waits until the user's marks are stored, but no longer than until `due`.
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
        // The others keep its users for a moment: they are about to reconnect there.
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
                // Other nodes may have forgotten this node or never known it, and the reverse.
                self.presence().forgive();
                return self.say_everything(true);
            }
            // Users on other nodes stay online until their leases end: most outages of Redis are
            // shorter and go unnoticed.
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

    /// Tells a waiting peer who is online here.
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

    /// Sends it to the other nodes, if it is not empty.
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
        // Sending takes a moment per follower. Storing does not wait for it.
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
                // If it is full, the marks are stored but not sent.
                let _ = moved.try_send(told);
            };
            self.marks.run(log.marker(), pause, &tasks, hand_on).await;
        };
        tokio::join!(store, tell);
    }
}

/// Lists of stored marks that may wait to be sent.
const TOLD_LEN: usize = 16;

/// Leaves out marks of rooms that have too many.
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
