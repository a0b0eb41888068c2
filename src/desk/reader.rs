//! Reads from the log for one command: its deadline, and the failed reads of its caller.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Desk;
use super::asked::Asked;
use crate::budget::Held;
use crate::log::LogError;
use crate::protocol::error::Problem;
use crate::rules::{self, Standing};

/// When a read of this session last failed. Clones share it.
#[derive(Clone, Default)]
pub struct Outage(Arc<Mutex<Option<Instant>>>);

/// What a command reads with, from the moment it arrived.
pub struct CommandReader {
    pub desk: Arc<Desk>,
    outage: Outage,
    asked: Instant,
    /// The deadline for all of its reads.
    due: tokio::time::Instant,
}

impl Outage {
    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommandReader {
    pub fn new(desk: Arc<Desk>, outage: Outage) -> Self {
        let now = tokio::time::Instant::now();
        let mut reader = Self { desk, outage, asked: now.into_std(), due: now };
        reader.begin();
        reader
    }

    /// The command is next to be answered, so its time starts now. Earlier commands of the client
    /// must not use it up.
    pub fn begin(&mut self) {
        self.give(self.desk.config.log.read_timeout_ms);
    }

    /// As `begin`, for a command that first waits for its lane. Both share one deadline: otherwise
    /// a slow commit followed by slow reads would be answered late.
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

    /// Waits until this many bytes may be held for a client that may not read them.
    pub async fn room(&self, bytes: usize) -> Result<Held, Problem> {
        let room = self.desk.budgets.unsent.room(bytes);
        tokio::time::timeout_at(self.due, room).await.map_err(|_| Problem::no_room())
    }

    /// Reads from the log, unless a read of this session has failed since the command arrived.
    ///
    /// While the log is away, each read takes its whole timeout, and the reads of one socket run
    /// one after the other: a client that reconnects and resumes ten rooms would wait ten times as
    /// long. But its command has already waited through that failure, so that is its answer as
    /// well.
    pub async fn read<T>(
        &self,
        read: impl Future<Output = Result<T, LogError>>,
    ) -> Result<T, Problem> {
        if self.outage.last().is_some_and(|failed| failed > self.asked) {
            return Err(Problem::unanswered());
        }
        // Some reads wait in turn for work that they share (`Relay::activate`). The time is each
        // read's own.
        let time = self.due.saturating_duration_since(tokio::time::Instant::now());
        let read = tokio::time::timeout_at(self.due, read).await;
        // If the read had little time left because the commit before it was slow, its timeout says
        // nothing about other reads.
        let usual = Duration::from_millis(self.desk.config.log.read_timeout_ms);
        let is_telling = read.is_ok() || time >= usual / 2;
        let read = read.unwrap_or_else(|_| Err(LogError::Unavailable("no answer in time".into())));
        read.map_err(|err| {
            // Damage is local and says nothing about other reads.
            if is_telling && !matches!(err, LogError::Damaged(_)) {
                *self.outage.last() = Some(Instant::now());
            }
            self.failed(&err)
        })
    }

    /// The error for a client whose read failed.
    pub fn failed(&self, error: &LogError) -> Problem {
        self.desk.metrics.log_error(error.kind());
        tracing::debug!(err = %error, "a read of the log failed");
        match error {
            LogError::Damaged(_) => Problem::unreadable(),
            _ => Problem::unanswered(),
        }
    }
}

impl CommandReader {
    /// The user's standing as a member, or the refusal.
    pub async fn member(&self, asked: &Asked) -> Result<Standing, Problem> {
        let standing = self.read(self.desk.log.standing(&asked.room, &asked.user)).await;
        let standing = standing.map_err(|problem| asked.problem(problem))?;
        rules::member(standing).map_err(|refusal| asked.refused(refusal))
    }
}
