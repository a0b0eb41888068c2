//! One schedule: what is done, by whom, and what goes wrong meanwhile, step by step.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::chance::{Chance, ms};
use super::client::Client;
use super::node::{Node, message, write};
use super::session::Session;
use super::truth::{self, HOST};
use crate::budget::Held;
use crate::hub::Room;
use crate::lane::Answer;
use crate::mirror::{Incoming, Mirrored};
use crate::model::{Seq, Text};
use crate::protocol::command::{Command, Deed, Start, Verb};
use crate::protocol::frame;
use crate::session::answers::Answers;
use crate::session::follows::Follows;
use crate::socket::Link;
use crate::socket::pipe::Pipe;

/// Owned by the schedule's task.
pub struct Schedule {
    pub node: Arc<Node>,
    pub clients: Vec<Arc<Client>>,
    /// The socket of each client, if it has one.
    pub lines: Vec<Option<ClientEnd>>,
    /// Commands that came from no socket, and must all be answered.
    pub submitted: Vec<Submitted>,
    /// Ids so far.
    ids: usize,
    /// Ring memory that somebody else holds.
    pub pressure: Option<Held>,
    damaged: Vec<(usize, Seq)>,
    /// The log goes back only once.
    has_gone_back: bool,
}

/// A message that came from no socket.
pub struct Submitted {
    pub room: usize,
    pub user: usize,
    pub id: String,
    /// The number of the last event by then.
    pub at: usize,
    /// Another one has the same id.
    pub is_repeated: bool,
    pub answer: oneshot::Receiver<Answer>,
}

/// A client's end of a socket. Dropping it does not end the socket.
pub struct ClientEnd {
    pub pipe: Pipe,
    pub commands: mpsc::UnboundedSender<Command>,
    pub gone: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Say,
    OthersSay,
    Join,
    Resume,
    Leave,
    Come,
    Go,
    Idle,
    Outage,
    LoseAnswers,
    Damage,
    GoBack,
    Pressure,
    Doubt,
    Hint,
    Lull,
}

impl Schedule {
    pub fn new(node: Arc<Node>) -> Self {
        let client = |number| Client::new(number, &node.truth);
        let clients: Vec<_> = (0..node.plan.clients).map(client).collect();
        let lines = clients.iter().map(|_| None).collect();
        let (submitted, pressure, damaged) = (Vec::new(), None, Vec::new());
        let (ids, has_gone_back) = (0, false);
        Self { node, clients, lines, submitted, ids, pressure, damaged, has_gone_back }
    }

    pub async fn run(&mut self) {
        self.found().await;
        let steps = self.steps();
        for client in 0..self.clients.len() {
            self.connect(client);
            self.join(client);
        }
        for _ in 0..self.node.plan.steps {
            if self.node.truth.broken().is_some() {
                return;
            }
            let step = *self.node.chance.pick(&steps);
            self.step(step).await;
            self.node.chance.pause().await;
        }
    }

    /// Rooms with a past, parts of which may have been in the stream's backlog.
    async fn found(&self) {
        let Node { chance, plan, memory, feed, .. } = &*self.node;
        for room in 0..plan.rooms {
            let mut writes = vec![write(room, HOST, Verb::Create)];
            let joins = (0..plan.users).filter(|_| chance.percent(80));
            writes.extend(joins.map(|user| write(room, user, Verb::Join)));
            let past = *chance.pick(&[0, 1, 3, 8]);
            writes.extend((0..past).map(|_| write(room, HOST, message(chance))));
            let outcomes = memory.commit(&writes);
            if chance.percent(20) {
                let known = outcomes.iter().flat_map(|outcome| outcome.events());
                let mirrored = known.map(|event| Mirrored {
                    room: event.room.clone(),
                    seq: event.seq,
                    frame: frame::event(event),
                    left: None,
                });
                let from = chance.below(outcomes.len());
                let until = chance.between(from + 1, outcomes.len());
                let events = mirrored.take(until).skip(from).collect();
                // An error: the node has stopped, which is reported elsewhere.
                let _ = feed.send(Incoming::Events { events, backlog: true }).await;
            }
        }
    }

