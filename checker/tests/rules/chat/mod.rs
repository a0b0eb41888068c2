//! A chat that keeps every promise, played out move by move without a socket: talkers whose
//! connections break and who send again, commits whose answers are lost, followers who come, resume
//! and leave. Any list of moves makes a valid tale.

mod end;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use verbatim_checker::{Kind, Limits, Start};

use crate::tale::{Answer, CommandTale, RowTale, Sent, Step, Tale, ViewTale, What, data};

pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
pub const ROOMS: [&str; 2] = ["general", "rändom \"2\""];

/// What happens next; the numbers choose who and where.
pub type Move = (u8, u8, u8);

/// One step of the clock: a microsecond.
const STEP: u64 = 1000;

pub struct Chat {
    pub tale: Tale,
    now: u64,
    rooms: BTreeMap<&'static str, Vec<RowTale>>,
    members: BTreeMap<&'static str, BTreeSet<String>>,
    /// By connection: attempts that the server has not read, and answers that have not come.
    wires: Vec<Wire>,
    talkers: Vec<Talker>,
    followers: Vec<Follower>,
}

#[derive(Default)]
struct Wire {
    unread: VecDeque<usize>,
    answers: VecDeque<(usize, What)>,
}

/// A client with two connections, so that the same command can be under way twice.
struct Talker {
    user: String,
    lines: [usize; 2],
    /// Commands with an id and without an answer.
    unanswered: Vec<usize>,
}

struct Follower {
    room: &'static str,
    user: String,
    line: usize,
    /// What it is shown next; `None`: it does not follow.
    next: Option<u64>,
    last_seen: u64,
}

/// Plays the moves, and then until everybody has everything.
pub fn play(moves: &[Move]) -> Tale {
    let mut chat = Chat::new();
    for &(what, who, choice) in moves {
        chat.play(what, who as usize, choice as usize);
    }
    chat.finish()
}

impl Chat {
    fn new() -> Self {
        let tale = Tale {
            limits: Limits { memory_bytes: Some(1000), ..Limits::default() },
            lines: Vec::new(),
            commands: Vec::new(),
            sent: Vec::new(),
            answers: Vec::new(),
            views: Vec::new(),
            strays: Vec::new(),
            reads: Vec::new(),
            pages: Vec::new(),
            has_table: true,
            rooms: Vec::new(),
            rows: Vec::new(),
            members: Vec::new(),
            set_back: None,
            stream: Vec::new(),
            outbox_rows: 0,
            whole_since: 0,
            memory: NODES.map(|node| (node.to_owned(), 900)).to_vec(),
            healed_at: 0,
            ended_at: 0,
        };
        let (rooms, members) = (BTreeMap::new(), BTreeMap::new());
        let mut chat = Self {
            tale,
            now: STEP,
            rooms,
            members,
            wires: Vec::new(),
            talkers: Vec::new(),
            followers: Vec::new(),
        };
        for number in 0..3 {
            let lines = [chat.open(number), chat.open(number + 1)];
            let user = format!("talker-{number}");
            chat.talkers.push(Talker { user, lines, unanswered: Vec::new() });
        }
        for (number, room) in ROOMS.into_iter().enumerate() {
            chat.say(number, 0, Kind::Create, room, Some(format!("make-{number}")));
            for talker in (0..3).filter(|talker| *talker != number) {
                chat.settle();
                chat.say(talker, 0, Kind::Join, room, None);
            }
        }
        chat.settle();
        for number in 0..4 {
            let (room, line) = (ROOMS[number % ROOMS.len()], chat.open(number));
            let user = format!("follower-{number}");
            let (who, slow) = (user.clone(), false);
            let (steps, tale_user) = (Vec::new(), user.clone());
            let view = ViewTale { who, room: room.to_owned(), user: tale_user, slow, steps };
            chat.tale.views.push(view);
            chat.followers.push(Follower { room, user, line, next: None, last_seen: 0 });
            chat.join(number, Start::After(0));
        }
        chat
    }

    fn tick(&mut self) -> u64 {
        self.now += STEP;
        self.now
    }

    fn open(&mut self, number: usize) -> usize {
        self.tale.lines.push(NODES[number % NODES.len()].to_owned());
        self.wires.push(Wire::default());
        self.wires.len() - 1
    }

    fn play(&mut self, what: u8, who: usize, choice: usize) {
        let (talker, side, room) = (who % 3, choice % 2, ROOMS[choice / 2 % 2]);
        let line = self.talkers[talker].lines[side];
        let follower = who % self.followers.len();
        match what % 16 {
            0..=3 => {
                let id =
                    (!choice.is_multiple_of(5)).then(|| format!("id-{}", self.tale.commands.len()));
                // Some are of a client of a newer server, which none of these is.
                let kind = if choice.is_multiple_of(7) { Kind::Other } else { Kind::Message };
                self.say(talker, side, kind, room, id);
            }
            4..=5 => self.serve(line, true),
            6..=7 => self.answer(talker, line),
            8 => self.unavailable(line, choice.is_multiple_of(3)),
            9 => self.hang_up(talker, side),
            10 => self.send_again(talker, side, choice),
            11..=12 => self.show(follower),
            13 => self.resume(follower, choice),
            14 => self.leave_or_join(talker, side, room, choice),
            _ => self.look(room, choice),
        }
    }

