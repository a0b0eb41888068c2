//! What the answer to a command repeats of it, and the sentences of its refusals.

use std::borrow::Cow;
use std::time::Instant;

use crate::model::{ClientId, RoomName, UserId};
use crate::protocol::error::{Code, Problem};
use crate::protocol::fields::{self, Key};
use crate::protocol::table::CommandType;
use crate::rules::Refusal;

/// What the answer must repeat of the command.
#[derive(Clone, Debug)]
pub struct Asked {
    pub re: CommandType,
    pub room: RoomName,
    pub user: UserId,
    pub id: Option<ClientId>,
    /// When the command came: it is to be answered in time from then on.
    pub came: Instant,
}

impl Asked {
    /// A problem with this command in it.
    pub fn problem(&self, problem: Problem) -> Problem {
        let (re, room, id) = (Some(self.re), Some(self.room.clone()), self.id.clone());
        Problem { re, room, id, ..problem }
    }

    pub fn refused(&self, refusal: Refusal) -> Problem {
        let room = serde_json::Value::from(self.room.as_str());
        let (code, error): (_, Cow<'static, str>) = match refusal {
            Refusal::UserName(why) => return self.problem(fields::invalid(Key::UserId, why)),
            Refusal::RoomExists => {
                (Code::RoomExists, format!("there is a room {room} already: join it").into())
            }
            Refusal::RoomNotFound => {
                (Code::RoomNotFound, format!("there is no room {room}: create it first").into())
            }
            Refusal::IdReused { first } => {
                let re = self.re.name();
                let error = format!(
                    "your {first} in {room} had this \"id\": give the {re} an \"id\" of its own"
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
