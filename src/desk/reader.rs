//! What one command reads with: its time, and what the caller's reads have met.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Desk;
use super::asked::Asked;
use crate::budget::Held;
use crate::log::LogError;
use crate::protocol::error::Problem;
use crate::rules::{self, Standing};

/// When a read of one session failed the last time. Clones share it.
#[derive(Clone, Default)]
pub struct Outage(Arc<Mutex<Option<Instant>>>);

/// What one command reads with, from the moment it came.
pub struct Reader {
    pub desk: Arc<Desk>,
    outage: Outage,
    asked: Instant,
    /// When its time to read is over, however many reads it takes.
    due: tokio::time::Instant,
}

impl Outage {
    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    pub fn new(desk: Arc<Desk>, outage: Outage) -> Self {
        let now = tokio::time::Instant::now();
        let mut reader = Self { desk, outage, asked: now.into_std(), due: now };
        reader.begin();
        reader
    }

    /// The command is the next to be answered: its time begins now, and what a client asked for
    /// before it has not used it up.
    pub fn begin(&mut self) {
        self.give(self.desk.config.log.read_timeout_ms);
    }

    /// As `begin`, for a command that waits for its lane first. Both are one time: else one whose
    /// commit took nearly as long as it may, and then its reads as well, would be answered late.
    pub fn begin_with_write(&mut self) {
        let config = &self.desk.config;
        self.give(config.lane.answer_timeout_ms.max(config.log.read_timeout_ms));
    }

    fn give(&mut self, budget_ms: u64) {
        self.due = tokio::time::Instant::now() + Duration::from_millis(budget_ms);
    }

    pub fn due(&self) -> tokio::time::Instant {
        self.due
    }

    /// Waits until so many bytes may be held for a client that may not read them.
    pub async fn room(&self, bytes: usize) -> Result<Held, Problem> {
        let room = self.desk.budgets.unsent.room(bytes);
        tokio::time::timeout_at(self.due, room).await.map_err(|_| Problem::no_room())
    }

    /// Reads from the log, unless a read of this session has failed since the command came.
    ///
    /// While the log is away each read takes its whole time-out, and the reads of one socket go one
    /// after the other: a client that comes back and resumes ten rooms would wait ten times as
    /// long. But its command has waited through that failure already, so that is its answer, too.
    pub async fn read<T>(
        &self,
        read: impl Future<Output = Result<T, LogError>>,
    ) -> Result<T, Problem> {
        if self.outage.last().is_some_and(|failed| failed > self.asked) {
            return Err(Problem::unanswered());
        }
        // Some reads share what one of them does, one after the other (`Relay::activate`): the
        // time is each one's own.
        let time = self.due.saturating_duration_since(tokio::time::Instant::now());
        let read = tokio::time::timeout_at(self.due, read).await;
        // That a read had no time left, because the commit before it was slow, says nothing about
        // the reads of other commands.
        let usual = Duration::from_millis(self.desk.config.log.read_timeout_ms);
        let is_telling = read.is_ok() || time >= usual / 2;
        let read = read.unwrap_or_else(|_| Err(LogError::Unavailable("no answer in time".into())));
        read.map_err(|err| {
            // Damage is in one place, and says nothing about the reads of other commands.
            if is_telling && !matches!(err, LogError::Damaged(_)) {
                *self.outage.last() = Some(Instant::now());
            }
            self.failed(&err)
        })
    }

    /// What a client is told whose read failed.
    pub fn failed(&self, error: &LogError) -> Problem {
        self.desk.metrics.log_error(error.kind());
        tracing::debug!(err = %error, "a read of the log failed");
        match error {
            LogError::Damaged(_) => Problem::unreadable(),
            _ => Problem::unanswered(),
        }
    }
}

impl Reader {
    /// The user's standing, or why a member's command is refused.
    pub async fn member(&self, asked: &Asked) -> Result<Standing, Problem> {
        let standing = self.read(self.desk.log.standing(&asked.room, &asked.user)).await;
        let standing = standing.map_err(|problem| asked.problem(problem))?;
        rules::member(standing).map_err(|refusal| asked.refused(refusal))
    }
}