    /// The possible steps, each as often as it is likely.
    fn steps(&self) -> Vec<Step> {
        let plan = &self.node.plan;
        let likely = [
            (Step::Say, 10),
            (Step::OthersSay, if plan.has_others { 8 } else { 0 }),
            (Step::Join, 5),
            (Step::Resume, 1),
            (Step::Leave, if plan.has_leavers { 3 } else { 0 }),
            (Step::Come, 4),
            (Step::Go, if plan.has_comers { 3 } else { 0 }),
            (Step::Idle, if plan.has_idlers { 4 } else { 0 }),
            (Step::Outage, if plan.has_outages { 3 } else { 0 }),
            (Step::LoseAnswers, if plan.has_unknowns { 2 } else { 0 }),
            (Step::Damage, if plan.has_damage { 3 } else { 0 }),
            (Step::GoBack, if plan.goes_back { 4 } else { 0 }),
            (Step::Pressure, if plan.has_pressure { 3 } else { 0 }),
            (Step::Doubt, 1),
            (Step::Hint, 1),
            (Step::Lull, if plan.has_lulls { 2 } else { 0 }),
        ];
        likely.into_iter().flat_map(|(step, count)| std::iter::repeat_n(step, count)).collect()
    }

    async fn step(&mut self, step: Step) {
        let chance = self.node.chance.clone();
        let (room, user) = self.somewhere(&chance);
        let client = chance.below(self.clients.len());
        chance.tell(|| format!("{step:?}"));
        match step {
            Step::Say => self.talk(client, room, user),
            Step::OthersSay => {
                let say = |_| {
                    let (room, user) = self.somewhere(&chance);
                    let verb = match chance.below(12) {
                        0 if self.node.plan.has_leavers => Verb::Leave,
                        1 if self.node.plan.has_leavers => Verb::Join,
                        _ => message(&chance),
                    };
                    write(room, user, verb)
                };
                let writes: Vec<_> = (0..chance.between(1, 5)).map(say).collect();
                self.node.memory.commit(&writes);
            }
            Step::Join => self.join(client),
            Step::Resume => self.resume(client),
            Step::Leave => self.leave(client),
            Step::Come => self.come(client),
            Step::Go => self.go(client),
            Step::Idle => {
                if let Some(line) = &self.lines[client] {
                    line.pipe.set_idle(chance.percent(60));
                }
            }
            Step::Outage => {
                self.node.weather.is_away.store(chance.percent(50), Relaxed);
            }
            Step::LoseAnswers => {
                self.node.weather.loses_answers.store(chance.percent(60), Relaxed);
            }
            Step::Damage => self.damage(room),
            Step::GoBack => self.go_back(room),
            Step::Pressure => {
                let rings = &self.node.desk.budgets.rings;
                let held = || rings.hold(rings.bytes_max());
                self.pressure = chance.percent(60).then(held);
            }
            Step::Doubt => drop(self.node.feed.send(Incoming::Doubt).await),
            Step::Hint => {
                let last = self.node.truth.last(room);
                self.node.desk.relay.hint(&truth::room(room), last);
            }
            Step::Lull => sleep(ms(chance.between(300, 4000))).await,
        }
    }

    fn somewhere(&self, chance: &Chance) -> (usize, usize) {
        (chance.below(self.node.plan.rooms), chance.below(self.node.plan.users))
    }

    /// Sends a message through the client's socket, or through none.
    fn talk(&mut self, client: usize, room: usize, user: usize) {
        if self.node.chance.percent(50) {
            let (room, user, text) = (truth::room(room), truth::user(user), Text::stored("x"));
            let deed = Deed::Write(Verb::Message(text));
            self.command(client, Command::InRoom { user, room, deed });
        } else {
            self.submit(room, user);
        }
    }

