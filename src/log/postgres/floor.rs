//! The floor: an outbox id up to which no row exists or ever will, so that nobody needs to look
//! there.
//!
//! Rows live for milliseconds, and each leaves a dead entry in the index. While somebody holds an
//! old snapshot (`pg_dump`, a forgotten transaction), PostgreSQL cannot remove dead entries, and
//! every query that starts at the oldest row walks over all of them: a million after an hour.
//!
//! # Why no row appears below the floor
//!
//! A transaction draws an id from a sequence, and may commit after others with higher ids. But an
//! insert holds the table's lock in ROW EXCLUSIVE mode from before it draws the id until its
//! transaction ends. So three things are read, in this order:
//!
//! 1. The last id drawn.
//! 2. The transactions that hold that lock.
//! 3. When all of those have ended, the first row in the table.
//!
//! By then, an id drawn before step 1 is either visible in step 3 or will never appear.
//!
//! Step 2 could compare with the oldest running transaction instead (`pg_snapshot_xmin`). But that
//! waits for every transaction that writes to any table of any database. And the comparison needs
//! the id of a transaction of our own, because `pg_snapshot_xmax` is below the ids of those that
//! are running.
//!
//! A floor belongs to one connection, because another may lead to another server. Rows that
//! somebody writes below it by hand are found by a query from zero every few minutes.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// How often the floor is raised. Each query walks over the ids drawn since.
const RAISE_EVERY: Duration = Duration::from_secs(1);
/// How often a query starts at zero. A million dead rows take PostgreSQL half a second.
const LOOK_FROM_ZERO_EVERY: Duration = Duration::from_secs(5 * 60);

/// The last id drawn. No row, or NULL: none was drawn yet, or the role may not see it.
const DRAWN: &str = "
    select pg_sequence_last_value(ids.oid)
    from (select pg_get_serial_sequence('outbox', 'id')::regclass as oid) ids
    where has_sequence_privilege(ids.oid, 'usage, select')";

/// Running transactions that may have drawn ids.
const WRITERS: &str = "
    select distinct virtualtransaction
    from pg_locks
    where locktype = 'relation' and granted and mode = 'RowExclusiveLock'
      and database = (select oid from pg_database where datname = current_database())
      and relation = 'outbox'::regclass";

const FIRST: &str = "select id from outbox where id > $1::bigint order by id limit 1";

#[derive(Default)]
pub(super) struct Floor {
    /// No row has an id up to this one.
    id: i64,
    /// The last id drawn before `writers` was read.
    drawn: i64,
    writers: Vec<String>,
    raised: Option<Instant>,
    looked_from_zero: Option<Instant>,
}

impl Floor {
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Raises the floor, if it is due.
    pub async fn raise(&mut self, client: &Client) -> Result<(), Error> {
        let Some(from_zero) = self.is_due(Instant::now()) else { return Ok(()) };
        match self.read(client, from_zero).await {
            // There are too many dead rows to walk over in time: the floor stays.
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(()),
            raised => raised,
        }
    }

    /// `None` if it is not due, else whether to look from zero.
    fn is_due(&mut self, now: Instant) -> Option<bool> {
        let is_due =
            |at: Option<Instant>, every| at.is_none_or(|at| now.duration_since(at) >= every);
        if !is_due(self.raised, RAISE_EVERY) {
            return None;
        }
        self.raised = Some(now);
        let from_zero = is_due(self.looked_from_zero, LOOK_FROM_ZERO_EVERY);
        if from_zero {
            self.looked_from_zero = Some(now);
        }
        Some(from_zero)
    }

    async fn read(&mut self, client: &Client, from_zero: bool) -> Result<(), Error> {
        let row = client.query_opt(DRAWN, &[]).await?;
        let drawn: i64 = row.and_then(|row| row.get(0)).unwrap_or(0);
        if drawn < self.drawn {
            // The sequence was reset: the table was truncated or restored.
            (self.id, self.drawn, self.writers) = (0, 0, Vec::new());
        }
        if drawn == self.id && !from_zero {
            return Ok(());
        }
        let rows = client.query(WRITERS, &[]).await?;
        let writers: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let ended = self.ended_up_to(drawn, writers);
        let begin = if from_zero { 0 } else { self.id };
        if ended > begin || from_zero {
            let first = client.query_opt(FIRST, &[&begin]).await?;
            let first: Option<i64> = first.map(|row| row.get(0));
            self.id = first.map_or(ended, |first| ended.min(first - 1));
        }
        Ok(())
    }

    /// The highest id up to which every transaction that drew one has ended.
    fn ended_up_to(&mut self, drawn: i64, writers: Vec<String>) -> i64 {
        let ended = match () {
            () if writers.is_empty() => drawn,
            () if self.writers.iter().any(|writer| writers.contains(writer)) => return self.id,
            () => self.drawn,
        };
        (self.drawn, self.writers) = (drawn, writers);
        ended.max(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_from_zero_every_few_minutes() {
        let (mut floor, begun) = (Floor::default(), Instant::now());
        let due = (0..700_000).step_by(200).filter_map(|ms| {
            let from_zero = floor.is_due(begun + Duration::from_millis(ms))?;
            Some((ms, from_zero))
        });
        let (from_zero, rest): (Vec<_>, Vec<_>) = due.partition(|(_, from_zero)| *from_zero);
        assert_eq!(from_zero, [(0, true), (300_000, true), (600_000, true)]);
        assert_eq!(rest.len(), 697);
    }

    #[test]
    fn ids_are_done_when_the_transactions_that_may_have_drawn_them_have_ended() {
        let mut floor = Floor::default();
        let writers = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut ended_up_to = |drawn, names: &[&str]| {
            let ended = floor.ended_up_to(drawn, writers(names));
            // No row is in the way.
            floor.id = ended;
            ended
        };
        assert_eq!(ended_up_to(10, &["1/1", "2/1"]), 0);
        assert_eq!(ended_up_to(20, &["2/1", "1/2"]), 0, "one of them may have drawn 10");
        assert_eq!(ended_up_to(30, &["1/3"]), 10);
        assert_eq!(ended_up_to(40, &["1/4"]), 30);
        assert_eq!(ended_up_to(50, &[]), 50, "nobody writes");
        assert_eq!(ended_up_to(60, &["1/5"]), 50);
        assert_eq!(ended_up_to(60, &["1/5"]), 50);
        assert_eq!(ended_up_to(60, &[]), 60);
    }
}
