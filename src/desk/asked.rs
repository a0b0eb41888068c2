//! What an answer repeats of its command, and the errors for refusals of the rules.

use std::borrow::Cow;
use std::time::Instant;

use crate::model::{ClientId, RoomName, UserId};
use crate::protocol::error::{Code, Problem};
use crate::protocol::fields::{self, Key};
use crate::protocol::table::CommandType;
use crate::rules::Refusal;

/// The parts of a command that its answer repeats.
#[derive(Clone, Debug)]
pub struct Asked {
    pub re: CommandType,
    pub room: RoomName,
    pub user: UserId,
    pub id: Option<ClientId>,
    /// When the command arrived. The time to answer it runs from then.
    pub came: Instant,
}

impl Asked {
    /// Adds this command to a problem.
    pub fn problem(&self, problem: Problem) -> Problem {
        let (re, room, id) = (Some(self.re), Some(self.room.clone()), self.id.clone());
        Problem { re, room, id, ..problem }
    }

    pub fn refused(&self, refusal: Refusal) -> Problem {
        let room = serde_json::Value::from(self.room.as_str());
        let (code, error): (_, Cow<'static, str>) = match refusal {
            Refusal::UserName(why) => return self.problem(fields::invalid(Key::UserId, why)),
            Refusal::RoomExists => {
                (Code::RoomExists, format!("room {room} exists already; join it instead").into())
            }
            Refusal::RoomNotFound => {
                (Code::RoomNotFound, format!("room {room} does not exist; create it first").into())
            }
            Refusal::IdReused { first } => {
                let re = self.re.name();
                let error = format!(
                    "this \"id\" is taken by your {first} in {room}; give the {re} another \"id\""
                );
                (Code::IdReused, error.into())
            }
            Refusal::NotMember => {
                let doing = self.re.row().doing;
                (Code::NotMember, format!("join {room} before {doing}").into())
            }
        };
        self.problem(Problem::new(code, error))
    }
}