    /// A message with an id of its own, or one that was sent before and is repeated.
    fn submit(&mut self, room: usize, user: usize) {
        let again = self.submitted.len().checked_sub(1).filter(|_| self.node.chance.percent(30));
        let (room, user, id) = match again {
            Some(last) => {
                let before = &mut self.submitted[last];
                before.is_repeated = true;
                (before.room, before.user, before.id.clone())
            }
            None => {
                self.ids += 1;
                (room, user, format!("c{}", self.ids))
            }
        };
        let (at, verb) = (self.node.truth.now(), message(&self.node.chance));
        let answer = self.node.submit(room, user, verb, Some(&id));
        let is_repeated = again.is_some();
        self.submitted.push(Submitted { room, user, id, at, is_repeated, answer });
    }

    pub fn command(&self, client: usize, command: Command) -> bool {
        let Some(line) = &self.lines[client] else { return false };
        self.clients[client].state().owed += 1;
        line.commands.send(command).is_ok()
    }

    fn join(&mut self, client: usize) {
        let chance = self.node.chance.clone();
        let (room, user) = self.somewhere(&chance);
        let known = self.clients[client].state().last(room);
        let liar = self.node.plan.has_liars && chance.percent(30);
        let start = match chance.below(4) {
            0 => Start::Here,
            1 => Start::Last(chance.below(30) as u64),
            _ if liar => Start::Since(Seq(known.0 + 1 + chance.below(20) as u64)),
            2 => Start::Since(Seq(chance.below(known.0 as usize + 1) as u64)),
            _ => Start::Since(known),
        };
        let (deed, name) = (Deed::Join(start), truth::room(room));
        let join = Command::InRoom { user: truth::user(user), room: name, deed };
        if self.command(client, join) {
            self.clients[client].state().wanted.insert(room, user);
        }
    }

    /// Resumes all rooms that the client wants as one of its users, from what it has.
    pub fn resume(&self, client: usize) {
        let rooms = {
            let mut state = self.clients[client].state();
            let any = || state.wanted.values().next().copied();
            let Some(user) = state.missing().or_else(any) else { return };
            if !state.is_connected || state.is_resuming {
                return;
            }
            state.is_resuming = true;
            let wanted = state.wanted.iter().filter(|(_, known)| **known == user);
            let position = |(room, _): (&usize, _)| (truth::room(*room), state.last(*room));
            (truth::user(user), wanted.map(position).collect())
        };
        self.command(client, Command::Resume { user: rooms.0, rooms: rooms.1 });
    }

    fn leave(&mut self, client: usize) {
        let any = self.somewhere(&self.node.chance);
        let own = {
            let state = self.clients[client].state();
            state.wanted.iter().next().map(|(room, user)| (*room, *user))
        };
        let (room, user) = own.filter(|_| self.node.chance.percent(60)).unwrap_or(any);
        let (user_id, name, deed) =
            (truth::user(user), truth::room(room), Deed::Write(Verb::Leave));
        let leave = Command::InRoom { user: user_id, room: name, deed };
        if self.command(client, leave) {
            let wanted = &mut self.clients[client].state().wanted;
            if wanted.get(&room) == Some(&user) {
                wanted.remove(&room);
            }
        }
    }

    fn come(&mut self, client: usize) {
        if !self.clients[client].state().is_connected {
            self.connect(client);
            if self.node.chance.percent(80) {
                self.resume(client);
            }
        }
    }

    fn go(&mut self, client: usize) {
        if let Some(line) = self.lines[client].take() {
            line.gone.cancel();
            let socket = self.clients[client].state().socket;
            self.clients[client].disconnected(socket);
        }
    }

