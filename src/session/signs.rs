//! `who`, `typing` and `read`: who may say so, and how each is answered.
//!
//! What becomes of them is the business of `signals`. A socket that follows the room as the user is
//! a member's, so the log is only asked about others. That is looked at when the command's turn has
//! come, not when it is read: a `leave` may be before it.

use std::net::IpAddr;
use std::sync::Arc;

use super::Session;
use super::answers::{Asked, Reader, Reply, member};
use crate::hub::Follower;
use crate::log::Mark;
use crate::model::{Seq, UserId};
use crate::protocol::error::{Code, Problem};
use crate::protocol::signal;
use crate::signals::{Crowd, Party};

/// By whom the socket followed the room when the command was read.
type Follows = Option<Arc<Follower>>;

/// Whether the user may.
async fn admit(reader: &Reader, asked: &Asked, follows: Follows) -> Result<(), Problem> {
    match follows {
        Some(follower) if follower.follows_as(&asked.user) => Ok(()),
        _ => member(reader, asked).await.map(drop),
    }
}

pub async fn who(mut reader: Reader, asked: Asked, follows: Follows, from: IpAddr) -> Reply {
    reader.begin();
    if let Err(problem) = admit(&reader, &asked, follows).await {
        return Reply::Problem(problem);
    }
    let asks = [Party::Address(from), Party::User(asked.user.clone())];
    reader.shared.signals.gather(&asked.room, &asks).await;
    Reply::Who(asked)
}

/// `since`: the room's edge when the command was read. The message that it announces is on its way
/// to the log as soon as it is read, and may be there before this command has its turn.
pub async fn typing(
    mut reader: Reader,
    asked: Asked,
    follows: Follows,
    since: Option<Seq>,
    from: IpAddr,
) -> Reply {
    reader.begin();
    if let Err(problem) = admit(&reader, &asked, follows).await {
        return Reply::Problem(problem);
    }
    reader.shared.signals.types(&asked.room, asked.user.clone(), from, since);
    taken(&asked)
}

pub async fn read(
    mut reader: Reader,
    asked: Asked,
    seq: Seq,
    follows: Follows,
    from: IpAddr,
) -> Reply {
    reader.begin();
    if let Err(problem) = admit(&reader, &asked, follows).await {
        return Reply::Problem(problem);
    }
    let (room, user) = (asked.room.clone(), asked.user.clone());
    if reader.shared.signals.read(&Mark { room, user, seq }, from) {
        return taken(&asked);
    }
    let error = "too many marks wait for the log: try again in a moment";
    Reply::Problem(asked.problem(Problem::new(Code::Unavailable, error)))
}

fn taken(asked: &Asked) -> Reply {
    Reply::frame(asked.re, signal::taken(asked.re, &asked.room, asked.id.as_ref()))
}

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
        let signals = self.shared.signals.clone();
        signals.who(room, online, |crowd| {
            let users: Option<Vec<UserId>> = match crowd {
                Crowd::Listed(users) => Some(users.iter().cloned().collect()),
                Crowd::Counted(_) => None,
            };
            let frame = signal::who(room, users.as_deref(), crowd.count(), id.as_ref());
            self.answer(re, &frame);
            self.flush();
        });
    }
}
