//! `resume`: a client that reconnects follows its rooms again, however many, a part at a time.
//!
//! Each part takes one query for the user's standings, and one for the last seqs of rooms that are
//! not in use here yet. The next part begins when the client has taken the answers to the one
//! before; in between, others have their turn. The rooms are followed after all parts are answered,
//! so that no replay comes before the last `joined`.

use std::sync::Arc;

use tokio::time::Instant;

use super::asked::Asked;
use super::follow::{Follow, placed};
use super::reader::CommandReader;
use super::reading;
use super::reply::{Joined, Reply};
use crate::hub::Room;
use crate::log::LogError;
use crate::model::{ClientId, RoomName, Seq, UserId};
use crate::protocol::command::Start;
use crate::protocol::error::Problem;
use crate::protocol::table::CommandType;
use crate::rules::{self, Reading, Refusal, Standing};

/// Rooms in one part.
const PART_LEN: usize = 100;

/// A `resume` in progress.
pub struct Resuming {
    reader: CommandReader,
    user: UserId,
    /// Rooms not answered yet.
    rooms: std::vec::IntoIter<(RoomName, Seq)>,
    pub id: Option<ClientId>,
    /// Answered rooms, in order.
    pub done: Vec<Result<Follow, Problem>>,
}

impl Resuming {
    pub fn new(
        reader: CommandReader,
        user: UserId,
        rooms: Vec<(RoomName, Seq)>,
        id: Option<ClientId>,
    ) -> Box<Self> {
        // Not allocated in advance: hundreds may wait, and only a few have begun.
        Box::new(Self { reader, user, rooms: rooms.into_iter(), id, done: Vec::new() })
    }

    /// Whether all parts have been answered.
    pub fn is_over(&self) -> bool {
        self.rooms.len() == 0
    }
}

/// Answers the next part. `Reply::Resumed` has the index in `done` where it starts.
pub async fn part(mut resuming: Box<Resuming>) -> Reply {
    let Resuming { reader, user, rooms, id, done } = &mut *resuming;
    // Each part has its own deadline: there may be a thousand rooms.
    reader.begin();
    let from = done.len();
    if from == 0 {
        reading::store_pending_marks(reader, Some(user)).await;
    }
    let part: Vec<_> = rooms.by_ref().take(PART_LEN).collect();
    let came = Instant::now().into_std();
    let asked = |room: &RoomName| {
        let (room, user, id) = (room.clone(), user.clone(), id.clone());
        Asked { re: CommandType::Resume, room, user, id, came }
    };
    match follow(reader, user, &part).await {
        Ok(found) => {
            for ((name, since), found) in part.iter().zip(found) {
                let asked = asked(name);
                done.push(match found {
                    Found::Refused(refusal) => Err(asked.refused(refusal)),
                    Found::Unread(problem) => Err(asked.problem(problem)),
                    Found::Member(standing, room) => Ok(followed(asked, *since, standing, room)),
                });
            }
        }
        Err(problem) => {
            done.extend(part.iter().map(|(name, _)| Err(asked(name).problem(problem.clone()))));
        }
    }
    Reply::Resumed(resuming, from)
}

/// The result of looking up a room.
enum Found {
    Refused(Refusal),
    /// This room cannot be read, though others can.
    Unread(Problem),
    Member(Standing, Arc<Room>),
}

/// Looks up each room, and activates those that the user may follow.
async fn follow(
    reader: &CommandReader,
    user: &UserId,
    part: &[(RoomName, Seq)],
) -> Result<Vec<Found>, Problem> {
    let desk = &reader.desk;
    let names: Vec<RoomName> = part.iter().map(|(name, _)| name.clone()).collect();
    let before: Vec<_> = names.iter().map(|name| desk.relay.edge(name)).collect();
    let standings = reader.read(desk.log.standings(&names, user)).await?;
    let is_member = |standing: &Result<Option<Standing>, LogError>| {
        standing.as_ref().is_ok_and(|standing| rules::member(*standing).is_ok())
    };
    let members = names.iter().zip(&standings).filter(|(_, standing)| is_member(standing));
    let members: Vec<RoomName> = members.map(|(name, _)| name.clone()).collect();
    for ((name, before), standing) in names.iter().zip(before).zip(&standings) {
        if let Ok(Some(Standing { last_seq, .. })) = standing {
            reader.read(desk.relay.verdict(name, before, *last_seq)).await?;
        }
    }
    let mut rooms = reader.read(desk.relay.activate_all(&members)).await?.into_iter();
    let mut all = Vec::with_capacity(part.len());
    for ((_, since), standing) in part.iter().zip(standings) {
        all.push(match standing {
            Err(error) => Found::Unread(reader.failed(&error)),
            Ok(standing) => match rules::member(standing) {
                Err(refusal) => Found::Refused(refusal),
                Ok(standing) => match rooms.next() {
                    None => Found::Refused(Refusal::RoomNotFound),
                    Some(Err(error)) => Found::Unread(reader.failed(&error)),
                    Some(Ok(room)) => match reader.read(desk.relay.check(&room, *since)).await {
                        Ok(()) => Found::Member(standing, room),
                        Err(problem) => Found::Unread(problem),
                    },
                },
            },
        });
    }
    Ok(all)
}

fn followed(asked: Asked, since: Seq, standing: Standing, room: Arc<Room>) -> Follow {
    let Standing { last_seq, members, reading, .. } = standing;
    let reading = reading.unwrap_or(Reading { read: last_seq, unread: 0 });
    let joined = Joined { asked, event: None, last_seq, members, reading };
    placed(joined, Start::Since(since), room)
}
