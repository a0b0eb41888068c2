//! The answer to a write: its event if this socket follows the room, an `ack` if it does not, and
//! both if the command has an id.
//!
//! The lane has decided and stored the write.

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
    /// For `create`, `leave` and `message`. If this socket follows the room, the event itself is
    /// the answer; there is an `ack` if the command has an id or the socket does not follow.
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
                // From when the command arrived: a client that sent a hundred at once during a long
                // replay waits for all their events together, not for one after the other.
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

    /// Checks whether the awaited event has reached the socket. If its follower stopped before the
    /// event, the socket gets an ack instead, like any that does not follow. (Another socket may
    /// have sent the `leave` of the only user that this one follows as.) It also gets an ack if the
    /// event takes too long (after a long replay, or because the log is away), and at once if the
    /// node stops.
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
