//! The second connections of a talker: its twin, which sends the same commands to another node at
//! the same time, and its reader, which asks another node for what was just written.
//!
//! Neither follows a room. Neither makes sure that commands are answered; the talker does.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use verbatim_checker::Asked;
use verbatim_client::frame;

use super::client::{Client, Gone, Heard, Open};
use super::talker::{Job, take_answered};

/// The longest that a reader waits for a connection and an answer. Then it skips this reading.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Commands that wait for the twin. When the queue is full, the twin does not send more.
const QUEUE_LEN: usize = 64;

/// Starts a twin, which ends when the sender is dropped.
pub fn twin(client: Client) -> mpsc::Sender<Job> {
    let (jobs, waiting) = mpsc::channel(QUEUE_LEN);
    tokio::spawn(Twin { client, waiting, pending: VecDeque::new() }.run());
    jobs
}

struct Twin {
    client: Client,
    waiting: mpsc::Receiver<Job>,
    /// Unanswered commands. Bounded by the talker, which has one unanswered command at a time, and
    /// by the connection, which breaks if nothing is answered.
    pending: VecDeque<Job>,
}

impl Twin {
    async fn run(mut self) {
        while let Ok(mut open) = self.client.connect().await {
            if self.echo(&mut open).await.is_ok() {
                return open.line.close().await;
            }
            // The talker sends them again where necessary.
            self.pending.clear();
            self.client.move_on();
        }
    }

    async fn echo(&mut self, open: &mut Open) -> Result<(), Gone> {
        loop {
            tokio::select! {
                job = self.waiting.recv() => {
                    let Some(job) = job else { return Ok(()) };
                    self.client.sent(open, job.command);
                    let json = job.json.clone();
                    self.pending.push_back(job);
                    open.line.send([json]).await?;
                }
                text = open.next() => {
                    let text = text?;
                    if self.client.hear(open, &text) != Heard::Answer {
                        continue;
                    }
                    let frame = serde_json::from_str(&text).map_err(|_| Gone)?;
                    match take_answered(&mut self.pending, &frame) {
                        Some(job) => drop(self.client.answered(open, job.command, &frame, &text)),
                        None => open.stray(&text),
                    }
                }
            }
        }
    }
}

/// Asks another node for what was written.
pub struct Reader {
    client: Client,
    open: Option<Open>,
    asked: u64,
}

impl Reader {
    pub fn new(client: Client) -> Self {
        Self { client, open: None, asked: 0 }
    }

    /// Asks for the event that was acked at `seq`, in each of three ways in turn.
    pub async fn read(&mut self, room: &str, seq: u64) {
        self.asked += 1;
        let asked = match self.asked % 3 {
            0 => Asked::Newest,
            1 => Asked::After(seq - 1),
            _ => Asked::Before(seq + 1),
        };
        let read = async {
            if self.open.is_none() {
                self.open = self.client.connect().await.ok();
            }
            let open = self.open.as_mut().ok_or(Gone)?;
            page(&self.client, open, room, asked).await
        };
        if !matches!(timeout(READ_TIMEOUT, read).await, Ok(Ok(_))) {
            self.open = None;
            self.client.move_on();
        }
    }
}

/// The answer to a request for a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Paged {
    Page {
        /// The highest seq in it.
        last: u64,
        more: bool,
    },
    /// The log could not be read.
    Unavailable,
    /// The room does not exist, or this user may not read it.
    Refused,
}

/// Asks for a page of history, and records it.
pub async fn page(
    client: &Client,
    open: &mut Open,
    room: &str,
    asked: Asked,
) -> Result<Paged, Gone> {
    let (after, before, limit) = match asked {
        Asked::Newest => (None, None, 5),
        Asked::Before(seq) => (None, Some(seq), 5),
        Asked::After(seq) => (Some(seq), None, 200),
    };
    let (user_id, room_name, limit) = (&*client.user, Some(room), Some(limit));
    let ask = frame::Command {
        r#type: "history",
        user_id,
        room: room_name,
        after,
        before,
        limit,
        ..Default::default()
    };
    let asked_at = client.stage.recorder.now();
    open.line.send([ask.json()]).await?;
    loop {
        let text = open.next().await?;
        let frame: frame::Frame<'_> = serde_json::from_str(&text).map_err(|_| Gone)?;
        match &*frame.r#type {
            "history" => {
                let (last, more) = client.page(open, room, asked, asked_at, &text)?;
                return Ok(Paged::Page { last, more });
            }
            "error" if frame.code.as_deref() == Some("unavailable") => {
                return Ok(Paged::Unavailable);
            }
            "error" => return Ok(Paged::Refused),
            _ => {}
        }
    }
}
