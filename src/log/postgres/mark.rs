//! Writes read marks, many at a time.
//!
//! It keeps no state and does not retry: writing a mark twice changes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Statement;

use super::Shared;
use super::connect::{ConnectError, Connection, Connector};
use crate::log::{LogError, Mark, Marked};
use crate::model::Seq;

/// For one call, including connecting. Only the next call waits for it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the marks that should move, and again, with `true`, those that have moved.
///
/// It never waits for a lock, so it cannot be part of a deadlock: a lane locks the members of a
/// batch in whatever order its plan finds them, and two nodes may write the marks of one user. A
/// locked member is left for the next time.
///
/// A mark is capped at the room's last event: otherwise a client that says 1000 in a room of 3
/// would have read what is not written yet.
const MARK: &str = "
    with asked as materialized (
        select k.place, m.room_id, m.user_id, least(k.seq, r.last_seq) as seq
        from unnest($1::text[], $2::text[], $3::bigint[])
             with ordinality as k (room, user_id, seq, place)
        cross join lateral (
            select r.id, r.last_seq from rooms r where r.name = k.room offset 0
        ) r
        cross join lateral (
            select m.room_id, m.user_id
            from members m
            where m.room_id = r.id and m.user_id = k.user_id
              and least(k.seq, r.last_seq) > greatest(m.read_seq, m.joined_seq)
            offset 0
        ) m
    ), locked as materialized (
        select a.place, a.seq, m.room_id, m.user_id
        from asked a
        join members m on m.room_id = a.room_id and m.user_id = a.user_id
        where a.seq > greatest(m.read_seq, m.joined_seq)
        for no key update of m skip locked
    ), moved as (
        update members m
        set read_seq = l.seq
        from locked l
        where m.room_id = l.room_id and m.user_id = l.user_id
        returning l.place, l.seq
    )
    select place, seq, true from moved
    union all
    select place, seq, false from asked";

/// Writes read marks, for one task.
pub struct Marker {
    shared: Arc<Shared>,
    /// `None` before the first use and after a failure. Taken out while it is in use.
    session: Option<Session>,
}

/// A connection with its prepared statement.
struct Session {
    connection: Connection,
    mark: Statement,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {TIMEOUT:?}")]
struct TooSlow;

impl Session {
    async fn connect(connector: &Connector) -> Result<Self, ConnectError> {
        let connection = connector.connect().await?;
        let mark = connection.client.prepare(MARK).await?;
        Ok(Self { connection, mark })
    }
}

impl Marker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, session: None }
    }

    pub async fn mark(&mut self, marks: &[Mark]) -> Result<Marked, LogError> {
        let kept = self.session.take().filter(|known| !known.connection.client.is_closed());
        let work = async {
            let session = match kept {
                Some(session) => session,
                None => Session::connect(&self.shared.lane_connector)
                    .await
                    .map_err(|error| LogError::Unavailable(error.into()))?,
            };
            let rooms: Vec<&str> = marks.iter().map(|mark| mark.room.as_str()).collect();
            let users: Vec<&str> = marks.iter().map(|mark| mark.user.as_str()).collect();
            let seqs: Vec<i64> = marks.iter().map(|mark| mark.seq.to_i64()).collect();
            let client = &session.connection.client;
            let rows = client.query(&session.mark, &[&rooms, &users, &seqs]).await;
            Ok((session, rows.map_err(|error| LogError::Unavailable(error.into()))?))
        };
        let done = timeout(TIMEOUT, work).await;
        let (session, rows) =
            done.unwrap_or_else(|_| Err(LogError::Unavailable(TooSlow.into())))?;
        self.session = Some(session);

        let mut asked = HashMap::new();
        let mut moved = HashMap::new();
        for row in &rows {
            let (index, seq): (i64, i64) = (row.get(0), row.get(1));
            let outcome = if row.get(2) { &mut moved } else { &mut asked };
            // SQL counts from 1.
            let mark = usize::try_from(index - 1).ok().and_then(|index| marks.get(index));
            outcome
                .extend(mark.map(|mark| (index, Mark { seq: Seq::from_i64(seq), ..mark.clone() })));
        }
        asked.retain(|index, _| !moved.contains_key(index));
        let (moved, busy) = (moved.into_values().collect(), asked.into_values().collect());
        Ok(Marked { moved, busy })
    }
}
