//! What a node says of itself, to whoever asks: `/healthz`, `/readyz` and `/metrics`.
//!
//! They are asked often, by balancers, and by strangers. So the log is asked for all of them
//! together and not too often, and numbers are written a few times a second; who asks more gets
//! what was said last.

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

/// How often the log is asked whether it is there.
const PINGS: Rate = Rate { per_second: 2, burst: 5 };
/// After that long without an answer it is away. Balancers wait a few seconds.
const PING_TIME: Duration = Duration::from_secs(1);
/// After that long without a commit it takes none.
const COMMIT_TIME: Duration = Duration::from_millis(800);
/// How often the numbers are written: a fraction of a millisecond each time.
const RENDERINGS: Rate = Rate { per_second: 10, burst: 20 };

/// One to a node.
pub struct Status {
    desk: Arc<Desk>,
    log: Mutex<Asking>,
    rendered: Mutex<Rendered>,
}

/// What is known of the log.
struct Asking {
    left: Bucket,
    /// The last answer; at first nothing is known.
    before: Option<Known>,
    /// Somebody asks just now.
    answer: Option<watch::Receiver<Known>>,
}

/// What the log can do.
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
    /// `unavailable` if it answers and takes no commits.
    #[serde(skip_serializing_if = "Option::is_none")]
    writes: Option<&'static str>,
    /// `ok`, `away`, `foreign` (it belongs to another log), `missing` (no Redis, though other nodes
    /// may use the same log), or `none`: this node has no Redis and needs none.
    mirror: &'static str,
}

impl Status {
    pub fn new(desk: Arc<Desk>) -> Arc<Self> {
        let left = Bucket::full(Instant::now());
        let log = Mutex::new(Asking { left, before: None, answer: None });
        Arc::new(Self { desk, log, rendered: Mutex::new(Rendered { left, text: Bytes::new() }) })
    }

    /// `None`: it is not a path of these.
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
            // Commands commit, acks go out, and other nodes hear by way of the log.
            Some(mirror::Status::Away) => "away",
            // The same holds, but it is no passing fault: somebody has to set it right.
            Some(mirror::Status::Foreign) => "foreign",
        };
        json(status, &Ready { status: word, node, log, writes, mirror })
    }

    /// What the log can do, asked now if it was not asked too often.
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
            // One at a time waits for a log that was away: those who ask would pile up.
            Some(answer) if is_first || before.is_none_or(|known| known.answers) => {
                match timeout(PING_TIME, answer.changed()).await {
                    Ok(Ok(())) => *answer.borrow(),
                    _ => Known::default(),
                }
            }
            _ => before.unwrap_or_default(),
        }
    }

    /// In a task of its own, and to its end: whoever wants to know may go away, and a connection to
    /// the log must not be left with an answer that nobody takes.
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
    /// Whom to tell what the log answers, if it is to be asked now: nobody asks already, and it was
    /// not asked too often.
    fn begin(&mut self, now: Instant) -> Option<watch::Sender<Known>> {
        // Nobody asks any more if the one who did has ended without an answer.
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
        // As long as it has not answered, nobody asks again, however long that is.
        for s in 0..100 {
            assert!(asking.begin(begin + Duration::from_secs(s)).is_none());
        }
        // But whoever asks may end without an answer, and then nobody would ever ask again.
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
