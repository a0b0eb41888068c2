//! The run that faults are planted into, and what it takes to plant one.

use verbatim_checker::Kind;

use crate::chat::{NODES, ROOMS, play};
use crate::tale::{Answer, CommandTale, EntryTale, RowTale, Sent, Step, Tale, What, data};

/// The room that the faults are in.
pub const ROOM: &str = ROOMS[0];

/// A microsecond of the recorder's clock.
pub const STEP: u64 = 1000;

/// A long chat, the same each time, in which everything happens.
pub fn soil() -> Tale {
    // A generator of numbers that need not be good, only the same for ever.
    let mut state = 7u64;
    let mut next = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let moves: Vec<_> = (0..600).map(|_| (next(), next(), next())).collect();
    play(&moves)
}

impl Tale {
    pub fn last_seq(&self, room: &str) -> u64 {
        self.rows.iter().filter(|row| row.room == room).map(|row| row.seq).max().unwrap()
    }

    pub fn row(&mut self, room: &str, seq: u64) -> &mut RowTale {
        self.rows.iter_mut().find(|row| (&*row.room, row.seq) == (room, seq)).unwrap()
    }

    /// A later moment than all before.
    pub fn tick(&mut self) -> u64 {
        self.ended_at += STEP;
        self.ended_at
    }

    /// The first view of the room.
    pub fn view(&mut self) -> &mut Vec<Step> {
        &mut self.views.iter_mut().find(|view| view.room == ROOM).unwrap().steps
    }

    /// In the first view of the room, a stretch of three deliveries in a row: the places of them.
    pub fn stretch(&mut self) -> usize {
        let is_shown = |step: &Step| matches!(step, Step::Shown { .. });
        // Not at the very beginning of a following, and not next to what is special.
        let places = self.view().windows(5).position(|steps| steps.iter().all(is_shown));
        places.unwrap() + 1
    }

    /// The frame that is shown at this place of the first view.
    pub fn shown(&mut self, place: usize) -> &mut String {
        match &mut self.view()[place] {
            Step::Shown { frame, .. } => frame,
            other => panic!("{other:?}"),
        }
    }

    /// A new connection.
    pub fn line(&mut self) -> usize {
        self.lines.push(NODES[0].to_owned());
        self.lines.len() - 1
    }

    /// A new message of a member.
    pub fn message(&mut self, id: Option<&str>) -> usize {
        let (room, user) = (ROOM.to_owned(), "talker-0".to_owned());
        let (id, text) = (id.map(str::to_owned), Some("a new word".to_owned()));
        let kind = Kind::Message;
        self.commands.push(CommandTale { kind, room, user, id, text, abandoned: false });
        self.commands.len() - 1
    }

    /// The same member leaves.
    pub fn leave(&mut self, id: &str) -> usize {
        let command = self.message(Some(id));
        (self.commands[command].kind, self.commands[command].text) = (Kind::Leave, None);
        command
    }

    pub fn send(&mut self, command: usize, line: usize) {
        let at = self.tick();
        self.sent.push(Sent { command, line, at });
    }

    pub fn answer(&mut self, command: usize, line: usize, what: What) {
        let at = self.tick();
        self.answers.push(Answer { command, line, at, what });
    }

    /// The ack that a row deserves.
    pub fn ack(&mut self, seq: u64, duplicate: bool) -> What {
        let row = self.row(ROOM, seq);
        What::Ack { re: Kind::named(&row.kind), seq, at_ms: row.at_ms, duplicate }
    }

    /// A row that a command deserves, at the end of the room: in the table, in the stream, and with
    /// the right counters. Nobody is shown it.
    pub fn store(&mut self, command: usize) -> u64 {
        let last = self.last_seq(ROOM);
        let at_ms = self.row(ROOM, last).at_ms;
        self.store_at(command, at_ms)
    }

    /// The same, at that time.
    pub fn store_at(&mut self, command: usize, at_ms: i64) -> u64 {
        let CommandTale { kind, user, id, text, .. } = self.commands[command].clone();
        let seq = self.last_seq(ROOM) + 1;
        self.append(RowTale {
            room: ROOM.to_owned(),
            seq,
            kind: kind.name().to_owned(),
            user,
            client_id: id,
            body: text,
            data: data(kind),
            at_ms,
        });
        seq
    }

    pub fn append(&mut self, row: RowTale) {
        let room = self.rooms.iter_mut().find(|room| room.name == row.room).unwrap();
        room.last_seq += 1;
        room.message_count += u64::from(row.kind == "message");
        if row.kind == "leave" {
            room.member_count -= 1;
            let member = (row.room.clone(), row.user.clone());
            self.members.retain(|it| *it != member);
        }
        let (room, seq, frame) = (row.room.clone(), row.seq, row.frame());
        self.stream.push(EntryTale { room, seq, frame });
        self.rows.push(row);
    }

    /// Everybody is shown what they were not yet.
    pub fn show(&mut self) {
        let at = self.tick();
        let mut rows: Vec<_> = self.rows.iter().filter(|row| row.room == ROOM).collect();
        rows.sort_by_key(|row| row.seq);
        for view in self.views.iter_mut().filter(|view| view.room == ROOM) {
            let frames: Vec<_> = rows.iter().map(|row| row.frame()).collect();
            let Some(Step::Shown { frame: last, .. }) = view.steps.last() else { panic!() };
            let place = frames.iter().position(|frame| frame == last).unwrap();
            let missing = frames.into_iter().skip(place + 1);
            view.steps.extend(missing.map(|frame| Step::Shown { at, frame }));
        }
    }

    /// The first ack that satisfies this, of a command that was answered only once and is a
    /// message of the room; its place.
    pub fn only_ack(&self) -> usize {
        let is_fit = |answer: &Answer| {
            let command = &self.commands[answer.command];
            let answers = self.answers.iter().filter(|it| it.command == answer.command).count();
            let sent = self.sent.iter().filter(|it| it.command == answer.command).count();
            let is_first = matches!(answer.what, What::Ack { duplicate: false, .. });
            is_first
                && (answers, sent) == (1, 1)
                && (command.kind, &*command.room) == (Kind::Message, ROOM)
                && command.id.is_some()
        };
        self.answers.iter().position(is_fit).unwrap()
    }
}
