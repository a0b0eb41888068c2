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
use crate::mirror;
use crate::rate::{Bucket, Rate};
use crate::session::Shared;

/// How often the log is asked whether it is there.
const PINGS: Rate = Rate { per_second: 2, burst: 5 };
/// After that long without an answer it is away. Balancers wait a few seconds.
const PING_TIME: Duration = Duration::from_secs(1);
/// How often the numbers are written: a fraction of a millisecond each time.
const RENDERINGS: Rate = Rate { per_second: 10, burst: 20 };

/// One to a node.
pub struct Status {
    shared: Arc<Shared>,
    log: Mutex<Asking>,
    rendered: Mutex<Rendered>,
}

/// What is known of the log.
struct Asking {
    left: Bucket,
    /// The last answer; at first nothing is known.
    is_there: Option<bool>,
    /// Somebody asks just now.
    answer: Option<watch::Receiver<bool>>,
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
    /// `ok`, `away`, or `none`: this node has no Redis and needs none.
    mirror: &'static str,
}

impl Status {
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        let left = Bucket::full(Instant::now());
        let log = Mutex::new(Asking { left, is_there: None, answer: None });
        Arc::new(Self { shared, log, rendered: Mutex::new(Rendered { left, text: Bytes::new() }) })
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
        let log = if self.has_log().await { "ok" } else { "away" };
        let (status, word) = if self.shared.tasks.is_stopping() {
            (StatusCode::SERVICE_UNAVAILABLE, "stopping")
        } else if log == "ok" {
            (StatusCode::OK, "ready")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "unready")
        };
        let node = &self.shared.config.node.id;
        let mirror = match self.shared.status.as_ref().map(|status| *status.borrow()) {
            None => "none",
            Some(mirror::Status::Live) => "ok",
            // Commands commit, acks go out, and other nodes hear by way of the log.
            Some(mirror::Status::Away) => "away",
        };
        json(status, &Ready { status: word, node, log, mirror })
    }

    /// Whether the log answers, asked now if it was not asked too often.
    async fn has_log(self: &Arc<Self>) -> bool {
        let (mut answer, before) = {
            let mut asking = lock(&self.log);
            if asking.answer.is_none() && asking.left.take(PINGS, 1, Instant::now()).is_ok() {
                asking.answer = Some(self.ask_log());
            }
            (asking.answer.clone(), asking.is_there)
        };
        match (&mut answer, before) {
            // Nobody waits for a log that was away a moment ago: those who ask would pile up.
            (Some(_), Some(false)) => false,
            (Some(answer), _) => {
                let answered = timeout(PING_TIME, answer.changed()).await;
                matches!(answered, Ok(Ok(()))) && *answer.borrow()
            }
            (None, before) => before.unwrap_or(false),
        }
    }

    /// In a task of its own, and to its end: whoever wants to know may go away, and a connection to
    /// the log must not be left with an answer that nobody takes.
    fn ask_log(self: &Arc<Self>) -> watch::Receiver<bool> {
        let (tell, answer) = watch::channel(false);
        let this = self.clone();
        self.shared.tasks.spawn_connection(async move {
            let is_there = this.shared.log.ping().await.is_ok();
            let mut asking = lock(&this.log);
            (asking.is_there, asking.answer) = (Some(is_there), None);
            tell.send_replace(is_there);
        });
        answer
    }

    fn metrics(&self, admission: &Admission) -> Answer {
        let mut rendered = lock(&self.rendered);
        if rendered.left.take(RENDERINGS, 1, Instant::now()).is_ok() {
            self.shared.budgets.tell(&self.shared.metrics);
            admission.tell();
            rendered.text = self.shared.metrics.render().into();
        }
        let mut answer = Response::new(Content::Whole(rendered.text.clone()));
        // The exposition format that prometheus-client writes.
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        set(&mut answer, CONTENT_TYPE, kind);
        answer
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
