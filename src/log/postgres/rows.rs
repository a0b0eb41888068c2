//! A decided batch as the columns that a lane writes: each is an array, and one parameter.

use std::time::SystemTime;

use crate::log::batch::Decided;
use crate::model::UserId;
use crate::rules::Membership;

/// The columns of `WRITE`.
#[derive(Default)]
pub(super) struct Rows<'a> {
    pub room_ids: Vec<i64>,
    pub first_seqs: Vec<i64>,
    pub last_seqs: Vec<i64>,
    pub message_counts: Vec<i64>,
    pub member_counts: Vec<i64>,
    pub event_rooms: Vec<i64>,
    pub event_seqs: Vec<i64>,
    pub event_types: Vec<&'a str>,
    pub event_users: Vec<&'a str>,
    pub event_ids: Vec<Option<&'a str>>,
    pub event_bodies: Vec<Option<&'a str>>,
    pub event_data: Vec<Option<&'a str>>,
    pub event_messages: Vec<Option<i64>>,
    pub event_ats: Vec<SystemTime>,
    pub entered_rooms: Vec<i64>,
    pub entered_users: Vec<&'a str>,
    pub entered_seqs: Vec<i64>,
    pub entered_roles: Vec<&'a str>,
    pub gone_rooms: Vec<i64>,
    pub gone_users: Vec<&'a str>,
}

impl<'a> Rows<'a> {
    /// Each room with new events, and their first and last seq.
    pub fn changed(&self) -> impl Iterator<Item = (i64, i64, i64)> {
        let seqs = self.first_seqs.iter().zip(&self.last_seqs);
        self.room_ids.iter().zip(seqs).map(|(room, (first, last))| (*room, *first, *last))
    }

    pub fn of(ids: &[Option<i64>], decided: &'a Decided) -> Self {
        let id =
            |index: usize| ids[index].expect("events are only decided in rooms that have a row");
        let mut rows = Self::default();
        for changed in decided.changed() {
            let (room_id, room) = (id(changed.index), changed.room);
            rows.room_ids.push(room_id);
            rows.first_seqs.push(changed.first_seq.to_i64());
            rows.last_seqs.push(room.last_seq.to_i64());
            rows.message_counts.push(room.message_count.cast_signed());
            rows.member_counts.push(room.member_count.cast_signed());
            for (user, membership) in &room.changed_members {
                rows.member(room_id, user, *membership);
            }
        }
        for (index, event, messages) in decided.events() {
            rows.event_rooms.push(id(index));
            rows.event_seqs.push(event.seq.to_i64());
            rows.event_types.push(event.kind.name());
            rows.event_users.push(event.user.as_str());
            rows.event_ids.push(event.client_id.as_ref().map(|id| id.as_str()));
            rows.event_bodies.push(event.text.as_ref().map(|text| text.as_str()));
            rows.event_data.push(event.data.as_ref().map(|data| data.as_str()));
            rows.event_messages.push(messages.map(u64::cast_signed));
            rows.event_ats.push(event.at.to_system());
        }
        rows
    }

    fn member(&mut self, room_id: i64, user: &'a UserId, membership: Option<Membership>) {
        match membership {
            Some(membership) => {
                self.entered_rooms.push(room_id);
                self.entered_users.push(user.as_str());
                self.entered_seqs.push(membership.joined_seq.to_i64());
                self.entered_roles.push(membership.role.name());
            }
            None => {
                self.gone_rooms.push(room_id);
                self.gone_users.push(user.as_str());
            }
        }
    }
}