    /// A new command of a talker goes out.
    fn say(
        &mut self,
        talker: usize,
        side: usize,
        kind: Kind,
        room: &'static str,
        id: Option<String>,
    ) {
        let command = self.tale.commands.len();
        let user = self.talkers[talker].user.clone();
        let text = (kind == Kind::Message).then(|| format!("word {command}, \"so\" ä\n"));
        if id.is_some() {
            self.talkers[talker].unanswered.push(command);
        }
        let room = room.to_owned();
        self.tale.commands.push(CommandTale { kind, room, user, id, text, abandoned: false });
        let line = self.talkers[talker].lines[side];
        self.send(command, line);
    }

    fn send(&mut self, command: usize, line: usize) {
        let at = self.tick();
        self.tale.sent.push(Sent { command, line, at });
        self.wires[line].unread.push_back(command);
    }

    /// The server takes the oldest command of a connection.
    fn serve(&mut self, line: usize, answers: bool) {
        let Some(command) = self.wires[line].unread.pop_front() else { return };
        let what = self.decide(command);
        if let (true, Some(what)) = (answers, what) {
            self.wires[line].answers.push_back((command, what));
        }
    }

    /// The rules of the chat. `None`: it is not answered by an ack or an error.
    fn decide(&mut self, command: usize) -> Option<What> {
        let at_ms = self.tick() as i64 / 1_000_000;
        let told = self.tale.commands[command].clone();
        let name = ROOMS.into_iter().find(|room| *room == told.room).unwrap();
        let (rows, members) =
            (self.rooms.entry(name).or_default(), self.members.entry(name).or_default());
        let is_join = told.kind == Kind::Join;
        let id = told.id.clone().filter(|_| !is_join);
        let same =
            |row: &&RowTale| id.is_some() && (&row.user, &row.client_id) == (&told.user, &id);
        if let Some(row) = rows.iter().find(same) {
            if row.kind != told.kind.name() {
                return Some(What::Refused("id_reused"));
            }
            let (seq, at_ms) = (row.seq, row.at_ms);
            return Some(What::Ack { re: told.kind, seq, at_ms, duplicate: true });
        }
        let is_member = members.contains(&told.user);
        match told.kind {
            Kind::Create if !rows.is_empty() => return Some(What::Refused("room_exists")),
            Kind::Leave | Kind::Message | Kind::Other if !is_member => {
                return Some(What::Refused("not_member"));
            }
            Kind::Join if is_member => return None,
            Kind::Create | Kind::Join => drop(members.insert(told.user.clone())),
            Kind::Leave => drop(members.remove(&told.user)),
            Kind::Message | Kind::Other => {}
        }
        let seq = rows.len() as u64 + 1;
        rows.push(RowTale {
            room: told.room,
            seq,
            kind: told.kind.name().to_owned(),
            user: told.user,
            client_id: id,
            body: told.text,
            data: data(told.kind),
            at_ms,
        });
        (!is_join).then_some(What::Ack { re: told.kind, seq, at_ms, duplicate: false })
    }

    /// The oldest answer of a connection comes.
    fn answer(&mut self, talker: usize, line: usize) {
        let Some((command, what)) = self.wires[line].answers.pop_front() else { return };
        let at = self.tick();
        let is_certain = !matches!(what, What::Refused("unavailable"));
        self.tale.answers.push(Answer { command, line, at, what });
        let talker = &mut self.talkers[talker];
        if is_certain {
            talker.unanswered.retain(|it| *it != command);
        } else if talker.unanswered.contains(&command) {
            self.send(command, line);
        }
    }

    /// It may or may not have been written.
    fn unavailable(&mut self, line: usize, is_written: bool) {
        let Some(&command) = self.wires[line].unread.front() else { return };
        if self.tale.commands[command].kind == Kind::Join {
            return;
        }
        if is_written {
            self.serve(line, false);
        } else {
            self.wires[line].unread.pop_front();
        }
        self.wires[line].answers.push_back((command, What::Refused("unavailable")));
    }

    /// A connection breaks: what the server has not read and what has not come is gone. Everything
    /// without an answer is sent again.
    fn hang_up(&mut self, talker: usize, side: usize) {
        let line = self.open(talker + side + 2);
        self.talkers[talker].lines[side] = line;
        for command in self.talkers[talker].unanswered.clone() {
            self.send(command, line);
        }
    }

    /// Impatience, or a retry while the first is still under way on the other connection.
    fn send_again(&mut self, talker: usize, side: usize, choice: usize) {
        let Talker { lines, unanswered, .. } = &self.talkers[talker];
        if let Some(&command) = unanswered.get(choice % unanswered.len().max(1)) {
            self.send(command, lines[side]);
        }
    }

