//! The floor: the id up to which the outbox has no row and will have none, so that nobody looks
//! there.
//!
//! Rows live for milliseconds, and each leaves a dead entry in the index. While somebody holds an
//! old snapshot (`pg_dump`, a forgotten transaction) PostgreSQL may remove none of them, and every
//! look that began with the oldest row would walk over all: a million after an hour.
//!
//! # Why no row comes up below the floor
//!
//! An id is drawn from a sequence by a transaction that may be committed after others with higher
//! ids. But whoever inserts holds the table's lock in ROW EXCLUSIVE mode from before it draws the
//! id to the end of its transaction. So three things are read, in this order: how far ids are
//! drawn; which transactions hold that lock; and, when none of those is left, the first row that is
//! there. What was drawn by then is visible in the last of these, or never will be. (The oldest
//! transaction under way, `pg_snapshot_xmin`, would tell it too, but waits for any that writes to
//! any table of any database, and would have to be compared with an id of a transaction of ours:
//! `pg_snapshot_xmax` is below those that are under way.)
//!
//! A floor is of one connection: another may lead to another server. And what is written below it
//! all the same, by hand, is found by a look from zero every few minutes.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// How often the floor is raised. What was drawn since is walked over by every look.
const RAISE_EVERY: Duration = Duration::from_secs(1);
/// How often the look begins from zero. A million dead rows take PostgreSQL half a second.
const LOOK_FROM_ZERO_EVERY: Duration = Duration::from_secs(5 * 60);

/// The last id that was drawn. No row, or null: there is none yet, or the role may not know.
const DRAWN: &str = "
    select pg_sequence_last_value(ids.oid)
    from (select pg_get_serial_sequence('outbox', 'id')::regclass as oid) ids
    where has_sequence_privilege(ids.oid, 'usage, select')";

/// Transactions that may have drawn ids and are not over.
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
    /// Ids were drawn up to here before `writers` was read.
    drawn: i64,
    writers: Vec<String>,
    raised: Option<Instant>,
    looked_from_zero: Option<Instant>,
}

impl Floor {
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Raises it, if that is due.
    pub async fn raise(&mut self, client: &Client) -> Result<(), Error> {
        let Some(from_zero) = self.is_due(Instant::now()) else { return Ok(()) };
        match self.read(client, from_zero).await {
            // So many dead rows that they cannot be walked over in time: the floor stays.
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(()),
            raised => raised,
        }
    }

    /// Whether it is, and if so, whether to look from zero.
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
            // Ids are drawn anew: the table was emptied with its sequence, or restored.
            (self.id, self.drawn, self.writers) = (0, 0, Vec::new());
        }
        if drawn == self.id && !from_zero {
            return Ok(());
        }
        let rows = client.query(WRITERS, &[]).await?;
        let writers: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let settled = self.settled(drawn, writers);
        let begin = if from_zero { 0 } else { self.id };
        if settled > begin || from_zero {
            let first = client.query_opt(FIRST, &[&begin]).await?;
            let first: Option<i64> = first.map(|row| row.get(0));
            self.id = first.map_or(settled, |first| settled.min(first - 1));
        }
        Ok(())
    }

    /// Up to where all ids that were drawn are of transactions that are over.
    fn settled(&mut self, drawn: i64, writers: Vec<String>) -> i64 {
        let settled = match () {
            () if writers.is_empty() => drawn,
            () if self.writers.iter().any(|writer| writers.contains(writer)) => return self.id,
            () => self.drawn,
        };
        (self.drawn, self.writers) = (drawn, writers);
        settled.max(self.id)
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
    fn ids_are_settled_when_those_who_may_have_drawn_them_are_gone() {
        let mut floor = Floor::default();
        let writers = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut settle = |drawn, names: &[&str]| {
            let settled = floor.settled(drawn, writers(names));
            // No row is in the way.
            floor.id = settled;
            settled
        };
        assert_eq!(settle(10, &["1/1", "2/1"]), 0);
        assert_eq!(settle(20, &["2/1", "1/2"]), 0, "one of them may have drawn 10");
        assert_eq!(settle(30, &["1/3"]), 10);
        assert_eq!(settle(40, &["1/4"]), 30);
        assert_eq!(settle(50, &[]), 50, "nobody writes");
        assert_eq!(settle(60, &["1/5"]), 50);
        assert_eq!(settle(60, &["1/5"]), 50);
        assert_eq!(settle(60, &[]), 60);
    }
}
