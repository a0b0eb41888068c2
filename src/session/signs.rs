//! What a `who` makes of a session: an answer, and to be told of who comes and goes.

use super::Session;
use crate::desk::Asked;
use crate::model::UserId;
use crate::protocol::signal;
use crate::signals::Crowd;

impl Session {
    /// Says who is online, and has the socket told of who comes and goes from there on.
    ///
    /// In this order: what happens behind the `watch` is told, what happened before the answer is
    /// worked out is in it, and what is in both does no harm.
    pub(super) fn on_who(&mut self, asked: &Asked) {
        let Asked { re, room, user, id, .. } = asked;
        let mut online: Option<&UserId> = None;
        if let Some(follower) = self.follows.follower(room) {
            follower.watch();
            online = Some(user).filter(|user| follower.follows_as(user));
        }
        let signals = self.desk.signals.clone();
        signals.who(room, online, |crowd| {
            let users: Option<Vec<UserId>> = match crowd {
                Crowd::Listed(users) => Some(users.iter().cloned().collect()),
                Crowd::Counted(_) => None,
            };
            let frame = signal::who(room, users.as_deref(), crowd.count(), id.as_ref());
            self.answer(*re, &frame);
            self.flush();
        });
    }
}