    /// Opens a new socket in place of the client's current one, if any.
    pub fn connect(&mut self, client: usize) {
        let (node, number) = (&self.node, client);
        let client = self.clients[client].clone();
        let socket = client.connect();
        let pipe = Pipe::new(node.plan.kernel_bytes);
        let link = Link::on_pipe(&pipe, node.plan.queue_bytes, &node.queues);
        let (commands, said) = mpsc::unbounded_channel();
        let gone = CancellationToken::new();
        let address = [127, 0, 0, 1 + number as u8].into();
        let session = Session {
            node: node.clone(),
            client: client.clone(),
            address,
            socket,
            pipe: pipe.clone(),
            follows: Follows::new(node.desk.clone(), link.clone(), address),
            link,
            answers: Answers::default(),
            commands: said,
            gone: gone.clone(),
            awaited: None,
            asked: Default::default(),
            resumes: Default::default(),
        };
        node.desk.tasks.spawn("session", session.run());
        let reader = read(node.chance.clone(), client, socket, pipe.clone());
        node.desk.tasks.spawn("client", reader);
        self.lines[number] = Some(ClientEnd { pipe, commands, gone });
    }

    fn damage(&mut self, room: usize) {
        let Node { memory, chance, truth, .. } = &*self.node;
        if let Some((room, seq)) = self.damaged.pop_if(|_| chance.percent(40)) {
            return memory.set_damaged(&truth::room(room), seq, false);
        }
        let last = truth.last(room).0 as usize;
        let seq = Seq((last - chance.below(last.min(8))) as u64);
        truth.set_damaged();
        memory.set_damaged(&truth::room(room), seq, true);
        self.damaged.push((room, seq));
    }

    /// It is only promised to be noticed if the node has the lost events in memory.
    fn go_back(&mut self, room: usize) {
        let Node { memory, chance, truth, desk, .. } = &*self.node;
        let open = desk.hub.room(&truth::room(room));
        let is_known =
            |open: &Arc<Room>| open.edge() == Some(truth.last(room)) && !open.recent().is_empty();
        if self.has_gone_back || !open.as_ref().is_some_and(is_known) {
            return;
        }
        self.has_gone_back = true;
        // Not back to before the room was created and its users joined.
        let (last, first) = (truth.last(room).0 as usize, 1 + self.node.plan.users);
        let to = Seq((last.saturating_sub(chance.between(1, 8))).max(first).min(last) as u64);
        chance.tell(|| format!("room {room} goes back to {to}"));
        memory.go_back(&truth::room(room), to);
        truth.went_back(room, to);
        self.clients.iter().for_each(|client| client.went_back(room, to));
    }

    /// From here on everything works.
    pub fn heal(&mut self) {
        let Node { memory, weather, .. } = &*self.node;
        weather.is_away.store(false, Relaxed);
        weather.loses_answers.store(false, Relaxed);
        self.pressure = None;
        for (room, seq) in self.damaged.drain(..) {
            memory.set_damaged(&truth::room(room), seq, false);
        }
        self.lines.iter().flatten().for_each(|line| line.pipe.set_idle(false));
        self.node.chance.tell(|| "everything is well from here on".to_owned());
    }

    pub fn end_all(&mut self) {
        (0..self.clients.len()).for_each(|client| self.go(client));
    }

    /// By another node.
    pub fn others_say(&self, room: usize) {
        self.node.memory.commit(&[write(room, HOST, message(&self.node.chance))]);
    }

    pub fn host_says(&self, room: usize) -> oneshot::Receiver<Answer> {
        self.node.submit(room, HOST, message(&self.node.chance), None)
    }
}

/// A client's side of a socket: reads as it likes.
async fn read(chance: Chance, client: Arc<Client>, socket: usize, pipe: Pipe) {
    while let Some(bytes) = pipe.read(*chance.pick(&[7, 100, 1000])).await {
        client.take(socket, &bytes);
        chance.pause().await;
    }
    client.disconnected(socket);
}
