//! The state of a node, for monitoring: `/healthz`, `/readyz` and `/metrics`.
//!
//! Load balancers ask often, and anybody may ask. So all requests share their questions to the log,
//! which are rate-limited, and metrics are rendered a few times a second. Requests beyond that get
//! the last answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;

use super::admission::Admission;
use super::answer::{self, Answer, Content, json, set};
use crate::desk::Desk;
use crate::mirror;
use crate::rate::{Bucket, Rate};

/// How often the log is asked.
const PINGS: Rate = Rate { per_second: 2, burst: 5 };
/// Without an answer for this long, the log counts as away. Balancers wait a few seconds.
const PING_TIME: Duration = Duration::from_secs(1);
/// Without a commit for this long, it counts as taking no writes.
const COMMIT_TIME: Duration = Duration::from_millis(800);
/// How often metrics are rendered, which takes a fraction of a millisecond.
const RENDERINGS: Rate = Rate { per_second: 10, burst: 20 };

/// One per node.
pub struct Status {
    desk: Arc<Desk>,
    log: Mutex<Asking>,
    rendered: Mutex<Rendered>,
}

/// What is known about the log.
struct Asking {
    left: Bucket,
    /// The last answer; `None` at first.
    before: Option<Known>,
    /// A question that is being answered now.
    answer: Option<watch::Receiver<Known>>,
}

/// Whether the log answers and commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    answers: bool,
    commits: bool,
}

struct Rendered {
    left: Bucket,
    text: Bytes,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

#[derive(Serialize)]
struct Ready<'a> {
    status: &'static str,
    node: &'a str,
    /// `ok` or `away`.
    log: &'static str,
    /// `unavailable` if the log answers but takes no commits.
    #[serde(skip_serializing_if = "Option::is_none")]
    writes: Option<&'static str>,
    /// `ok`, `away`, `foreign` (it belongs to another log), `missing` (no Redis, though other nodes
    /// may use the same log), or `none` (this node has no Redis and needs none).
    mirror: &'static str,
}

impl Status {
    pub fn new(desk: Arc<Desk>) -> Arc<Self> {
        let left = Bucket::full(Instant::now());
        let log = Mutex::new(Asking { left, before: None, answer: None });
        Arc::new(Self { desk, log, rendered: Mutex::new(Rendered { left, text: Bytes::new() }) })
    }

