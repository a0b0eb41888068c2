//! The tasks of a node, its stop signal, and its first failure.
//!
//! A node has one `Tasks`. None of it is global, so several nodes can run in one process.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Counter;

/// Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Tasks {
    /// Tasks that a clean stop waits for.
    tracker: TaskTracker,
    /// Sessions and requests in progress. HTTP continues until the last of them has ended.
    sessions: TaskTracker,
    /// Cancelled once, when the node begins to stop.
    stop: CancellationToken,
    /// Counts connection tasks that panicked.
    panics: Counter,
    /// The first failure of a task that the node cannot run without.
    failure: Arc<watch::Sender<Option<String>>>,
}

impl Tasks {
    /// `panics` counts connection tasks that panic.
    pub fn new(panics: Counter) -> Self {
        let (failure, _) = watch::channel(None);
        let (tracker, sessions) = (TaskTracker::new(), TaskTracker::new());
        let stop = CancellationToken::new();
        Self { tracker, sessions, stop, panics, failure: Arc::new(failure) }
    }

    /// Runs a task that the node cannot run without. A panic in it fails the whole node, because
    /// what it owned (a lane, a room's order) can no longer be trusted. Everything durable is in
    /// the log, so a node that ends with an error loses nothing.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        self.tracker.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                tasks.fail(format!("task {name} panicked: {}", message(&*panic)));
            }
        });
    }

    /// Runs the task of one connection. A panic in it ends only that connection.
    pub fn spawn_connection<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let panics = self.panics.clone();
        // Boxed, because the future around it would store it twice.
        let task = AssertUnwindSafe(Box::pin(task));
        self.tracker.spawn(async move {
            if let Err(panic) = task.catch_unwind().await {
                panics.inc();
                tracing::error!(panic = message(&*panic), "a connection's task panicked");
            }
        });
    }

    /// As `spawn_connection`; `sessions_ended` waits for it.
    pub fn spawn_session<F>(&self, session: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_connection(self.sessions.track_future(session));
    }

    /// Runs the answer to a request; `sessions_ended` waits for it as well, so a stopping node does
    /// not end HTTP while somebody waits for a commit.
    pub async fn answer<F: Future>(&self, answer: F) -> F::Output {
        self.sessions.track_future(answer).await
    }

    /// Fails the node. The first reason is kept.
    pub fn fail(&self, reason: String) {
        // Stored first, logged second: whatever happens to the log line, the node ends.
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                *failure = Some(reason.clone());
            }
            first
        });
        tracing::error!(reason, "the node cannot continue");
    }

    /// Waits for the first failure and returns its reason.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender lives in `self`, which outlives this borrow.
            Err(_) => std::future::pending().await,
        }
    }

    /// Tells every task to stop.
    pub fn stop(&self) {
        // In this order: a request that did not see the stop is counted before `sessions_ended` can
        // resolve.
        self.stop.cancel();
        self.sessions.close();
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves when the node begins to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Resolves when the node stops, the last session has ended, and no request is in progress.
    pub async fn sessions_ended(&self) {
        self.sessions.wait().await;
    }

    /// Waits until every task has ended. Call after `stop`.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::broken::Broken;

    #[tokio::test]
    async fn a_panic_in_a_task_fails_the_node_and_names_the_task() {
        let tasks = Tasks::new(Counter::default());
        tasks.spawn("lane", async { panic!("broken") });
        assert_eq!(tasks.failed().await, "task lane panicked: broken");
        tasks.ended().await;
    }

    #[tokio::test]
    async fn a_panic_in_a_connection_ends_that_connection_only() {
        let panics = Counter::default();
        let tasks = Tasks::new(panics.clone());
        tasks.spawn_connection(async { panic!("broken") });
        tasks.ended().await;
        assert_eq!(panics.get(), 1);
        assert!(tasks.failed().now_or_never().is_none());
    }

    /// A node whose task had died continued without it, because the log line that should say so
    /// came first and panicked.
    #[tokio::test]
    async fn a_panic_is_known_even_if_it_cannot_be_told() {
        let panics = Counter::default();
        let tasks = Tasks::new(panics.clone());
        let _broken = tracing::subscriber::set_default(Broken);
        tasks.spawn("lane", async { panic!("broken") });
        tasks.spawn_connection(async { panic!("broken") });
        tasks.ended().await;
        let failed = tasks.failed().now_or_never();
        assert_eq!(failed.as_deref(), Some("task lane panicked: broken"));
        assert_eq!(panics.get(), 1);
    }
}
