//! How long it took after each fault until everything flowed again.
//!
//! It judges nothing: what is too late is for the rules to say.

use super::index::{Index, Standing};
use crate::history::History;
use crate::names::Command;
use crate::record::Nanos;

/// For each fault that ended, in the order of telling: the longest that a command waited for its
/// ack, or a follower for an event, that was under way when the fault ended.
pub(super) fn measure(history: &History, index: &Index) -> Vec<Nanos> {
    let mut ends: Vec<(Nanos, usize)> =
        history.faults_ended.iter().enumerate().map(|(place, at)| (*at, place)).collect();
    ends.sort_unstable();
    let mut heals = vec![0; ends.len()];
    let mut add = |from: Nanos, to: Nanos| {
        let first = ends.partition_point(|(end, _)| *end < from);
        for (end, place) in ends[first..].iter().take_while(|(end, _)| *end < to) {
            heals[*place] = heals[*place].max(to - end);
        }
    };
    for (number, command) in history.commands.iter().enumerate() {
        let facts = index.facts(Command::from(number));
        if let (Some((acked_at, _)), Some(_)) = (facts.acked, command.id) {
            add(facts.first_sent_at, acked_at);
        }
    }
    for view in history.views.iter().filter(|view| !view.slow) {
        let mut returns =
            view.follows.iter().enumerate().filter(|(place, it)| *place == 0 || it.is_return);
        let mut next = returns.next().map(|(_, follow)| follow);
        let (mut asked_at, mut shown_to) = (0, 0);
        for (number, delivery) in view.deliveries.iter().enumerate() {
            while let Some(follow) = next.filter(|follow| follow.begins <= number) {
                asked_at = follow.asked_at;
                next = returns.next().map(|(_, follow)| follow);
            }
            let Standing::Stored(event, line) = index.standing(delivery.frame) else { continue };
            if event.seq > shown_to {
                shown_to = event.seq;
                let known_at = index.room(event.room).lines[line].known_at();
                add(known_at.max(asked_at), delivery.at);
            }
        }
    }
    heals
}
