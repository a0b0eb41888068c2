//! An answer that is owed, from when its command began.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::oneshot;

use super::asked::Asked;
use super::reply::Reply;
use super::writes::written;
use crate::lane::Answer;

pub enum Pending {
    Ready(Reply),
    /// A lane has the command.
    Write(Asked, oneshot::Receiver<Answer>),
    /// Begins when it is next to be answered. Until then only the request is kept: a client may
    /// send hundreds at once, and the work for each takes kilobytes.
    Later(Box<dyn FnOnce() -> Work + Send>),
    Work(Work),
}

/// An answer in progress.
pub type Work = Pin<Box<dyn Future<Output = Reply> + Send>>;

impl Pending {
    /// Runs `work` when its turn has come.
    pub fn later<F>(work: impl FnOnce() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::Later(Box::new(|| Box::pin(work())))
    }

    /// Runs `work` on the answer of a write when its turn has come.
    pub fn and_then<F>(self, work: impl FnOnce(Pending) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::later(move || work(self))
    }

    /// Begins the work: its turn has come.
    pub fn begin(&mut self) {
        if let Self::Later(_) = self
            && let Self::Later(begin) = std::mem::replace(self, Self::Ready(Reply::Nothing))
        {
            *self = Self::Work(begin());
        }
    }

    /// Completes the answer.
    pub async fn end(mut self) -> Reply {
        self.begin();
        match self {
            Self::Ready(reply) => reply,
            Self::Write(asked, answered) => written(asked, answered.await),
            Self::Work(work) => work.await,
            // Not reached, because it has begun.
            Self::Later(begin) => begin().await,
        }
    }
}
