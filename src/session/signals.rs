//! `who`: the session answers it, and its socket watches the room's presence from then on.

use super::Session;
use crate::desk::Asked;
use crate::model::UserId;
use crate::protocol::signal;
use crate::signals::Crowd;

impl Session {
    /// Answers who is online, and lets the socket watch who comes and goes.
    ///
    /// First `watch`, then the answer: changes after `watch` are sent, changes before the answer is
    /// made are in it, and changes in both do no harm.
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
