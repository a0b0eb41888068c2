//! What a write is answered: its event if this socket follows the room, an `ack` if it does not,
//! and both if the command has an id.
//!
//! It writes nothing itself and decides no rule; the lane has done both.

use std::time::{Duration, Instant};

use super::Session;
use super::answers::Awaited;
use crate::desk::Asked;
use crate::hub::State;
use crate::model::{Seq, Timestamp};
use crate::protocol::frame::{self, Ack};
use crate::protocol::table::CommandType;
use crate::rules::Outcome;

impl Session {
    /// `create`, `leave` and `message`: the event itself is the answer if this socket follows the
    /// room; an `ack` comes if the command had an id, or the socket does not follow.
    pub(super) fn on_written(&mut self, asked: Asked, outcome: &Outcome) {
        let (seq, at, duplicate) = match outcome {
            Outcome::Committed { event, .. } => (event.seq, event.at, false),
            Outcome::Duplicate(receipt) => (receipt.seq, receipt.at, true),
            Outcome::Joined { .. } | Outcome::Refused(_) => return,
        };
        self.count(Some(asked.re), if duplicate { "duplicate" } else { "ok" });
        if asked.re == CommandType::Leave {
            self.follows.leaves(&asked.room, &asked.user, seq);
        }
        match self.follows.by_whom(&asked.room, seq) {
            Some(follower) if asked.id.is_none() => {
                // From when it came: a client that sent a hundred in one breath, in the midst of a
                // long replay, waits for all their events together, not for one after the other.
                let budget = self.desk.config.lane.answer_timeout_ms;
                let due = asked.came + Duration::from_millis(budget);
                self.awaited = Some(Box::new(Awaited { asked, seq, at, follower, due }));
            }
            _ => self.ack(&asked, seq, at, duplicate),
        }
    }

    fn ack(&mut self, asked: &Asked, seq: Seq, at: Timestamp, duplicate: bool) {
        let Asked { re, room, id, .. } = asked;
        let ack = frame::ack(&Ack { re: *re, room, seq, id: id.as_ref(), at, duplicate });
        self.out.extend_from_slice(ack.bytes());
    }

    /// Sees whether the awaited event is with the socket. A follower may have stopped before it:
    /// somebody else's socket sent the leave of the only user that this one follows as. Then the
    /// socket does not follow, and gets an ack as any that does not. It gets one, too, if the event
    /// takes too long (there is a long replay before it, or the log is away); if the node stops, at
    /// once.
    pub(super) fn settle_awaited(&mut self) {
        let Some(awaited) = self.awaited.take() else { return };
        let is_live = || awaited.follower.state() == State::Live;
        let may_wait = Instant::now() < awaited.due && (!self.stopping || is_live());
        match awaited.follower.has(awaited.seq) {
            Some(true) => {}
            None if may_wait => self.awaited = Some(awaited),
            _ => self.ack(&awaited.asked, awaited.seq, awaited.at, false),
        }
    }
}

/// Resolves when the awaited event has been waited for long enough.
pub(super) async fn overdue(awaited: Option<&Awaited>) {
    match awaited {
        None => std::future::pending().await,
        Some(awaited) => tokio::time::sleep_until(awaited.due.into()).await,
    }
}
