//! What is read of a chat: pages and positions on the way, and everything in the end.

use verbatim_checker::{Asked, Kind, Start};

use super::{Chat, NODES, ROOMS};
use crate::tale::{EntryTale, PageTale, ReadTale, RoomTale, RowTale, Tale};

impl Chat {
    /// Somebody reads how far a room goes, or a page of it.
    pub(super) fn look(&mut self, room: &'static str, choice: usize) {
        let (asked_at, last_seq) = (self.tick(), self.last_seq(room));
        let node = NODES[choice % 3].to_owned();
        let room_name = room.to_owned();
        match choice % 5 {
            0 => {
                let read = ReadTale { node: None, room: room_name, asked_at, last_seq };
                self.tale.reads.push(read);
            }
            1 => {
                let read = ReadTale { node: Some(node), room: room_name, asked_at, last_seq };
                self.tale.reads.push(read);
            }
            2 => self.read_page(node, room, Asked::Newest),
            3 => self.read_page(node, room, Asked::Before(choice as u64 % (last_seq + 5))),
            _ => self.read_page(node, room, Asked::After(choice as u64 % (last_seq + 5))),
        }
    }

    /// What a node answers to a question for history, five events at most.
    fn read_page(&mut self, node: String, room: &'static str, asked: Asked) {
        const LIMIT: usize = 5;
        let asked_at = self.tick();
        let nothing = Vec::new();
        let rows = self.rooms.get(room).unwrap_or(&nothing);
        let (from, to) = match asked {
            Asked::Newest => (rows.len().saturating_sub(LIMIT), rows.len()),
            Asked::Before(seq) => {
                let to = (seq.max(1) as usize - 1).min(rows.len());
                (to.saturating_sub(LIMIT), to)
            }
            Asked::After(seq) => {
                let from = (seq as usize).min(rows.len());
                (from, (from + LIMIT).min(rows.len()))
            }
        };
        let events = rows[from..to].iter().map(RowTale::frame).collect();
        let more = match asked {
            Asked::After(_) => to < rows.len(),
            Asked::Newest | Asked::Before(_) => from > 0 && to > from,
        };
        let room = room.to_owned();
        self.tale.pages.push(PageTale { node, room, asked, asked_at, events, more });
    }

    pub(super) fn finish(mut self) -> Tale {
        self.settle();
        self.tale.healed_at = self.now;
        for room in ROOMS {
            self.say(0, 0, Kind::Join, room, None);
            self.say(0, 0, Kind::Message, room, Some(format!("last of {room}", room = room.len())));
        }
        self.settle();
        for follower in 0..self.followers.len() {
            if self.followers[follower].next.is_none() {
                let after = Start::After(self.followers[follower].last_seen);
                self.join(follower, after);
            }
        }
        for follower in 0..self.followers.len() {
            while self.followers[follower].next
                <= Some(self.last_seq(self.followers[follower].room))
            {
                self.show(follower);
            }
        }
        for node in NODES {
            for room in ROOMS {
                for after in (0..=self.last_seq(room)).step_by(5) {
                    self.read_page(node.to_owned(), room, Asked::After(after));
                }
            }
        }
        self.store();
        self.tale.ended_at = self.tick();
        self.tale
    }

    /// The table and the stream as they are read in the end.
    fn store(&mut self) {
        for (room, rows) in &self.rooms {
            let members = &self.members[room];
            self.tale.rooms.push(RoomTale {
                name: (*room).to_owned(),
                last_seq: rows.len() as u64,
                message_count: rows.iter().filter(|row| row.kind == "message").count() as u64,
                member_count: members.len() as u64,
            });
            let members = members.iter().map(|user| ((*room).to_owned(), user.clone()));
            self.tale.members.extend(members);
            for row in rows {
                let (room, seq, frame) = (row.room.clone(), row.seq, row.frame());
                let entry = EntryTale { room, seq, frame };
                // Some twice, and some before their neighbour.
                if seq.is_multiple_of(7) {
                    self.tale.stream.push(entry.clone());
                }
                let end = self.tale.stream.len();
                self.tale.stream.insert(end - usize::from(seq.is_multiple_of(5)), entry);
            }
            self.tale.rows.extend(rows.iter().cloned());
        }
    }
}
