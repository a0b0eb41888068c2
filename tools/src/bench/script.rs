//! The messages to send, as frames made in advance. A sender has one frame for each of its rooms,
//! into which the time and the id are written.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::dialect::{Dialect, ID_LEN, Template};
use super::plan::Plan;
use super::stamp::{self, Stamp};

pub struct Script {
    /// One for each of the plan's speeches.
    templates: Vec<Template>,
    nodes: Vec<u8>,
    next_id: AtomicU64,
}

impl Script {
    pub fn new(plan: &Plan, dialect: &dyn Dialect) -> Self {
        let text = text(plan.size);
        let template = |speech: &super::plan::Speech| {
            let user = &plan.clients[speech.client as usize].user;
            dialect.message(user, plan.rooms.name(speech.room), &text, plan.with_ids)
        };
        let node = |speech: &super::plan::Speech| plan.clients[speech.client as usize].target as u8;
        Self {
            templates: plan.speeches.iter().map(template).collect(),
            nodes: plan.speeches.iter().map(node).collect(),
            next_id: AtomicU64::new(0),
        }
    }

    /// Appends the message of that speech to `out`.
    pub fn put(&self, out: &mut Vec<u8>, speech: usize, intended: u64) {
        let Template { frame, stamp_at, id_at } = &self.templates[speech];
        let start = out.len();
        out.extend_from_slice(frame);
        let at = start + stamp_at;
        let stamp = Stamp { nanos: intended, node: self.nodes[speech] };
        stamp.write(&mut out[at..at + stamp::LEN]);
        if let Some(at) = id_at.map(|at| start + at) {
            stamp::put_hex(&mut out[at..at + ID_LEN], self.next_id.fetch_add(1, Relaxed));
        }
    }
}

/// A text of `size` bytes, with room for a stamp at its beginning.
fn text(size: usize) -> String {
    const WORDS: &str = "it was the best of times, it was the worst of times, ";
    let filler = WORDS.chars().cycle().take(size.saturating_sub(stamp::LEN));
    "0".repeat(stamp::LEN).chars().chain(filler).collect()
}