    /// Sometimes under an id that an earlier command has, of another type mostly.
    fn leave_or_join(&mut self, talker: usize, side: usize, room: &'static str, choice: usize) {
        let commands = self.tale.commands.iter();
        let own = commands.filter(|it| it.user == self.talkers[talker].user && it.room == room);
        let used: Vec<_> = own.filter_map(|command| command.id.clone()).collect();
        let earlier = used.get(choice % used.len().max(1)).filter(|_| choice.is_multiple_of(4));
        let new = || format!("leave-{}", self.tale.commands.len());
        let id = earlier.cloned().unwrap_or_else(new);
        match choice % 3 {
            0 => self.say(talker, side, Kind::Leave, room, Some(id)),
            1 => self.say(talker, side, Kind::Create, room, Some(id)),
            _ => self.say(talker, side, Kind::Join, room, None),
        }
    }

    fn last_seq(&self, room: &str) -> u64 {
        self.rooms.get(room).map_or(0, |rows| rows.len() as u64)
    }

    /// A follower joins its room: a command of its own, and a place to begin at.
    fn join(&mut self, follower: usize, start: Start) {
        let Follower { room, ref user, line, .. } = self.followers[follower];
        let (command, asked_at) = (self.tale.commands.len(), self.now + STEP);
        let (name, user) = (room.to_owned(), user.clone());
        let (id, text, abandoned) = (None, None, false);
        let told = CommandTale { kind: Kind::Join, room: name, user, id, text, abandoned };
        self.tale.commands.push(told);
        self.send(command, line);
        let before = self.last_seq(room);
        self.serve(line, true);
        let last_seq = self.last_seq(room);
        let is_new = last_seq > before;
        let (start, next) = match start {
            Start::After(seq) if seq <= last_seq => (start, seq + 1),
            Start::After(seq) => (Start::After(seq), last_seq + 1),
            Start::Last(count) => {
                let own = if is_new { last_seq - 1 } else { last_seq };
                (start, own.saturating_sub(count) + 1)
            }
            Start::Unmoved => (start, self.followers[follower].next.unwrap()),
        };
        let at = self.tick();
        let steps = &mut self.tale.views[follower].steps;
        steps.push(Step::Joined { line, asked_at, at, start, last_seq });
        if matches!(start, Start::After(seq) if seq > last_seq) {
            steps.push(Step::Reset(last_seq));
        }
        self.followers[follower].next = Some(next);
    }

    /// A follower is shown the next event, if there is one.
    fn show(&mut self, follower: usize) {
        let at = self.tick();
        let Follower { room, user, next, last_seen, .. } = &mut self.followers[follower];
        let Some(seq) = next else { return };
        let Some(row) = self.rooms[room].get(*seq as usize - 1) else { return };
        self.tale.views[follower].steps.push(Step::Shown { at, frame: row.frame() });
        (*last_seen, *seq) = (*seq, *seq + 1);
        // A leave that this following was told of when it began is one of the past.
        let is_leave = (row.kind.as_str(), &row.user) == ("leave", &*user);
        if is_leave && self.members[room].contains(user) {
            return;
        }
        if is_leave {
            *next = None;
        }
    }

    /// A follower's connection breaks, and it asks again; or it begins anew; or it leaves.
    fn resume(&mut self, follower: usize, choice: usize) {
        let Follower { room, ref user, next, last_seen, .. } = self.followers[follower];
        if next.is_some() && choice.is_multiple_of(5) {
            let (command, user) = (self.tale.commands.len(), user.clone());
            let (name, id, text) = (room.to_owned(), None, None);
            let kind = Kind::Leave;
            let told = CommandTale { kind, room: name, user, id, text, abandoned: false };
            self.tale.commands.push(told);
            let line = self.followers[follower].line;
            self.send(command, line);
            self.serve(line, false);
            // It takes its own leave with it, and comes back later.
            while self.followers[follower].next.is_some() {
                self.show(follower);
            }
            return;
        }
        if next.is_some() && choice % 5 == 1 {
            return self.join(follower, Start::Unmoved);
        }
        self.followers[follower].line = self.open(choice);
        let start = match choice % 5 {
            2 => Start::After(0),
            3 => Start::Last(choice as u64 % 7),
            4 if choice > 200 => Start::After(self.last_seq(room) + 10),
            _ => Start::After(last_seen),
        };
        self.join(follower, start);
    }

    /// Everything that is under way arrives.
    fn settle(&mut self) {
        for talker in 0..self.talkers.len() {
            for side in 0..2 {
                let line = self.talkers[talker].lines[side];
                while !self.wires[line].unread.is_empty() || !self.wires[line].answers.is_empty() {
                    self.serve(line, true);
                    self.answer(talker, line);
                }
            }
        }
    }
}