    /// `None`: this is not one of these paths.
    pub async fn answer(
        self: &Arc<Self>,
        method: &Method,
        path: &str,
        admission: &Admission,
    ) -> Option<Answer> {
        if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
            return None;
        }
        if let Some(answer) = answer::for_reading(method) {
            return Some(answer);
        }
        Some(match path {
            "/readyz" => self.ready().await,
            "/metrics" => self.metrics(admission),
            _ => json(StatusCode::OK, &Health { status: "ok" }),
        })
    }

    async fn ready(self: &Arc<Self>) -> Answer {
        let known = self.ask().await;
        let mirror = self.desk.status.as_ref().map(|status| *status.borrow());
        let log = if known.answers { "ok" } else { "away" };
        let writes = (known.answers && !known.commits).then_some("unavailable");
        let (status, word) = if self.desk.tasks.is_stopping() {
            (StatusCode::SERVICE_UNAVAILABLE, "stopping")
        } else if known.commits && mirror != Some(mirror::Status::Foreign) {
            (StatusCode::OK, "ready")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "unready")
        };
        let node = &self.desk.config.node.id;
        let mirror = match mirror {
            None if self.desk.log.is_shared() => "missing",
            None => "none",
            Some(mirror::Status::Live) => "ok",
            // Commands commit, acks go out, and other nodes get events through the log.
            Some(mirror::Status::Away) => "away",
            // The same holds, but it does not pass by itself: the operator must fix it.
            Some(mirror::Status::Foreign) => "foreign",
        };
        json(status, &Ready { status: word, node, log, writes, mirror })
    }

    /// The state of the log, asked now unless it was asked too often.
    async fn ask(self: &Arc<Self>) -> Known {
        let (mut answer, before, is_first) = {
            let mut asking = lock(&self.log);
            let tell = asking.begin(Instant::now());
            let is_first = tell.is_some();
            if let Some(tell) = tell {
                self.ask_log(tell);
            }
            (asking.answer.clone(), asking.before, is_first)
        };
        match &mut answer {
            // Only one request at a time waits for a log that was away. Otherwise requests would
            // pile up.
            Some(answer) if is_first || before.is_none_or(|known| known.answers) => {
                match timeout(PING_TIME, answer.changed()).await {
                    Ok(Ok(())) => *answer.borrow(),
                    _ => Known::default(),
                }
            }
            _ => before.unwrap_or_default(),
        }
    }

    /// Runs in its own task, to the end: the request may be dropped, and a connection to the log
    /// must not be left with an unread answer.
    fn ask_log(self: &Arc<Self>, tell: watch::Sender<Known>) {
        let this = self.clone();
        self.desk.tasks.spawn_connection(async move {
            let log = &this.desk.log;
            let commit = timeout(COMMIT_TIME, log.ping_writes());
            let (answers, commits) = tokio::join!(log.ping(), commit);
            let (answers, commits) = (answers.is_ok(), matches!(commits, Ok(Ok(()))));
            let known = Known { answers, commits: answers && commits };
            let mut asking = lock(&this.log);
            (asking.before, asking.answer) = (Some(known), None);
            tell.send_replace(known);
        });
    }

    fn metrics(&self, admission: &Admission) -> Answer {
        let text = lock(&self.rendered).text(Instant::now(), || {
            self.desk.budgets.tell(&self.desk.metrics);
            admission.tell();
            self.desk.metrics.render().into()
        });
        let mut answer = Response::new(Content::Whole(text));
        // The exposition format that prometheus-client writes.
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        set(&mut answer, CONTENT_TYPE, kind);
        answer
    }
}

impl Asking {
    /// The sender for the answer, if the log is to be asked now: no question is open, and it was
    /// not asked too often.
    fn begin(&mut self, now: Instant) -> Option<watch::Sender<Known>> {
        // If the task that asked has ended without an answer, no question is open.
        let is_asked = self.answer.as_ref().is_some_and(|answer| answer.has_changed().is_ok());
        if is_asked || self.left.take(PINGS, 1, now).is_err() {
            return None;
        }
        let (tell, answer) = watch::channel(Known::default());
        self.answer = Some(answer);
        Some(tell)
    }
}

impl Rendered {
    fn text(&mut self, now: Instant, render: impl FnOnce() -> Bytes) -> Bytes {
        if self.left.take(RENDERINGS, 1, now).is_ok() {
            self.text = render();
        }
        self.text.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_asked_once_for_all_and_not_too_often() {
        let begin = Instant::now();
        let mut asking = Asking { left: Bucket::full(begin), before: None, answer: None };
        let tell = asking.begin(begin);
        assert!(tell.is_some());
        // While the answer is open, nobody asks again, however long it takes.
        for s in 0..100 {
            assert!(asking.begin(begin + Duration::from_secs(s)).is_none());
        }
        // But if the task ends without an answer, the next request asks again.
        drop(tell);
        let later = begin + Duration::from_secs(50);
        assert!(asking.begin(later).is_some());
        let later = begin + Duration::from_secs(100);
        let asked = (0..1000).filter(|_| {
            asking.answer = None;
            asking.begin(later).is_some()
        });
        assert_eq!(asked.count(), PINGS.burst as usize);
    }

    #[test]
    fn numbers_are_written_a_few_times_a_second() {
        let begin = Instant::now();
        let mut rendered = Rendered { left: Bucket::full(begin), text: Bytes::new() };
        let mut written = 0;
        for ms in 0..10_000 {
            let text = rendered.text(begin + Duration::from_millis(ms), || {
                written += 1;
                "numbers".into()
            });
            assert_eq!(text, "numbers");
        }
        assert!((100..=120).contains(&written), "{written} in ten seconds");
    }
}
