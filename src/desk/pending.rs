//! An answer that is owed, from the moment its command was begun.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::oneshot;

use super::asked::Asked;
use super::reply::Reply;
use super::writes::written;
use crate::lane::Answer;

pub enum Pending {
    Ready(Reply),
    /// A lane has it.
    Write(Asked, oneshot::Receiver<Answer>),
    /// Begins when it is the next to be answered. Until then it is what was asked for, and not yet
    /// the work: a client may ask for hundreds in one breath, and work takes kilobytes.
    Later(Box<dyn FnOnce() -> Work + Send>),
    Work(Work),
}

/// An answer that is being worked out.
pub type Work = Pin<Box<dyn Future<Output = Reply> + Send>>;

impl Pending {
    /// What `work` will do, when its turn has come.
    pub fn later<F>(work: impl FnOnce() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::Later(Box::new(|| Box::pin(work())))
    }

    /// What `work` will make of the answer of a write, when its turn has come.
    pub fn and_then<F>(self, work: impl FnOnce(Pending) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::later(move || work(self))
    }

    /// Its turn has come.
    pub fn begin(&mut self) {
        if let Self::Later(_) = self
            && let Self::Later(begin) = std::mem::replace(self, Self::Ready(Reply::Nothing))
        {
            *self = Self::Work(begin());
        }
    }

    /// Works it out to its end.
    pub async fn end(mut self) -> Reply {
        self.begin();
        match self {
            Self::Ready(reply) => reply,
            Self::Write(asked, answered) => written(asked, answered.await),
            Self::Work(work) => work.await,
            // It has begun.
            Self::Later(begin) => begin().await,
        }
    }
}
